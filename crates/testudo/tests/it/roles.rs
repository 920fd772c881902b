//! A fleet whose roles run apart: control plane, gateway and sidecars each in a process of their own, and services
//! that somebody else started.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    fleet::{Fleet, Folder, Process, bookshop_binary, free_ports, wait_for_ready},
    wire,
};

/// One role in a process of its own. Its addresses and its folder stay the same over restarts.
pub struct Role {
    name: String,
    arguments: Vec<String>,
    ops: SocketAddr,
    pub ready: Value,
    pub process: Process,
}

impl Role {
    /// The state folder of a proxy.
    pub fn data(folder: &Folder, name: &str) -> PathBuf {
        folder.path().join("proxies").join(name)
    }

    /// A gateway, joined with `token`; it listens where the folder's fleet file says.
    pub fn gateway(folder: &Folder, token: Option<&str>) -> Self {
        let listen = folder.address("GATEWAY").to_string();
        Self::proxy(folder, "gateway", &["gateway", "--listen", &listen], token)
    }

    /// A sidecar, joined with `token`.
    pub fn sidecar(folder: &Folder, service: &str, outbound: u16, token: Option<&str>) -> Self {
        let outbound = format!("127.0.0.1:{outbound}");
        let [inbound] = free_ports();
        let inbound = format!("127.0.0.1:{inbound}");
        let arguments = ["sidecar", "--inbound", &inbound, "--outbound", &outbound];
        Self::proxy(folder, service, &arguments, token)
    }

    fn proxy(folder: &Folder, name: &str, arguments: &[&str], token: Option<&str>) -> Self {
        let [ops] = free_ports();
        let ops = SocketAddr::from(([127, 0, 0, 1], ops));
        let mut arguments: Vec<String> = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        let control_plane = folder.address("GRPC").to_string();
        let data = Self::data(folder, name).display().to_string();
        for (flag, value) in [("--data", data), ("--ops", ops.to_string())] {
            arguments.extend([flag.to_owned(), value]);
        }
        let mut first = arguments.clone();
        first.extend(["--control-plane".to_owned(), control_plane]);
        if let Some(token) = token {
            let file = folder.path().join(format!("{name}.token"));
            fs::write(&file, token).unwrap();
            first.extend(["--join-token-file".to_owned(), file.display().to_string()]);
        }
        let (process, ready) = start(folder, name, &first);
        Self {
            name: name.to_owned(),
            arguments,
            ops,
            ready,
            process,
        }
    }

    /// Starts it again, without a token and without saying where the control plane is: it has its state.
    pub fn start_again(&mut self, folder: &Folder) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        (self.process, self.ready) = start(folder, &self.name, &self.arguments);
    }

    /// Lets another process take over; the one before, which is about to end.
    pub fn take_over(&mut self, folder: &Folder) -> Process {
        let mut arguments = self.arguments.clone();
        arguments.push("--upgrade".to_owned());
        let (process, ready) = start(folder, &self.name, &arguments);
        self.ready = ready;
        std::mem::replace(&mut self.process, process)
    }

    /// The same, and it has ended well.
    pub fn upgrade(&mut self, folder: &Folder) {
        assert_eq!(self.take_over(folder).wait(), Some(0));
    }

    /// What another process says that is started beside this one.
    pub fn start_beside(&self, folder: &Folder) -> String {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let output = folder.testudo(&arguments);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Stops it and starts it with further arguments.
    pub fn restart_with(&mut self, folder: &Folder, further: &[&str]) {
        let further = further.iter().map(|&argument| argument.to_owned());
        self.arguments.extend(further);
        self.start_again(folder);
    }

    /// Where it answers for its health.
    pub fn ops(&self) -> SocketAddr {
        self.ops
    }

    /// The process that answers for its health now, by its start.
    pub fn started(&self) -> String {
        self.metric("process_start_time_seconds")
    }

    /// The first line of its metrics that begins so.
    pub fn metric(&self, name: &str) -> String {
        let mut stream = wire::connect(self.ops).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let page = wire::exchange(&mut stream, request).unwrap().unwrap().body;
        let line = page.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {page}")).to_owned()
    }

    /// What it says about its readiness: the status and the gates.
    pub fn readiness(&self) -> (u16, Value) {
        readiness(self.ops)
    }
}

/// Asks for the readiness of a process.
pub fn readiness(ops: SocketAddr) -> (u16, Value) {
    let mut stream = wire::connect(ops).unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = wire::exchange(&mut stream, request).unwrap().unwrap();
    (answer.status, answer.json())
}

