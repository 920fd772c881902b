//! Accepting connections for the HTTP interface: HTTPS for everybody, a Unix socket for the machine's owner.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use testudo_identity::Peer;
use testudo_model::{Timestamp, limits};
use testudo_runtime::Drain;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    timely::Timely,
    unread::{self, ReadOut},
};
use crate::connection::{Guarded, Sources};

/// Connections at the same time; people and their browsers, not the fleet's traffic.
const MAX_CONNECTIONS: usize = 4096;
/// Of them for one source. A company may share one address, and so may a load balancer's clients.
const MAX_CONNECTIONS_PER_SOURCE: usize = 512;
/// Longest time a connection may outlive the drain signal.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Who is at the other end of a connection; every request carries it as an extension.
#[derive(Debug, Clone)]
pub enum Remote {
    /// A TLS connection.
    Network {
        /// The client's address.
        address: IpAddr,
        /// The workload, if it showed a certificate of the fleet.
        workload: Option<Workload>,
    },
    /// The admin socket: whoever may open it owns the data folder.
    Local,
}

/// The workload at the other end, as its certificate proved it when the connection was made. Connections outlive
/// certificates and revocations: ask [`Plane::standing`](crate::plane::Plane::standing) before believing it.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Who.
    pub peer: Peer,
    /// End of its certificate.
    pub until: Timestamp,
}

/// Serves `router` over TLS until the process drains.
pub async fn serve_https(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    drain: Drain,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sources = Sources::new(MAX_CONNECTIONS_PER_SOURCE);
    loop {
        let Some((stream, address)) = accept(&drain, || listener.accept()).await else {
            return;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            warn!("the HTTPS interface has {MAX_CONNECTIONS} connections; one more was closed");
            continue;
        };
        let Some(place) = sources.admit(address.ip()) else {
            warn!(%address, "one source has {MAX_CONNECTIONS_PER_SOURCE} connections; one more was closed");
            continue;
        };
        let (acceptor, router, drain) = (acceptor.clone(), router.clone(), drain.clone());
        tokio::spawn(async move {
            let handshake =
                tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, acceptor.accept(stream));
            match handshake.await {
                Ok(Ok(tls)) => {
                    let remote = remote_of(address, tls.get_ref().1);
                    serve_connection(tls, router, remote, drain).await;
                }
                Ok(Err(error)) => debug!(%error, %address, "TLS handshake failed"),
                Err(_) => debug!(%address, "TLS handshake timed out"),
            }
            drop((permit, place));
        });
    }
}

/// Serves `router` on the admin socket, mode 0600.
pub async fn serve_socket(listener: UnixListener, router: Router, drain: Drain) {
    loop {
        let Some((stream, _)) = accept(&drain, || listener.accept()).await else {
            return;
        };
        let (router, drain) = (router.clone(), drain.clone());
        tokio::spawn(async move { serve_connection(stream, router, Remote::Local, drain).await });
    }
}

/// Binds the admin socket. A socket left behind by a process that is gone is replaced; the store's lock has
/// already made sure that it is gone.
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The next connection, or `None` when the process drains. Errors of single connections (a full file table)
/// are waited out.
async fn accept<T, F>(drain: &Drain, next: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut watch = drain.watch();
    loop {
        let accepted = tokio::select! {
            () = watch.drained() => return None,
            accepted = next() => accepted,
        };
        match accepted {
            Ok(connection) => return Some(connection),
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn remote_of(address: SocketAddr, tls: &rustls::ServerConnection) -> Remote {
    let certificates = tls.peer_certificates().unwrap_or_default();
    let certified = testudo_trust::peer_identity(certificates).zip(certificates.first());
    let workload = certified.and_then(|(spiffe_id, leaf)| {
        let (_, until) = testudo_trust::certificate_times(leaf).ok()?;
        let certificate_thumbprint = testudo_trust::certificate_thumbprint(leaf);
        Some(Workload {
            peer: Peer {
                spiffe_id,
                certificate_thumbprint,
            },
            until,
        })
    });
    Remote::Network {
        address: address.ip().to_canonical(),
        workload,
    }
}

async fn serve_connection<S>(stream: S, router: Router, remote: Remote, drain: Drain)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Guarded::new(stream, limits::HEADER_READ_TIMEOUT);
    let service = router.map_request(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(remote.clone());
        let reads_out = unread::must_be_read_out(&request);
        request.map(|body| {
            let body = Timely::new(body, limits::DEFAULT_REQUEST_TIMEOUT);
            ReadOut::new(body, reads_out)
        })
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ_TIMEOUT)
        .max_buf_size(limits::MAX_HEADER_BYTES)
        .max_headers(limits::MAX_HEADER_FIELDS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::MAX_HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(limits::MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(limits::IDLE_TIMEOUT);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let mut watch = drain.watch();
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = watch.drained() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN_GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_does_not_begin_is_closed() {
        let open = |said: &'static [u8]| async move {
            let (mut client, server) = duplex(1024);
            client.write_all(said).await.unwrap();
            let (_signal, drain) = Drain::new();
            let serving = serve_connection(server, Router::new(), Remote::Local, drain);
            tokio::time::timeout(limits::HEADER_READ_TIMEOUT * 2, serving)
                .await
                .expect("it is closed");
            client.read_to_end(&mut Vec::new()).await.unwrap();
        };
        tokio::join!(
            open(b""),
            open(b"PRI * HTT"),
            open(b"GET / HTTP/1.1\r\nHost: ")
        );
    }

    #[tokio::test]
    async fn a_body_that_nobody_wanted_takes_neither_the_answer_nor_the_connection_with_it() {
        let (mut client, server) = duplex(1024);
        let (_signal, drain) = Drain::new();
        tokio::spawn(serve_connection(
            server,
            Router::new(),
            Remote::Local,
            drain,
        ));
        let refused = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n";
        let next = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        client.write_all(refused.as_bytes()).await.unwrap();
        // The answer is on its way before the body.
        client.read_exact(&mut [0; 12]).await.unwrap();
        client.write_all(&vec![b'x'; 3_000_000]).await.unwrap();
        client.write_all(next.as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 404").count(), 1, "{answers}");
    }
}
