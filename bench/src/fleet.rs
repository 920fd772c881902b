//! A Testudo fleet of separate processes: control plane, gateway, and a sidecar each for two services.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Outcome,
    declared::{Extra, POLICIES, extra_policy, fleet_file},
    instructions,
    process::{LOAD_CORE, Process, again, last_in_line, output, own_program},
};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const ENFORCE_TIMEOUT: Duration = Duration::from_secs(90);
/// Bytes of a policy file, well below what Testudo takes.
const POLICY_FILE_BYTES: usize = 512 * 1024;
/// The user of the measurements, and one who may do nothing.
const BENCH: &str = "bench";
pub(crate) const STRANGER: &str = "stranger";
const USERS: [&str; 2] = [BENCH, STRANGER];
/// What a login asks for.
const SCOPES: &str = "openid profile offline_access bench:read";

/// Which core each part has, and how many workers the proxies have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    /// Of the gateway.
    pub(crate) gateway: Option<usize>,
    /// Of the sidecars.
    pub(crate) sidecars: Option<usize>,
    /// Of the control plane.
    pub(crate) server: Option<usize>,
    /// Whether the control plane gets only what the others leave.
    pub(crate) server_is_last: bool,
    /// Workers of each proxy.
    pub(crate) workers: usize,
    /// Whether callgrind counts the instructions of the proxies.
    pub(crate) is_counted: bool,
}

/// The secret of the service account `backend`.
pub(crate) const SECRET: &str = "a-secret-of-the-bench-that-opens-nothing-else-anywhere";

impl Placement {
    /// Only the gateway on the measured core.
    pub(crate) const GATEWAY: Self = Self {
        gateway: crate::process::PROXY_CORE,
        sidecars: LOAD_CORE,
        server: LOAD_CORE,
        server_is_last: false,
        workers: 1,
        is_counted: false,
    };
    /// The same with a control plane that is in nobody's way, as one on a machine of its own.
    pub(crate) const APART: Self = Self {
        server_is_last: true,
        ..Self::GATEWAY
    };
    /// Both sidecars on the measured core.
    pub(crate) const SIDECARS: Self = Self {
        gateway: LOAD_CORE,
        sidecars: crate::process::PROXY_CORE,
        server: LOAD_CORE,
        server_is_last: false,
        workers: 1,
        is_counted: false,
    };
    /// Only the control plane on the measured core.
    pub(crate) const SERVER: Self = Self {
        gateway: LOAD_CORE,
        sidecars: LOAD_CORE,
        server: crate::process::PROXY_CORE,
        server_is_last: false,
        workers: 1,
        is_counted: false,
    };
    /// As the scheduler likes.
    pub(crate) const ANYWHERE: Self = Self {
        gateway: None,
        sidecars: None,
        server: None,
        server_is_last: false,
        workers: 2,
        is_counted: false,
    };
    /// Anywhere, with the instructions of the proxies counted.
    pub(crate) const COUNTED: Self = Self {
        workers: 1,
        is_counted: true,
        ..Self::ANYWHERE
    };
}

/// A running fleet.
pub(crate) struct Fleet {
    folder: PathBuf,
    upstream: SocketAddr,
    /// The gateway.
    pub(crate) gateway: Proxy,
    /// Sidecar of the calling service.
    pub(crate) caller: Proxy,
    /// Sidecar of the called service.
    pub(crate) called: Proxy,
    /// The control plane. Last, so that it stops after those that report to it.
    pub(crate) server: Process,
    server_command: Command,
    /// Its operations port.
    pub(crate) ops: SocketAddr,
    /// Its CA.
    pub(crate) ca: PathBuf,
}

/// A running proxy.
pub(crate) struct Proxy {
    /// The process.
    pub(crate) process: Process,
    /// Where it takes what the bench sends: HTTPS of the gateway, outbound side of a sidecar.
    pub(crate) address: SocketAddr,
    /// Where callgrind counts its instructions, if it does.
    pub(crate) counts: Option<PathBuf>,
    name: String,
    command: Command,
    core: Option<usize>,
}

