//! The load generator: HTTP/1.1 over kept connections, one request under way on each, exact percentiles.
//!
//! Written for this bench because generator, upstream and everything that is not measured share one core: it
//! formats a request once and parses answers with `httparse`, so it costs less than any proxy here. It knows
//! every latency (no histogram), and counts whatever is not `200` as an error.

use std::{
    cell::RefCell, collections::BTreeMap, fs, io::Write, net::SocketAddr, path::PathBuf, rc::Rc,
    sync::Arc, time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::Outcome;

/// Longest answer taken.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Time for all connections to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// What to send where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArguments {
    /// Proxy
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// `Host`
    #[arg(long)]
    pub(crate) host: String,
    /// Path
    #[arg(long)]
    pub(crate) path: String,
    /// CA of the proxy's certificate; without it plain HTTP is spoken
    #[arg(long)]
    pub(crate) ca: Option<PathBuf>,
    /// File with a bearer token
    #[arg(long)]
    pub(crate) token: Option<PathBuf>,
    /// Connections
    #[arg(long)]
    pub(crate) connections: usize,
    /// Seconds before measuring
    #[arg(long)]
    pub(crate) warm_up: f64,
    /// Seconds of measuring
    #[arg(long)]
    pub(crate) seconds: f64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Answers with status 200.
    pub(crate) requests: u64,
    /// Everything else, by what it was.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Length of the measurement.
    pub(crate) seconds: f64,
    /// Median latency in microseconds.
    pub(crate) p50: u32,
    /// 99th percentile in microseconds.
    pub(crate) p99: u32,
    /// Slowest answer in microseconds.
    pub(crate) slowest: u32,
}

/// Runs the load and prints `started` and the tally.
pub(crate) fn run(arguments: LoadArguments) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, generate(arguments))
}

async fn generate(arguments: LoadArguments) -> Outcome {
    let client = Rc::new(Client::new(&arguments)?);
    let mut streams = Vec::with_capacity(arguments.connections);
    let opening = async {
        for _ in 0..arguments.connections {
            streams.push(client.connect().await?);
        }
        Outcome::Ok(())
    };
    tokio::time::timeout(CONNECT_TIMEOUT, opening).await??;

    let record = Rc::new(RefCell::new(Record::default()));
    let mut callers = JoinSet::new();
    for stream in streams {
        callers.spawn_local(call_for_ever(
            Rc::clone(&client),
            stream,
            Rc::clone(&record),
        ));
    }
    tokio::time::sleep(Duration::from_secs_f64(arguments.warm_up)).await;
    *record.borrow_mut() = Record::default();
    let started = Instant::now();
    writeln!(std::io::stdout(), "started")?;
    tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
    let record = record.take();
    let tally = record.tally(started.elapsed());
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&tally)?)?;
    Ok(())
}

#[derive(Default)]
struct Record {
    latencies: Vec<u32>,
    errors: BTreeMap<String, u64>,
}

impl Record {
    fn fail(&mut self, what: impl Into<String>) {
        *self.errors.entry(what.into()).or_default() += 1;
    }

    fn tally(mut self, took: Duration) -> Tally {
        self.latencies.sort_unstable();
        let at = |percent: usize| {
            let index = self.latencies.len() * percent / 100;
            self.latencies.get(index).copied().unwrap_or_default()
        };
        Tally {
            requests: self.latencies.len() as u64,
            p50: at(50),
            p99: at(99),
            slowest: self.latencies.last().copied().unwrap_or_default(),
            errors: self.errors,
            seconds: took.as_secs_f64(),
        }
    }
}

struct Client {
    target: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    request: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl Client {
    fn new(arguments: &LoadArguments) -> Outcome<Self> {
        let tls = match &arguments.ca {
            Some(path) => {
                let name = ServerName::try_from(arguments.host.clone())?;
                Some((TlsConnector::from(tls_config(&fs::read(path)?)?), name))
            }
            None => None,
        };
        let authorization = match &arguments.token {
            Some(path) => format!(
                "Authorization: Bearer {}\r\n",
                fs::read_to_string(path)?.trim()
            ),
            None => String::new(),
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: testudo-bench\r\nAccept: */*\r\n{authorization}\r\n",
            arguments.path, arguments.host
        );
        Ok(Self {
            target: arguments.target,
            tls,
            request: request.into_bytes(),
        })
    }

    async fn connect(&self) -> Outcome<Box<dyn Stream>> {
        let tcp = TcpStream::connect(self.target).await?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), tcp).await?),
            None => Box::new(tcp),
        })
    }
}

/// One cipher suite and one group: whoever answers, the same cryptography is done.
fn tls_config(ca: &[u8]) -> Outcome<Arc<ClientConfig>> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca) {
        roots.add(root?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn call_for_ever(
    client: Rc<Client>,
    mut stream: Box<dyn Stream>,
    record: Rc<RefCell<Record>>,
) {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let sent = Instant::now();
        match exchange(&mut stream, &client.request, &mut buffer).await {
            Ok(200) => {
                let took = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
                record.borrow_mut().latencies.push(took);
            }
            Ok(status) => record.borrow_mut().fail(format!("status {status}")),
            Err(error) => {
                record.borrow_mut().fail(error.to_string());
                tokio::time::sleep(Duration::from_millis(10)).await;
                match client.connect().await {
                    Ok(next) => stream = next,
                    Err(error) => record.borrow_mut().fail(format!("connecting: {error}")),
                }
            }
        }
    }
}

/// Sends the request and reads the whole answer; its status.
async fn exchange(
    stream: &mut Box<dyn Stream>,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> Outcome<u16> {
    stream.write_all(request).await?;
    stream.flush().await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err("closed in an answer".into());
        }
        if let Some(status) = complete(buffer)? {
            return Ok(status);
        }
        if buffer.len() > MAX_ANSWER_BYTES {
            return Err("the answer is too long".into());
        }
    }
}

/// The status, once head and body are there.
fn complete(bytes: &[u8]) -> Outcome<Option<u16>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else {
        return Ok(None);
    };
    let body = bytes.get(head..).unwrap_or_default();
    let value = |name: &str| {
        let mut fields = answer.headers.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let is_complete = match value("content-length") {
        Some(length) => body.len() >= length.parse()?,
        None if value("transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n"),
        None => return Err("an answer without a length".into()),
    };
    Ok(is_complete.then_some(answer.code).flatten())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(complete(answer).unwrap(), Some(200));
        for end in 0..answer.len() {
            assert_eq!(complete(answer.get(..end).unwrap()).unwrap(), None, "{end}");
        }
        let chunked = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(complete(chunked).unwrap(), Some(503));
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn percentiles_are_exact() {
        let record = Record {
            latencies: (0..1000).rev().collect(),
            errors: BTreeMap::new(),
        };
        let tally = record.tally(Duration::from_secs(1));
        assert_eq!((tally.p50, tally.p99, tally.slowest), (500, 990, 999));
    }
}
