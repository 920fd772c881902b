//! `testudo gateway` and `testudo sidecar`: one proxy in a process of its own.

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use testudo_dataplane::{
    Gateway, GatewayOptions, Listeners, Member, MemberError, MemberOptions, ProxyMetrics, Redirect,
    Running, Sidecar, SidecarOptions, WebCertificate,
};
use testudo_runtime::{Drain, Gate};
use tracing::warn;

use super::{Invocation, process::Process};
use crate::{
    cli::{GatewayArguments, JoinArguments, SidecarArguments},
    failure::{Exit, Failure, Outcome},
};

/// How long requests under way may take when the process stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two tries to reach a control plane that is away.
const AWAY_PAUSE: Duration = Duration::from_secs(2);

/// `testudo gateway`.
pub async fn gateway(invocation: &Invocation, arguments: GatewayArguments) -> Outcome {
    let mut process = Process::start(invocation, arguments.join.ops, None).await?;
    process.export_spans(&arguments.join.tracing, None)?;
    let member = join(&process, &arguments.join, None).await?;
    let id = member.id();
    if id != id.trust_domain().gateway() {
        return Err(Failure::new(
            Exit::Failed,
            format!("{id} is not the identity of a gateway"),
        )
        .help("make the join token with `testudo join-token create --gateway`"));
    }
    member.keep_up(&process.stage.tasks, &process.stage.drain);
    let certificate = match (&arguments.tls_certificate, &arguments.tls_key) {
        (Some(chain), Some(key)) => WebCertificate::from_pem(&read(chain)?, &read(key)?)?,
        _ => {
            let gate = process.readiness.gate("public certificate");
            let (tasks, drain) = (&process.stage.tasks, &process.stage.drain);
            until_reached(&gate, || member.web_certificate(tasks, drain)).await?
        }
    };
    let listen = GatewayListen {
        https: arguments.listen,
        redirect: arguments.redirect,
        names: arguments.public_names.clone(),
        allow_tls12: arguments.tls_min == "1.2",
    };
    let (running, addresses) = start_gateway(
        &member,
        certificate,
        listen,
        workers(arguments.join.workers),
        &process.stage.drain,
    )?;
    let ready = json!({ "role": "gateway", "id": member.id(), "gateway": format!("https://{}", addresses.https),
        "ops": format!("http://{}", process.ops) });
    process.ready(
        invocation,
        &ready,
        &[("gateway", format!("https://{}", addresses.https))],
    )?;
    process.run(vec![(running, member)], None).await
}

/// `testudo sidecar`.
pub async fn sidecar(invocation: &Invocation, arguments: SidecarArguments) -> Outcome {
    let mut process = Process::start(invocation, arguments.join.ops, None).await?;
    process.export_spans(&arguments.join.tracing, None)?;
    let workers = workers(arguments.join.workers);
    let inbound = Listeners::bind(arguments.inbound, workers)?;
    let outbound = Listeners::bind(arguments.outbound, workers)?;
    let advertised = arguments.advertise.unwrap_or_else(|| inbound.address());
    if advertised.ip().is_unspecified() {
        return Err(Failure::new(
            Exit::Failed,
            format!("other proxies cannot reach {advertised}"),
        )
        .help("say with --advertise under which address this host is reached"));
    }
    let member = join(&process, &arguments.join, Some(advertised)).await?;
    let ready = json!({ "role": "sidecar", "id": member.id(), "inbound": inbound.address(),
        "outbound": outbound.address(), "ops": format!("http://{}", process.ops) });
    let lines = [
        ("inbound", inbound.address().to_string()),
        ("outbound", format!("http://{}", outbound.address())),
    ];
    member.keep_up(&process.stage.tasks, &process.stage.drain);
    let running = start_sidecar(&member, inbound, outbound, workers, &process.stage.drain)?;
    process.ready(invocation, &ready, &lines)?;
    process.run(vec![(running, member)], None).await
}

async fn join(
    process: &Process,
    arguments: &JoinArguments,
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
        expected: None,
        inbound,
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
    /// Plain HTTP that redirects.
    pub redirect: Option<SocketAddr>,
    /// Names the redirect knows.
    pub names: Vec<String>,
    /// Whether TLS 1.2 is accepted.
    pub allow_tls12: bool,
}

/// Where a gateway listens, once bound.
pub struct GatewayAddresses {
    /// HTTPS.
    pub https: SocketAddr,
    /// Plain HTTP that redirects.
    pub redirect: Option<SocketAddr>,
}

/// Binds and starts a gateway.
pub fn start_gateway(
    member: &Member,
    certificate: WebCertificate,
    listen: GatewayListen,
    workers: NonZeroUsize,
    drain: &Drain,
) -> Result<(Running, GatewayAddresses), Failure> {
    let https = Listeners::bind(listen.https, workers)?;
    let one = NonZeroUsize::MIN;
    let redirect = listen
        .redirect
        .map(|address| Listeners::bind(address, one))
        .transpose()?;
    let addresses = GatewayAddresses {
        https: https.address(),
        redirect: redirect.as_ref().map(Listeners::address),
    };
    let (https_port, names) = (https.address().port(), listen.names);
    let running = Gateway::start(GatewayOptions {
        redirect: redirect.map(|listen| Redirect {
            listen,
            https_port,
            names,
        }),
        listen: https,
        certificate,
        allow_tls12: listen.allow_tls12,
        parts: member.parts.clone(),
        drain: drain.clone(),
        drain_deadline: DRAIN_DEADLINE,
        workers,
    })?;
    Ok((running, addresses))
}

/// Starts the sidecar of the service that `member` is.
pub fn start_sidecar(
    member: &Member,
    inbound: Listeners,
    outbound: Listeners,
    workers: NonZeroUsize,
    drain: &Drain,
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
        inbound,
        outbound,
        parts: member.parts.clone(),
        drain: drain.clone(),
        drain_deadline: DRAIN_DEADLINE,
        workers,
    })?)
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
