//! Connections to the proxy port: TLS first, then gRPC; who the peer is, the connection says.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use testudo_model::{
    Clock, SpiffeId, Timestamp,
    event::Actor,
    limits::{HANDSHAKE_TIMEOUT, HEADER_READ_TIMEOUT},
};
use testudo_runtime::DrainWatch;
use testudo_workload::{Caller, ShownCertificate};
use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Request, Status, transport::server::Connected};

use crate::connection::{Guarded, Place, Sources};

/// Connections to the proxy port. A proxy has one or two.
const MAX_CONNECTIONS: usize = 10_000;
/// Handshakes under way for one source. All proxies of a site may come back at once.
const MAX_HANDSHAKES_PER_SOURCE: usize = 256;
/// Handshakes that may wait to be served.
const ACCEPTED: usize = 64;

/// What who has shown no certificate may have. They come to enrol: one call, a moment long.
#[derive(Clone, Copy)]
pub(super) struct StrangerLimits {
    /// Connections at the same time. They take no place of the proxies'.
    connections: usize,
    /// Of them for one source. All proxies of a machine may start at once.
    per_source: usize,
    /// Life of a connection.
    life: Duration,
}

impl Default for StrangerLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            per_source: 64,
            life: Duration::from_secs(30),
        }
    }
}

/// Who is at the other end, as far as TLS has proved it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// The verified certificate, which may have ended lately; `None` before enrolment.
    shown: Option<ShownCertificate>,
    address: IpAddr,
}

/// A verified caller of one request.
pub(super) struct Certified {
    pub(super) id: SpiffeId,
    pub(super) until: Timestamp,
    pub(super) caller: Caller,
}

impl Peer {
    /// The peer of `request`, with a certificate that holds now. A connection may outlive the certificate it
    /// was opened with, or have been opened with an ended one to renew it.
    pub(super) fn certified<T>(
        request: &Request<T>,
        clock: &dyn Clock,
    ) -> Result<Certified, Status> {
        let (shown, caller) = Self::shown(request)?;
        if !shown.holds(clock.now()) {
            return Err(Status::unauthenticated(
                "the connection's certificate expired: renew it and connect again",
            ));
        }
        Ok(Certified {
            id: shown.id,
            until: shown.not_after,
            caller,
        })
    }

    /// The certificate of the peer of `request`, **which may have ended**. For renewals alone.
    pub(super) fn shown<T>(request: &Request<T>) -> Result<(ShownCertificate, Caller), Status> {
        let peer = Self::of(request)?;
        let Some(shown) = peer.shown else {
            return Err(Status::unauthenticated(
                "a client certificate of the fleet is needed",
            ));
        };
        let actor = Actor {
            workload: Some(shown.id.clone()),
            ..Actor::default()
        };
        let source_ip = Some(peer.address);
        Ok((shown, Caller { actor, source_ip }))
    }

    /// The caller of a request that needs no certificate.
    pub(super) fn anonymous<T>(request: &Request<T>) -> Result<Caller, Status> {
        let address = Self::of(request)?.address;
        Ok(Caller {
            actor: Actor::default(),
            source_ip: Some(address),
        })
    }

    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer = request.extensions().get::<Self>().cloned();
        peer.ok_or_else(|| Status::internal("the connection has no peer"))
    }
}

/// A TLS connection of a known peer.
pub(super) struct PeerStream {
    stream: Guarded<TlsStream<TcpStream>>,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
    _place: Option<Place>,
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Accepts connections until `drain` starts. Handshakes run beside each other, so that one slow peer does not
/// keep the others out.
pub(super) fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    strangers: StrangerLimits,
    mut drain: DrainWatch,
) -> mpsc::Receiver<io::Result<PeerStream>> {
    let (accepted, incoming) = mpsc::channel(ACCEPTED);
    let door = Arc::new(Door {
        tls,
        proxies: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        strangers: Arc::new(Semaphore::new(strangers.connections)),
        handshakes: Sources::new(MAX_HANDSHAKES_PER_SOURCE),
        stranger_sources: Sources::new(strangers.per_source),
        stranger_life: strangers.life,
    });
    tokio::spawn(async move {
        loop {
            let connection = tokio::select! {
                connection = listener.accept() => connection,
                () = drain.drained() => return,
            };
            let (tcp, address) = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    // Out of file descriptors, or the peer went away: neither is a reason to stop.
                    tracing::warn!(%error, "could not accept a proxy");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(entry) = door.entry(address) else {
                tracing::warn!(%address, "too many are connected");
                continue;
            };
            let (door, accepted) = (Arc::clone(&door), accepted.clone());
            tokio::spawn(async move {
                let handshake = door.handshake(tcp, entry);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                    Ok(Err(error)) => {
                        tracing::debug!(%address, %error, "handshake with a proxy failed")
                    }
                    Err(_) => tracing::debug!(%address, "a proxy was too slow in the handshake"),
                }
            });
        }
    });
    incoming
}

/// Who gets in.
struct Door {
    tls: TlsAcceptor,
    proxies: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    handshakes: Arc<Sources>,
    stranger_sources: Arc<Sources>,
    stranger_life: Duration,
}

/// What a connection holds until it is known whose it is.
struct Entry {
    address: IpAddr,
    permit: OwnedSemaphorePermit,
    _handshake: Place,
}

impl Door {
    fn entry(&self, address: SocketAddr) -> Option<Entry> {
        let address = address.ip().to_canonical();
        Some(Entry {
            address,
            permit: Arc::clone(&self.proxies).try_acquire_owned().ok()?,
            _handshake: self.handshakes.admit(address)?,
        })
    }

