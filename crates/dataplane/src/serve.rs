//! Serving one downstream connection: hyper with every limit set, an end for idle ones, and a way to close
//! those that policy forbids.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use testudo_model::{limits, snapshot::TransferRules};
use testudo_runtime::DrainWatch;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    body::AnswerBody,
    http1::{Gate, Verdict},
    http2::{Gate as FrameGate, PREFACE as HTTP2_PREFACE, Peer},
    lent::lend,
    stall::StallGuard,
};

/// Resets that a client may have outstanding (CVE-2023-44487, CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 20;
/// The same for a proxy of the fleet. Its connection carries the calls of many clients, who break off when they
/// like; were it closed, each of them would break the calls of all others.
const MAX_PENDING_MESH_RESETS: usize = 4 * limits::MAX_HTTP2_STREAMS as usize;
/// Streams of such a connection that may be found in breach of HTTP/2, in its life of minutes. Proxies of ours
/// cause none.
const MAX_MESH_STREAM_ERRORS: usize = 10_000;
/// A client that answers no ping for this long is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for a client with an idle HTTP/1.1 connection to send the request it may be about to send when the process
/// drains: such a connection has no goodbye but the answer to its next request (RFC 9112 section 9.6).
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// Pause after which a connection gives back what it needs for a request only.
const REST_AFTER: Duration = Duration::from_secs(1);
/// Flow control.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What hyper may buffer of one HTTP/1.1 message head, and of a body. More than the gate lets through as a head.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// What the connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 from a verified proxy of the fleet, for many clients at once.
    Mesh,
    /// Plaintext: HTTP/2 if it begins with the preface (prior knowledge), else HTTP/1.1.
    Detect,
}

impl Protocol {
    /// What ALPN agreed on.
    pub(crate) fn from_alpn(protocol: Option<&[u8]>) -> Self {
        if protocol == Some(b"h2") {
            Self::Http2
        } else {
            Self::Http1
        }
    }

    /// The same for a connection on which a proxy of the fleet has shown its certificate.
    pub(crate) fn from_mesh_alpn(protocol: Option<&[u8]>) -> Self {
        match Self::from_alpn(protocol) {
            Self::Http2 => Self::Mesh,
            other => other,
        }
    }
}

/// Requests on one connection, for its idle limit, and the streams they have opened.
#[derive(Debug)]
pub(crate) struct Activity {
    open: AtomicUsize,
    /// When the last request ended; `None` before the first began.
    last: Mutex<Option<Instant>>,
    streams: Mutex<JoinSet<()>>,
    /// The process drains: what is answered from now on is the last.
    is_draining: AtomicBool,
    /// Answers that are ready to their end, and not taken.
    untaken: AtomicUsize,
}

/// An answer that is ready to its end, and not taken; ends when dropped.
pub(crate) struct Untaken(Arc<Activity>);

/// A request under way; ends when dropped.
pub(crate) struct Active(Arc<Activity>);

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            last: Mutex::default(),
            streams: Mutex::default(),
            is_draining: AtomicBool::new(false),
            untaken: AtomicUsize::new(0),
        })
    }

    /// Notes that a request has begun.
    pub(crate) fn begin(self: &Arc<Self>) -> Active {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.touch();
        Active(Arc::clone(self))
    }

    /// Requests and streams under way that do not just wait for the client to take their answer.
    pub(crate) fn under_way(&self) -> usize {
        let open = self.open.load(Ordering::Acquire);
        open.saturating_sub(self.untaken.load(Ordering::Acquire))
    }

    /// Resolves when the streams have ended that requests of the connection opened.
    async fn streams_ended(&self) {
        poll_fn(|context| {
            let mut streams = self.streams();
            while ready!(streams.poll_join_next(context)).is_some() {}
            Poll::Ready(())
        })
        .await;
    }

    fn streams(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Resolves when the connection has brought no request for too long.
    pub(crate) async fn idle(&self, opened: Instant) {
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let until = match last {
                None => opened + limits::HEADER_READ_TIMEOUT,
                Some(last) => last + limits::IDLE_TIMEOUT,
            };
            if self.open.load(Ordering::Acquire) > 0 {
                sleep(limits::IDLE_TIMEOUT).await;
            } else if until <= Instant::now() {
                return;
            } else {
                tokio::time::sleep_until(until).await;
            }
        }
    }

    /// Resolves when nothing has been under way for a while, and `verdict` agrees.
    async fn rests(&self, verdict: &Verdict) {
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let until = last.map(|last| last + REST_AFTER);
            let (now, is_busy) = (Instant::now(), self.open.load(Ordering::Acquire) > 0);
            match until {
                Some(until) if until > now => tokio::time::sleep_until(until).await,
                Some(_) if !is_busy && verdict.is_at_rest() => return,
                _ => sleep(REST_AFTER).await,
            }
        }
    }
}

