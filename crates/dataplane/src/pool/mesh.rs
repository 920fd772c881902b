//! HTTP/2 over mTLS to other proxies: few connections, many streams.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use testudo_model::{Clock, Entropy, SpiffeId, Timestamp, limits};
use testudo_trust::{
    ExpectedPeer, IdentitySource, certificate_times, mesh_client_config, mesh_server_name,
};
use tokio::{net::TcpStream, task::AbortHandle};
use tokio_rustls::TlsConnector;

use super::{
    Answer, CONNECT_TIMEOUT, Lease, SendFailure, Unsent,
    balance::{self, Health},
    failure,
};
use crate::{body::RequestBody, rejection::UpstreamError};

/// Streams on one connection before another is opened; the other side allows [`limits::MAX_HTTP2_STREAMS`].
const STREAMS_PER_CONNECTION: usize = 200;
/// Connections of one worker to one endpoint.
const CONNECTIONS_PER_ENDPOINT: usize = 8;
/// Requests under way from one worker to one endpoint. Beyond it waiting only makes the queue longer.
const REQUESTS_PER_ENDPOINT: usize = STREAMS_PER_CONNECTION * CONNECTIONS_PER_ENDPOINT;
/// Endpoints tried for one request. Only what was certainly not sent is tried again.
const ATTEMPTS: usize = 3;
/// Flow control: one large body may use this much of the other side's memory …
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// … and all bodies of a connection together this much.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// A connection that answers no ping for this long is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The mesh connections of one worker.
pub(crate) struct MeshPool {
    identity: IdentitySource,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    peers: Mutex<HashMap<SpiffeId, Peer>>,
}

/// All endpoints that present one identity.
struct Peer {
    tls: Arc<ClientConfig>,
    endpoints: HashMap<SocketAddr, Arc<Endpoint>>,
}

struct Endpoint {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    health: Health,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Held while a connection is opened, so that a burst opens one and not hundreds.
    opening: tokio::sync::Mutex<()>,
}

struct Connection {
    sender: http2::SendRequest<RequestBody>,
    streams: AtomicUsize,
    /// End of the earlier of the two certificates: what it proved then holds no longer.
    usable_until: Timestamp,
    task: AbortHandle,
}

/// A request under way; ends when dropped.
pub(crate) struct OpenStream {
    endpoint: Arc<Endpoint>,
    connection: Arc<Connection>,
}

