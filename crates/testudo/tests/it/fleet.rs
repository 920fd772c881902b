//! A fleet of the built binary in a temporary folder.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Once,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;

use crate::wire::{self, Answer};

/// The binary under test.
pub const TESTUDO: &str = env!("CARGO_BIN_EXE_testudo");
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The example's services, built beside the binary under test.
pub fn bookshop_binary() -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bin", "bookshop"])
            .current_dir(repository())
            .status()
            .unwrap();
        assert!(status.success(), "the example's services do not build");
    });
    Path::new(TESTUDO).with_file_name("bookshop")
}

/// Ports nobody uses, below the range the kernel takes ports of connections from: they stay free over a restart.
pub fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u16 = 17_000;
    const COUNT: u16 = 15_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run at the same time begin in different places.
    let offset = std::process::id() as u16 % 300 * 50;
    std::array::from_fn(|_| {
        loop {
            let port = FIRST + offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}

/// A process that is killed when the test ends.
pub struct Process(pub Child);

impl Process {
    /// Asks it to stop and waits; the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.wait()
    }

    /// Waits until it ends by itself; the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the process does not stop");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `testudo up`, with what it said when it was ready.
pub struct Fleet {
    pub process: Process,
    pub ready: Value,
    pub folder: Folder,
}

/// Everything that `listen` fixes. The ports of a folder stay the same, so that the issuer does.
const LISTENERS: [&str; 5] = ["GATEWAY", "REDIRECT", "SERVER", "GRPC", "OPS"];

/// A folder with a fleet file, and a home for the command line.
pub struct Folder {
    directory: TempDir,
    ports: [u16; LISTENERS.len()],
}

impl Folder {
    /// A copy of the bookshop with free ports and the built services.
    pub fn bookshop() -> Self {
        let folder = Self::empty();
        copy(&repository().join("examples/bookshop"), folder.path());
        let text = fs::read_to_string(folder.fleet_file()).unwrap();
        fs::write(
            folder.fleet_file(),
            with_free_ports(&text, &["7001", "7002", "7003", "7004", "7005"]),
        )
        .unwrap();
        folder
    }

    /// An empty folder.
    pub fn empty() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            ports: free_ports(),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn fleet_file(&self) -> PathBuf {
        self.path().join("fleet.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Where `listen` is told to be, e.g. `GATEWAY`.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let index = LISTENERS.iter().position(|name| *name == listener).unwrap();
        SocketAddr::from(([127, 0, 0, 1], self.ports[index]))
    }

    /// Changes the fleet file.
    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.fleet_file()).unwrap();
        assert!(text.contains(from), "the fleet file has no `{from}`");
        fs::write(self.fleet_file(), text.replace(from, to)).unwrap();
    }

    /// The command line, remembering things in this folder and listening on its ports.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TESTUDO);
        command
            .args(arguments)
            .env("TESTUDO_HOME", self.path().join("home"))
            .current_dir(self.path());
        for (name, port) in LISTENERS.iter().zip(self.ports) {
            command.env(
                format!("TESTUDO__LISTEN__{name}"),
                format!("127.0.0.1:{port}"),
            );
        }
        for side in ["INBOUND", "OUTBOUND"] {
            command.env(format!("TESTUDO__LISTEN__SIDECAR_{side}"), "127.0.0.1:0");
        }
        command
    }

    /// Runs the command line.
    pub fn testudo(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs the command line and returns its standard output; it must succeed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.testudo(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "testudo {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts `testudo up` and waits until it is ready.
    pub fn up(self) -> Fleet {
        let mut command = self.command(&["up", "fleet.toml", "--output", "json"]);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path().join("log"))
            .unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let ready = wait_for_ready(&mut child, &self.path().join("log"));
        Fleet {
            process: Process(child),
            ready,
            folder: self,
        }
    }
}

/// Reads the line a role prints when it is ready.
pub fn wait_for_ready(child: &mut Child, log: &Path) -> Value {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        let mut text = String::new();
        while let Some(Ok(line)) = lines.next() {
            text.push_str(&line);
            text.push('\n');
            if let Ok(ready) = serde_json::from_str::<Value>(&text) {
                let _ = sender.send(ready);
                text.clear();
            }
        }
    });
    receiver.recv_timeout(START_TIMEOUT).unwrap_or_else(|_| {
        let _ = child.kill();
        panic!(
            "not ready in time; log:\n{}",
            fs::read_to_string(log).unwrap_or_default()
        );
    })
}

