//! Raw HTTP over TCP and TLS: what is sent is exactly what the test says.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer, as text: these tests look at statuses, header fields and JSON.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One TLS connection.
pub fn connect_tls(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<impl Read + Write + use<>> {
    connect_tls_on(connect(address)?, name, config)
}

/// TLS on a connection that is there.
pub fn connect_tls_on(
    tcp: TcpStream,
    name: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<impl Read + Write + use<>> {
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, tcp))
}

/// One TCP connection.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&address, TIMEOUT)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Sends `request` and reads until the other side closes or the answer is complete. `None`: closed without an
/// answer.
pub fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Option<Answer>> {
    match stream.write_all(request).and_then(|()| stream.flush()) {
        // Whoever refuses early does not read the rest, and may have answered.
        Err(error) if !is_closed(&error) => Err(error),
        _ => read_answer(stream),
    }
}

/// Reads one answer.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Option<Answer>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        if let Some(answer) = parse(&bytes, false) {
            return Ok(Some(answer));
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(parse(&bytes, true)),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            // A TLS peer that closes without close_notify, or resets after refusing.
            Err(error) if is_closed(&error) => return Ok(parse(&bytes, true)),
            Err(error) => return Err(error),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn parse(bytes: &[u8], ended: bool) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    let answer = |body: String| Answer {
        status,
        head: head.to_owned(),
        body,
    };
    let field = |name: &str| answer(String::new()).header(name).map(str::to_owned);
    if let Some(length) = field("content-length").and_then(|length| length.parse::<usize>().ok()) {
        return (rest.len() >= length || ended)
            .then(|| answer(rest.chars().take(length).collect()));
    }
    if field("transfer-encoding").is_some() {
        return (rest.ends_with("0\r\n\r\n") || ended).then(|| answer(dechunk(rest)));
    }
    (ended || matches!(status, 204 | 304)).then(|| answer(rest.to_owned()))
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        if size == 0 || after.len() < size {
            break;
        }
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}
