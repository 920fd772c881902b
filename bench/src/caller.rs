//! A well-behaved HTTP/1.1 client: keeps its connection, does not use it again once it was told so or saw it closed, and
//! tries nothing twice.

use std::{
    fs,
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    pin::Pin,
    task::Poll,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpSocket,
};
use tokio_rustls::TlsConnector;

use crate::{Outcome, load::tls_config};

/// Longest answer taken.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Where calls go.
#[derive(Clone)]
pub(crate) struct Origin {
    address: SocketAddr,
    /// The client's own address.
    from: Ipv4Addr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The status.
    pub(crate) status: u16,
    /// The connection carries no other request.
    pub(crate) is_last: bool,
}

/// One client with one connection.
pub(crate) struct Caller {
    origin: Origin,
    kept: Option<Box<dyn Stream>>,
    buffer: Vec<u8>,
}

impl Origin {
    /// Plain HTTP at `address`; HTTPS with `ca`, the certificate being for `host`. `fresh`: no session is resumed.
    pub(crate) fn new(
        address: SocketAddr,
        host: &str,
        ca: Option<&Path>,
        fresh: bool,
    ) -> Outcome<Self> {
        let tls = match ca {
            Some(path) => {
                let name = ServerName::try_from(host.to_owned())?;
                Some((
                    TlsConnector::from(tls_config(&fs::read(path)?, fresh)?),
                    name,
                ))
            }
            None => None,
        };
        Ok(Self {
            address,
            from: Ipv4Addr::LOCALHOST,
            tls,
        })
    }

    /// The same, called from another address of this machine.
    pub(crate) fn called_from(mut self, from: Ipv4Addr) -> Self {
        self.from = from;
        self
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Outcome<Box<dyn Stream>> {
        let socket = TcpSocket::new_v4()?;
        // Without need it would only make ports scarce.
        if self.from != Ipv4Addr::LOCALHOST {
            socket.bind(SocketAddr::from((self.from, 0)))?;
        }
        let tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), tcp).await?),
            None => Box::new(tcp),
        })
    }
}

impl Caller {
    /// A client that has not connected yet.
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            kept: None,
            buffer: Vec::with_capacity(4096),
        }
    }

    /// Sends `request`; the status of its answer, and the code of a problem.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<(u16, Option<String>), String> {
        let mut stream = match self.kept.take() {
            Some(stream) => match unused(stream).await {
                Some(stream) => stream,
                None => open(&self.origin).await?,
            },
            None => open(&self.origin).await?,
        };
        let answered = exchange(&mut stream, request, &mut self.buffer)
            .await
            .map_err(|error| error.to_string())?;
        if !answered.is_last {
            self.kept = Some(stream);
        }
        Ok((answered.status, problem(answered.status, &self.buffer)))
    }
}

/// The code of the problem in an answer (RFC 9457), if there is one.
pub(crate) fn problem(status: u16, answer: &[u8]) -> Option<String> {
    if status < 400 {
        return None;
    }
    let text = String::from_utf8_lossy(answer);
    let (_, body) = text.split_once("\r\n\r\n")?;
    let problem: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(problem.get("code")?.as_str()?.to_owned())
}

async fn open(origin: &Origin) -> Result<Box<dyn Stream>, String> {
    let connected = origin.connect().await;
    connected.map_err(|error| format!("connecting: {error}"))
}

/// `stream`, unless the other side has closed it, or said anything, while it was not in use.
async fn unused(mut stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    let is_silent = poll_fn(|context| {
        Poll::Ready(
            Pin::new(&mut stream)
                .poll_read(context, &mut buffer)
                .is_pending(),
        )
    });
    is_silent.await.then_some(stream)
}

/// Sends the request and reads the whole answer, which is in `buffer` then.
pub(crate) async fn exchange(
    stream: &mut Box<dyn Stream>,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> Outcome<Answered> {
    stream.write_all(request).await?;
    stream.flush().await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err("closed in an answer".into());
        }
        if let Some(answered) = complete(buffer)? {
            return Ok(answered);
        }
        if buffer.len() > MAX_ANSWER_BYTES {
            return Err("the answer is too long".into());
        }
    }
}

/// What was answered, once head and body are there.
fn complete(bytes: &[u8]) -> Outcome<Option<Answered>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else {
        return Ok(None);
    };
    let body = bytes.get(head..).unwrap_or_default();
    let value = |name: &str| {
        let mut fields = answer.headers.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let is_complete = match value("content-length") {
        Some(length) => body.len() >= length.parse()?,
        None if value("transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n"),
        None => return Err("an answer without a length".into()),
    };
    let answered = answer.code.map(|status| Answered {
        status,
        is_last: value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    });
    Ok(answered.filter(|_| is_complete))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let status = |bytes| complete(bytes).unwrap().map(|answered| answered.status);
        assert_eq!(status(answer), Some(200));
        for end in 0..answer.len() {
            assert_eq!(status(answer.get(..end).unwrap()), None, "{end}");
        }
        let chunked = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(status(chunked), Some(503));
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn the_last_answer_of_a_connection_is_known() {
        let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert!(complete(last).unwrap().unwrap().is_last);
        let kept = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert!(!complete(kept).unwrap().unwrap().is_last);
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_is_not_used() {
        let (mine, theirs) = tokio::io::duplex(64);
        let stream = unused(Box::new(mine)).await.unwrap();
        drop(theirs);
        assert!(unused(stream).await.is_none());
    }
}
