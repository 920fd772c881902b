//! HTTP/2 as bytes (RFC 9113), for what no client library sends.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const INITIAL_WINDOW_SIZE: u16 = 4;
const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

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

    /// The head of a request to `localhost`, every field a literal that is not indexed (RFC 7541 section 6.2.2).
    pub fn request(&mut self, stream: u32, flags: u8, method: &str, path: &str, length: &str) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", method),
            (":scheme", "https"),
            (":path", path),
            (":authority", "localhost"),
            ("content-length", length),
        ] {
            if !value.is_empty() {
                block.push(0);
                for text in [name, value] {
                    block.push(u8::try_from(text.len()).unwrap());
                    block.extend(text.as_bytes());
                }
            }
        }
        self.queue(HEADERS, flags | END_HEADERS, stream, &block);
    }

    /// Sends what is queued and answers the next frame that is about `stream`; `None` if the connection ends before.
    pub async fn next_of(&mut self, stream: u32) -> Option<Frame> {
        loop {
            self.flush().await;
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
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
