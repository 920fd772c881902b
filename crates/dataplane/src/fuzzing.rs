//! Doors to private parsers for the fuzz targets in `fuzz/`. Not part of the interface.

use std::net::IpAddr;

use http::{HeaderMap, request::Parts};

use crate::{
    framing,
    http1::{Next, Requests},
    iplist::IpSet,
    source,
};

/// Authority and canonical path of a request that the framing gate lets through.
pub fn admit(head: &Parts) -> Option<(String, String)> {
    let target = framing::admit(head).ok()?;
    Some((target.authority, target.path.as_str().to_owned()))
}

/// The client's address.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &IpSet) -> IpAddr {
    source::client_address(peer, headers, trusted)
}

/// What the gate of HTTP/1.1 lets through of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Followed {
    /// The bytes.
    pub accepted: Vec<u8>,
    /// The requests whose heads are among them.
    pub requests: u64,
    /// Whether what follows them is refused, for whichever reason.
    pub is_refused: bool,
}

/// Follows a connection whose bytes come `step` at a time, to its end or to the first refusal.
pub fn follow(connection: &[u8], step: usize) -> Followed {
    let mut requests = Requests::default();
    let (mut accepted, mut held) = (Vec::new(), Vec::new());
    let mut end = Next::More;
    for bytes in connection.chunks(step.max(1)) {
        held.extend_from_slice(bytes);
        let (length, next) = requests.follow(&held);
        accepted.extend(held.drain(..length));
        end = next;
        if end != Next::More {
            break;
        }
    }
    Followed {
        accepted,
        requests: requests.count() - u64::from(matches!(end, Next::Refused(_))),
        is_refused: matches!(end, Next::Refused(_) | Next::Broken(_)),
    }
}
