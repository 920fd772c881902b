//! A client of HTTP/3 that says what it likes: it writes frames and field lines, and checks nothing.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadToEndError, SendStream,
    crypto::rustls::QuicClientConfig,
};
use testudo_dataplane::web_client_config;
use tokio::time::timeout;

use crate::fleet::{Fleet, pem};

pub const SOON: Duration = Duration::from_secs(10);
pub const DATA: u64 = 0x0;
pub const HEADERS: u64 = 0x1;
pub const SETTINGS: u64 = 0x4;
/// The stream's kind, and empty settings.
pub const CONTROL: &[u8] = b"\x00\x04\x00";

pub type Line<'a> = (&'a str, &'a str);

pub fn config(fleet: &Fleet) -> ClientConfig {
    let tls = web_client_config(pem(fleet.root()).as_bytes(), &["h3"]).unwrap();
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

pub struct Client {
    pub quic: Connection,
    /// Closes the connection when dropped.
    _endpoint: Endpoint,
    _control: SendStream,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// The field section, in which nothing is compressed.
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The value of a field whose name has no number.
    pub fn field(&self, name: &str) -> Option<String> {
        let at = self
            .head
            .windows(name.len())
            .position(|window| window == name.as_bytes())?;
        let value = &self.head[at + name.len()..];
        let length = usize::from(value[0]);
        Some(String::from_utf8(value[1..=length].to_vec()).unwrap())
    }
}

impl Client {
    pub async fn connect(fleet: &Fleet) -> Self {
        Self::connect_with(fleet, config(fleet)).await
    }

    pub async fn connect_with(fleet: &Fleet, config: ClientConfig) -> Self {
        let (endpoint, quic) = connect(fleet, config).await;
        let mut control = quic.open_uni().await.unwrap();
        control.write_all(CONTROL).await.unwrap();
        Self {
            quic,
            _endpoint: endpoint,
            _control: control,
        }
    }

    /// What comes back for `bytes` as a whole request stream.
    pub async fn send(&self, bytes: &[u8]) -> Result<Answer, ReadToEndError> {
        let (mut up, mut down) = self.quic.open_bi().await.unwrap();
        // It may be refused before all of it was taken.
        let _ = up.write_all(bytes).await;
        let _ = up.finish();
        let answer = timeout(SOON, down.read_to_end(1 << 20)).await;
        answer
            .expect("an answer in time")
            .map(|bytes| parse(&bytes))
    }

    pub async fn get(&self, path: &str, fields: &[Line<'_>]) -> Answer {
        self.send(&head("GET", path, fields)).await.unwrap()
    }

    /// What the connection is closed with.
    pub async fn closed(&self) -> u64 {
        match timeout(SOON, self.quic.closed()).await.expect("a close") {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }
}

/// A connection on which nothing was said yet.
pub async fn connect(fleet: &Fleet, config: ClientConfig) -> (Endpoint, Connection) {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = fleet.gateway().http3.unwrap();
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let quic = timeout(SOON, connecting).await.unwrap().unwrap();
    (endpoint, quic)
}

pub fn integer(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![u8::try_from(value).unwrap()],
        _ => (value | 3 << 62).to_be_bytes().to_vec(),
    }
}

pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [
        integer(kind),
        integer(u64::try_from(payload.len()).unwrap()),
        payload.to_vec(),
    ]
    .concat()
}

/// HEADERS with `lines`, as they are.
pub fn headers(lines: &[Line<'_>]) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in lines {
        string(&mut section, 0x20, 0x07, name);
        string(&mut section, 0, 0x7f, value);
    }
    frame(HEADERS, &section)
}

/// A request's head.
pub fn head(method: &str, path: &str, fields: &[Line<'_>]) -> Vec<u8> {
    let lines = [&pseudo(method, path)[..], fields].concat();
    headers(&lines)
}

pub fn pseudo<'a>(method: &'a str, path: &'a str) -> [Line<'a>; 4] {
    [
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
    ]
}

/// RFC 7541 section 5.1 for the length.
fn string(section: &mut Vec<u8>, flags: u8, mask: u8, text: &str) {
    let most = usize::from(mask);
    if text.len() < most {
        section.push(flags | u8::try_from(text.len()).unwrap());
    } else {
        section.push(flags | mask);
        let mut rest = text.len() - most;
        while rest >= 0x80 {
            section.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
            rest >>= 7;
        }
        section.push(u8::try_from(rest).unwrap());
    }
    section.extend_from_slice(text.as_bytes());
}

fn take(bytes: &mut &[u8]) -> u64 {
    let length = 1 << (bytes[0] >> 6);
    let (number, rest) = bytes.split_at(length);
    *bytes = rest;
    let value = number
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    value & ((1 << (8 * length - 2)) - 1)
}

fn parse(mut bytes: &[u8]) -> Answer {
    let (mut head, mut body) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let (kind, length) = (take(&mut bytes), usize::try_from(take(&mut bytes)).unwrap());
        let (payload, rest) = bytes.split_at(length);
        bytes = rest;
        match kind {
            HEADERS if head.is_empty() => head = payload.to_vec(),
            DATA => body.extend_from_slice(payload),
            other => panic!("frame {other:#x} in an answer"),
        }
    }
    // `:status` is entry 24, and comes first.
    assert_eq!(head[..5], [0, 0, 0x5f, 9, 3], "{head:?}");
    let status = StatusCode::from_bytes(&head[5..8]).unwrap();
    Answer { status, head, body }
}
