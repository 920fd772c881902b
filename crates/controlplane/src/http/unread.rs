//! Request bodies whose reader stops before their end.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Version, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;

use super::timely::Timely;

/// Bytes that are read of a body after its reader has stopped. Beyond that a client does not get to read why.
const MAX_UNREAD_BYTES: usize = 64 * 1024 * 1024;

/// Whether what is left of this request's body has to be read. Most refusals are said before the body was looked at.
/// On HTTP/1.1 it is on its way nevertheless: a connection that is closed before it has been read is reset, and takes
/// the answer with it (RFC 9112 section 9.6); and who has read the answer takes the connection for one that can be used
/// again. HTTP/2 has streams for that, and a client that expects to be asked for the body has not sent it.
pub fn must_be_read_out<B>(request: &Request<B>) -> bool {
    request.version() <= Version::HTTP_11 && !request.headers().contains_key(header::EXPECT)
}

/// A body that is read to its end in the background if it is dropped before.
pub struct ReadOut {
    body: Option<Timely<Incoming>>,
    wanted: bool,
}

impl ReadOut {
    /// `wanted` is what [`must_be_read_out`] says. How long it may take is the body's own business.
    pub fn new(body: Timely<Incoming>, wanted: bool) -> Self {
        Self {
            body: Some(body),
            wanted,
        }
    }
}

impl Drop for ReadOut {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !body.is_end_stream());
        let (true, Some(body), Ok(runtime)) = (self.wanted, left, Handle::try_current()) else {
            return;
        };
        let mut body = Limited::new(body, MAX_UNREAD_BYTES);
        runtime.spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
    }
}

impl Body for ReadOut {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(none, Body::size_hint)
    }
}
