//! The least that the libraries under Testudo can do: hyper, rustls and tokio as a proxy with one worker that asks nothing,
//! decides nothing and writes nothing down. What a proxy built from them costs beyond this, it costs by what it does itself.

mod forward;
mod process;
mod tls;

use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::ValueEnum;
use hyper::{
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use testudo_model::limits;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use self::forward::Upstream;
pub(crate) use self::process::{Gap, alone, pair};
use crate::Outcome;

/// How bytes travel on one side of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wire {
    /// HTTP/1.1
    Plain,
    /// HTTP/1.1 over TLS
    Tls,
    /// HTTP/1.1 over TLS with a certificate on both sides
    Mutual,
    /// HTTP/2 over TLS with a certificate on both sides
    Mesh,
}

/// What is passed on, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FloorArguments {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// How requests come
    #[arg(long)]
    from: Wire,
    /// Where they go
    #[arg(long)]
    to: SocketAddr,
    /// How they go there
    #[arg(long)]
    over: Wire,
    #[command(flatten)]
    identity: IdentityFiles,
}

/// PEM files.
#[derive(Debug, Clone, clap::Args)]
struct IdentityFiles {
    /// Root of everybody's certificates
    #[arg(long)]
    root: PathBuf,
    /// Certificate shown to those who connect
    #[arg(long)]
    chain: PathBuf,
    /// Its key
    #[arg(long)]
    key: PathBuf,
    /// Certificate shown to the upstream
    #[arg(long)]
    client_chain: PathBuf,
    /// Its key
    #[arg(long)]
    client_key: PathBuf,
}

/// Passes on until killed.
pub(crate) fn run(arguments: &FloorArguments) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen).await?;
        serve(listener, arguments).await
    })
}

async fn serve(listener: TcpListener, arguments: &FloorArguments) -> Outcome {
    let FloorArguments { from, identity, .. } = arguments;
    let acceptor = match from {
        Wire::Plain => None,
        _ => Some(TlsAcceptor::from(tls::server(*from, identity)?)),
    };
    let upstream = Upstream::new(arguments.to, arguments.over, identity)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let upstream = Arc::clone(&upstream);
        tokio::spawn(accept(stream, acceptor.clone(), *from, upstream));
    }
}

/// A connection from its handshake to its end. However it ends, the generator has noticed if it matters.
async fn accept(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    from: Wire,
    upstream: Arc<Upstream>,
) {
    match acceptor {
        None => converse(stream, from, upstream).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(stream, from, upstream).await;
            }
        }
    }
}

async fn converse<S>(stream: S, from: Wire, upstream: Arc<Upstream>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let upstream = Arc::clone(&upstream);
        async move { upstream.pass_on(request).await }
    });
    let stream = TokioIo::new(stream);
    if from == Wire::Mesh {
        let settings = mesh_server();
        drop(settings.serve_connection(stream, service).await);
    } else {
        let settings = http1::Builder::new();
        drop(settings.serve_connection(stream, service).await);
    }
}

/// With the windows of Testudo's own mesh connections.
fn mesh_server() -> http2::Builder<Boxing> {
    let mut settings = http2::Builder::new(Boxing);
    settings
        .max_concurrent_streams(limits::MAX_HTTP2_STREAMS)
        .initial_stream_window_size(limits::MESH_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::MESH_CONNECTION_WINDOW_BYTES);
    settings
}

/// hyper's own tasks, in boxes: one type of future is all of them, and would be moved about at its largest.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        caller::{Origin, exchange},
        certificates::Certificates,
    };

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Says in each answer which request of its connection it answers.
    async fn upstream() -> SocketAddr {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    for number in 1.. {
                        if stream.read(&mut request).await.unwrap() == 0 {
                            return;
                        }
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        address
    }

    fn identity(folder: &Path) -> IdentityFiles {
        let certificates = Certificates::create(folder).unwrap();
        let web = certificates.web().unwrap();
        let client = certificates.workload("caller").unwrap();
        IdentityFiles {
            root: certificates.root(),
            chain: web.chain,
            key: web.key,
            client_chain: client.chain,
            client_key: client.key,
        }
    }

    async fn floor(identity: &IdentityFiles, from: Wire, to: SocketAddr, over: Wire) -> SocketAddr {
        let (listener, listen) = listener().await;
        let arguments = FloorArguments {
            listen,
            from,
            to,
            over,
            identity: identity.clone(),
        };
        tokio::spawn(async move { serve(listener, &arguments).await });
        listen
    }

    #[tokio::test]
    async fn two_floors_pass_on_over_connections_that_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let identity = identity(folder.path());
        for between in [Wire::Mutual, Wire::Mesh] {
            let inner = floor(&identity, between, upstream().await, Wire::Plain).await;
            let outer = floor(&identity, Wire::Tls, inner, between).await;
            let ca = Some(identity.root.as_path());
            let origin = Origin::new(outer, "localhost", ca, true).unwrap();
            let mut stream = origin.connect().await.unwrap();
            let request = b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let mut answer = Vec::new();
            for number in ["1", "2", "3"] {
                let answered = exchange(&mut stream, request, &mut answer).await.unwrap();
                assert_eq!(answered.status, 200, "{between:?}");
                assert!(answer.ends_with(number.as_bytes()), "{between:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_floor_without_an_upstream_answers_502() {
        let folder = tempfile::tempdir().unwrap();
        let identity = identity(folder.path());
        let (closed, nowhere) = listener().await;
        drop(closed);
        let floor = floor(&identity, Wire::Plain, nowhere, Wire::Plain).await;
        let origin = Origin::new(floor, "localhost", None, true).unwrap();
        let mut stream = origin.connect().await.unwrap();
        let request = b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answered = exchange(&mut stream, request, &mut Vec::new()).await;
        assert_eq!(answered.unwrap().status, 502);
    }
}
