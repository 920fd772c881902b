//! Bodies on their way: counted, bounded in size and time, never collected.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::{
    grpc, headers, inflight::Delivery, pace::Pace, pool::Lease, serve::Active, stream::StreamEnd,
};

/// Why a body ended before its end. The connection that carries it is then broken off, so that nobody takes
/// the part for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// Beyond the route's limit.
    #[error("the body is larger than the route allows")]
    TooLarge,
    /// The other side broke off.
    #[error("the body was broken off")]
    Broken,
    /// Not finished by the route's deadline, or paused for too long.
    #[error("the body did not arrive in time")]
    TimedOut,
    /// What allowed it no longer holds.
    #[error("the call is no longer allowed")]
    Forbidden,
}

/// How reading a request body ended; shared with whoever waits for the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyOutcome(Arc<AtomicU8>);

impl BodyOutcome {
    /// What went wrong on the client's side, if anything did.
    pub(crate) fn error(&self) -> Option<BodyError> {
        match self.0.load(Ordering::Acquire) {
            1 => Some(BodyError::TooLarge),
            2 => Some(BodyError::Broken),
            _ => None,
        }
    }

    fn set(&self, error: BodyError) {
        let code = if error == BodyError::TooLarge { 1 } else { 2 };
        self.0.store(code, Ordering::Release);
    }
}

/// A request body with a limit. Trailers are dropped: no operation of ours needs them, and a field that comes
/// after the decision was not decided about.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// `None`: there is none, whatever arrives.
    inner: Option<Incoming>,
    remaining: u64,
    outcome: BodyOutcome,
    cut: Option<oneshot::Receiver<()>>,
}

/// Ends a request body when the answer to it is cut: nothing more may reach the service then.
#[derive(Debug)]
pub(crate) struct Cut(oneshot::Sender<()>);

impl RequestBody {
    /// No bytes. What follows the head of a request that opens a stream belongs to the stream.
    pub(crate) fn none() -> Self {
        Self {
            inner: None,
            remaining: 0,
            outcome: BodyOutcome::default(),
            cut: None,
        }
    }

    /// `inner`, up to `limit` bytes.
    pub(crate) fn new(inner: Incoming, limit: u64) -> Self {
        Self {
            inner: Some(inner),
            remaining: limit,
            outcome: BodyOutcome::default(),
            cut: None,
        }
    }

    /// What can end it from outside.
    pub(crate) fn cut(&mut self) -> Cut {
        let (sender, receiver) = oneshot::channel();
        self.cut = Some(receiver);
        Cut(sender)
    }

    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        let Some(cut) = &mut self.cut else {
            return false;
        };
        match Pin::new(cut).poll(context) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            // The answer has passed whole.
            Poll::Ready(Err(_)) => {
                self.cut = None;
                false
            }
        }
    }

    pub(crate) fn outcome(&self) -> BodyOutcome {
        self.outcome.clone()
    }

    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.outcome.set(error);
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_cut(context) {
            self.inner = None;
            return Poll::Ready(Some(Err(BodyError::Forbidden)));
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(_))) => self.fail(BodyError::Broken),
            Poll::Ready(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else {
                    return Poll::Ready(None);
                };
                match self
                    .remaining
                    .checked_sub(u64::try_from(data.len()).unwrap_or(u64::MAX))
                {
                    Some(remaining) => {
                        self.remaining = remaining;
                        Poll::Ready(Some(Ok(Frame::data(data))))
                    }
                    None => self.fail(BodyError::TooLarge),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of an answer: our own, or the upstream's with what must be kept until it has passed.
pub(crate) enum AnswerBody {
    /// Ours.
    Full(Option<Bytes>),
    /// The upstream's.
    Relayed(Box<Relayed>),
}

/// An upstream's body on its way to the client.
pub(crate) struct Relayed {
    inner: Incoming,
    pace: Pace,
    from_proxy: bool,
    lease: Option<Lease>,
    _delivery: Option<Delivery>,
    active: Option<Active>,
    guard: Option<Guard>,
    request: Option<Cut>,
}

/// What watches over a body that may last longer than what allowed it.
struct Guard {
    /// Resolves when the body must end, after that has been recorded.
    ending: Pin<Box<dyn Future<Output = StreamEnd> + Send>>,
    is_grpc: bool,
    has_ended: bool,
}

impl AnswerBody {
    /// No bytes.
    pub(crate) const fn empty() -> Self {
        Self::Full(None)
    }

    /// The upstream's body; `lease` is given back when it has passed whole, and dropped otherwise. `request` is what it
    /// answers.
    pub(crate) fn relay(
        inner: Incoming,
        pace: Pace,
        from_proxy: bool,
        lease: Lease,
        delivery: Option<Delivery>,
        request: Option<Cut>,
    ) -> Self {
        Self::Relayed(Box::new(Relayed {
            inner,
            pace,
            from_proxy,
            lease: Some(lease),
            _delivery: delivery,
            active: None,
            guard: None,
            request,
        }))
    }
}

impl AnswerBody {
    /// Keeps the connection from being idle until the body has passed.
    pub(crate) fn hold(&mut self, active: Active) {
        if let Self::Relayed(relayed) = self {
            relayed.active = Some(active);
        }
    }

    /// Whether it may last.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Relayed(relayed) if relayed.pace.is_stream() && !relayed.inner.is_end_stream())
    }

    /// Ends the body when `ending` resolves; in the way of gRPC if it is that.
    pub(crate) fn guard(
        &mut self,
        ending: impl Future<Output = StreamEnd> + Send + 'static,
        is_grpc: bool,
    ) {
        if let Self::Relayed(relayed) = self {
            relayed.guard = Some(Guard {
                ending: Box::pin(ending),
                is_grpc,
                has_ended: false,
            });
        }
    }
}

impl From<Vec<u8>> for AnswerBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full(Some(Bytes::from(bytes)))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relayed) => relayed.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(
                bytes
                    .as_ref()
                    .map_or(0, |b| u64::try_from(b.len()).unwrap_or(u64::MAX)),
            ),
            Self::Relayed(relayed) => relayed.inner.size_hint(),
        }
    }
}

impl Relayed {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(guard) = &mut self.guard
            && let Poll::Ready(last) = guard.poll_cut(context)
        {
            if let Some(Cut(request)) = self.request.take() {
                // Nobody is there if all of it has been sent.
                let _ = request.send(());
            }
            return Poll::Ready(last);
        }
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Pending if self.pace.poll_exceeded(context).is_ready() => {
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Broken))),
            Poll::Ready(Some(Ok(mut frame))) => {
                self.pace.moved();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::sanitise_response(trailers, self.from_proxy);
                }
                if self.inner.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Guard {
    /// Ready when the body is cut: first with what tells so, then with its end.
    fn poll_cut(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let end = ready!(self.ending.as_mut().poll(context));
        self.has_ended = true;
        Poll::Ready(Some(if self.is_grpc {
            Ok(Frame::trailers(grpc::cut(end.code())))
        } else {
            Err(BodyError::Forbidden)
        }))
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // A body without bytes is never polled: HEAD, 204, 304.
        if self.inner.is_end_stream() {
            self.finish();
        }
    }
}