    async fn handshake(&self, tcp: TcpStream, entry: Entry) -> io::Result<PeerStream> {
        tcp.set_nodelay(true)?;
        let stream = self.tls.accept(tcp).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let shown = certificates
            .first()
            .map(|leaf| ShownCertificate::read(leaf))
            .transpose()
            .map_err(io::Error::other)?;
        let stream = Guarded::new(stream, HEADER_READ_TIMEOUT);
        let (stream, permit, place) = if shown.is_some() {
            (stream, entry.permit, None)
        } else {
            let (permit, place) = self.room_for_stranger(entry.address)?;
            (stream.ending_after(self.stranger_life), permit, Some(place))
        };
        Ok(PeerStream {
            stream,
            peer: Peer {
                shown,
                address: entry.address,
            },
            _permit: permit,
            _place: place,
        })
    }

    fn room_for_stranger(&self, address: IpAddr) -> io::Result<(OwnedSemaphorePermit, Place)> {
        let permit = Arc::clone(&self.strangers).try_acquire_owned().ok();
        permit
            .zip(self.stranger_sources.admit(address))
            .ok_or_else(|| io::Error::other("too many are connected without a certificate"))
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use testudo_runtime::{Drain, DrainSignal};
    use testudo_trust::{
        ExpectedPeer, IdentitySource, PeerAuth, mesh_client_config, mesh_server_config,
        pinned_client_config, sha256,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsConnector, client, rustls::ClientConfig};

    use super::*;
    use crate::{fixtures::plane, proxies::own_identity};

    const PATIENCE: Duration = Duration::from_secs(5);

    /// The port, and how to connect to it.
    struct Port {
        address: SocketAddr,
        identity: IdentitySource,
        clock: Arc<dyn Clock>,
        incoming: mpsc::Receiver<io::Result<PeerStream>>,
        _drain: DrainSignal,
    }

    impl Port {
        async fn open(folder: &std::path::Path, strangers: StrangerLimits) -> Self {
            let plane = plane(folder);
            let identity = own_identity(&plane.workloads).unwrap();
            let clock = Arc::clone(&plane.clock);
            let tls = mesh_server_config(&identity, PeerAuth::Optional, clock.clone(), &["h2"]);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (signal, drain) = Drain::new();
            let incoming = accept(listener, TlsAcceptor::from(tls), strangers, drain.watch());
            Self {
                address,
                identity,
                clock,
                incoming,
                _drain: signal,
            }
        }

        async fn connect(&self, config: Arc<ClientConfig>) -> client::TlsStream<TcpStream> {
            let tcp = TcpStream::connect(self.address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            TlsConnector::from(config).connect(name, tcp).await.unwrap()
        }

        /// With a certificate.
        async fn proxy(&self) -> client::TlsStream<TcpStream> {
            let expected = ExpectedPeer::InTrustDomain;
            let clock = self.clock.clone();
            self.connect(mesh_client_config(&self.identity, expected, clock, &["h2"]))
                .await
        }

        /// Without one.
        async fn stranger(&self) -> client::TlsStream<TcpStream> {
            let svid = self.identity.current();
            let root = sha256(svid.chain().last().unwrap());
            let config = pinned_client_config(root, svid.id(), self.clock.clone(), &["h2"]);
            self.connect(config).await
        }

        async fn next(&mut self) -> PeerStream {
            let next = tokio::time::timeout(PATIENCE, self.incoming.recv()).await;
            next.unwrap().unwrap().unwrap()
        }
    }

    /// Whether the other side hangs up.
    async fn is_refused(stream: &mut client::TlsStream<TcpStream>) -> bool {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
        !matches!(read.unwrap(), Ok(1..))
    }

    #[tokio::test]
    async fn a_stranger_stays_a_short_while_whatever_they_say_and_a_proxy_as_long_as_it_likes() {
        let folder = tempfile::tempdir().unwrap();
        let limits = StrangerLimits {
            life: Duration::from_millis(300),
            ..StrangerLimits::default()
        };
        let mut port = Port::open(folder.path(), limits).await;
        let mut proxy = port.proxy().await;
        let mut at_proxy = port.next().await;
        let mut stranger = port.stranger().await;
        let mut at_stranger = port.next().await;
        assert!(at_proxy.peer.shown.is_some() && at_stranger.peer.shown.is_none());
        stranger.write_all(&[b'x'; 100]).await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, at_stranger.read_to_end(&mut Vec::new())).await;
        let ended = heard.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        proxy.write_all(b"x").await.unwrap();
        assert_eq!(at_proxy.read(&mut [0; 1]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn strangers_take_each_other_s_places_but_no_proxy_s() {
        let few = StrangerLimits {
            connections: 1,
            ..StrangerLimits::default()
        };
        let few_from_here = StrangerLimits {
            per_source: 1,
            ..StrangerLimits::default()
        };
        for limits in [few, few_from_here] {
            let folder = tempfile::tempdir().unwrap();
            let mut port = Port::open(folder.path(), limits).await;
            let _stranger = port.stranger().await;
            let at_stranger = port.next().await;
            assert!(is_refused(&mut port.stranger().await).await);
            for _ in 0..3 {
                let _proxy = port.proxy().await;
                assert!(port.next().await.peer.shown.is_some());
            }
            drop(at_stranger);
            let _next = port.stranger().await;
            assert!(port.next().await.peer.shown.is_none());
        }
    }
}
