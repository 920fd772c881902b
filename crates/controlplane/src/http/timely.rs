//! Request bodies that must come in time.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

/// A body that fails if it is not there whole by a deadline. A few bytes now and then do not move it.
pub struct Timely<B> {
    body: B,
    deadline: Pin<Box<Sleep>>,
}

/// The body was too slow.
#[derive(Debug, thiserror::Error)]
#[error("the request body did not come in time")]
pub struct TooSlow;

impl<B> Timely<B> {
    /// `body` has `patience` from now.
    pub fn new(body: B, patience: Duration) -> Self {
        Self {
            body,
            deadline: Box::pin(tokio::time::sleep(patience)),
        }
    }
}

impl<B> Body for Timely<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// A byte every `pause`, for ever.
    fn drip(pause: Duration) -> impl Body<Data = Bytes, Error = BoxError> + Unpin {
        StreamBody::new(Box::pin(stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok(Frame::data(Bytes::from_static(b"x"))), ()))
        })))
    }

    #[tokio::test]
    async fn a_body_that_drips_has_the_same_time_as_one_that_does_not_come() {
        for pause in [Duration::from_millis(1), Duration::from_secs(3600)] {
            let body = Timely::new(drip(pause), Duration::from_millis(50));
            let collected = tokio::time::timeout(Duration::from_secs(10), body.collect()).await;
            let error = collected.unwrap().unwrap_err();
            assert!(error.is::<TooSlow>(), "{error}");
        }
    }
}
