//! HTTP/2 connections to one address, and the streams on them: few connections, many streams.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Response;
use hyper::{body::Incoming, client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use testudo_model::{Timestamp, limits};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
};

use super::{Outbound, SendFailure, Unsent, failure};
use crate::{
    body::{RequestBody, Upload},
    rejection::UpstreamError,
};

/// Streams on one connection before another is opened; our proxies allow [`limits::MAX_HTTP2_STREAMS`].
pub(super) const STREAMS_PER_CONNECTION: usize = 200;
/// Connections of one worker to one address.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// A connection that answers no ping for this long is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections to one address.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<Vec<Arc<Connection>>>,
    /// Held while a connection is opened, so that a burst opens one and not hundreds.
    opening: tokio::sync::Mutex<()>,
    /// Connections that could not be opened so far.
    failed: AtomicU64,
}

/// One connection.
pub(super) struct Connection {
    sender: http2::SendRequest<RequestBody>,
    streams: AtomicUsize,
    has_answered: AtomicBool,
    /// No stream begins on it after this.
    usable_until: Timestamp,
    task: AbortHandle,
}

/// A place for a stream on a connection; free again when dropped.
pub(super) struct Place(Arc<Connection>);

/// A request under way; ends when dropped.
pub(crate) struct OpenStream {
    _place: Place,
    upload: Upload,
}

/// Runs hyper's tasks. One type of future is all of them, so that of a request is as large as that of the connection, and
/// would be moved a dozen times on its way into a task.
#[derive(Debug, Clone, Copy)]
struct Boxing;

impl<F> Executor<F> for Boxing
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(Box::pin(future));
    }
}

impl Connections {
    /// A place on the least used connection, or on a new one from `open` if those there are have enough.
    pub(super) async fn place<F>(
        &self,
        now: Timestamp,
        open: impl FnOnce() -> F,
    ) -> Result<Place, UpstreamError>
    where
        F: Future<Output = Result<Connection, UpstreamError>>,
    {
        if let Some(place) = self.free_place(now) {
            return Ok(place);
        }
        let failed_before = self.failed.load(Ordering::Acquire);
        let _one_at_a_time = self.opening.lock().await;
        if let Some(place) = self.free_place(now) {
            return Ok(place);
        }
        // Whoever waited has waited for this attempt; each trying in turn would wait as many times as long.
        if self.failed.load(Ordering::Acquire) != failed_before {
            return Err(UpstreamError::Unreachable);
        }
        if self.lock().len() >= MAX_CONNECTIONS {
            return Err(UpstreamError::Overloaded);
        }
        // Boxed: opening is rare and its future large, and every request would carry it.
        let opened = Box::pin(open()).await.inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::AcqRel);
        });
        let connection = Arc::new(opened?);
        self.lock().push(Arc::clone(&connection));
        Ok(Place::take(connection))
    }

    /// Closes all connections with everything that runs on them.
    pub(super) fn close(&self) {
        for connection in self.lock().drain(..) {
            connection.task.abort();
        }
    }

    /// A place on the least used connection, if it has room. Connections that have ended or may not be used any more
    /// are let go; what runs on them may finish.
    fn free_place(&self, now: Timestamp) -> Option<Place> {
        let mut connections = self.lock();
        connections
            .retain(|connection| !connection.sender.is_closed() && now < connection.usable_until);
        let streams = |connection: &Arc<Connection>| connection.streams.load(Ordering::Relaxed);
        let least = connections
            .iter()
            .min_by_key(|connection| streams(connection))?;
        (streams(least) < STREAMS_PER_CONNECTION).then(|| Place::take(Arc::clone(least)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Begins HTTP/2 on `stream`. `pings`: whether the other side is asked if it is still there.
    pub(super) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        usable_until: Timestamp,
        pings: bool,
    ) -> Result<Self, UpstreamError> {
        let (sender, connection) = http2::Builder::new(Boxing)
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::MESH_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::MESH_CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(limits::MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(pings.then_some(limits::IDLE_TIMEOUT))
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 connection ended");
            }
        })
        .abort_handle();
        Ok(Self {
            sender,
            streams: AtomicUsize::new(0),
            has_answered: AtomicBool::new(false),
            usable_until,
            task,
        })
    }
}

impl Place {
    fn take(connection: Arc<Connection>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }

    /// Sends `request` from here.
    pub(super) async fn send(
        self,
        request: Outbound,
    ) -> Result<(Response<Incoming>, OpenStream), SendFailure> {
        let upload = request.body().upload();
        let mut sender = self.0.sender.clone();
        match sender.try_send_request(*request).await {
            Ok(response) => {
                self.0.has_answered.store(true, Ordering::Relaxed);
                let stream = OpenStream {
                    _place: self,
                    upload,
                };
                Ok((response, stream))
            }
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendFailure::Unsent(Unsent {
                    request: Box::new(request),
                    error: UpstreamError::Broken,
                    was_kept: self.0.has_answered.load(Ordering::Relaxed),
                }),
                None => SendFailure::Sent(failure(&upload)),
            }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // Or the stream would go on, and its place be taken twice.
        self.upload.abort();
    }
}
