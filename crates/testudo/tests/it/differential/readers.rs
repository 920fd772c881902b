//! The other readers, each a server of its own that answers every request with how it was read.

use std::{
    convert::Infallible,
    fmt, fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    fleet::{Process, free_ports, repository},
    installed::tool,
    recorder::Seen,
    wire,
};

/// A reader that says nothing for so long waits for more of what is no request to it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a request was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Reading {
    method: String,
    target: Vec<u8>,
    body: Vec<u8>,
}

impl Reading {
    /// How the recorder, which knows what a proxy of ours sends, read it.
    pub fn of(seen: &Seen) -> Self {
        let is_chunked = seen.only("transfer-encoding").is_some();
        Self {
            method: seen.method().to_owned(),
            target: seen.target().as_bytes().to_vec(),
            body: match is_chunked {
                true => dechunked(&seen.body),
                false => seen.body.clone(),
            },
        }
    }

    /// Whether this is a reading of the request that went on as `forwarded`: its target in any form, its path not yet
    /// in the canonical one.
    pub fn means(&self, forwarded: &Self) -> bool {
        let target = String::from_utf8_lossy(&self.target);
        let path = match target.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
                &target[7 + target[7..].find(['/', '?']).unwrap_or(target.len() - 7)..]
            }
            _ => &target[..],
        };
        self.method == forwarded.method
            && self.body == forwarded.body
            && unescaped(path.as_bytes()) == unescaped(&forwarded.target)
    }

    /// `method SP target SP body`, the last two in hexadecimal.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(Self {
            method: words.next()?.to_owned(),
            target: unhex(words.next()?)?,
            body: match words.next()? {
                "-" => Vec::new(),
                body => unhex(body)?,
            },
        })
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        let (target, body) = (text(&self.target), text(&self.body));
        write!(formatter, "[{} {target} {body:?}]", self.method)
    }
}

/// Running readers. They end with it.
pub struct Readers {
    addresses: Vec<(&'static str, SocketAddr)>,
    _processes: Vec<Process>,
    _runtime: Runtime,
    _folder: TempDir,
}

impl Readers {
    pub fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let hyper = runtime.block_on(start_hyper());
        let scripts = repository().join("crates/testudo/tests/it/differential");
        let python = tool(&[".tools/venv/bin/python"]);
        let (h11_process, h11) = started(Command::new(python).arg(scripts.join("h11_reader.py")));
        let (node_process, node) =
            started(Command::new("node").arg(scripts.join("node_reader.mjs")));
        let folder = tempfile::tempdir().unwrap();
        let (nginx_process, nginx) = start_nginx(&folder, hyper);
        Self {
            addresses: vec![
                ("hyper", hyper),
                ("h11", h11),
                ("Node", node),
                ("nginx", nginx),
            ],
            _processes: vec![h11_process, node_process, nginx_process],
            _runtime: runtime,
            _folder: folder,
        }
    }

    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.addresses.iter().copied()
    }
}

/// How the reader at `address` reads the bytes of a connection: the requests that it answers, of which `expected` should
/// be there.
pub fn read_by(address: SocketAddr, connection: &[u8], expected: usize) -> Vec<Reading> {
    let mut stream = wire::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(connection);
    let mut answers = Vec::new();
    let mut chunk = [0; 16 * 1024];
    let mut readings = Vec::new();
    // What goes on does not end its connection, so that is not waited for.
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        answers.extend_from_slice(&chunk[..read]);
        readings = readings_in(&answers);
        if readings.len() >= expected && answers.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    readings
}

fn readings_in(answers: &[u8]) -> Vec<Reading> {
    let answers = String::from_utf8_lossy(answers);
    let readings = answers.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_reading = name.eq_ignore_ascii_case("x-reading");
        is_reading.then(|| Reading::parse(value))?
    });
    readings.collect()
}

/// A server that prints its port.
fn started(command: &mut Command) -> (Process, SocketAddr) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    let output = child.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut port).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    (Process(child), ([127, 0, 0, 1], port).into())
}

async fn start_hyper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(answer);
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    match body.collect().await.map(|body| hex(&body.to_bytes())) {
        Ok(body) => {
            let target = hex(head.uri.to_string().as_bytes());
            let body = if body.is_empty() { "-" } else { &body };
            let reading = format!("{} {target} {body}", head.method);
            let fields = response.headers_mut();
            fields.insert("x-reading", reading.parse().unwrap());
        }
        Err(_) => *response.status_mut() = http::StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

/// nginx as a proxy: what it makes of a request is what hyper reads behind it.
fn start_nginx(folder: &TempDir, behind: SocketAddr) -> (Process, SocketAddr) {
    let [port] = free_ports();
    let path = folder.path().display();
    let configuration = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
         events {{ worker_connections 1024; }}
         http {{
           access_log off;
           client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
           uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
           server {{
             listen 127.0.0.1:{port};
             location / {{ proxy_pass http://{behind}; proxy_http_version 1.1; }}
           }}
         }}"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, configuration).unwrap();
    let nginx = tool(&["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]);
    let mut command = Command::new(nginx);
    let child = command.arg("-c").arg(&file).stderr(Stdio::null()).spawn();
    let (process, address) = (
        Process(child.unwrap()),
        SocketAddr::from(([127, 0, 0, 1], port)),
    );
    for _ in 0..500 {
        if std::net::TcpStream::connect(address).is_ok() {
            return (process, address);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nginx does not start");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// The data of chunks as a proxy of ours writes them: no extensions, no trailers.
fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let end = body
            .windows(2)
            .position(|line_end| line_end == b"\r\n")
            .unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        data.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
        if size == 0 {
            assert_eq!(body, b"");
            return data;
        }
    }
}

/// With every `%xx` replaced by its byte.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < path.len() {
        let escaped = path.get(at + 1..at + 3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        let (byte, length) = match (path[at], escaped) {
            (b'%', Some(byte)) => (byte, 3),
            (byte, _) => (byte, 1),
        };
        bytes.push(byte);
        at += length;
    }
    bytes
}