impl Active {
    /// Notes that the answer is ready to its end, and not taken.
    pub(crate) fn untaken(&self) -> Untaken {
        self.0.untaken.fetch_add(1, Ordering::AcqRel);
        Untaken(Arc::clone(&self.0))
    }

    /// Runs a stream that the request has opened. It lasts no longer than the connection.
    pub(crate) fn carry(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let active = self.0.begin();
        let mut streams = self.0.streams();
        // Those that have ended need not be kept until the connection does.
        while streams.try_join_next().is_some() {}
        streams.spawn(async move {
            stream.await;
            drop(active);
        });
    }
}

/// Ends the streams of a connection with it.
struct Streams(Arc<Activity>);

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.streams().abort_all();
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.0.untaken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.touch();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves `stream` until it ends, is idle too long, is forbidden, or the process drains. On drain requests
/// under way are finished (HTTP/2: GOAWAY).
pub(crate) async fn connection<I, S>(
    stream: I,
    protocol: Protocol,
    service: S,
    transfer: TransferRules,
    activity: Arc<Activity>,
    drain: DrainWatch,
    forbidden: impl Future<Output = ()>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<AnswerBody>, Error = Infallible>
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let mut stream = StallGuard::new(stream, transfer);
    // The future of a request has some kilobytes, and hyper would move them a dozen times.
    let service = service_fn(move |request| Box::pin(service.call(request)));
    let (is_http2, read) = match protocol {
        Protocol::Http1 => (false, BytesMut::new()),
        Protocol::Http2 | Protocol::Mesh => (true, BytesMut::new()),
        Protocol::Detect => match Box::pin(detect(&mut stream, drain.clone())).await {
            Some(detected) => detected,
            None => return,
        },
    };
    let _streams = Streams(Arc::clone(&activity));
    let open = Arc::clone(&activity);
    let mut end = End {
        activity,
        opened: Instant::now(),
        drain,
        forbidden: pin!(forbidden),
    };
    if is_http2 {
        let (settings, peer) = match protocol {
            Protocol::Mesh => (mesh_settings(), Peer::Proxy),
            _ => (http2_settings(), Peer::Client),
        };
        let io = TokioIo::new(FrameGate::new(stream, read, peer, transfer, open));
        let served = settings.serve_connection(io, service);
        let rest = std::future::pending();
        let goodbye = http2::Connection::graceful_shutdown;
        Box::pin(drive(served, goodbye, Duration::ZERO, rest, &mut end)).await;
    } else {
        let verdict = Arc::<Verdict>::default();
        let gate = Box::new(Gate::new(stream, read, Arc::clone(&verdict), open));
        http1(gate, service, verdict, end).await;
    }
}