impl Fleet {
    /// An address from what it said when it was ready, e.g. `/gateway`.
    pub fn address(&self, pointer: &str) -> SocketAddr {
        let text = self.ready.pointer(pointer).and_then(Value::as_str);
        let text = text.unwrap_or_else(|| panic!("{pointer} is not in {:#}", self.ready));
        text.rsplit("//").next().unwrap().parse().unwrap()
    }

    /// TLS that trusts the fleet's CA.
    pub fn tls(&self) -> Arc<ClientConfig> {
        let pem = fs::read(self.folder.path().join(self.ready["ca"].as_str().unwrap())).unwrap();
        testudo_trust::web_client_config(&pem, &["http/1.1"]).unwrap()
    }

    /// Sends raw bytes to the gateway on a new connection. `None`: closed without an answer.
    pub fn raw(&self, request: &[u8]) -> Option<Answer> {
        let mut stream =
            wire::connect_tls(self.address("/gateway"), "localhost", &self.tls()).unwrap();
        wire::exchange(&mut stream, request).unwrap()
    }

    /// A plain request to the gateway, with a token if there is one.
    pub fn call(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
        self.try_call(method, path, token, body)
            .unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    /// As [`Self::call`]; `None` if the gateway is gone or goes away meanwhile.
    pub fn try_call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> Option<Answer> {
        let authorization = token
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream =
            wire::connect_tls(self.address("/gateway"), "localhost", &self.tls()).ok()?;
        wire::exchange(&mut stream, request.as_bytes()).ok()?
    }

    /// Logs `username` in through the command line and returns an access token.
    pub fn token(&self, username: &str) -> String {
        self.token_with_scope(username, "openid profile orders:write")
    }

    /// As [`Self::token`], with the given scopes.
    pub fn token_with_scope(&self, username: &str, scope: &str) -> String {
        let password = fs::File::open(self.folder.path().join("passwords").join(username)).unwrap();
        let home = self
            .folder
            .path()
            .join(format!("home-{username}-{}", scope.len()));
        fs::create_dir_all(&home).unwrap();
        fs::copy(
            self.folder.path().join("home/fleet.json"),
            home.join("fleet.json"),
        )
        .unwrap();
        let login = self
            .folder
            .command(&["login", "--username", username, "--scope", scope])
            .env("TESTUDO_HOME", &home)
            .stdin(password)
            .output()
            .unwrap();
        assert!(
            login.status.success(),
            "login of {username}: {}",
            String::from_utf8_lossy(&login.stderr)
        );
        let token = self
            .folder
            .command(&["token"])
            .env("TESTUDO_HOME", &home)
            .output()
            .unwrap();
        assert!(token.status.success());
        String::from_utf8(token.stdout).unwrap().trim().to_owned()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            if name != "app" && name != "data" {
                fs::create_dir_all(to.join(&name)).unwrap();
                copy(&entry.path(), &to.join(&name));
            }
        } else if name != "data.key" {
            fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

/// The example's fleet file with other ports, and its services run from the built binary.
fn with_free_ports(text: &str, ports: &[&str]) -> String {
    let free: [u16; 8] = free_ports();
    let mut text = text.to_owned();
    // In two steps: a free port may look like one that is still to be replaced.
    for (number, port) in ports.iter().enumerate() {
        text = text.replace(port, &format!("<port {number}>"));
    }
    for (number, free) in free.iter().enumerate() {
        text = text.replace(&format!("<port {number}>"), &free.to_string());
    }
    let cargo = r#""cargo", "run", "--quiet", "--release", "--bin", "bookshop", "--""#;
    assert!(
        text.contains(cargo),
        "the example runs its services otherwise than {cargo}"
    );
    text.replace(cargo, &format!("{:?}", bookshop_binary()))
}
