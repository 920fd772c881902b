//! `testudo up` and `testudo server`: a control plane, and with `up` the whole fleet beside it.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
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
use testudo_dataplane::{Delivered, Expected, Listeners, Member, MemberOptions, ProxyMetrics};
use testudo_runtime::{
    Readiness, Sockets,
    fleet::{Fleet, TlsMinimum},
};

use super::{
    Invocation,
    children::Children,
    fleet::load,
    invitation::invitation,
    process::{DEFAULT_FILTER, Process, RunningProxy, Stage, Stopping},
    proxy::{
        DRAIN_TIMEOUT, GatewayAddresses, GatewayListen, SidecarListeners, addresses,
        key_file_beside, start_gateway, start_sidecar, workers,
    },
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
    let filter = fleet.observability.log_filter.clone();
    let (process, server) = start_server(
        invocation,
        &filter,
        fleet,
        arguments.data,
        arguments.root_key_file,
    )
    .await?;
    say_generated(&server);
    remember(invocation, &server)?;
    process.ready(
        invocation,
        &server_json(&process, &server),
        &server_lines(&server),
    )?;
    process.run(Vec::new(), None, Stopping::default()).await
}

/// `testudo up`.
pub async fn up(invocation: &Invocation, arguments: UpArguments) -> Outcome {
    let fleet = load(&arguments.fleet.fleet)?.fleet;
    let data = arguments.data.clone().unwrap_or_else(|| fleet.data.clone());
    let key_file = arguments
        .root_key_file
        .clone()
        .unwrap_or_else(|| key_file_beside(&data));
    let (mut process, server) = start_server(
        invocation,
        filter_for_people(&fleet),
        fleet.clone(),
        Some(data.clone()),
        Some(key_file.clone()),
    )
    .await?;
    say_generated(&server);
    process.export_spans(
        &arguments.tracing,
        fleet.observability.otlp_endpoint.as_deref(),
    )?;
    remember(invocation, &server)?;

    let starter = Starter::new(&process, &server, &data, key_file);
    let proxies = Proxies {
        sidecars: starter.sidecars(&fleet).await?,
        gateway: starter.gateway(&fleet).await?,
    };
    if !arguments.no_run {
        start_services(&process, &fleet, &proxies.sidecars).await?;
    }
    until_ready(&process.readiness, &proxies).await?;

    process.ready(
        invocation,
        &proxies.json(&process, &server),
        &proxies.lines(&server),
    )?;
    if !invocation.output.is_json() {
        let port = proxies.gateway.addresses.https.port();
        let invitation = invitation(&fleet, &server.ca_file, port);
        invocation.output.line(invitation)?;
    }
    let stage = starter.stage;
    process
        .run(proxies.into_running(), Some(stage), Stopping::default())
        .await
}

/// Starts the programs of the services' `run` tables, each behind its sidecar.
async fn start_services(process: &Process, fleet: &Fleet, sidecars: &[StartedSidecar]) -> Outcome {
    let mut children = Children::default();
    for sidecar in sidecars {
        if let Some(run) = fleet.runs.get(&sidecar.service) {
            children.add(&sidecar.service, run, sidecar.outbound)?;
        }
    }
    children
        .start(&process.stage.tasks, &process.stage.drain, fleet)
        .await
}

/// Waits until every gate is open and every proxy knows where the sidecars are: from then on calls are answered.
async fn until_ready(readiness: &Readiness, proxies: &Proxies) -> Outcome {
    let ready = async {
        while !(readiness.is_ready() && proxies.know_each_other()) {
            tokio::time::sleep(READY_LOOK).await;
        }
    };
    if tokio::time::timeout(READY_DEADLINE, ready).await.is_ok() {
        return Ok(());
    }
    let closed = readiness
        .status()
        .into_iter()
        .filter_map(|(gate, reason)| Some(format!("{gate}: {}", reason?)));
    let closed: Vec<String> = closed.collect();
    Err(Failure::new(
        Exit::Failed,
        format!("the fleet does not get ready; {}", closed.join(", ")),
    ))
}

/// The running proxies of `testudo up`.
struct Proxies {
    sidecars: Vec<StartedSidecar>,
    gateway: StartedGateway,
}

struct StartedSidecar {
    service: ServiceName,
    inbound: SocketAddr,
    outbound: SocketAddr,
    /// Where its service finds others that take connections.
    connections: BTreeMap<ServiceName, SocketAddr>,
    proxy: RunningProxy,
}

struct StartedGateway {
    addresses: GatewayAddresses,
    proxy: RunningProxy,
}

impl Proxies {
    fn know_each_other(&self) -> bool {
        let sidecars = self.sidecars.iter().map(|sidecar| &sidecar.proxy);
        let mut members = sidecars
            .chain([&self.gateway.proxy])
            .map(|(_, member)| member);
        members.all(|member| {
            self.sidecars
                .iter()
                .all(|other| member.knows(&other.service, other.inbound))
        })
    }

    /// What listens where, for programs.
    fn json(&self, process: &Process, server: &Server) -> Value {
        let sidecars: Map<String, Value> = self
            .sidecars
            .iter()
            .map(|sidecar| {
                let addresses = json!({ "inbound": sidecar.inbound, "outbound": sidecar.outbound,
                    "connections": sidecar.connections });
                (sidecar.service.to_string(), addresses)
            })
            .collect();
        let addresses = &self.gateway.addresses;
        let mut all = server_json(process, server);
        if let Some(object) = all.as_object_mut() {
            object.insert("role".to_owned(), json!("up"));
            object.insert(
                "gateway".to_owned(),
                json!(format!("https://{}", addresses.https)),
            );
            object.insert(
                "redirect".to_owned(),
                json!(addresses.redirect.map(|at| format!("http://{at}"))),
            );
            object.insert("connections".to_owned(), json!(addresses.connections));
            object.insert("sidecars".to_owned(), Value::Object(sidecars));
        }
        all
    }