impl MeshPool {
    pub(crate) fn new(
        identity: IdentitySource,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            identity,
            clock,
            entropy,
            peers: Mutex::default(),
        }
    }

    /// Sends `request` to one of `addresses`, which must present `peer`.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) async fn send(
        &self,
        peer: &SpiffeId,
        addresses: &[SocketAddr],
        request: Request<RequestBody>,
    ) -> Result<Answer, UpstreamError> {
        let mut candidates = self.endpoints(peer, addresses);
        let mut request = request;
        let mut last_error = UpstreamError::NoEndpoint;
        for _ in 0..ATTEMPTS {
            let now = self.clock.monotonic_nanos();
            let Some(endpoint) =
                balance::choose(&candidates, |e| &e.health, &*self.entropy, now).cloned()
            else {
                break;
            };
            match self.send_to(&endpoint, request).await {
                Ok(answer) => {
                    endpoint.health.succeeded();
                    return Ok(answer);
                }
                Err(SendFailure::Sent(error)) => {
                    if error == UpstreamError::Broken {
                        endpoint.health.failed(self.clock.monotonic_nanos());
                    }
                    return Err(error);
                }
                Err(SendFailure::Unsent(unsent)) => {
                    endpoint.health.failed(self.clock.monotonic_nanos());
                    last_error = unsent.error;
                    request = *unsent.request;
                    // A stale connection deserves a fresh one; a dead endpoint does not deserve a second try.
                    if last_error == UpstreamError::Unreachable {
                        candidates.retain(|other| !Arc::ptr_eq(other, &endpoint));
                    }
                }
            }
        }
        Err(last_error)
    }

    /// Closes the connections to peers that `keep` refuses, with everything that runs on them.
    pub(crate) fn close_unless(&self, keep: impl Fn(&SpiffeId) -> bool) {
        self.lock().retain(|peer, known| {
            let kept = keep(peer);
            if !kept {
                known
                    .endpoints
                    .values()
                    .for_each(|endpoint| endpoint.close());
            }
            kept
        });
    }

    fn endpoints(&self, peer: &SpiffeId, addresses: &[SocketAddr]) -> Vec<Arc<Endpoint>> {
        let mut peers = self.lock();
        let known = match peers.get_mut(peer) {
            Some(known) => known,
            None => peers
                .entry(peer.clone())
                .or_insert_with(|| self.new_peer(peer)),
        };
        if known.endpoints.len() > addresses.len() {
            known
                .endpoints
                .retain(|address, _| addresses.contains(address));
        }
        addresses
            .iter()
            .map(|address| {
                let endpoint = known
                    .endpoints
                    .entry(*address)
                    .or_insert_with(|| Arc::new(Endpoint::new(*address, Arc::clone(&known.tls))));
                Arc::clone(endpoint)
            })
            .collect()
    }

    fn new_peer(&self, peer: &SpiffeId) -> Peer {
        let expected = ExpectedPeer::Id(peer.clone());
        let tls = mesh_client_config(&self.identity, expected, Arc::clone(&self.clock), &["h2"]);
        Peer {
            tls,
            endpoints: HashMap::new(),
        }
    }

    async fn send_to(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Request<RequestBody>,
    ) -> Result<Answer, SendFailure> {
        let unsent = |request, error| {
            SendFailure::Unsent(Unsent {
                request: Box::new(request),
                error,
            })
        };
        if endpoint.health.open() >= REQUESTS_PER_ENDPOINT {
            return Err(unsent(request, UpstreamError::Overloaded));
        }
        let stream = match self.stream(endpoint).await {
            Ok(stream) => stream,
            Err(error) => return Err(unsent(request, error)),
        };
        let outcome = request.body().outcome();
        let mut sender = stream.connection.sender.clone();
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, Lease::Stream(stream))),
            Err(mut error) => match error.take_message() {
                Some(request) => Err(unsent(request, UpstreamError::Broken)),
                None => Err(SendFailure::Sent(failure(&outcome))),
            },
        }
    }

    async fn stream(&self, endpoint: &Arc<Endpoint>) -> Result<OpenStream, UpstreamError> {
        if let Some(stream) = endpoint.free_stream(self.clock.now(), STREAMS_PER_CONNECTION) {
            return Ok(stream);
        }
        let _one_at_a_time = endpoint.opening.lock().await;
        let now = self.clock.now();
        if let Some(stream) = endpoint.free_stream(now, STREAMS_PER_CONNECTION) {
            return Ok(stream);
        }
        if endpoint.lock().len() >= CONNECTIONS_PER_ENDPOINT {
            return endpoint
                .free_stream(now, usize::MAX)
                .ok_or(UpstreamError::Overloaded);
        }
        // Boxed: a handshake is rare and its future large, and every request would carry it.
        let connection = Box::pin(self.open(endpoint)).await?;
        endpoint.lock().push(Arc::clone(&connection));
        Ok(OpenStream::begin(endpoint, connection))
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Arc<Connection>, UpstreamError> {
        let unreachable = |_| UpstreamError::Unreachable;
        let connecting = TcpStream::connect(endpoint.address);
        let socket = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| UpstreamError::Unreachable)?
            .map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        let own_end = self.identity.current().not_after();
        let connector = TlsConnector::from(Arc::clone(&endpoint.tls));
        let handshake = connector.connect(mesh_server_name(), socket);
        let stream = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| UpstreamError::Unreachable)?
            .map_err(|error| {
                tracing::debug!(address = %endpoint.address, %error, "mesh handshake failed");
                UpstreamError::Unreachable
            })?;
        let (_, session) = stream.get_ref();
        let peer_end = session
            .peer_certificates()
            .and_then(|chain| certificate_times(chain.first()?).ok())
            .map(|(_, not_after)| not_after)
            .ok_or(UpstreamError::Unreachable)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(limits::MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(limits::IDLE_TIMEOUT)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "mesh connection ended");
            }
        })
        .abort_handle();
        let usable_until = own_end.min(peer_end);
        Ok(Arc::new(Connection {
            sender,
            streams: AtomicUsize::new(0),
            usable_until,
            task,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    fn new(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self {
            address,
            tls,
            health: Health::default(),
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// A stream on the least used connection with fewer than `limit`. Connections that have ended or whose
    /// certificates have are let go; what runs on them may finish.
    fn free_stream(self: &Arc<Self>, now: Timestamp, limit: usize) -> Option<OpenStream> {
        let mut connections = self.lock();
        connections
            .retain(|connection| !connection.sender.is_closed() && now < connection.usable_until);
        let streams = |connection: &Arc<Connection>| connection.streams.load(Ordering::Relaxed);
        let least = connections
            .iter()
            .min_by_key(|connection| streams(connection))?;
        (streams(least) < limit).then(|| OpenStream::begin(self, Arc::clone(least)))
    }

    fn close(&self) {
        for connection in self.lock().drain(..) {
            connection.task.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenStream {
    fn begin(endpoint: &Arc<Endpoint>, connection: Arc<Connection>) -> Self {
        endpoint.health.begin();
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self {
            endpoint: Arc::clone(endpoint),
            connection,
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.health.end();
    }
}
