//! `testudo up` and `testudo server`: a control plane, and with `up` the whole fleet beside it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value, json};
use testudo_controlplane::{
    ServiceName,
    server::{Server, ServerOptions, start},
};
use testudo_dataplane::{Listeners, Member, MemberOptions, ProxyMetrics};
use testudo_runtime::{
    Readiness,
    fleet::{Fleet, TlsMinimum},
};

use super::{
    Invocation,
    children::Children,
    fleet::load,
    process::{Process, RunningProxy, Stage},
    proxy::{GatewayListen, key_file_beside, start_gateway, start_sidecar, workers},
};
use crate::{
    cli::{ServerArguments, UpArguments},
    context::KnownFleet,
    failure::{Exit, Failure, Outcome},
    output::say,
};

/// How long the proxies may take to get what they enforce.
const READY_DEADLINE: Duration = Duration::from_secs(60);
const READY_LOOK: Duration = Duration::from_millis(20);

/// `testudo server`.
pub async fn server(invocation: &Invocation, arguments: ServerArguments) -> Outcome {
    let fleet = load(&arguments.fleet.fleet)?.fleet;
    let (process, server) =
        start_server(invocation, fleet, arguments.data, arguments.root_key_file).await?;
    remember(invocation, &server)?;
    say_generated(&server);
    process.ready(invocation, &server_json(&process, &server), &server_lines(&server))?;
    process.run(Vec::new(), None).await
}

/// `testudo up`.
pub async fn up(invocation: &Invocation, arguments: UpArguments) -> Outcome {
    let fleet = load(&arguments.fleet.fleet)?.fleet;
    let data = arguments.data.clone().unwrap_or_else(|| fleet.data.clone());
    let state_key_file = arguments.root_key_file.clone().unwrap_or_else(|| key_file_beside(&data));
    let (mut process, server) =
        start_server(invocation, fleet.clone(), Some(data.clone()), Some(state_key_file.clone())).await?;
    process.export_spans(&arguments.tracing, fleet.observability.otlp_endpoint.as_deref())?;
    remember(invocation, &server)?;
    let proxies = Proxies {
        process: &process,
        server: &server,
        stage: Stage::new(&process.readiness),
        metrics: ProxyMetrics::register(&process.metrics),
        data: data.join("proxies"),
        state_key_file,
    };
    let mut running = Vec::new();
    let mut inbounds = Vec::new();
    let mut ready = server_json(&process, &server);
    let mut lines = server_lines(&server);
    let mut sidecars = Map::new();
    let mut children = Children::default();
    for (name, listen) in &fleet.sidecars {
        let inbound = Listeners::bind(listen.inbound, workers(Some(1)))?;
        let outbound = Listeners::bind(listen.outbound, workers(Some(1)))?;
        let addresses = json!({ "inbound": inbound.address(), "outbound": outbound.address() });
        lines.push(("sidecar", format!("{name}: HTTP_PROXY=http://{}", outbound.address())));
        if let Some(run) = fleet.runs.get(name).filter(|_| !arguments.no_run) {
            children.add(name, run, outbound.address())?;
        }
        inbounds.push((name, inbound.address()));
        running.push(proxies.sidecar(&fleet, name, inbound, outbound).await?);
        sidecars.insert(name.to_string(), addresses);
    }
    let (gateway, addresses) = proxies.gateway(&fleet).await?;
    running.push(gateway);
    let url = format!("https://{}", addresses.https);
    lines.insert(0, ("gateway", url.clone()));
    if let Some(object) = ready.as_object_mut() {
        object.insert("role".to_owned(), json!("up"));
        object.insert("gateway".to_owned(), json!(url));
        object.insert("redirect".to_owned(), json!(addresses.redirect.map(|at| format!("http://{at}"))));
        object.insert("sidecars".to_owned(), Value::Object(sidecars));
    }
    children.start(&process.stage.tasks, &process.stage.drain, &fleet).await?;
    until_ready(&process.readiness, &running, &inbounds).await?;
    say_generated(&server);
    process.ready(invocation, &ready, &lines)?;
    if !invocation.output.is_json() {
        invocation.output.line(how_to_try(&fleet, &server, addresses.https.port()))?;
    }
    let stage = proxies.stage;
    process.run(running, Some(stage)).await
}

/// Waits until every gate is open and every proxy knows where the sidecars are: from then on calls are answered.
async fn until_ready(
    readiness: &Readiness,
    running: &[RunningProxy],
    inbounds: &[(&ServiceName, SocketAddr)],
) -> Outcome {
    let all_known = || {
        let mut proxies = running.iter();
        proxies.all(|(_, member)| inbounds.iter().all(|(name, address)| member.knows(name, *address)))
    };
    let ready = async {
        while !(readiness.is_ready() && all_known()) {
            tokio::time::sleep(READY_LOOK).await;
        }
    };
    if tokio::time::timeout(READY_DEADLINE, ready).await.is_ok() {
        return Ok(());
    }
    let closed = readiness.status().into_iter().filter_map(|(gate, reason)| Some(format!("{gate}: {}", reason?)));
    let closed: Vec<String> = closed.collect();
    Err(Failure::new(Exit::Failed, format!("the fleet does not get ready; {}", closed.join(", "))))
}