impl Fleet {
    /// Starts a fleet with its files in `folder`, in front of `upstream`.
    pub(crate) fn start(
        folder: &Path,
        upstream: SocketAddr,
        placement: Placement,
    ) -> Outcome<Self> {
        fs::create_dir_all(folder.join("policies"))?;
        fs::write(folder.join("password"), "a password for the bench only\n")?;
        fs::write(folder.join("secret"), SECRET)?;
        fs::write(
            folder.join("fleet.toml"),
            fleet_file(upstream, Extra::START),
        )?;
        fs::write(folder.join("policies/bench.cedar"), POLICIES)?;
        let mut command = testudo(folder, &["server", "fleet.toml", "--output", "json"])?;
        for name in ["GATEWAY", "REDIRECT", "SERVER", "GRPC", "OPS"] {
            let address = format!("127.0.0.1:{}", free_port()?);
            command.env(format!("TESTUDO__LISTEN__{name}"), address);
        }
        if placement.server_is_last {
            command = last_in_line(&command);
        }
        let (server, ready) = start(&command, placement.server, folder, "server")?;
        let ca = ready.get("ca").and_then(Value::as_str).ok_or("no CA")?;
        let any = "127.0.0.1:0";
        let gateway = ["gateway", "--listen", any];
        let sidecar = ["sidecar", "--inbound", any, "--outbound", any];
        let join = |name: &str, role: &[&str], core, address: &str| {
            join(folder, (name, name), role, core, placement, address)
        };
        let fleet = Self {
            called: join("echo", &sidecar, placement.sidecars, "outbound")?,
            caller: join("caller", &sidecar, placement.sidecars, "outbound")?,
            gateway: join("gateway", &gateway, placement.gateway, "gateway")?,
            ca: folder.join(ca),
            folder: folder.to_owned(),
            upstream,
            ops: address_in(&ready, "ops")?,
            server,
            server_command: command,
        };
        for user in USERS {
            fleet.log_in(user)?;
        }
        Ok(fleet)
    }

