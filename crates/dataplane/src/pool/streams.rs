//! HTTP/2 connections to one address: few of them, each with places for many streams.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use testudo_model::{Timestamp, limits};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::rejection::UpstreamError;

/// Streams on one connection before another is opened; our proxies allow [`limits::MAX_HTTP2_STREAMS`].
pub(super) const STREAMS_PER_CONNECTION: usize = 200;
/// Connections of one worker to one address.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// Streams before the other side has said how many it takes.
const STREAMS_BEFORE_SETTINGS: usize = 100;
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
    sender: SendRequest<Bytes>,
    streams: AtomicUsize,
    has_answered: AtomicBool,
    /// The other side takes no more streams.
    is_leaving: AtomicBool,
    /// No stream begins on it after this.
    usable_until: Timestamp,
    task: AbortHandle,
}

/// A place for a stream on a connection; free again when dropped.
pub(super) struct Place(Arc<Connection>);

impl Connections {
    /// A place on the least used connection, or on a new one from `open` if those there are have enough.
    pub(super) async fn place<F>(
        &self,
        now: Timestamp,
        open: impl FnOnce() -> F,
    ) -> Result<Place, UpstreamError>
    where
        F: Future<Output = Result<Arc<Connection>, UpstreamError>>,
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
        let connection = opened?;
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
    pub(super) fn free_place(&self, now: Timestamp) -> Option<Place> {
        let mut connections = self.lock();
        connections.retain(|connection| connection.is_usable(now));
        let streams = |connection: &Arc<Connection>| connection.streams.load(Ordering::Relaxed);
        let least = connections
            .iter()
            .min_by_key(|connection| streams(connection))?;
        (streams(least) < STREAMS_PER_CONNECTION).then(|| Place::take(Arc::clone(least)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Begins HTTP/2 on `stream`. `asks_every`: how often the other side is asked if it is still there, while something
    /// runs.
    pub(super) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        usable_until: Timestamp,
        asks_every: Option<Duration>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .initial_window_size(limits::MESH_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::MESH_CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(limits::MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .handshake(stream)
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        let pings = connection.ping_pong();
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 connection ended");
            }
        });
        let connection = Arc::new(Self {
            sender,
            streams: AtomicUsize::new(0),
            has_answered: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            usable_until,
            task: task.abort_handle(),
        });
        if let (Some(pings), Some(every)) = (pings, asks_every) {
            tokio::spawn(keep_asking(pings, Arc::downgrade(&connection), every));
        }
        Ok(connection)
    }

    fn is_usable(&self, now: Timestamp) -> bool {
        !self.is_leaving.load(Ordering::Relaxed)
            && !self.task.is_finished()
            && now < self.usable_until
    }

    /// A sender that takes a request, unless the other side takes no more.
    pub(super) async fn ready(&self) -> Option<SendRequest<Bytes>> {
        let ready = self.sender.clone().ready().await;
        if ready.is_err() {
            self.is_leaving.store(true, Ordering::Relaxed);
        }
        ready.ok()
    }

    /// Notes that the other side has answered a request.
    pub(super) fn note_answer(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Whether it ever has.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }
}

/// Asks the other side `every` so often if it is still there, as long as something runs on `connection`, and ends that if
/// it is not. In a task of its own, so that a request pays nothing for it.
async fn keep_asking(mut pings: PingPong, connection: Weak<Connection>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(connection) = connection.upgrade() else {
            return;
        };
        if connection.streams.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let answered = timeout(PING_TIMEOUT.min(every), pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            connection.task.abort();
            return;
        }
    }
}

impl Place {
    /// One more stream on `connection`.
    pub(super) fn take(connection: Arc<Connection>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }

    /// The connection.
    pub(super) fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
