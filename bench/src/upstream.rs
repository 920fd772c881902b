//! The service behind every proxy: always the same bytes, as fast as hyper answers.

use std::{
    convert::Infallible,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    Outcome,
    peers::Peer,
    process::{LOAD_CORE, Process},
};

/// Length of an answer's body unless said otherwise.
pub(crate) const ANSWER_BYTES: usize = 100;

/// Where to listen and what to answer.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UpstreamArguments {
    /// Port to listen on [default: a free one]
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Length of an answer's body
    #[arg(long, default_value_t = ANSWER_BYTES)]
    bytes: usize,
}

/// Starts one that answers `bytes`, with its log in `folder`.
pub(crate) fn start(folder: &Path, bytes: usize) -> Outcome<Peer> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["upstream", "--bytes", &bytes.to_string()]);
    let mut process = Process::start(&command, LOAD_CORE, &folder.join("upstream.log"))?;
    let port = process.lines()?.next().ok_or("no upstream")??.parse()?;
    Ok(Peer {
        process,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    })
}

/// Listens on a loopback port, prints it, answers until killed.
pub(crate) fn run(arguments: &UpstreamArguments) -> Outcome {
    let answer = Bytes::from(vec![b'x'; arguments.bytes]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
        writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream, answer.clone()));
        }
    })
}

async fn serve(stream: TcpStream, answer: Bytes) {
    let service = service_fn(|_| {
        let mut response = Response::new(Full::new(answer.clone()));
        let plain = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // A proxy that closes a kept connection is not worth a word.
    drop(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}
