//! Connections to where requests go: other proxies over mTLS and HTTP/2, the local service over HTTP/1.1 or, if that is
//! what it speaks, over HTTP/2 in the clear.
//!
//! Each worker has its own: a pooled connection never moves to another core.

mod balance;
mod h2c;
mod local;
mod mesh;
mod sent;
mod streams;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Duration};

pub(crate) use h2c::H2cPool;
use http::{Request, Response};
pub(crate) use local::LocalPool;
pub(crate) use mesh::MeshPool;
use tokio::net::TcpStream;

use crate::{
    arriving::Arriving,
    body::{BodyError, RequestBody, Upload},
    http2::Tunnel,
    rejection::UpstreamError,
};

/// Time to open a TCP connection. Beyond it another endpoint is the better bet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is kept while an answer passes. With its end nobody waits for what is left of the request.
pub(crate) enum Lease {
    /// A stream to another proxy.
    Mesh(mesh::OpenStream),
    /// One to the local service.
    H2c(sent::OpenStream),
    /// A connection to the local service.
    Local(local::LocalLease),
    /// One that speaks another protocol by now.
    Switched(local::LocalConnection),
}

impl Lease {
    /// The answer has passed whole: what carried it can carry another.
    pub(crate) fn give_back(self) {
        match self {
            Self::Mesh(stream) => drop(stream),
            Self::H2c(stream) => drop(stream),
            Self::Local(lease) => lease.give_back(),
            Self::Switched(connection) => drop(connection),
        }
    }
}

/// An upstream's answer.
pub(crate) struct Answer {
    pub(crate) response: Response<Arriving>,
    /// What an extended CONNECT has opened.
    pub(crate) tunnel: Option<Tunnel>,
    /// What must be kept until all of it has passed.
    pub(crate) lease: Lease,
}

/// A request on its way out. Boxed: it passes through several futures, and each would have room for it whole.
pub(crate) type Outbound = Box<Request<RequestBody>>;

/// A request that did not leave, and why.
struct Unsent {
    request: Outbound,
    error: UpstreamError,
    /// The connection had served before: that it has ended meanwhile says nothing about the other side.
    was_kept: bool,
}

/// How sending failed.
enum SendFailure {
    /// Nothing was sent: another connection may try.
    Unsent(Unsent),
    /// Something was: the upstream may have acted on it.
    Sent(UpstreamError),
}

/// Why the upstream did not answer, given how reading the client's body went.
fn failure(upload: &Upload) -> UpstreamError {
    match upload.error() {
        Some(BodyError::TooLarge) => UpstreamError::BodyTooLarge,
        Some(BodyError::TooSlow) => UpstreamError::BodyTooSlow,
        Some(_) => UpstreamError::BodyUnreadable,
        None => UpstreamError::Broken,
    }
}

/// Opens a connection to `address`.
///
/// # Errors
/// [`UpstreamError::Unreachable`].
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    let socket = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| UpstreamError::Unreachable)?
        .map_err(|_| UpstreamError::Unreachable)?;
    socket
        .set_nodelay(true)
        .map_err(|_| UpstreamError::Unreachable)?;
    Ok(socket)
}