    /// What listens where, for people.
    fn lines(&self, server: &Server) -> Vec<(&'static str, String)> {
        let mut lines = vec![(
            "gateway",
            format!("https://{}", self.gateway.addresses.https),
        )];
        lines.extend(server_lines(server));
        lines.extend(connection_lines(
            "gateway",
            &self.gateway.addresses.connections,
        ));
        for sidecar in &self.sidecars {
            let (service, outbound) = (&sidecar.service, sidecar.outbound);
            lines.push((
                "sidecar",
                format!("{service}: HTTP_PROXY=http://{outbound}"),
            ));
            lines.extend(connection_lines(service.as_str(), &sidecar.connections));
        }
        lines
    }

    /// The proxies, in the order in which they are stopped.
    fn into_running(self) -> Vec<RunningProxy> {
        let sidecars = self.sidecars.into_iter().map(|sidecar| sidecar.proxy);
        sidecars.chain([self.gateway.proxy]).collect()
    }
}

/// Where `whose` leads to services that take connections, for people.
pub fn connection_lines(
    whose: &str,
    connections: &BTreeMap<ServiceName, SocketAddr>,
) -> Vec<(&'static str, String)> {
    let line = |(called, address)| ("connections", format!("{whose}: {called} at {address}"));
    connections.iter().map(line).collect()
}

/// What `up` logs: people at a terminal see what listens where, and of the log only what needs them.
fn filter_for_people(fleet: &Fleet) -> &str {
    let filter = fleet.observability.log_filter.as_str();
    if filter == DEFAULT_FILTER && io::stderr().is_terminal() {
        "warn"
    } else {
        filter
    }
}

async fn start_server(
    invocation: &Invocation,
    filter: &str,
    fleet: Fleet,
    data: Option<PathBuf>,
    root_key_file: Option<PathBuf>,
) -> Result<(Process, Server), Failure> {
    let logs = (fleet.observability.log_format, filter);
    let process = Process::start(invocation, fleet.listen.ops, Some(logs), Sockets::default())?;
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

/// Starts the proxies of `testudo up`: each joins like any other, over loopback.
struct Starter<'a> {
    process: &'a Process,
    server: &'a Server,
    stage: Stage,
    metrics: ProxyMetrics,
    data: PathBuf,
    state_key_file: PathBuf,
}

impl<'a> Starter<'a> {
    fn new(process: &'a Process, server: &'a Server, data: &Path, state_key_file: PathBuf) -> Self {
        Self {
            process,
            server,
            stage: Stage::new(&process.readiness),
            metrics: ProxyMetrics::register(&process.metrics),
            data: data.join("proxies"),
            state_key_file,
        }
    }

    async fn sidecars(&self, fleet: &Fleet) -> Result<Vec<StartedSidecar>, Failure> {
        let mut started = Vec::new();
        for (service, listen) in &fleet.sidecars {
            let inbound = Listeners::bind(listen.inbound, workers(Some(1)))?;
            let outbound = Listeners::bind(listen.outbound, workers(Some(1)))?;
            let mut connections = BTreeMap::new();
            for (called, address) in &listen.connections {
                let listeners = Listeners::bind(*address, workers(Some(1)))?;
                connections.insert(called.clone(), listeners);
            }
            let listen = SidecarListeners {
                inbound,
                outbound,
                connections,
            };
            started.push(self.sidecar(fleet, service, listen).await?);
        }
        Ok(started)
    }

    async fn sidecar(
        &self,
        fleet: &Fleet,
        service: &ServiceName,
        listen: SidecarListeners,
    ) -> Result<StartedSidecar, Failure> {
        let (inbound, outbound) = (listen.inbound.address(), listen.outbound.address());
        let connections = addresses(&listen.connections);
        let id = fleet.trust_domain.service(service);
        let member = self.join(id, service.as_str(), Some(inbound)).await?;
        let running = start_sidecar(
            &member,
            listen,
            Delivered::new(Arc::clone(&self.process.clock)),
            &self.stage.drain,
            DRAIN_TIMEOUT,
        )?;
        Ok(StartedSidecar {
            service: service.clone(),
            inbound,
            outbound,
            connections,
            proxy: (running, member),
        })
    }

    async fn gateway(&self, fleet: &Fleet) -> Result<StartedGateway, Failure> {
        let member = self
            .join(fleet.trust_domain.gateway(), "gateway", None)
            .await?;
        let certificate = member
            .web_certificate(&self.stage.tasks, &self.stage.drain)
            .await?;
        let listen = GatewayListen {
            https: fleet.listen.gateway,
            #[cfg(feature = "http3")]
            http3: false,
            redirect: Some(fleet.listen.redirect),
            connections: fleet.public_ports.clone(),
            names: fleet.public_names.clone(),
            allow_tls12: fleet.tls_min == TlsMinimum::Tls12,
        };
        let (running, addresses) = start_gateway(
            &member,
            certificate,
            listen.bind(&self.process.sockets, workers(None))?,
            &self.stage.drain,
            DRAIN_TIMEOUT,
        )?;
        Ok(StartedGateway {
            addresses,
            proxy: (running, member),
        })
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
            expected: Some(Expected::Exactly(id)),
            inbound,
            takes_over: false,
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

/// Generated secrets go to standard error, once, as soon as the store holds them: a start that fails later must not
/// take them with it. They are no log event.
fn say_generated(server: &Server) {
    for made in &server.generated {
        say(format!(
            "{} {} (shown once): {}",
            made.kind,
            made.name,
            made.secret.expose()
        ));
    }
}
