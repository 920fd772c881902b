//! Bodies on their way: counted, bounded in size and time, never collected.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use testudo_model::snapshot::TransferRules;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::{
    arriving::Arriving,
    grpc, headers,
    inflight::Delivery,
    overload::Admitted,
    pace::Pace,
    pool::Lease,
    rate::{Waiting, Watched},
    serve::{Active, Untaken},
    stream::StreamEnd,
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
    /// Slower than the fleet allows.
    #[error("the body came too slowly")]
    TooSlow,
    /// Not finished by the route's deadline, or paused for too long.
    #[error("the body did not arrive in time")]
    TimedOut,
    /// What allowed it no longer holds.
    #[error("the call is no longer allowed")]
    Forbidden,
    /// The answer has passed or was given up: nobody waits for the rest.
    #[error("nobody waits for the rest of the body")]
    Unwanted,
}

/// A request body on its way, for whoever waits for the answer: how it went, whether it still goes on, and the
/// means to end it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upload(Arc<UploadState>);

#[derive(Debug, Default)]
struct UploadState {
    error: AtomicU8,
    ended_at: OnceLock<Instant>,
    is_unwanted: AtomicBool,
    /// Whoever sends the body on and waits for more of it.
    sending: AtomicWaker,
}

impl Upload {
    /// What went wrong on the client's side, if anything did.
    pub(crate) fn error(&self) -> Option<BodyError> {
        match self.0.error.load(Ordering::Acquire) {
            1 => Some(BodyError::TooLarge),
            2 => Some(BodyError::Broken),
            3 => Some(BodyError::TooSlow),
            _ => None,
        }
    }

    /// Whether no more of it will be sent.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended_at().is_some()
    }

    /// Since when the upstream has all that it will get.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.0.ended_at.get().copied()
    }

    /// Breaks it off if it has not ended.
    pub(crate) fn abort(&self) {
        self.0.is_unwanted.store(true, Ordering::Release);
        self.0.sending.wake();
    }

    fn is_unwanted(&self, context: &Context<'_>) -> bool {
        // Registered first: an abort in between wakes.
        self.0.sending.register(context.waker());
        self.0.is_unwanted.load(Ordering::Acquire)
    }

    fn failed(&self, error: BodyError) {
        let code = match error {
            BodyError::TooLarge => 1,
            BodyError::TooSlow => 3,
            _ => 2,
        };
        self.0.error.store(code, Ordering::Release);
    }
}

/// A request body with a limit. Trailers are dropped: no operation of ours needs them, and a field that comes
/// after the decision was not decided about.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Arriving,
    remaining: u64,
    /// `None`: the client may take its time.
    rate: Option<Watched>,
    upload: Upload,
}

impl RequestBody {
    /// No bytes. What follows the head of a request that opens a stream belongs to the stream.
    pub(crate) fn none() -> Self {
        Self {
            inner: Arriving::Nothing,
            remaining: 0,
            rate: None,
            upload: Upload::default(),
        }
    }

    /// `inner`, up to `limit` bytes, at the rate that `rules` ask for.
    pub(crate) fn new(
        inner: impl Into<Arriving>,
        limit: u64,
        rules: Option<TransferRules>,
    ) -> Self {
        Self {
            inner: inner.into(),
            remaining: limit,
            rate: rules.map(Watched::new),
            upload: Upload::default(),
        }
    }

    pub(crate) fn upload(&self) -> Upload {
        self.upload.clone()
    }

    /// Whether nobody wants the rest. Wakes whoever has asked when that is so.
    pub(crate) fn is_unwanted(&self, context: &Context<'_>) -> bool {
        self.upload.is_unwanted(context)
    }

    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload.failed(error);
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
        if self.is_unwanted(context) {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        let Self { inner, rate, .. } = &mut *self;
        match Pin::new(&mut *inner).poll_frame(context) {
            Poll::Pending => {
                if let Some(rate) = rate {
                    ready!(rate.poll_exceeded(context));
                    return self.fail(BodyError::TooSlow);
                }
                Poll::Pending
            }
            // hyper ends the body of a stream that was reset with NO_ERROR as if it were whole. Sent on as such it
            // would break the next proxy's rules, on a connection that carries everybody's calls.
            Poll::Ready(None) if inner.size_hint().lower() > 0 => self.fail(BodyError::Broken),
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
                        if let Some(rate) = &mut self.rate {
                            rate.moved(data.len());
                        }
                        Poll::Ready(Some(Ok(Frame::data(data))))
                    }
                    None => self.fail(BodyError::TooLarge),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // Nobody else sets it.
        let _ = self.upload.0.ended_at.set(Instant::now());
    }
}

