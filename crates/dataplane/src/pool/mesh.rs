//! HTTP/2 over mTLS to other proxies: few connections, many streams.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::ClientConfig;
use testudo_model::{Clock, Entropy, FleetMap, SpiffeId, limits};
use testudo_trust::{
    ExpectedPeer, IdentitySource, certificate_times, mesh_client_config, mesh_server_name,
};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::{
    Answer, Lease, Outbound, SendFailure, Unsent,
    balance::{self, Health},
    connect, sent,
    streams::{self, Connection, Connections, Place},
};
use crate::{overload::RetryBudget, rejection::UpstreamError};

/// Requests under way from one worker to one endpoint. Beyond it waiting only makes the queue longer.
const REQUESTS_PER_ENDPOINT: usize = streams::STREAMS_PER_CONNECTION * streams::MAX_CONNECTIONS;
/// Endpoints tried for one request. Only what was certainly not sent is tried again.
const ATTEMPTS: usize = 3;

/// The mesh connections of one worker.
pub(crate) struct MeshPool {
    identity: IdentitySource,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    peers: Mutex<FleetMap<SpiffeId, Peer>>,
}

/// All endpoints that present one identity.
struct Peer {
    tls: Arc<ClientConfig>,
    endpoints: FleetMap<SocketAddr, Arc<Endpoint>>,
    retries: Arc<RetryBudget>,
}

struct Endpoint {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    health: Health,
    connections: Connections,
}

/// A request for an endpoint, from its choice on: one that cannot be reached must not look idle. Ends when dropped.
struct Underway(Arc<Endpoint>);

/// A request under way; ends when dropped.
pub(crate) struct OpenStream {
    _underway: Underway,
    _stream: sent::OpenStream,
}