    /// All processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let proxies = [&self.gateway, &self.caller, &self.called];
        let proxies = proxies.iter().map(|proxy| proxy.process.id());
        proxies.chain([self.server.id()]).collect()
    }

    /// A file with an access token of the user of the measurements that has most of its life before it.
    pub(crate) fn token(&self) -> Outcome<PathBuf> {
        let file = self.folder.join("token");
        fs::write(&file, self.token_of(BENCH)?)?;
        Ok(file)
    }

    /// An access token of `user`.
    pub(crate) fn token_of(&self, user: &str) -> Outcome<String> {
        output(&mut self.testudo_as(user, &["token"])?)
    }

    /// A token of a new login of `user`, which has all of its life before it.
    pub(crate) fn fresh_token_of(&self, user: &str) -> Outcome<String> {
        self.log_in(user)?;
        self.token_of(user)
    }

    /// The refresh token of a new login of the user of the measurements; `number` tells it from others.
    pub(crate) fn refresh_token(&self, number: usize) -> Outcome<String> {
        let home = self.new_home(&format!("session-{number}"))?;
        let mut login = testudo(
            &self.folder,
            &["login", "--username", BENCH, "--scope", SCOPES],
        )?;
        login.env("TESTUDO_HOME", &home);
        output(login.stdin(fs::File::open(self.folder.join("password"))?))?;
        let kept: Value = serde_json::from_slice(&fs::read(home.join("login.json"))?)?;
        let token = kept
            .pointer("/tokens/refresh_token")
            .and_then(Value::as_str);
        Ok(token.ok_or("no refresh token")?.to_owned())
    }

    /// Where the identity provider listens, as `host:port`.
    pub(crate) fn provider(&self) -> Outcome<String> {
        let kept: Value = serde_json::from_slice(&fs::read(self.folder.join("home/login.json"))?)?;
        let server = kept
            .get("server")
            .and_then(Value::as_str)
            .ok_or("no server")?;
        Ok(server
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .to_owned())
    }

    /// So many further sidecars of the called service, which nobody calls.
    pub(crate) fn join_sidecars(&self, count: usize) -> Outcome<Vec<Proxy>> {
        let any = "127.0.0.1:0";
        let role = ["sidecar", "--inbound", any, "--outbound", any];
        let join = |number: usize| {
            let name = format!("echo-{number}");
            let placement = Placement::ANYWHERE;
            join(
                &self.folder,
                (&name, "echo"),
                &role,
                None,
                placement,
                "outbound",
            )
        };
        (0..count).map(join).collect()
    }

    /// Stops the control plane, or kills it, and starts it again.
    pub(crate) fn restart_server(&mut self, is_killed: bool) -> Outcome {
        if is_killed {
            self.server.kill()?;
        } else {
            self.server.stop()?;
        }
        (self.server, _) = start(&self.server_command, None, &self.folder, "server")?;
        Ok(())
    }

    /// Lets another process take over from `proxy`.
    pub(crate) fn upgrade(folder: &Path, proxy: &mut Proxy) -> Outcome {
        let mut command = again(&proxy.command);
        command.arg("--upgrade");
        let (next, _) = start(&command, proxy.core, folder, &proxy.name)?;
        let mut before = std::mem::replace(&mut proxy.process, next);
        before.wait_in_time()
    }

    fn log_in(&self, user: &str) -> Outcome {
        let mut login = self.testudo_as(user, &["login", "--username", user, "--scope", SCOPES])?;
        output(login.stdin(fs::File::open(self.folder.join("password"))?))?;
        Ok(())
    }

    fn testudo_as(&self, user: &str, arguments: &[&str]) -> Outcome<Command> {
        let mut command = testudo(&self.folder, arguments)?;
        if user != BENCH {
            command.env("TESTUDO_HOME", self.new_home(user)?);
        }
        Ok(command)
    }

    /// A folder for the logins of another person, who knows this fleet.
    fn new_home(&self, name: &str) -> Outcome<PathBuf> {
        let home = self.folder.join(format!("home-{name}"));
        fs::create_dir_all(&home)?;
        fs::copy(self.folder.join("home/fleet.json"), home.join("fleet.json"))?;
        Ok(home)
    }

    /// Applies a fleet with `extra` beside its own, and waits until every proxy enforces it.
    pub(crate) fn apply(&self, extra: Extra) -> Outcome {
        fs::write(
            self.folder.join("fleet.toml"),
            fleet_file(self.upstream, extra),
        )?;
        let folder = self.folder.join("policies");
        for file in fs::read_dir(&folder)? {
            let path = file?.path();
            if path.file_name().is_some_and(|name| name != "bench.cedar") {
                fs::remove_file(path)?;
            }
        }
        let mut text = String::new();
        for number in 0..extra.policies {
            text.push_str(&extra_policy(number));
            if text.len() > POLICY_FILE_BYTES || number + 1 == extra.policies {
                fs::write(folder.join(format!("extra-{number}.cedar")), &text)?;
                text.clear();
            }
        }
        output(&mut testudo(&self.folder, &["apply", "fleet.toml"])?)?;
        self.wait_until_enforced()
    }

    fn wait_until_enforced(&self) -> Outcome {
        let until = Instant::now() + ENFORCE_TIMEOUT;
        loop {
            let status = output(&mut testudo(&self.folder, &["status", "--output", "json"])?)?;
            let status: Value = serde_json::from_str(&status)?;
            let newest = status.get("snapshot");
            let proxies = status.get("proxies").and_then(Value::as_array);
            let proxies = proxies.ok_or("no proxies in the status")?;
            if proxies.len() == 3 && proxies.iter().all(|proxy| proxy.get("snapshot") == newest) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("the snapshot is not enforced: {status:#}").into());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

fn join(
    folder: &Path,
    (name, service): (&str, &str),
    role: &[&str],
    core: Option<usize>,
    placement: Placement,
    address: &str,
) -> Outcome<Proxy> {
    let who = if name == "gateway" {
        vec!["--gateway"]
    } else {
        vec!["--service", service]
    };
    let arguments = [&["join-token", "create"], who.as_slice()].concat();
    let token = folder.join(format!("{name}.join"));
    fs::write(&token, output(&mut testudo(folder, &arguments)?)?)?;
    let mut command = testudo(folder, role)?;
    command.arg("--join-token-file").arg(token);
    command
        .arg("--data")
        .arg(folder.join(format!("{name}-data")));
    command.args(["--ops", "127.0.0.1:0", "--output", "json"]);
    command.arg("--workers").arg(placement.workers.to_string());
    let counts = placement
        .is_counted
        .then(|| folder.join(format!("{name}.callgrind")));
    if let Some(counts) = &counts {
        command = instructions::counted(&command, counts);
    }
    let (process, ready) = start(&command, core, folder, name)?;
    let address = address_in(&ready, address)?;
    Ok(Proxy {
        process,
        address,
        counts,
        name: name.to_owned(),
        command,
        core,
    })
}

/// An address that a role says it listens on.
fn address_in(ready: &Value, name: &str) -> Outcome<SocketAddr> {
    let text = ready.get(name).and_then(Value::as_str);
    let text = text.ok_or_else(|| format!("no {name} in {ready}"))?;
    let (_, address) = text.split_once("://").unwrap_or(("", text));
    Ok(address.parse()?)
}

/// A port that nobody uses, below the range the kernel takes ports of connections from: it stays free over a restart.
pub(crate) fn free_port() -> Outcome<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 1_000)? * 10;
    for _ in 0..1_000 {
        let port = 20_000 + offset + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no port is free".into())
}

/// Starts a role and waits for the JSON document it prints when it is ready.
fn start(
    command: &Command,
    core: Option<usize>,
    folder: &Path,
    name: &str,
) -> Outcome<(Process, Value)> {
    let log = folder.join(format!("{name}.log"));
    let mut process = Process::start(command, core, &log)?;
    let lines = process.lines()?;
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut text = String::new();
        for line in lines.map_while(Result::ok) {
            text.push_str(&line);
            if let Ok(ready) = serde_json::from_str::<Value>(&text) {
                drop(sender.send(ready));
                text.clear();
            }
        }
    });
    match receiver.recv_timeout(START_TIMEOUT) {
        Ok(ready) => Ok((process, ready)),
        Err(_) => {
            let said = fs::read_to_string(log)?;
            Err(format!("{name} does not get ready:\n{said}").into())
        }
    }
}

fn testudo(folder: &Path, arguments: &[&str]) -> Outcome<Command> {
    let mut command = Command::new(own_program("testudo")?);
    command
        .args(arguments)
        .env("TESTUDO_HOME", folder.join("home"))
        .env("TESTUDO_LOG", "warn")
        .current_dir(folder);
    Ok(command)
}