/// The body of an answer: our own, or the upstream's with what must be kept until it has passed.
pub(crate) enum AnswerBody {
    /// Ours.
    Full(Option<Bytes>),
    /// The upstream's.
    Relayed(Relayed),
}

/// An upstream's body on its way to the client.
pub(crate) struct Relayed {
    upstream: Shared,
    from_proxy: bool,
    /// Resolves when the body must end, after that has been recorded.
    ending: Option<Ending>,
    /// How it ends is told in trailers.
    is_grpc: bool,
    /// What came last was ours.
    has_ended: bool,
    /// Ends the upstream in time although nobody asks for more of the body.
    watchman: Option<AbortHandle>,
}

/// `None` once it was cut or took too long.
type Shared = Arc<Mutex<Option<Upstream>>>;

/// The body and what is kept until it has passed.
struct Upstream {
    body: Arriving,
    pace: Pace,
    /// Whoever takes the body.
    client: Waiting,
    lease: Option<Lease>,
    _delivery: Option<Delivery>,
    active: Option<(Active, Admitted)>,
    /// Once all of the body was handed over. A client of HTTP/2 may never take it.
    untaken: Option<Untaken>,
}

type Ending = Pin<Box<dyn Future<Output = StreamEnd> + Send>>;

impl AnswerBody {
    /// No bytes.
    pub(crate) const fn empty() -> Self {
        Self::Full(None)
    }

    /// The upstream's body; `lease` is given back when it has passed whole, and dropped otherwise.
    pub(crate) fn relay(
        body: Arriving,
        pace: Pace,
        rules: TransferRules,
        from_proxy: bool,
        lease: Lease,
        delivery: Option<Delivery>,
    ) -> Self {
        let upstream = Upstream {
            body,
            pace,
            client: Waiting::new(rules),
            lease: Some(lease),
            _delivery: delivery,
            active: None,
            untaken: None,
        };
        Self::Relayed(Relayed {
            upstream: Arc::new(Mutex::new(Some(upstream))),
            from_proxy,
            ending: None,
            is_grpc: false,
            has_ended: false,
            watchman: None,
        })
    }

    /// Keeps the connection from being idle until the body has passed.
    pub(crate) fn hold(&mut self, active: (Active, Admitted)) {
        if let Self::Relayed(relayed) = self
            && let Some(upstream) = &mut *lock(&relayed.upstream)
        {
            upstream.active = Some(active);
        }
    }

    /// Whether it may last.
    pub(crate) fn is_stream(&self) -> bool {
        let Self::Relayed(relayed) = self else {
            return false;
        };
        let upstream = lock(&relayed.upstream);
        let lasts =
            |upstream: &Upstream| upstream.pace.is_stream() && !upstream.body.is_end_stream();
        upstream.as_ref().is_some_and(lasts)
    }

    /// Ends the body when `ending` resolves; in the way of gRPC if it is that.
    pub(crate) fn guard(
        &mut self,
        ending: impl Future<Output = StreamEnd> + Send + 'static,
        is_grpc: bool,
    ) {
        if let Self::Relayed(relayed) = self {
            relayed.ending = Some(Box::pin(ending));
            relayed.is_grpc = is_grpc;
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
            Self::Relayed(relayed) => relayed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(
                bytes
                    .as_ref()
                    .map_or(0, |b| u64::try_from(b.len()).unwrap_or(u64::MAX)),
            ),
            Self::Relayed(relayed) => lock(&relayed.upstream)
                .as_ref()
                .map_or_else(SizeHint::default, |upstream| upstream.body.size_hint()),
        }
    }
}

