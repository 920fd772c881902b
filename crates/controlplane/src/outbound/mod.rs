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
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use testudo_identity::Message;
use testudo_model::Redacted;
use testudo_runtime::fleet::{Network, OutboundRules};
use testudo_trust::IdentitySource;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

pub use self::roots::system as system_authorities;
pub use self::roots::{Failure as RootsFailure, Roots};

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
/// Bytes of the answer's body that are read.
const MAX_BODY_BYTES: usize = 64 * 1024;

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
    /// Not what was asked for.
    #[error("the answer has status {0}")]
    Status(u16),
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

    /// Sends `message` with `POST`; the status of the answer, and what it says.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn post(&self, message: &Message) -> Result<(u16, Bytes), OutboundError> {
        let answer = self.send(&message.url, |target| target.post(message));
        let answer = answer.await?;
        // The status is the answer; a body that is too long or breaks off changes nothing about it.
        Ok((answer.status, answer.body.unwrap_or_default()))
    }

    /// Sends a form that holds secrets; the status and the answer.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn post_form(
        &self,
        url: &str,
        authorization: Option<&Redacted<String>>,
        form: &Redacted<String>,
    ) -> Result<(u16, Bytes), OutboundError> {
        let request = |target: &Target| target.post_form(authorization, form);
        let answer = self.send(url, request).await?;
        Ok((answer.status, answer.body?))
    }

    /// As [`Outbound::get`], with an access token.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn get_as(
        &self,
        url: &str,
        access_token: &Redacted<String>,
    ) -> Result<Bytes, OutboundError> {
        let answer = self.send(url, |target| target.get_as(access_token)).await?;
        match answer.status {
            200 => answer.body,
            status => Err(OutboundError::Status(status)),
        }
    }

    /// Whether addresses without TLS are called too.
    pub fn allows_http(&self) -> bool {
        self.rules.borrow().allow_http
    }

    /// What is at `url`, if the answer is 200 and all of it.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn get(&self, url: &str) -> Result<Bytes, OutboundError> {
        let answer = self.send(url, Target::get).await?;
        match answer.status {
            200 => answer.body,
            status => Err(OutboundError::Status(status)),
        }
    }

    async fn send(
        &self,
        url: &str,
        request: impl FnOnce(&Target) -> Result<Request<Full<Bytes>>, OutboundError>,
    ) -> Result<Answer, OutboundError> {
        let rules = self.rules.borrow().clone();
        let target = Target::parse(url, &rules)?;
        let request = request(&target)?;
        tokio::time::timeout(EXCHANGE_TIMEOUT, self.exchange(&rules, &target, request))
            .await
            .map_err(|_| OutboundError::Timeout)?
    }

    async fn exchange(
        &self,
        rules: &OutboundRules,
        target: &Target,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, OutboundError> {
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

/// What came back.
struct Answer {
    status: u16,
    body: Result<Bytes, OutboundError>,
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
        let mut request = self
            .request("POST")?
            .header(header::CONTENT_TYPE, message.media_type);
        if let Some(authorization) = &message.authorization {
            request = request.header(header::AUTHORIZATION, secret_value(authorization.expose())?);
        }
        request
            .body(Full::new(Bytes::from(message.body.expose().clone())))
            .map_err(|_| OutboundError::Address)
    }

    fn post_form(
        &self,
        authorization: Option<&Redacted<String>>,
        form: &Redacted<String>,
    ) -> Result<Request<Full<Bytes>>, OutboundError> {
        let mut request = self
            .request("POST")?
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, secret_value(authorization.expose())?);
        }
        request
            .body(Full::new(Bytes::from(form.expose().clone())))
            .map_err(|_| OutboundError::Address)
    }

    fn get_as(
        &self,
        access_token: &Redacted<String>,
    ) -> Result<Request<Full<Bytes>>, OutboundError> {
        let bearer = format!("Bearer {}", access_token.expose());
        self.request("GET")?
            .header(header::AUTHORIZATION, secret_value(&bearer)?)
            .body(Full::default())
            .map_err(|_| OutboundError::Address)
    }

    fn get(&self) -> Result<Request<Full<Bytes>>, OutboundError> {
        self.request("GET")?
            .body(Full::default())
            .map_err(|_| OutboundError::Address)
    }

    fn request(&self, method: &str) -> Result<http::request::Builder, OutboundError> {
        let host = self.url.host_str().ok_or(OutboundError::Address)?;
        let authority = match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        Ok(Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close"))
    }
}

fn secret_value(text: &str) -> Result<HeaderValue, OutboundError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|error| OutboundError::Http(error.into()))?;
    value.set_sensitive(true);
    Ok(value)
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

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, OutboundError>
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
    let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect();
    Ok(Answer {
        status,
        body: body
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(OutboundError::Http),
    })
}
