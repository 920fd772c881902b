//! HTTP/2 as bytes (RFC 9113), for what no client library sends.

use std::{future::pending, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::timeout,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const INITIAL_WINDOW_SIZE: u16 = 4;
const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// A field that is not indexed (RFC 7541 section 6.2.2).
const LITERAL: u8 = 0;

/// What the tests need of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With GOAWAY and this error code.
    GoAway(u32),
    Closed,
    /// It did not.
    Open,
}

/// RFC 9113 section 7.
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

/// A client's side of a connection.
pub struct Frames<S> {
    stream: S,
    /// Sent together: what comes at once is read at once.
    queued: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Opens a connection whose streams may be sent `window` bytes.
    pub async fn open(mut stream: S, window: u32) -> Self {
        stream.write_all(PREFACE).await.unwrap();
        let mut frames = Self {
            stream,
            queued: Vec::new(),
        };
        let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        setting.extend(window.to_be_bytes());
        frames.queue(SETTINGS, 0, 0, &setting);
        frames
    }

    /// Sends what is queued.
    pub async fn flush(&mut self) {
        self.stream.write_all(&self.queued).await.unwrap();
        self.stream.flush().await.unwrap();
        self.queued.clear();
    }

    pub fn queue(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        self.queued.extend(&length[1..]);
        self.queued.extend([kind, flags]);
        self.queued.extend(stream.to_be_bytes());
        self.queued.extend(payload);
    }

    /// The head of a request to `localhost`.
    pub fn request(&mut self, stream: u32, flags: u8, method: &str, path: &str, length: &str) {
        let fields = [
            (":method", method),
            (":scheme", "https"),
            (":path", path),
            (":authority", "localhost"),
            ("content-length", length),
        ];
        let present = fields.iter().filter(|(_, value)| !value.is_empty());
        self.head(stream, flags, &present.copied().collect::<Vec<_>>());
    }

    /// A header section.
    pub fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        self.queue(HEADERS, flags | END_HEADERS, stream, &literals(fields));
    }

    /// Sends what is queued, all at once, while whatever comes is read. How the connection ended, if it did within
    /// `patience`.
    pub async fn ended_within(&mut self, patience: Duration) -> Ended {
        let queued = std::mem::take(&mut self.queued);
        let (mut reader, mut writer) = split(&mut self.stream);
        let writing = async {
            let _ = writer.write_all(&queued).await;
            let _ = writer.flush().await;
            pending().await
        };
        let reading = async {
            loop {
                let mut head = [0; 9];
                if reader.read_exact(&mut head).await.is_err() {
                    return Ended::Closed;
                }
                let mut payload = vec![0; length_in(&head)];
                if reader.read_exact(&mut payload).await.is_err() {
                    return Ended::Closed;
                }
                if head[3] == GOAWAY {
                    return Ended::GoAway(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
            }
        };
        let both = async {
            tokio::select! { ended = reading => ended, never = writing => never }
        };
        timeout(patience, both).await.unwrap_or(Ended::Open)
    }

    /// As [`Self::ended_within`] a time that nothing takes.
    pub async fn ended(&mut self) -> Ended {
        self.ended_within(Duration::from_secs(30)).await
    }

    /// Sends what is queued and answers the next frame that is about `stream`; `None` if the connection ends before.
    pub async fn next_of(&mut self, stream: u32) -> Option<Frame> {
        loop {
            self.flush().await;
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; length_in(&head)];
            self.stream.read_exact(&mut payload).await.ok()?;
            let frame = Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            };
            match frame.kind {
                GOAWAY => return None,
                SETTINGS if frame.flags & ACK == 0 => self.queue(SETTINGS, ACK, 0, &[]),
                _ if frame.stream == stream => return Some(frame),
                _ => {}
            }
        }
    }
}

fn length_in(head: &[u8; 9]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// Fields as literals that are not indexed.
pub fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(LITERAL);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}