impl Relayed {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Some(ending) = &mut self.ending
            && let Poll::Ready(end) = ending.as_mut().poll(context)
        {
            let told = || grpc::cut(end.code());
            return Poll::Ready(Some(self.end(BodyError::Forbidden, told)));
        }
        match ready!(self.poll_upstream(context)) {
            Some(Err(BodyError::TimedOut)) => {
                Poll::Ready(Some(self.end(BodyError::TimedOut, grpc::too_late)))
            }
            next => Poll::Ready(next),
        }
    }

    /// Ends the body before its end, with the rest of the request: nothing more may reach the service.
    fn end(
        &mut self,
        error: BodyError,
        told: impl FnOnce() -> HeaderMap,
    ) -> Result<Frame<Bytes>, BodyError> {
        *lock(&self.upstream) = None;
        self.has_ended = true;
        if self.is_grpc {
            Ok(Frame::trailers(told()))
        } else {
            Err(error)
        }
    }

    fn poll_upstream(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut held = lock(&self.upstream);
        let Some(upstream) = &mut *held else {
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        };
        let now = Instant::now();
        // Looked at whatever has come: a body that always has more would never come to its deadline.
        let is_late = upstream.until() <= now;
        upstream.client.end(now);
        match Pin::new(&mut upstream.body).poll_frame(context) {
            Poll::Pending if is_late || upstream.pace.poll_exceeded(context).is_ready() => {
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
            Poll::Pending => Poll::Pending,
            // What is whole by now was in time.
            Poll::Ready(Some(Ok(_))) if is_late && !upstream.body.is_end_stream() => {
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
            Poll::Ready(None) => {
                upstream.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Broken))),
            Poll::Ready(Some(Ok(mut frame))) => {
                upstream.pace.moved();
                upstream
                    .client
                    .moved(frame.data_ref().map_or(0, Bytes::len));
                upstream.client.begin(now);
                if let Some(trailers) = frame.trailers_mut() {
                    headers::sanitise_response(trailers, self.from_proxy);
                }
                if upstream.body.is_end_stream() {
                    upstream.give_back();
                } else if self.watchman.is_none() {
                    // A client that does not read lets nobody ask again.
                    let watch = end_in_time(Arc::clone(&self.upstream));
                    self.watchman = Some(tokio::spawn(watch).abort_handle());
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.upstream)
            .as_ref()
            .is_some_and(|upstream| upstream.body.is_end_stream())
    }
}

impl Upstream {
    /// When the body will have taken too long, if it does not move until then: to come, or to be taken.
    fn until(&self) -> Instant {
        let until = self.pace.until();
        self.client
            .until()
            .map_or(until, |client| client.min(until))
    }

    fn give_back(&mut self) {
        self.untaken = self.active.as_ref().map(|(active, _)| active.untaken());
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

async fn end_in_time(upstream: Shared) {
    loop {
        let (until, grace) = match &*lock(&upstream) {
            Some(upstream) => (upstream.until(), upstream.client.grace()),
            None => return,
        };
        if until <= Instant::now() {
            *lock(&upstream) = None;
            return;
        }
        // Meanwhile the client may begin to be slow.
        sleep_until(until.min(Instant::now() + grace)).await;
    }
}

fn lock(upstream: &Shared) -> MutexGuard<'_, Option<Upstream>> {
    upstream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if let Some(watchman) = &self.watchman {
            watchman.abort();
        }
        // Taken out: the watchman may hold it a moment longer, and with it the service's connection.
        let mut upstream = lock(&self.upstream).take();
        // A body without bytes is never polled: HEAD, 204, 304.
        if let Some(upstream) = &mut upstream
            && upstream.body.is_end_stream()
        {
            upstream.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use hyper::{body::Incoming, server::conn::http2, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::{io::AsyncWriteExt, sync::mpsc};

    use super::*;

    /// `POST /` with `content-length: 10` and one byte, then RST_STREAM with NO_ERROR.
    const BROKEN_OFF: [&[u8]; 3] = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"\x00\x00\x0b\x01\x04\x00\x00\x00\x01\x83\x86\x84\x01\x01a\x0f\x0d\x0210\
          \x00\x00\x01\x00\x00\x00\x00\x00\x01x",
        b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x00",
    ];

    #[tokio::test]
    async fn a_body_that_was_broken_off_is_not_taken_for_the_whole() {
        let (mut client, server) = tokio::io::duplex(4096);
        let (ends, mut ended) = mpsc::channel(1);
        let service = service_fn(move |request: Request<Incoming>| {
            let (ends, body) = (
                ends.clone(),
                RequestBody::new(request.into_body(), 100, None),
            );
            // Apart: hyper gives up the service with the stream.
            tokio::spawn(async move { ends.send(body.collect().await.map(|_| ())).await });
            std::future::pending::<Result<Response<AnswerBody>, Infallible>>()
        });
        let connection = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(server), service));
        for bytes in BROKEN_OFF {
            client.write_all(bytes).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(ended.recv().await.unwrap(), Err(BodyError::Broken));
    }
}
