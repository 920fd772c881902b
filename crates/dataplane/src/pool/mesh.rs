//! HTTP/2 over mTLS to other proxies: few connections, many streams.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::Request;
use rustls::ClientConfig;
use testudo_model::{Clock, Entropy, SpiffeId, limits};
use testudo_trust::{
    ExpectedPeer, IdentitySource, certificate_times, mesh_client_config, mesh_server_name,
};
use tokio_rustls::TlsConnector;

use super::{
    Answer, Lease, SendFailure, Unsent,
    balance::{self, Health},
    connect,
    streams::{self, Connection, Connections},
};
use crate::{body::RequestBody, rejection::UpstreamError};

/// Requests under way from one worker to one endpoint. Beyond it waiting only makes the queue longer.
const REQUESTS_PER_ENDPOINT: usize = streams::STREAMS_PER_CONNECTION * streams::MAX_CONNECTIONS;
/// Endpoints tried for one request. Only what was certainly not sent is tried again.
const ATTEMPTS: usize = 3;

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
    connections: Connections,
}

/// A request under way; ends when dropped.
pub(crate) struct OpenStream {
    endpoint: Arc<Endpoint>,
    stream: streams::OpenStream,
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
                    .for_each(|endpoint| endpoint.connections.close());
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
        let now = self.clock.now();
        let stream = match endpoint
            .connections
            .stream(now, || self.open(endpoint))
            .await
        {
            Ok(stream) => stream,
            Err(error) => return Err(unsent(request, error)),
        };
        endpoint.health.begin();
        let under_way = OpenStream {
            endpoint: Arc::clone(endpoint),
            stream,
        };
        let response = under_way.stream.send(request).await?;
        Ok((response, Lease::Mesh(under_way)))
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Connection, UpstreamError> {
        let socket = connect(endpoint.address).await?;
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
        // What the earlier of the two certificates proved holds no longer when it ends.
        Connection::begin(stream, own_end.min(peer_end), true).await
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
            connections: Connections::default(),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.endpoint.health.end();
    }
}
