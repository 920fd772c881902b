//! The load generator: HTTP/1.1 over kept connections, one request under way on each, exact percentiles. As fast as
//! answers come, at a fixed rate, or each request on a connection of its own.
//!
//! Written for this bench because generator, upstream and everything that is not measured share one core: it
//! formats a request once and parses answers with `httparse`, so it costs less than any proxy here. It knows
//! every latency (no histogram), and counts whatever is not `200` as an error.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Runtime,
    sync::Semaphore,
    task::{JoinSet, LocalSet},
    time::Instant,
};

use crate::{
    Outcome,
    caller::{Origin, Stream, exchange, problem},
};

/// What is printed when all connections are held.
pub(crate) const HELD: &str = "held";
/// Time for all connections to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections opened at once. More would only wait in the queue of who accepts them.
const OPENING: usize = 64;

/// What to send where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TargetArguments {
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
    /// File with bearer tokens, one a line, each for one request
    #[arg(long, conflicts_with = "token")]
    pub(crate) tokens: Option<PathBuf>,
    /// File with a form to POST
    #[arg(long, conflicts_with_all = ["token", "tokens"])]
    pub(crate) form: Option<PathBuf>,
    /// Connections
    #[arg(long)]
    pub(crate) connections: usize,
}

/// And for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Requests a second, over all connections; as many as are answered without
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// A new connection with a full handshake for each request
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Addresses of this machine that connections come from in turn, from 127.0.0.1 on
    #[arg(long, default_value_t = 1)]
    pub(crate) addresses: u8,
    /// Seconds before measuring
    #[arg(long)]
    pub(crate) warm_up: f64,
    /// Seconds of measuring
    #[arg(long)]
    pub(crate) seconds: f64,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    LocalSet::new().block_on(&runtime()?, generate(arguments))
}