/// Serves HTTP/1.1. hyper is there while it has something to do: most connections wait most of the time, and what it keeps
/// for one is a multiple of everything else.
async fn http1<I, S>(
    mut gate: Box<Gate<StallGuard<I>>>,
    service: S,
    verdict: Arc<Verdict>,
    mut end: End<'_, impl Future<Output = ()>>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<AnswerBody>, Error = Infallible>
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let activity = Arc::clone(&end.activity);
    let service = with_verdict(service, Arc::clone(&verdict), Arc::clone(&activity));
    let service = Arc::new(service);
    while request_comes(&mut *gate, &mut end).await {
        let (lent, owner) = lend(gate);
        let served = http1_settings()
            .serve_connection(TokioIo::new(lent), Arc::clone(&service))
            .with_upgrades();
        let serving = drive(
            served,
            http1::UpgradeableConnection::graceful_shutdown,
            LAST_REQUEST,
            activity.rests(&verdict),
            &mut end,
        );
        match (Box::pin(serving).await, owner.take()) {
            (Left::Resting, Some(back)) => gate = back,
            _ => return,
        }
    }
}

/// Waits for the client to begin a request. `false`: it has closed the connection, or may not have it any more.
async fn request_comes<I: AsyncRead + AsyncWrite + Unpin>(
    gate: &mut Gate<I>,
    end: &mut End<'_, impl Future<Output = ()>>,
) -> bool {
    let enough = async {
        tokio::select! {
            () = end.drain.drained() => {
                end.activity.is_draining.store(true, Ordering::Relaxed);
                sleep(LAST_REQUEST).await;
            }
            () = end.activity.idle(end.opened) => {}
        }
    };
    tokio::select! {
        readable = gate.readable() => match readable {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => {
                log(Err(error));
                return false;
            }
        },
        () = end.forbidden.as_mut() => return false,
        () = enough => {}
    }
    tokio::select! {
        closed = Box::pin(gate.shutdown()) => log(closed),
        () = end.forbidden.as_mut() => {}
        () = sleep(PING_TIMEOUT) => {}
    }
    false
}

/// Whether `stream` begins with the preface of HTTP/2, and what was read to find out. `None`: it is not worth serving.
async fn detect(
    stream: &mut (impl AsyncRead + Unpin),
    mut drain: DrainWatch,
) -> Option<(bool, BytesMut)> {
    let mut read = BytesMut::with_capacity(HTTP2_PREFACE.len());
    let beginning = async {
        while read.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&read) {
            let missing = u64::try_from(HTTP2_PREFACE.len() - read.len()).unwrap_or(0);
            if (&mut *stream).take(missing).read_buf(&mut read).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        came = tokio::time::timeout(limits::HEADER_READ_TIMEOUT, beginning) => came.ok()?.ok()?,
        () = async { drain.drained().await; sleep(LAST_REQUEST).await } => return None,
    }
    Some((read == HTTP2_PREFACE, read))
}

/// `service`, which is told what the gate refused and tells the gate what it answered. HTTP/1.1 brings requests one
/// at a time and in order, so their numbers are the gate's. While the process drains each answer is the connection's
/// last, and says so.
fn with_verdict<S>(
    service: S,
    verdict: Arc<Verdict>,
    activity: Arc<Activity>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<AnswerBody>,
    Error = Infallible,
    Future: Send + 'static,
>
where
    S: Service<Request<Incoming>, Response = Response<AnswerBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let count = AtomicU64::new(0);
    service_fn(move |mut request: Request<Incoming>| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(error) = verdict.refusal_of(number) {
            request.extensions_mut().insert(error);
        }
        let is_connect = request.method() == Method::CONNECT;
        let answer = service.call(request);
        let (verdict, activity) = (Arc::clone(&verdict), Arc::clone(&activity));
        async move {
            let mut answer = answer.await?;
            let status = answer.status();
            if status == StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success()) {
                verdict.switch(number);
            } else {
                verdict.answer(number);
                if activity.is_draining.load(Ordering::Relaxed) {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
            }
            Ok(answer)
        }
    })
}