/// Starts a role and waits until it says that it is ready.
fn start(folder: &Folder, name: &str, arguments: &[String]) -> (Process, Value) {
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--output", "json"]);
    let log = folder.path().join(format!("{name}.log"));
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .unwrap();
    let mut child = folder
        .command(&arguments)
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .unwrap();
    let ready = wait_for_ready(&mut child, &log);
    (Process(child), ready)
}

/// The bookshop with its roles apart.
pub struct Apart {
    /// The control plane's process, as a fleet: its gateway is that of [`Self::gateway`].
    pub fleet: Fleet,
    pub gateway: Role,
    pub sidecars: BTreeMap<String, Role>,
    _services: Vec<Process>,
}

impl Apart {
    /// Starts everything; each proxy joins with a token of its own.
    pub fn bookshop() -> Self {
        Self::of(Folder::bookshop())
    }

    /// The same for a changed bookshop.
    pub fn of(folder: Folder) -> Self {
        let (process, ready) = start(&folder, "server", &server_arguments());
        let token = |what: &[&str]| join_token(&folder, what);
        let mut services = Vec::new();
        let mut sidecars = BTreeMap::new();
        for (name, port) in upstreams(&folder) {
            let [outbound] = free_ports();
            let sidecar = Role::sidecar(
                &folder,
                &name,
                outbound,
                Some(&token(&["--service", &name])),
            );
            services.push(service(&name, port, outbound));
            sidecars.insert(name, sidecar);
        }
        let gateway = Role::gateway(&folder, Some(&token(&["--gateway"])));
        let fleet = Fleet {
            process,
            ready,
            folder,
        };
        let mut apart = Self {
            fleet,
            gateway,
            sidecars,
            _services: services,
        };
        apart.fleet.ready["gateway"] = apart.gateway.ready["gateway"].clone();
        apart.wait_until_it_answers();
        apart
    }

    /// Starts the control plane again.
    pub fn start_server_again(&mut self) {
        let _ = self.fleet.process.0.kill();
        let _ = self.fleet.process.0.wait();
        let (process, ready) = start(&self.fleet.folder, "server", &server_arguments());
        let gateway = self.fleet.ready["gateway"].take();
        self.fleet.process = process;
        self.fleet.ready = ready;
        self.fleet.ready["gateway"] = gateway;
    }

    /// Every role: the gateway and the sidecars.
    pub fn proxies(&mut self) -> impl Iterator<Item = &mut Role> {
        std::iter::once(&mut self.gateway).chain(self.sidecars.values_mut())
    }

    /// Waits until every hop has its snapshot and knows where the others are.
    pub fn wait_until_it_answers(&self) {
        eventually("the catalogue answers", || {
            self.fleet.call("GET", "/books/1", None, "").status == 200
        });
        for (name, sidecar) in &self.sidecars {
            eventually(&format!("{name}'s sidecar is ready"), || {
                sidecar.readiness().0 == 200
            });
        }
    }
}

/// A join token from the command line.
pub fn join_token(folder: &Folder, what: &[&str]) -> String {
    let arguments: Vec<&str> = ["join-token", "create"]
        .iter()
        .chain(what)
        .copied()
        .collect();
    folder.run(&arguments).trim().to_owned()
}

fn server_arguments() -> Vec<String> {
    ["server", "fleet.toml"].map(str::to_owned).to_vec()
}

/// The program of a service, as its owner would start it.
fn service(name: &str, port: u16, outbound: u16) -> Process {
    let proxy = format!("http://127.0.0.1:{outbound}");
    let child = Command::new(bookshop_binary())
        .args([name, "--port", &port.to_string()])
        .env("HTTP_PROXY", &proxy)
        .env("http_proxy", &proxy)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    eventually(&format!("{name} listens"), || {
        wire::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
    });
    process
}

/// The services of the fleet file with the ports of their upstreams.
fn upstreams(folder: &Folder) -> Vec<(String, u16)> {
    let text = folder.run(&["config", "show", "fleet.toml", "--output", "json"]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    let settings = shown.as_array().unwrap().iter();
    let upstreams = settings.filter_map(|setting| {
        let name = setting["key"]
            .as_str()?
            .strip_prefix("services.")?
            .strip_suffix(".upstream")?;
        let value = setting["value"]
            .as_str()
            .map_or_else(|| setting["value"].to_string(), str::to_owned);
        let port = value.trim_matches('"').rsplit(':').next()?.parse().ok()?;
        Some((name.to_owned(), port))
    });
    let found: Vec<_> = upstreams.collect();
    assert_eq!(found.len(), 5, "{shown:#}");
    found
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
