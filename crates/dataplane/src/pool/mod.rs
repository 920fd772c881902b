//! Connections to where requests go: other proxies over mTLS and HTTP/2, the local service over HTTP/1.1.
//!
//! Each worker has its own: a pooled connection never moves to another core.

mod balance;
mod local;
mod mesh;

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
pub(crate) use local::LocalPool;
pub(crate) use mesh::MeshPool;

use crate::{
    body::{BodyError, BodyOutcome, RequestBody},
    rejection::UpstreamError,
};

/// Time to open a TCP connection. Beyond it another endpoint is the better bet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is kept while an answer passes.
pub(crate) enum Lease {
    /// A stream of a shared connection.
    Stream(mesh::OpenStream),
    /// A connection to the local service.
    Local(local::LocalLease),
    /// One that speaks another protocol by now.
    Switched(local::LocalConnection),
}

impl Lease {
    /// The answer has passed whole: what carried it can carry another.
    pub(crate) fn give_back(self) {
        match self {
            Self::Stream(stream) => drop(stream),
            Self::Local(lease) => lease.give_back(),
            Self::Switched(connection) => drop(connection),
        }
    }
}

/// An upstream's answer and what must be kept until its body has passed.
pub(crate) type Answer = (Response<Incoming>, Lease);

/// A request that did not leave, and why.
struct Unsent {
    request: Box<Request<RequestBody>>,
    error: UpstreamError,
}

/// How sending failed.
enum SendFailure {
    /// Nothing was sent: another connection may try.
    Unsent(Unsent),
    /// Something was: the upstream may have acted on it.
    Sent(UpstreamError),
}

/// Why the upstream did not answer, given how reading the client's body went.
fn failure(outcome: &BodyOutcome) -> UpstreamError {
    match outcome.error() {
        Some(BodyError::TooLarge) => UpstreamError::BodyTooLarge,
        Some(_) => UpstreamError::BodyUnreadable,
        None => UpstreamError::Broken,
    }
}
