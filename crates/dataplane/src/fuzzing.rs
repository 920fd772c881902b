//! Doors to private parsers for the fuzz targets in `fuzz/`. Not part of the interface.

use std::net::IpAddr;

use http::{HeaderMap, request::Parts};

use crate::{framing, iplist::IpSet, source};

/// Authority and canonical path of a request that the framing gate lets through.
pub fn admit(head: &Parts) -> Option<(String, String)> {
    let target = framing::admit(head).ok()?;
    Some((target.authority, target.path.as_str().to_owned()))
}

/// The client's address.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &IpSet) -> IpAddr {
    source::client_address(peer, headers, trusted)
}
