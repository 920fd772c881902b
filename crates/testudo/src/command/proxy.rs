//! `testudo gateway` and `testudo sidecar`: one proxy in a process of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use testudo_controlplane::ServiceName;
#[cfg(feature = "http3")]
use testudo_dataplane::Datagrams;
use testudo_dataplane::{
    Delivered, Expected, Gateway, GatewayOptions, Listeners, Member, MemberError, MemberOptions,
    ProxyMetrics, Redirect, Running, Sidecar, SidecarOptions, WebCertificate,
};
use testudo_runtime::{Drain, Gate, Sockets};
use tracing::warn;

use super::{
    Invocation,
    process::{Process, Stopping},
    up::connection_lines,
    upgrade::Place,
};
use crate::{
    cli::{GatewayArguments, JoinArguments, SidecarArguments, Way},
    failure::{Exit, Failure, Outcome},
};

/// How long requests under way may take when the process stops, unless told otherwise.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two tries to reach a control plane that is away.
const AWAY_PAUSE: Duration = Duration::from_secs(2);

/// `testudo gateway`.
pub async fn gateway(invocation: &Invocation, arguments: GatewayArguments) -> Outcome {
    let (mut process, place) = start(invocation, &arguments.join)?;
    let member = join(&process, &place, &arguments.join, Expected::Gateway, None).await?;
    member.keep_up(&process.stage.tasks, &process.stage.drain);
    let certificate = match (&arguments.tls_certificate, &arguments.tls_key) {
        (Some(chain), Some(key)) => {
            let certificate = WebCertificate::from_pem(&read(chain)?, &read(key)?)?;
            let (swapped, chain, key) = (certificate.clone(), chain.clone(), key.clone());
            process.refresh = Some(Box::new(move || read_again(&swapped, &chain, &key)));
            certificate
        }
        _ => {
            let gate = process.readiness.gate("public certificate");
            let (tasks, drain) = (&process.stage.tasks, &process.stage.drain);
            until_reached(&gate, || member.web_certificate(tasks, drain)).await?
        }
    };
    let listen = GatewayListen {
        https: arguments.listen,
        #[cfg(feature = "http3")]
        http3: arguments.http3,
        redirect: arguments.redirect,
        connections: ways(&arguments.connections),
        names: arguments.public_names.clone(),
        allow_tls12: arguments.tls_min == "1.2",
    };
    let listen = listen.bind(
        &process.sockets,
        place.workers(workers(arguments.join.workers)),
    )?;
    place.until_fit(&process.readiness, &member).await?;
    let (running, addresses) = start_gateway(
        &member,
        certificate,
        listen,
        &process.stage.drain,
        arguments.join.drain_timeout,
    )?;
    process.offer(place);
    let ready = json!({ "role": "gateway", "id": member.id(), "gateway": format!("https://{}", addresses.https),
        "connections": addresses.connections, "ops": format!("http://{}", process.ops),
        "pid": std::process::id() });
    let mut lines = vec![("gateway", format!("https://{}", addresses.https))];
    lines.extend(connection_lines("gateway", &addresses.connections));
    process.ready(invocation, &ready, &lines)?;
    let stopping = Stopping::of(&arguments.join);
    process.run(vec![(running, member)], None, stopping).await
}

/// `testudo sidecar`.
pub async fn sidecar(invocation: &Invocation, arguments: SidecarArguments) -> Outcome {
    let (mut process, mut place) = start(invocation, &arguments.join)?;
    let workers = place.workers(workers(arguments.join.workers));
    let listen = |name, address| Listeners::open(&process.sockets, name, address, workers);
    let inbound = listen("inbound", arguments.inbound)?;
    let outbound = listen("outbound", arguments.outbound)?;
    let connections = open_connections(&process.sockets, &ways(&arguments.connections), workers)?;
    let advertised = arguments.advertise.unwrap_or_else(|| inbound.address());
    if advertised.ip().is_unspecified() {
        return Err(Failure::new(
            Exit::Failed,
            format!("other proxies cannot reach {advertised}"),
        )
        .help("say with --advertise under which address this host is reached"));
    }
    let member = join(
        &process,
        &place,
        &arguments.join,
        Expected::Sidecar,
        Some(advertised),
    )
    .await?;
    let ready = json!({ "role": "sidecar", "id": member.id(), "inbound": inbound.address(),
        "outbound": outbound.address(), "connections": addresses(&connections),
        "ops": format!("http://{}", process.ops), "pid": std::process::id() });
    let mut lines = vec![
        ("inbound", inbound.address().to_string()),
        ("outbound", format!("http://{}", outbound.address())),
    ];
    lines.extend(connection_lines("loopback", &addresses(&connections)));
    let listen = SidecarListeners {
        inbound,
        outbound,
        connections,
    };
    member.keep_up(&process.stage.tasks, &process.stage.drain);
    place.until_fit(&process.readiness, &member).await?;
    let delivered = Delivered::new(Arc::clone(&process.clock));
    place.share(&delivered).await;
    process.delivered = Some(Arc::clone(&delivered));
    let (drain, deadline) = (&process.stage.drain, arguments.join.drain_timeout);
    let running = start_sidecar(&member, listen, delivered, drain, deadline)?;
    process.offer(place);
    process.ready(invocation, &ready, &lines)?;
    let stopping = Stopping::of(&arguments.join);
    process.run(vec![(running, member)], None, stopping).await
}