/// Opens the connections, makes one request on each, prints [`HELD`], and keeps them until killed.
pub(crate) fn hold(arguments: TargetArguments) -> Outcome {
    runtime()?.block_on(async {
        let client = Client::new(&arguments, true)?;
        let request = client.request().ok_or(NO_TOKEN)?;
        let mut streams = Vec::with_capacity(arguments.connections);
        let mut buffer = Vec::new();
        for _ in 0..arguments.connections {
            let mut stream = client.origin.connect().await?;
            match exchange(&mut stream, &request, &mut buffer).await?.status {
                200 => streams.push(stream),
                status => return Err(format!("status {status}").into()),
            }
        }
        writeln!(std::io::stdout(), "{HELD}")?;
        std::future::pending().await
    })
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn generate(arguments: LoadArguments) -> Outcome {
    let client = Rc::new(Client::new(&arguments.target, arguments.fresh)?);
    let record = Rc::new(RefCell::new(Record::default()));
    let opening = open_all(&client, &record, &arguments);
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, opening).await;
    let opened = opened.map_err(|_| "connections do not open in time")??;

    let mut callers = JoinSet::new();
    let begin = Instant::now();
    for (number, caller) in (0..).zip(opened) {
        let pace = arguments
            .rate
            .map(|rate| Pace::new(begin, rate, number, arguments.target.connections));
        callers.spawn_local(caller.call_for_ever(pace, arguments.fresh));
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

/// All callers with their connections, each with one request made: who connects and says nothing for long is cut off, and
/// thousands take a while to open.
async fn open_all(
    client: &Rc<Client>,
    record: &Rc<RefCell<Record>>,
    arguments: &LoadArguments,
) -> Outcome<Vec<Caller>> {
    let turns = Rc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for number in 0..arguments.target.connections {
        let (client, record) = (Rc::clone(client), Rc::clone(record));
        let (turns, from) = (Rc::clone(&turns), address(number, arguments.addresses));
        opening.spawn_local(async move {
            let _turn = turns.acquire().await?;
            let origin = client.origin.clone().called_from(from);
            let mut caller = Caller {
                stream: origin.connect().await?,
                client,
                origin,
                record,
            };
            // What is wrong will show while it is measured.
            drop(caller.call(false, &mut Vec::new()).await);
            Outcome::Ok(caller)
        });
    }
    let mut callers = Vec::with_capacity(arguments.target.connections);
    while let Some(opened) = opening.join_next().await {
        callers.push(opened??);
    }
    Ok(callers)
}

/// Where connection `number` comes from.
fn address(number: usize, addresses: u8) -> Ipv4Addr {
    let turn = number % usize::from(addresses.max(1));
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + u32::try_from(turn).unwrap_or_default())
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

/// Said when there are fewer tokens than requests.
const NO_TOKEN: &str = "no token is left";

struct Client {
    origin: Origin,
    /// A request, up to its token if each has another one.
    request: Vec<u8>,
    tokens: Option<RefCell<std::vec::IntoIter<String>>>,
}

impl Client {
    fn new(arguments: &TargetArguments, fresh: bool) -> Outcome<Self> {
        let method = if arguments.form.is_some() {
            "POST"
        } else {
            "GET"
        };
        let mut request = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: testudo-bench\r\nAccept: */*\r\n",
            arguments.path, arguments.host
        );
        let mut tokens = None;
        match (&arguments.token, &arguments.tokens) {
            (Some(file), _) => {
                let token = fs::read_to_string(file)?;
                request.push_str(&format!("Authorization: Bearer {}\r\n\r\n", token.trim()));
            }
            (None, Some(file)) => {
                let all: Vec<String> = fs::read_to_string(file)?
                    .lines()
                    .map(String::from)
                    .collect();
                tokens = Some(RefCell::new(all.into_iter()));
                request.push_str("Authorization: Bearer ");
            }
            (None, None) => {
                if let Some(file) = &arguments.form {
                    let form = fs::read_to_string(file)?;
                    let length = form.len();
                    request.push_str(&format!(
                        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
                    ));
                } else {
                    request.push_str("\r\n");
                }
            }
        }
        Ok(Self {
            origin: Origin::new(
                arguments.target,
                &arguments.host,
                arguments.ca.as_deref(),
                fresh,
            )?,
            request: request.into_bytes(),
            tokens,
        })
    }

    /// The next request; `None` when the tokens are used up.
    fn request(&self) -> Option<Cow<'_, [u8]>> {
        let Some(tokens) = &self.tokens else {
            return Some(Cow::Borrowed(&self.request));
        };
        let token = tokens.borrow_mut().next()?;
        Some(Cow::Owned(
            [&self.request, token.as_bytes(), b"\r\n\r\n"].concat(),
        ))
    }
}

/// One cipher suite and one group: whoever answers, the same cryptography is done. `fresh`: no session is resumed.
pub(crate) fn tls_config(ca: &[u8], fresh: bool) -> Outcome<Arc<ClientConfig>> {
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
    if fresh {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// When a caller has to send. Its turns are fixed beforehand: an answer that is late does not put off the requests
/// behind it, and they count as late too.
struct Pace {
    next: Instant,
    interval: Duration,
}

impl Pace {
    /// Of caller `number` of so many that send `rate` requests a second together, one after the other.
    fn new(begin: Instant, rate: u32, number: u32, callers: usize) -> Self {
        let apart = Duration::from_secs(1) / rate.max(1);
        Self {
            next: begin + apart * number,
            interval: apart * u32::try_from(callers).unwrap_or(u32::MAX),
        }
    }

    /// Waits for the next turn; since when its request takes. That is the turn if it has come already, for then the answer
    /// before was late, and else when the wait has ended, which timers do up to a millisecond after they should.
    async fn turn(&mut self) -> Instant {
        let turn = self.next;
        self.next += self.interval;
        if Instant::now() >= turn {
            return turn;
        }
        tokio::time::sleep_until(turn).await;
        Instant::now()
    }
}

struct Caller {
    client: Rc<Client>,
    origin: Origin,
    stream: Box<dyn Stream>,
    record: Rc<RefCell<Record>>,
}

impl Caller {
    async fn call_for_ever(mut self, mut pace: Option<Pace>, fresh: bool) {
        let mut buffer = Vec::with_capacity(4096);
        loop {
            let due = match &mut pace {
                Some(pace) => pace.turn().await,
                None => Instant::now(),
            };
            match self.call(fresh, &mut buffer).await {
                Ok(Some(200)) => {
                    let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
                    self.record.borrow_mut().latencies.push(took);
                }
                Ok(Some(status)) => {
                    let code = problem(status, &buffer).unwrap_or_default();
                    self.fail(format!("status {status} {code}"));
                }
                Ok(None) => return self.fail(NO_TOKEN),
                Err(error) => {
                    self.fail(error.to_string());
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    match self.origin.connect().await {
                        Ok(next) => self.stream = next,
                        Err(error) => self.fail(format!("connecting: {error}")),
                    }
                }
            }
        }
    }

    /// The status of the next request's answer, if there is a next request.
    async fn call(&mut self, fresh: bool, buffer: &mut Vec<u8>) -> Outcome<Option<u16>> {
        let Some(request) = self.client.request() else {
            return Ok(None);
        };
        if fresh {
            self.stream = self.origin.connect().await?;
        }
        let answered = exchange(&mut self.stream, &request, buffer).await?;
        Ok(Some(answered.status))
    }

    fn fail(&self, what: impl Into<String>) {
        self.record.borrow_mut().fail(what);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn callers_take_turns() {
        let begin = Instant::now();
        let turns = |number| Pace::new(begin, 100, number, 4);
        assert_eq!(turns(0).next, begin);
        assert_eq!(turns(3).next, begin + Duration::from_millis(30));
        assert_eq!(turns(3).interval, Duration::from_millis(40));
    }

    #[tokio::test]
    async fn a_turn_that_was_missed_counts_from_when_it_was() {
        let begin = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let mut pace = Pace::new(begin, 1, 0, 1);
        assert_eq!(pace.turn().await, begin);
        assert!(pace.turn().await >= begin + Duration::from_secs(1));
    }

    #[test]
    fn connections_come_from_the_addresses_in_turn() {
        assert_eq!(address(0, 3), Ipv4Addr::new(127, 0, 0, 1));
        assert_eq!(address(5, 3), Ipv4Addr::new(127, 0, 0, 3));
        assert_eq!(address(7, 0), Ipv4Addr::LOCALHOST);
    }

    #[test]
    fn a_token_is_for_one_request() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        fs::write(&file, "one\ntwo\n").unwrap();
        let client = Client::new(
            &TargetArguments {
                target: "127.0.0.1:1".parse().unwrap(),
                host: "localhost".to_owned(),
                path: "/".to_owned(),
                ca: None,
                token: None,
                form: None,
                tokens: Some(file),
                connections: 1,
            },
            false,
        )
        .unwrap();
        let next = || Some(String::from_utf8(client.request()?.into_owned()).unwrap());
        assert!(
            next()
                .unwrap()
                .ends_with("Authorization: Bearer one\r\n\r\n")
        );
        assert!(
            next()
                .unwrap()
                .ends_with("Authorization: Bearer two\r\n\r\n")
        );
        assert_eq!(next(), None);
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
