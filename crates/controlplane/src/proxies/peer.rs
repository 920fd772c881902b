//! Connections to the proxy port: TLS first, then gRPC; who the peer is, the connection says.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use testudo_model::{Clock, SpiffeId, Timestamp, event::Actor, limits::HANDSHAKE_TIMEOUT};
use testudo_runtime::DrainWatch;
use testudo_workload::{Caller, ShownCertificate};
use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Request, Status, transport::server::Connected};

/// Connections to the proxy port. A proxy has one or two.
const MAX_CONNECTIONS: usize = 10_000;
/// Handshakes that may wait to be served.
const ACCEPTED: usize = 64;

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
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
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
    mut drain: DrainWatch,
) -> mpsc::Receiver<io::Result<PeerStream>> {
    let (accepted, incoming) = mpsc::channel(ACCEPTED);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                tracing::warn!(%address, "too many proxies are connected");
                continue;
            };
            let (tls, accepted) = (tls.clone(), accepted.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tcp, address, tls, permit))
                    .await
                {
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

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    permit: OwnedSemaphorePermit,
) -> io::Result<PeerStream> {
    tcp.set_nodelay(true)?;
    let stream = tls.accept(tcp).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = certificates
        .first()
        .map(|leaf| ShownCertificate::read(leaf))
        .transpose()
        .map_err(io::Error::other)?;
    let peer = Peer {
        shown,
        address: address.ip().to_canonical(),
    };
    Ok(PeerStream {
        stream,
        peer,
        _permit: permit,
    })
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