/// Takes the public certificate from its files once more; what cannot be used changes nothing.
fn read_again(certificate: &WebCertificate, chain: &Path, key: &Path) {
    let read = || -> Result<WebCertificate, Failure> {
        Ok(WebCertificate::from_pem(&read(chain)?, &read(key)?)?)
    };
    match read() {
        Ok(next) => certificate.swap(&next),
        Err(failure) => warn!(%failure, "the public certificate stays as it is"),
    }
}

/// The process of a proxy, in a data folder that is its own.
fn start(invocation: &Invocation, arguments: &JoinArguments) -> Result<(Process, Place), Failure> {
    let (place, sockets) = Place::take(&arguments.data, arguments.upgrade)?;
    let mut process = Process::start(invocation, arguments.ops, None, sockets)?;
    process.export_spans(&arguments.tracing, None)?;
    Ok((process, place))
}

async fn join(
    process: &Process,
    place: &Place,
    arguments: &JoinArguments,
    expected: Expected,
    inbound: Option<SocketAddr>,
) -> Result<Member, Failure> {
    let join_token = match &arguments.join_token_file {
        // A token counts once. Who has joined may have deleted it.
        Some(path) if !path.exists() => {
            warn!(file = %path.display(), "there is no join token file: it is needed only to join");
            None
        }
        Some(path) => {
            let token = String::from_utf8_lossy(&read(path)?).trim().to_owned();
            Some(token.into())
        }
        None => None,
    };
    let state_key_file = match &arguments.state_key_file {
        Some(path) => path.clone(),
        None => key_file_beside(&arguments.data),
    };
    let options = MemberOptions {
        data: arguments.data.clone(),
        state_key_file,
        join_token,
        control_plane: arguments.control_plane.clone(),
        expected: Some(expected),
        inbound,
        takes_over: place.has_predecessor(),
        version: env!("CARGO_PKG_VERSION"),
        readiness: process.readiness.clone(),
        metrics: ProxyMetrics::register(&process.metrics),
        spans: process.spans.clone(),
        clock: Arc::clone(&process.clock),
        entropy: Arc::clone(&process.entropy),
    };
    let gate = process.readiness.gate("membership");
    Ok(until_reached(&gate, || Member::join(options.clone())).await?)
}

/// Tries until the control plane answers: hosts start in any order. Meanwhile the process is not ready and says
/// why.
async fn until_reached<T, F>(gate: &Gate, mut attempt: impl FnMut() -> F) -> Result<T, MemberError>
where
    F: Future<Output = Result<T, MemberError>>,
{
    loop {
        match attempt().await {
            Err(error) if error.is_unreachable() => {
                gate.not_ready(format!("the control plane is away: {error}"));
                warn!(%error, "the control plane is away; trying again");
                tokio::time::sleep(AWAY_PAUSE).await;
            }
            ended => {
                gate.ready();
                return ended;
            }
        }
    }
}

/// Where a gateway listens.
pub struct GatewayListen {
    /// HTTPS.
    pub https: SocketAddr,
    /// Whether HTTP/3 is served at the same address.
    #[cfg(feature = "http3")]
    pub http3: bool,
    /// Plain HTTP that redirects.
    pub redirect: Option<SocketAddr>,
    /// Services that take connections, at ports of their own.
    pub connections: BTreeMap<ServiceName, SocketAddr>,
    /// Names the redirect knows.
    pub names: Vec<String>,
    /// Whether TLS 1.2 is accepted.
    pub allow_tls12: bool,
}

/// A gateway's listeners, bound.
pub struct GatewayListeners {
    https: Listeners,
    #[cfg(feature = "http3")]
    http3: Option<Datagrams>,
    redirect: Option<Listeners>,
    connections: BTreeMap<ServiceName, Listeners>,
    names: Vec<String>,
    allow_tls12: bool,
}

/// Where a gateway listens, once bound.
pub struct GatewayAddresses {
    /// HTTPS.
    pub https: SocketAddr,
    /// Plain HTTP that redirects.
    pub redirect: Option<SocketAddr>,
    /// Services that take connections.
    pub connections: BTreeMap<ServiceName, SocketAddr>,
}

/// A sidecar's listeners, bound.
pub struct SidecarListeners {
    /// For other proxies.
    pub inbound: Listeners,
    /// For calls of its service.
    pub outbound: Listeners,
    /// For its service's connections to others.
    pub connections: BTreeMap<ServiceName, Listeners>,
}

