//! Doors to private parsers for the fuzz targets in `fuzz/`. Not part of the interface.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{HeaderMap, request::Parts};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::{
    capsule::Capsules,
    client_hello, framing,
    http1::{Next, Requests},
    http2::Frames,
    iplist::IpSet,
    proxy_protocol, source,
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

/// The request that a field section of HTTP/3 describes, if it can be decoded; `None` within: it is refused.
#[cfg(feature = "http3")]
pub fn http3_head(section: bytes::Bytes) -> Option<Option<http::Request<()>>> {
    let request = crate::http3::read_head(section).ok()?;
    Some(
        framing::refused_before(request.extensions())
            .is_none()
            .then_some(request),
    )
}

/// The server name in a whole TLS hello, if `bytes` begin with one.
pub fn server_name(bytes: &[u8]) -> Option<Option<String>> {
    let hello = client_hello::parse(bytes).ok()??;
    Some(hello.server_name)
}

/// The client that a whole header of the PROXY protocol names, and the header's length, if `bytes` begin with one.
pub fn proxy_header(bytes: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    let header = proxy_protocol::parse(bytes).ok()??;
    Some((header.client, header.length))
}

/// What a connection between proxies carries whose stream has `bytes`, which come `step` at a time; and whether it ends in
/// order.
pub fn connection(bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let reader = StepReader {
        bytes,
        step: step.max(1),
    };
    let mut connection = Capsules::new(reader);
    let mut heard = Vec::new();
    // Nothing to wait for: a reader over memory is always ready.
    let read = connection.read_to_end(&mut heard).now_or_never();
    (heard, matches!(read, Some(Ok(_))))
}

struct StepReader<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl AsyncRead for StepReader<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.step.min(buffer.remaining()).min(self.bytes.len());
        if let Some((now, later)) = self.bytes.split_at_checked(count) {
            buffer.put_slice(now);
            self.bytes = later;
        }
        Poll::Ready(Ok(()))
    }
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

/// Kind, stream and length of each frame whose head is among the bytes of an HTTP/2 client, which come `step` at a time.
pub fn frames(connection: &[u8], step: usize) -> Vec<(u8, u32, u32)> {
    let (mut frames, mut found) = (Frames::of_client(), Vec::new());
    for mut bytes in connection.chunks(step.max(1)) {
        while let Some(frame) = frames.next(&mut bytes) {
            found.push((frame.kind, frame.stream, frame.length));
        }
    }
    found
}
