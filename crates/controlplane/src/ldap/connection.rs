//! One connection to a directory, made safe before anything is said on it.

use std::{io, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use testudo_model::Redacted;
use testudo_runtime::fleet::DirectorySecurity;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    DirectoryError,
    ber::message_length,
    message::{self, Answered, Entry, Page, Response, Search},
};

/// Largest answer: one entry with the few attributes that are asked for.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// `success`.
const SUCCESS: i32 = 0;
/// `sizeLimitExceeded`.
const SIZE_LIMIT: i32 = 4;
/// `noSuchObject`.
const NO_SUCH_OBJECT: i32 = 32;
/// `invalidCredentials`.
const INVALID_CREDENTIALS: i32 = 49;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection. Whoever stops waiting for an answer must let it go: the answer would be taken for the next one.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// What was read and not yet understood.
    buffer: Vec<u8>,
    last_id: i32,
    /// Whether it is bound as who searches.
    pub(super) is_searcher: bool,
}

/// What a search found.
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    /// There are more than were asked for.
    pub(super) is_cut: bool,
    /// With which the next page is asked for; empty after the last.
    pub(super) cookie: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(
        host: &str,
        port: u16,
        security: DirectorySecurity,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, DirectoryError> {
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        match security {
            DirectorySecurity::Plain if tcp.peer_addr()?.ip().is_loopback() => {
                Ok(Self::over(Box::new(tcp)))
            }
            DirectorySecurity::Plain => Err(DirectoryError::NotThisMachine),
            DirectorySecurity::Tls => Self::secured(host, tcp, tls).await,
            DirectorySecurity::StartTls => {
                let mut plain = Self::over(Box::new(tcp));
                plain.ask_for_tls().await?;
                Self::secured_stream(host, plain.stream, tls).await
            }
        }
    }

    async fn secured(
        host: &str,
        tcp: TcpStream,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, DirectoryError> {
        Self::secured_stream(host, Box::new(tcp), tls).await
    }

    async fn secured_stream(
        host: &str,
        stream: Box<dyn Stream>,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, DirectoryError> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| DirectoryError::Tls(io::ErrorKind::InvalidInput.into()))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = stream.await.map_err(DirectoryError::Tls)?;
        Ok(Self::over(Box::new(stream)))
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            last_id: 0,
            is_searcher: false,
        }
    }

    /// Asks for TLS. Whatever else came before it is somebody's on the way (as in CVE-2011-0411).
    async fn ask_for_tls(&mut self) -> Result<(), DirectoryError> {
        let id = self.next_id();
        self.send(&message::start_tls(id)).await?;
        match self.receive(id).await?.what {
            Answered::Extended(SUCCESS) if self.buffer.is_empty() => Ok(()),
            Answered::Extended(SUCCESS) => Err(DirectoryError::Malformed),
            Answered::Extended(code) => Err(DirectoryError::NoTls(code)),
            _ => Err(DirectoryError::Malformed),
        }
    }

    /// Whether the password is that of `dn`.
    pub(super) async fn bind(
        &mut self,
        dn: &str,
        password: &Redacted<String>,
    ) -> Result<bool, DirectoryError> {
        if dn.is_empty() || password.expose().is_empty() {
            return Ok(false);
        }
        let id = self.next_id();
        self.is_searcher = false;
        self.send(&message::bind(id, dn, password)).await?;
        match self.receive(id).await?.what {
            Answered::Bound(SUCCESS) => Ok(true),
            Answered::Bound(INVALID_CREDENTIALS) => Ok(false),
            Answered::Bound(code) => Err(DirectoryError::Bind(code)),
            _ => Err(DirectoryError::Malformed),
        }
    }

    /// Searches. References to other directories are not followed: nobody knows who they are.
    pub(super) async fn search(
        &mut self,
        search: &Search<'_>,
        page: Option<&Page<'_>>,
        at_most: usize,
    ) -> Result<Found, DirectoryError> {
        let id = self.next_id();
        self.send(&message::search(id, search, page)).await?;
        let mut entries = Vec::new();
        loop {
            let Response { what, cookie, .. } = self.receive(id).await?;
            match what {
                Answered::Entry(entry) if entries.len() < at_most => entries.push(entry),
                Answered::Entry(_) => return Err(DirectoryError::TooMany),
                Answered::Reference => {}
                Answered::Done(SUCCESS) => {
                    return Ok(Found {
                        entries,
                        is_cut: false,
                        cookie,
                    });
                }
                Answered::Done(SIZE_LIMIT) => {
                    return Ok(Found {
                        entries,
                        is_cut: true,
                        cookie: Vec::new(),
                    });
                }
                Answered::Done(NO_SUCH_OBJECT) => return Err(DirectoryError::NoBase),
                Answered::Done(code) => return Err(DirectoryError::Search(code)),
                Answered::Bound(_) | Answered::Extended(_) => {
                    return Err(DirectoryError::Malformed);
                }
            }
        }
    }

    const fn next_id(&mut self) -> i32 {
        self.last_id = self.last_id.wrapping_add(1) & i32::MAX;
        self.last_id
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next answer, which must be to the message of this number.
    async fn receive(&mut self, id: i32) -> Result<Response, DirectoryError> {
        loop {
            if let Some(length) = message_length(&self.buffer)? {
                if length > MAX_MESSAGE_BYTES {
                    return Err(DirectoryError::TooLarge);
                }
                if let Some((first, rest)) = self.buffer.split_at_checked(length) {
                    let response = message::response(first)?;
                    self.buffer = rest.to_vec();
                    return match response.id == id {
                        true => Ok(response),
                        // Such as a notice that the server goes away (section 4.4.1).
                        false => Err(DirectoryError::Malformed),
                    };
                }
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}