/// Binds the addresses of services that take connections, or takes what the process before had there.
fn open_connections(
    sockets: &Sockets,
    connections: &BTreeMap<ServiceName, SocketAddr>,
    workers: NonZeroUsize,
) -> Result<BTreeMap<ServiceName, Listeners>, Failure> {
    let mut bound = BTreeMap::new();
    for (called, address) in connections {
        let listeners = Listeners::open(sockets, &format!("tcp.{called}"), *address, workers)?;
        bound.insert(called.clone(), listeners);
    }
    Ok(bound)
}

/// Where they are bound.
pub fn addresses(
    connections: &BTreeMap<ServiceName, Listeners>,
) -> BTreeMap<ServiceName, SocketAddr> {
    let bound = connections.iter();
    bound
        .map(|(called, listeners)| (called.clone(), listeners.address()))
        .collect()
}

impl GatewayListen {
    /// Binds the addresses, or takes what the process before had there.
    pub fn bind(
        self,
        sockets: &Sockets,
        workers: NonZeroUsize,
    ) -> Result<GatewayListeners, Failure> {
        #[cfg(feature = "http3")]
        let takes_over = sockets.most_inherited() > 0;
        let bind = |name, address, workers| Listeners::open(sockets, name, address, workers);
        let https = bind("gateway", self.https, workers)?;
        #[cfg(feature = "http3")]
        let http3 = match (self.http3, https.address()) {
            (false, _) => None,
            // The process before has it until it has drained.
            (true, address) if takes_over => Some(Datagrams::bind_later(address, workers)),
            (true, address) => Some(Datagrams::bind(address, workers)?),
        };
        let one = NonZeroUsize::MIN;
        let redirect = self.redirect.map(|address| bind("redirect", address, one));
        Ok(GatewayListeners {
            https,
            #[cfg(feature = "http3")]
            http3,
            redirect: redirect.transpose()?,
            connections: open_connections(sockets, &self.connections, workers)?,
            names: self.names,
            allow_tls12: self.allow_tls12,
        })
    }
}

/// Starts a gateway.
pub fn start_gateway(
    member: &Member,
    certificate: WebCertificate,
    listen: GatewayListeners,
    drain: &Drain,
    drain_deadline: Duration,
) -> Result<(Running, GatewayAddresses), Failure> {
    let GatewayListeners {
        https,
        #[cfg(feature = "http3")]
        http3,
        redirect,
        connections,
        names,
        allow_tls12,
    } = listen;
    let addresses = GatewayAddresses {
        https: https.address(),
        redirect: redirect.as_ref().map(Listeners::address),
        connections: addresses(&connections),
    };
    let https_port = https.address().port();
    let options = GatewayOptions {
        redirect: redirect.map(|listen| Redirect {
            listen,
            https_port,
            names,
        }),
        listen: https,
        connections,
        certificate,
        allow_tls12,
        parts: member.parts.clone(),
        drain: drain.clone(),
        drain_deadline,
    };
    #[cfg(feature = "http3")]
    if let Some(datagrams) = http3 {
        let running = Gateway::start_with_http3(options, datagrams)?;
        return Ok((running, addresses));
    }
    Ok((Gateway::start(options)?, addresses))
}

/// Starts the sidecar of the service that `member` is.
pub fn start_sidecar(
    member: &Member,
    listen: SidecarListeners,
    delivered: Arc<Delivered>,
    drain: &Drain,
    drain_deadline: Duration,
) -> Result<Running, Failure> {
    let id = member.id();
    let service = id.service().ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("{id} is not the identity of a service"),
        )
        .help("make the join token with `testudo join-token create --service NAME`")
    })?;
    Ok(Sidecar::start(SidecarOptions {
        service,
        inbound: listen.inbound,
        outbound: listen.outbound,
        connections: listen.connections,
        delivered,
        parts: member.parts.clone(),
        drain: drain.clone(),
        drain_deadline,
    })?)
}

/// The ways to services that flags named; the last of those to one service.
fn ways(flags: &[Way]) -> BTreeMap<ServiceName, SocketAddr> {
    let ways = flags.iter();
    ways.map(|way| (way.called.clone(), way.address)).collect()
}

/// The workers asked for, or one for each core.
pub fn workers(asked: Option<usize>) -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    asked.and_then(NonZeroUsize::new).unwrap_or(cores)
}

/// `<folder>.key`: beside the folder, so that a copy of the folder does not open itself.
pub fn key_file_beside(folder: &Path) -> PathBuf {
    // `.` and `..` have no name to put it beside.
    let folder = match folder.file_name() {
        Some(_) => folder.to_owned(),
        None => folder.canonicalize().unwrap_or_else(|_| folder.to_owned()),
    };
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".key");
    folder.with_file_name(name)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::of_file("read", path, &error))
}
