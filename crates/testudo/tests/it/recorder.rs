//! A service that keeps every byte it is sent, and answers each request with the same few.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What the service answers.
const BODY: &str = r#"{"from":"the service"}"#;

/// A running service. It lives as long as the test's process: nothing waits for it.
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Request line and header section, as sent.
    pub head: String,
    /// What followed, still in its transfer coding.
    pub body: Vec<u8>,
}

impl Recorder {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&recorder.seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, seen) = (stream.unwrap(), Arc::clone(&seen));
                thread::spawn(move || serve(&stream, &seen));
            }
        });
        recorder
    }

    /// The requests since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// The one request since the last call.
    pub fn take_one(&self) -> Seen {
        let mut seen = self.take();
        assert_eq!(seen.len(), 1, "the service saw {seen:#?}");
        seen.remove(0)
    }
}

impl Seen {
    /// The request target as sent.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or("")
    }

    /// The method as sent.
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or("")
    }

    /// All fields, in order: names in lower case.
    pub fn fields(&self) -> Vec<(String, String)> {
        let lines = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        lines
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect()
    }

    /// Values of the fields that some framework would read as `name`: `_` and `.` count as `-`.
    pub fn taken_for(&self, name: &str) -> Vec<String> {
        let alike = |found: &str| found.trim().replace(['_', '.'], "-") == name;
        self.fields()
            .into_iter()
            .filter(|(found, _)| alike(found))
            .map(|(_, value)| value)
            .collect()
    }

    /// The value of a field that occurs exactly once.
    pub fn only(&self, name: &str) -> Option<String> {
        let mut values = self.taken_for(name);
        (values.len() == 1).then(|| values.remove(0))
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Seen>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            // A request that does not end so is recorded as it is, for the test to complain about.
            if reader.read_until(b'\n', &mut head).ok()? == 0 {
                if !head.is_empty() {
                    keep(seen, &head, Vec::new());
                }
                return None;
            }
        }
        let body = body_of(&head, &mut reader)?;
        keep(seen, &head, body);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        (&*stream).write_all(answer.as_bytes()).ok()?;
    }
}

fn keep(seen: &Mutex<Vec<Seen>>, head: &[u8], body: Vec<u8>) {
    seen.lock().unwrap().push(Seen {
        head: String::from_utf8_lossy(head).into_owned(),
        body,
    });
}

fn body_of(head: &[u8], reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let head = String::from_utf8_lossy(head).to_lowercase();
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let mut body = Vec::new();
    if let Some(length) = field("content-length:") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    } else if field("transfer-encoding:").is_some() {
        let mut in_trailers = false;
        loop {
            let start = body.len();
            reader.read_until(b'\n', &mut body).ok()?;
            let line = String::from_utf8_lossy(&body[start..]).trim().to_owned();
            if in_trailers {
                if line.is_empty() {
                    break;
                }
                continue;
            }
            let size = u64::from_str_radix(line.split(';').next()?, 16).ok()?;
            in_trailers = size == 0;
            if !in_trailers {
                reader.take(size + 2).read_to_end(&mut body).ok()?;
            }
        }
    }
    Some(body)
}