/// What ends a connection from our side.
struct End<'a, F> {
    activity: Arc<Activity>,
    opened: Instant,
    drain: DrainWatch,
    forbidden: Pin<&'a mut F>,
}

/// Why a connection is no longer served as it was.
enum Interruption {
    /// What allowed it no longer holds.
    Forbidden,
    /// Nothing is under way.
    Rest,
    /// It has lasted or been idle long enough, or the process drains.
    Enough,
}

/// What is left of a connection.
enum Left {
    /// All that matters: nothing is under way.
    Resting,
    Nothing,
}

async fn drive<C, E: Debug>(
    connection: C,
    say_goodbye: impl Fn(Pin<&mut C>),
    last_request: Duration,
    rest: impl Future<Output = ()>,
    end: &mut End<'_, impl Future<Output = ()>>,
) -> Left
where
    C: Future<Output = Result<(), E>>,
{
    let End {
        activity,
        opened,
        drain,
        forbidden,
    } = end;
    let mut connection = pin!(connection);
    let interruption = async {
        let enough = async {
            tokio::select! {
                () = drain.drained() => {
                    activity.is_draining.store(true, Ordering::Relaxed);
                    sleep(last_request).await;
                }
                () = activity.idle(*opened) => {}
            }
        };
        tokio::select! {
            () = forbidden.as_mut() => Interruption::Forbidden,
            () = rest => Interruption::Rest,
            () = enough => Interruption::Enough,
        }
    };
    // Looked at when it has something to say, and not whenever the connection moves.
    let mut interruptions = FuturesUnordered::from_iter([Box::pin(interruption)]);
    let interruption = tokio::select! {
        biased;
        ended = &mut connection => {
            log(ended);
            None
        }
        interruption = interruptions.next() => interruption,
    };
    drop(interruptions);
    match interruption {
        None => {}
        // Dropped with everything that runs on it.
        Some(Interruption::Forbidden) => return Left::Nothing,
        Some(Interruption::Rest) => return Left::Resting,
        Some(Interruption::Enough) => {
            say_goodbye(connection.as_mut());
            tokio::select! {
                ended = &mut connection => log(ended),
                () = forbidden.as_mut() => return Left::Nothing,
                // Whoever was idle and says nothing after the goodbye is gone.
                () = async { sleep(PING_TIMEOUT).await; activity.idle(*opened).await } => return Left::Nothing,
            }
        }
    }
    // An HTTP/1.1 connection whose protocol was switched has ended for hyper, not for us.
    tokio::select! {
        () = activity.streams_ended() => {}
        () = forbidden.as_mut() => {}
    }
    Left::Nothing
}

fn log<E: Debug>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(?error, "connection ended");
    }
}

fn http1_settings() -> http1::Builder {
    let mut settings = http1::Builder::new();
    settings
        .timer(TokioTimer::new())
        // The gate has the time of a head, [`Activity`] that of an idle connection.
        .header_read_timeout(None)
        .max_headers(limits::MAX_HEADER_FIELDS)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        .half_close(false);
    settings
}

fn http2_settings() -> http2::Builder<TokioExecutor> {
    let mut settings = http2::Builder::new(TokioExecutor::new());
    settings
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::MAX_HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(limits::MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_PENDING_RESETS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // RFC 8441: WebSockets.
        .enable_connect_protocol()
        .keep_alive_interval(limits::IDLE_TIMEOUT)
        .keep_alive_timeout(PING_TIMEOUT);
    settings
}

fn mesh_settings() -> http2::Builder<TokioExecutor> {
    let mut settings = http2_settings();
    settings
        .max_header_list_size(u32::try_from(limits::MAX_MESH_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_MESH_RESETS)
        .max_local_error_reset_streams(MAX_MESH_STREAM_ERRORS)
        .initial_stream_window_size(limits::MESH_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::MESH_CONNECTION_WINDOW_BYTES);
    settings
}