async fn start_server(
    invocation: &Invocation,
    fleet: Fleet,
    data: Option<PathBuf>,
    root_key_file: Option<PathBuf>,
) -> Result<(Process, Server), Failure> {
    let logs = (fleet.observability.log_format, fleet.observability.log_filter.as_str());
    let process = Process::start(invocation, fleet.listen.ops, Some(logs)).await?;
    let data = data.unwrap_or_else(|| fleet.data.clone());
    let options = ServerOptions {
        root_key_file: root_key_file.unwrap_or_else(|| key_file_beside(&data)),
        data,
        fleet,
        clock: Arc::clone(&process.clock),
        entropy: Arc::clone(&process.entropy),
        metrics: process.metrics.clone(),
        readiness: process.readiness.clone(),
        drain: process.stage.drain.clone(),
    };
    let server = start(options, &process.stage.tasks).await?;
    Ok((process, server))
}

/// The proxies of `testudo up`: each joins like any other, over loopback.
struct Proxies<'a> {
    process: &'a Process,
    server: &'a Server,
    stage: Stage,
    metrics: ProxyMetrics,
    data: PathBuf,
    state_key_file: PathBuf,
}

impl Proxies<'_> {
    async fn sidecar(
        &self,
        fleet: &Fleet,
        name: &ServiceName,
        inbound: Listeners,
        outbound: Listeners,
    ) -> Result<RunningProxy, Failure> {
        let id = fleet.trust_domain.service(name);
        let member = self.join(id, name.as_str(), Some(inbound.address())).await?;
        let running = start_sidecar(&member, inbound, outbound, workers(Some(1)), &self.stage.drain)?;
        Ok((running, member))
    }

    async fn gateway(
        &self,
        fleet: &Fleet,
    ) -> Result<(RunningProxy, super::proxy::GatewayAddresses), Failure> {
        let member = self.join(fleet.trust_domain.gateway(), "gateway", None).await?;
        let certificate = member.web_certificate(&self.stage.tasks, &self.stage.drain).await?;
        let listen = GatewayListen {
            https: fleet.listen.gateway,
            redirect: Some(fleet.listen.redirect),
            names: fleet.public_names.clone(),
            allow_tls12: fleet.tls_min == TlsMinimum::Tls12,
        };
        let (running, addresses) =
            start_gateway(&member, certificate, listen, workers(None), &self.stage.drain)?;
        Ok(((running, member), addresses))
    }

    async fn join(
        &self,
        id: testudo_controlplane::SpiffeId,
        folder: &str,
        inbound: Option<SocketAddr>,
    ) -> Result<Member, Failure> {
        let token = self.server.join_token(id.clone()).await?;
        let member = Member::join(MemberOptions {
            data: self.data.join(folder),
            state_key_file: self.state_key_file.clone(),
            join_token: Some(token),
            control_plane: Some(self.server.grpc.to_string()),
            expected: Some(id),
            inbound,
            version: env!("CARGO_PKG_VERSION"),
            readiness: self.process.readiness.clone(),
            metrics: self.metrics.clone(),
            spans: self.process.spans.clone(),
            clock: Arc::clone(&self.process.clock),
            entropy: Arc::clone(&self.process.entropy),
        })
        .await?;
        member.keep_up(&self.stage.tasks, &self.stage.drain);
        Ok(member)
    }
}

fn remember(invocation: &Invocation, server: &Server) -> Outcome {
    let fleet = KnownFleet {
        server: server.url.clone(),
        ca: std::path::absolute(&server.ca_file)?,
        socket: std::path::absolute(&server.socket)?,
    };
    Ok(invocation.context.remember_fleet(&fleet)?)
}

fn server_json(process: &Process, server: &Server) -> Value {
    json!({
        "role": "server",
        "server": server.url,
        "grpc": server.grpc,
        "ops": format!("http://{}", process.ops),
        "ca": absolute(&server.ca_file),
        "socket": absolute(&server.socket),
    })
}

/// Programs may look from another folder; the path is good as it is if there is no current one.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn server_lines(server: &Server) -> Vec<(&'static str, String)> {
    vec![
        ("identity, admin", server.url.clone()),
        ("proxies join at", server.grpc.to_string()),
        ("CA certificate", server.ca_file.display().to_string()),
    ]
}

/// Generated secrets go to standard error, once; they are not in any log.
fn say_generated(server: &Server) {
    for made in &server.generated {
        say(format!("{} {} (shown once): {}", made.kind, made.name, made.secret.expose()));
    }
}

/// How to log in, and three lines to try.
fn how_to_try(fleet: &Fleet, server: &Server, port: u16) -> String {
    let ca = server.ca_file.display();
    let base = format!("https://localhost:{port}");
    let user = fleet.users.first().map_or("NAME", |user| user.username.as_str());
    let path = |needs_user: bool| {
        let routes = fleet.services.iter().filter(|service| service.exposure == testudo_controlplane::Exposure::External);
        let mut routes = routes.flat_map(|service| &service.routes);
        let found = routes.find(|route| {
            let is_open = route.user == testudo_controlplane::UserRequirement::None;
            is_open != needs_user && route.methods.iter().any(|method| method == "GET") && !route.path.as_str().contains('{')
        });
        found.map_or("/".to_owned(), |route| route.path.to_string())
    };
    let (open, closed) = (path(false), path(true));
    format!(
        "\nLog in:\n  testudo login --username {user}\n\nTry:\n  \
         curl --cacert {ca} {base}{open}\n  \
         curl --cacert {ca} {base}{closed}\n  \
         curl --cacert {ca} {base}{closed} -H \"Authorization: Bearer $(testudo token)\"\n\n\
         Ctrl-C stops the fleet."
    )
}