/// An endpoint that has not answered yet. Dropped after the deadline, that is a failure: one that takes requests
/// and says nothing is not fit. Dropped before, it was the client that gave up.
struct Unanswered<'a> {
    health: &'a Health,
    clock: &'a dyn Clock,
    deadline: Instant,
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

    /// Sends `request` to one of `addresses`, which must present `peer`. The caller waits until `deadline`.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) async fn send(
        &self,
        peer: &SpiffeId,
        addresses: &[SocketAddr],
        request: Outbound,
        deadline: Instant,
    ) -> Result<Answer, UpstreamError> {
        let (mut candidates, retries) = self.endpoints(peer, addresses);
        retries.earn();
        let mut request = request;
        let mut last_error = UpstreamError::NoEndpoint;
        for _ in 0..ATTEMPTS {
            let now = self.clock.monotonic_nanos();
            let Some(endpoint) =
                balance::choose(&candidates, |e| &e.health, &*self.entropy, now).cloned()
            else {
                break;
            };
            let unanswered = Unanswered {
                health: &endpoint.health,
                clock: &*self.clock,
                deadline,
            };
            let outcome = self.send_to(&endpoint, request).await;
            // It has said something, or is known to be gone.
            std::mem::forget(unanswered);
            match outcome {
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
                    last_error = unsent.error;
                    request = unsent.request;
                    match last_error {
                        // A stale connection deserves a fresh one.
                        UpstreamError::Broken => {
                            endpoint.health.failed(self.clock.monotonic_nanos());
                        }
                        // A dead endpoint does not deserve a second try; whoever tried has noted the failure.
                        UpstreamError::Unreachable => {
                            candidates.retain(|other| !Arc::ptr_eq(other, &endpoint));
                        }
                        _ => {}
                    }
                    if !unsent.was_kept && !retries.spend() {
                        break;
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

    fn endpoints(
        &self,
        peer: &SpiffeId,
        addresses: &[SocketAddr],
    ) -> (Vec<Arc<Endpoint>>, Arc<RetryBudget>) {
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
        let endpoint = |address: &SocketAddr| {
            let endpoint = known
                .endpoints
                .entry(*address)
                .or_insert_with(|| Arc::new(Endpoint::new(*address, Arc::clone(&known.tls))));
            Arc::clone(endpoint)
        };
        let endpoints = addresses.iter().map(endpoint).collect();
        (endpoints, Arc::clone(&known.retries))
    }

    fn new_peer(&self, peer: &SpiffeId) -> Peer {
        let expected = ExpectedPeer::Id(peer.clone());
        let tls = mesh_client_config(&self.identity, expected, Arc::clone(&self.clock), &["h2"]);
        Peer {
            tls,
            endpoints: FleetMap::default(),
            retries: Arc::default(),
        }
    }

    async fn send_to(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Outbound,
    ) -> Result<Answer, SendFailure> {
        let unsent = |request, error| {
            SendFailure::Unsent(Unsent {
                request,
                error,
                was_kept: false,
            })
        };
        if endpoint.health.open() >= REQUESTS_PER_ENDPOINT {
            return Err(unsent(request, UpstreamError::Overloaded));
        }
        let underway = Underway::begin(endpoint);
        let place = match self.place(endpoint).await {
            Ok(place) => place,
            Err(error) => return Err(unsent(request, error)),
        };
        let reply = place.send(request).await?;
        Ok(reply.leased(|stream| {
            Lease::Mesh(OpenStream {
                _underway: underway,
                _stream: stream,
            })
        }))
    }

    async fn place(&self, endpoint: &Endpoint) -> Result<Place, UpstreamError> {
        let open = || async {
            self.open(endpoint)
                .await
                .inspect_err(|_| endpoint.health.failed(self.clock.monotonic_nanos()))
        };
        endpoint.connections.place(self.clock.now(), open).await
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Arc<Connection>, UpstreamError> {
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
        Connection::begin(stream, own_end.min(peer_end), Some(limits::IDLE_TIMEOUT)).await
    }

    fn lock(&self) -> MutexGuard<'_, FleetMap<SpiffeId, Peer>> {
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

impl Underway {
    fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.health.begin();
        Self(Arc::clone(endpoint))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.health.end();
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.deadline <= Instant::now() {
            self.health.failed(self.clock.monotonic_nanos());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::future::join_all;
    use http::Request;
    use testudo_testkit::{FakeClock, SeededEntropy};
    use testudo_trust::{CertificateAuthority, Svid, SvidKey, TrustBundle};
    use tokio::net::TcpListener;

    use super::*;
    use crate::body::RequestBody;

    fn pool(clock: &Arc<FakeClock>) -> MeshPool {
        let domain = "fleet.example".parse().unwrap();
        let life = Duration::from_secs(900);
        let ca = CertificateAuthority::generate(&domain, clock.now(), life).unwrap();
        let key = SvidKey::generate();
        let id = domain.gateway();
        let csr = key.csr_der(&id).unwrap();
        let entropy = SeededEntropy::new(1);
        let leaf = ca
            .issue(&csr, &id, &[], clock.now(), life, &*entropy)
            .unwrap();
        let bundle = TrustBundle::new(domain, vec![ca.cert_der().to_vec()]).unwrap();
        let identity = IdentitySource::new(Svid::new(vec![leaf], key).unwrap(), bundle);
        MeshPool::new(identity, clock.clone(), entropy)
    }

    fn peer() -> SpiffeId {
        "spiffe://fleet.example/service/orders".parse().unwrap()
    }

    /// An endpoint that takes connections and breaks them off, and how many it has taken.
    async fn broken_endpoint() -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(stream);
            }
        });
        (address, taken)
    }

    #[tokio::test]
    async fn a_burst_for_an_endpoint_that_is_gone_shares_one_attempt_and_one_failure() {
        let clock = FakeClock::today();
        let pool = pool(&clock);
        let (address, taken) = broken_endpoint().await;
        let (endpoints, _) = pool.endpoints(&peer(), &[address]);
        let [endpoint] = endpoints.as_slice() else {
            panic!("one endpoint");
        };
        let burst = join_all((0..20).map(|_| pool.place(endpoint))).await;
        assert!(
            burst
                .iter()
                .all(|place| matches!(place, Err(UpstreamError::Unreachable)))
        );
        assert_eq!(taken.load(Ordering::Acquire), 1);
        assert!(
            !endpoint.health.is_ejected(clock.monotonic_nanos()),
            "one failure, however many waited for it"
        );
        let _ = pool.place(endpoint).await;
        assert_eq!(
            taken.load(Ordering::Acquire),
            2,
            "whoever comes later tries"
        );
    }

    #[tokio::test]
    async fn endpoints_that_all_fail_see_a_fifth_more_than_what_is_asked_for() {
        let pool = pool(&FakeClock::today());
        let mut endpoints = Vec::new();
        for _ in 0..3 {
            endpoints.push(broken_endpoint().await);
        }
        let addresses: Vec<_> = endpoints.iter().map(|(address, _)| *address).collect();
        for _ in 0..200 {
            let deadline = Instant::now() + Duration::from_secs(5);
            let request = Box::new(Request::new(RequestBody::none()));
            let sent = pool.send(&peer(), &addresses, request, deadline).await;
            assert!(matches!(sent, Err(UpstreamError::Unreachable)));
        }
        let seen: usize = endpoints
            .iter()
            .map(|(_, taken)| taken.load(Ordering::Acquire))
            .sum();
        assert!((200..=250).contains(&seen), "{seen}");
    }

    #[tokio::test]
    async fn an_endpoint_that_says_nothing_looks_busy_and_then_unfit() {
        let clock = FakeClock::today();
        let pool = pool(&clock);
        // Connections are made by the system, and nobody takes them.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [silent.local_addr().unwrap()];
        let (endpoints, _) = pool.endpoints(&peer(), &addresses);
        let health = &endpoints.first().unwrap().health;
        for _ in 0..5 {
            assert!(!health.is_ejected(clock.monotonic_nanos()));
            let deadline = Instant::now() + Duration::from_millis(50);
            let request = Box::new(Request::new(RequestBody::none()));
            let to = peer();
            let sending = pool.send(&to, &addresses, request, deadline);
            let waiting = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert_eq!(health.open(), 1);
                tokio::time::sleep_until(deadline).await;
            };
            tokio::select! {
                answer = sending => assert!(answer.is_err(), "nobody answers"),
                () = waiting => {}
            }
            assert_eq!(health.open(), 0);
        }
        assert!(health.is_ejected(clock.monotonic_nanos()));
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_in_time_is_a_failure_and_a_client_that_gives_up_is_none()
    {
        let clock = FakeClock::today();
        let health = Health::default();
        let give_up = |deadline| {
            for _ in 0..5 {
                drop(Unanswered {
                    health: &health,
                    clock: &*clock,
                    deadline,
                });
            }
        };
        give_up(Instant::now() + Duration::from_secs(60));
        assert!(!health.is_ejected(clock.monotonic_nanos()));
        give_up(Instant::now());
        assert!(health.is_ejected(clock.monotonic_nanos()));
    }
}
