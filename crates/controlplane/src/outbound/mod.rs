//! Requests to addresses that somebody outside has registered.
//!
//! Such an address may lead anywhere, also to what only we can reach (server-side request forgery). So a name is resolved
//! once, every address behind it is looked at, and the connection goes to one that passed: nothing is resolved a second
//! time. `https` alone, no redirects, nothing from the environment, little time, and little of the answer is read.

mod address;
mod roots;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use testudo_identity::Message;
use testudo_runtime::fleet::{Network, OutboundRules};
use testudo_trust::IdentitySource;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use self::roots::Roots;

/// Time for the whole exchange, looking up the name included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one connection: the next address is tried afterwards.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 16;
/// Bytes of the answer's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Header fields of the answer.
const MAX_FIELDS: usize = 64;
/// Bytes of the answer's body that are read, so that its sender may end in order. What they say does not matter.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Why a request was not answered. The text is for the ledger: it says nothing of what was in an answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Not a URL with a host.
    #[error("the address is not one")]
    Address,
    /// Not `https`.
    #[error("the address is not https, and `outbound.allow_http` is not set")]
    Scheme,
    /// The name leads nowhere.
    #[error("the name cannot be looked up: {0}")]
    Unknown(#[source] io::Error),
    /// The name leads only to addresses that are not public.
    #[error("the name leads to {0}, which is not public and not in `outbound.allow_networks`")]
    Forbidden(IpAddr),
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
    /// Nobody there, or not who they should be.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// The certificate authorities cannot be used.
    #[error("the certificate authorities to trust cannot be read: {0}")]
    Roots(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came back is no answer.
    #[error("no answer in HTTP: {0}")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("no answer within {} seconds", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
}

/// Sends requests outside, as the rules say.
pub struct Outbound {
    rules: watch::Receiver<OutboundRules>,
    roots: Roots,
}

impl Outbound {
    /// One that follows `rules`, and trusts the fleet's own certificates beside those of the system.
    pub const fn new(rules: watch::Receiver<OutboundRules>, identity: IdentitySource) -> Self {
        Self {
            rules,
            roots: Roots::new(identity),
        }
    }

    /// Sends `message` with `POST`; the status of the answer.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn post(&self, message: &Message) -> Result<u16, OutboundError> {
        let rules = self.rules.borrow().clone();
        tokio::time::timeout(EXCHANGE_TIMEOUT, self.try_post(&rules, message))
            .await
            .map_err(|_| OutboundError::Timeout)?
    }

    async fn try_post(
        &self,
        rules: &OutboundRules,
        message: &Message,
    ) -> Result<u16, OutboundError> {
        let target = Target::parse(&message.url, rules)?;
        let request = target.post(message)?;
        let tcp = connect(&target.addresses(rules).await?).await?;
        if !target.is_tls {
            return exchange(tcp, request).await;
        }
        let name = match target.url.host().ok_or(OutboundError::Address)? {
            Host::Domain(name) => {
                ServerName::try_from(name.to_owned()).map_err(|_| OutboundError::Address)?
            }
            Host::Ipv4(address) => ServerName::IpAddress(IpAddr::V4(address).into()),
            Host::Ipv6(address) => ServerName::IpAddress(IpAddr::V6(address).into()),
        };
        let config = self.roots.config(rules.ca_pem.as_deref()).await;
        let config = config.map_err(OutboundError::Roots)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        exchange(tls.map_err(OutboundError::Connect)?, request).await
    }
}

/// Where a request goes.
struct Target {
    url: Url,
    is_tls: bool,
    port: u16,
}

impl Target {
    fn parse(text: &str, rules: &OutboundRules) -> Result<Self, OutboundError> {
        let url = Url::parse(text).map_err(|_| OutboundError::Address)?;
        let is_tls = match url.scheme() {
            "https" => true,
            "http" if rules.allow_http => false,
            _ => return Err(OutboundError::Scheme),
        };
        let port = url.port_or_known_default().ok_or(OutboundError::Address)?;
        Ok(Self { url, is_tls, port })
    }

    /// The addresses behind the name that may be reached.
    async fn addresses(&self, rules: &OutboundRules) -> Result<Vec<SocketAddr>, OutboundError> {
        let found: Vec<SocketAddr> = match self.url.host().ok_or(OutboundError::Address)? {
            Host::Ipv4(address) => vec![(address, self.port).into()],
            Host::Ipv6(address) => vec![(address, self.port).into()],
            Host::Domain(name) => tokio::net::lookup_host((name, self.port))
                .await
                .map_err(OutboundError::Unknown)?
                .take(MAX_ADDRESSES)
                .collect(),
        };
        let (allowed, forbidden): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|address| is_allowed(address.ip(), rules));
        match (allowed.is_empty(), forbidden.first()) {
            (false, _) => Ok(allowed),
            (true, Some(address)) => Err(OutboundError::Forbidden(address.ip())),
            (true, None) => Err(OutboundError::NoAddress),
        }
    }

    fn post(&self, message: &Message) -> Result<Request<Full<Bytes>>, OutboundError> {
        let host = self.url.host_str().ok_or(OutboundError::Address)?;
        let authority = match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        Request::post(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, message.media_type)
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(message.body.expose().clone())))
            .map_err(|_| OutboundError::Address)
    }
}

fn is_allowed(address: IpAddr, rules: &OutboundRules) -> bool {
    let address = address.to_canonical();
    let listed = |network: &Network| network.net().contains(&address);
    address::is_public(address) || rules.allow_networks.iter().any(listed)
}

/// A connection to the first of `addresses` that takes one.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, OutboundError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(OutboundError::Connect(last))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<u16, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| OutboundError::Http(error.into());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Ended with this exchange, however it ends.
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status().as_u16();
    // The status is the answer; a body that is too long or breaks off changes nothing about it.
    let _ = Limited::new(answer.into_body(), MAX_BODY_BYTES)
        .collect()
        .await;
    Ok(status)
}
