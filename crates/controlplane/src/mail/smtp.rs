//! One letter to one SMTP server (RFC 5321).
//!
//! The conversation is lettre's; the connection under it is ours. STARTTLS (RFC 3207) is spoken here, because nothing that came
//! in the clear may be left over when TLS begins, and because a server that does not offer it gets no mail. What a server says
//! is read up to a limit.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use lettre::{
    Message,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, AsyncTokioStream},
        extension::ClientId,
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use testudo_runtime::fleet::{MailSecurity, MailServer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::letter::LetterError;
use crate::outbound::{Roots, RootsFailure};

/// Time for one connection: the next address is tried afterwards.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of the server that are tried.
const MAX_ADDRESSES: usize = 8;
/// All that a server may say about one letter; real ones say about 1 KiB. lettre reads a reply anew with each line of it, so more
/// would cost time, too.
const MAX_SAID_BYTES: usize = 8 * 1024;

/// Why a letter was not sent. `Display` says nothing of what the server said, but for its number.
#[derive(Debug, thiserror::Error)]
pub enum SmtpError {
    /// There is none any more.
    #[error("no mail server is set")]
    NoServer,
    /// The letter cannot be written.
    #[error("the letter cannot be written")]
    Letter(#[source] LetterError),
    /// The certificate authorities cannot be used.
    #[error("the certificate authorities to trust cannot be read")]
    Roots(#[source] RootsFailure),
    /// Nobody there.
    #[error("no connection to the mail server")]
    Connect(#[source] io::Error),
    /// Not who they should be.
    #[error("no TLS with the mail server")]
    Tls(#[source] io::Error),
    /// It does not offer STARTTLS, or somebody in between has taken the offer away.
    #[error("the mail server does not offer STARTTLS, and without it nothing is sent")]
    NoStartTls,
    /// It says what it was not asked for, no SMTP, or too much.
    #[error("the mail server does not speak SMTP as it should")]
    Nonsense(#[source] io::Error),
    /// It says no.
    #[error("the mail server answers with status {0}")]
    Status(u16, #[source] Option<lettre::transport::smtp::Error>),
    /// Something else in the conversation.
    #[error("the conversation with the mail server broke off")]
    Conversation(#[source] lettre::transport::smtp::Error),
    /// It took too long.
    #[error("the mail server took too long")]
    Timeout,
}

impl SmtpError {
    /// Whether trying again leads to the same. What is wrong with us (530 to 539), or with the server, may be put right.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Letter(_) | Self::Status(501 | 550..=559, _))
    }
}

impl From<lettre::transport::smtp::Error> for SmtpError {
    fn from(error: lettre::transport::smtp::Error) -> Self {
        match error.status() {
            Some(code) => Self::Status(code.into(), Some(error)),
            None => Self::Conversation(error),
        }
    }
}

/// Sends `letter` to `server`, which takes us for `hello`.
///
/// # Errors
/// See [`SmtpError`]. The letter may have been taken nevertheless.
pub async fn send(
    server: &MailServer,
    roots: &Roots,
    hello: &str,
    letter: &Message,
) -> Result<(), SmtpError> {
    let stream = open(server, roots, hello).await?;
    let client = client_id(hello);
    let mut connection =
        AsyncSmtpConnection::connect_with_transport(Box::new(stream), &client).await?;
    if let Some((username, password)) = &server.credentials {
        let credentials = Credentials::new(username.clone(), password.expose().clone());
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        connection.auth(&mechanisms, &credentials).await?;
    }
    connection
        .send(letter.envelope(), &letter.formatted())
        .await?;
    // It has the letter; what it says to our leaving does not matter.
    drop(connection.quit().await);
    Ok(())
}

fn client_id(hello: &str) -> ClientId {
    match hello.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => ClientId::Ipv4(address),
        Ok(IpAddr::V6(address)) => ClientId::Ipv6(address),
        Err(_) => ClientId::Domain(hello.to_owned()),
    }
}

/// A connection that may be spoken on.
async fn open(server: &MailServer, roots: &Roots, hello: &str) -> Result<Conversation, SmtpError> {
    let mut tcp = connect(&server.host, server.port).await?;
    match server.security {
        MailSecurity::None => Ok(Conversation::new(Box::new(tcp), b"")),
        MailSecurity::Tls => {
            let tls = secured(tcp, server, roots).await?;
            Ok(Conversation::new(Box::new(tls), b""))
        }
        MailSecurity::StartTls => {
            start_tls(&mut tcp, &client_id(hello)).await?;
            let tls = secured(tcp, server, roots).await?;
            // lettre waits for a greeting; ours came before TLS.
            Ok(Conversation::new(Box::new(tls), b"220 \r\n"))
        }
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, SmtpError> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(SmtpError::Connect)?;
    let addresses: Vec<SocketAddr> = addresses.take(MAX_ADDRESSES).collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(SmtpError::Connect(last))
}

async fn secured(
    tcp: TcpStream,
    server: &MailServer,
    roots: &Roots,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, SmtpError> {
    let config = roots.config(server.ca_pem.as_deref()).await;
    let mut config = ClientConfig::clone(&*config.map_err(SmtpError::Roots)?);
    // No protocol is named for SMTP.
    config.alpn_protocols.clear();
    let name = ServerName::try_from(server.host.clone());
    let name = name.map_err(|error| SmtpError::Tls(io::Error::other(error)))?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.map_err(SmtpError::Tls)
}

/// Speaks until TLS may begin.
async fn start_tls(stream: &mut TcpStream, client: &ClientId) -> Result<(), SmtpError> {
    let mut left = MAX_SAID_BYTES;
    expect(&reply(stream, &mut left).await?, 220)?;
    let hello = format!("EHLO {client}\r\n");
    say(stream, &hello).await?;
    let offer = reply(stream, &mut left).await?;
    expect(&offer, 250)?;
    if !offer.offers("STARTTLS") {
        return Err(SmtpError::NoStartTls);
    }
    say(stream, "STARTTLS\r\n").await?;
    expect(&reply(stream, &mut left).await?, 220)
}

async fn say(stream: &mut TcpStream, text: &str) -> Result<(), SmtpError> {
    let said = stream.write_all(text.as_bytes()).await;
    said.map_err(SmtpError::Connect)
}

fn expect(reply: &Reply, status: u16) -> Result<(), SmtpError> {
    match reply.status {
        is if is == status => Ok(()),
        other => Err(SmtpError::Status(other, None)),
    }
}

/// What a server says to one command (RFC 5321 section 4.2).
struct Reply {
    status: u16,
    lines: Vec<String>,
}

impl Reply {
    /// The reply in `text`, if it is all there. More than it is an error: nobody was asked for it, and somebody in between
    /// could have put it there to be heard after TLS has begun.
    fn parse(text: &str) -> Result<Option<Self>, &'static str> {
        let mut lines = Vec::new();
        let mut rest = text;
        while let Some((line, after)) = rest.split_once("\r\n") {
            let (status, words) = line.split_at_checked(3).ok_or("a line is too short")?;
            let status: u16 = status.parse().map_err(|_| "a line has no status")?;
            let words = match words.split_at_checked(1) {
                Some((" " | "-", words)) => words,
                _ if words.is_empty() => words,
                _ => return Err("a line has no status"),
            };
            lines.push(words.to_owned());
            rest = after;
            if !line.get(3..).is_some_and(|rest| rest.starts_with('-')) {
                return match rest.is_empty() {
                    true => Ok(Some(Self { status, lines })),
                    false => Err("it says more than it was asked for"),
                };
            }
        }
        Ok(None)
    }

    fn offers(&self, keyword: &str) -> bool {
        // The first line is the greeting.
        let mut offers = self.lines.iter().skip(1);
        offers.any(|line| line.trim().eq_ignore_ascii_case(keyword))
    }
}

async fn reply(stream: &mut TcpStream, left: &mut usize) -> Result<Reply, SmtpError> {
    let nonsense = |why: &'static str| SmtpError::Nonsense(io::Error::other(why));
    let mut said = Vec::new();
    let mut bytes = [0; 1024];
    loop {
        let read = stream.read(&mut bytes).await;
        let read = read.map_err(SmtpError::Connect)?;
        if read == 0 {
            return Err(SmtpError::Connect(io::ErrorKind::UnexpectedEof.into()));
        }
        *left = left
            .checked_sub(read)
            .ok_or_else(|| nonsense("it says too much"))?;
        said.extend(bytes.iter().take(read));
        let text = std::str::from_utf8(&said).map_err(|_| nonsense("it is not text"))?;
        if let Some(reply) = Reply::parse(text).map_err(nonsense)? {
            return Ok(reply);
        }
    }
}

/// What a conversation goes over.
trait Line: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug> Line for T {}

/// A connection on which a server may say so much and no more.
#[derive(Debug)]
struct Conversation {
    line: Box<dyn Line>,
    /// Heard before what comes over the line.
    before: &'static [u8],
    left: usize,
}

impl Conversation {
    fn new(line: Box<dyn Line>, before: &'static [u8]) -> Self {
        Self {
            line,
            before,
            left: MAX_SAID_BYTES,
        }
    }
}

impl AsyncTokioStream for Conversation {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsyncRead for Conversation {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.before.is_empty() {
            let room = buffer.remaining().min(this.before.len());
            let (heard, rest) = this.before.split_at(room);
            buffer.put_slice(heard);
            this.before = rest;
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; 1024];
        let room = buffer.remaining().min(bytes.len());
        let mut heard = ReadBuf::new(bytes.get_mut(..room).unwrap_or_default());
        ready!(Pin::new(&mut *this.line).poll_read(context, &mut heard))?;
        let Some(left) = this.left.checked_sub(heard.filled().len()) else {
            return Poll::Ready(Err(io::Error::other("the server says too much")));
        };
        this.left = left;
        buffer.put_slice(heard.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conversation {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().line).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().line).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().line).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
