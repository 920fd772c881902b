//! One HTTP exchange with the control plane.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use testudo_model::{Problem, Redacted, TenantName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use crate::tenants::TENANTS_PATH;

/// Largest answer read. A page of events has less than a megabyte.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Time for one exchange. `audit tail` waits at most half of it on the server's side.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the control plane is.
#[derive(Debug, Clone)]
pub enum Target {
    /// The admin socket in the data folder.
    Socket(PathBuf),
    /// HTTPS, trusting the given PEM roots.
    Https {
        /// `https://host:port`.
        base: Uri,
        /// CA certificates, PEM.
        roots_pem: Vec<u8>,
    },
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Nobody there.
    #[error("the control plane at {target} cannot be reached; is it running?")]
    Unreachable {
        /// Where it was looked for.
        target: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address is not one.
    #[error("`{address}` is not an https:// address with a host")]
    Address {
        /// As given.
        address: String,
    },
    /// The name in the address is not one.
    #[error("the host name in the address is not valid")]
    Name(#[from] InvalidDnsNameError),
    /// The roots are not certificates.
    #[error("the CA file cannot be used")]
    Roots(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The exchange broke off.
    #[error("the exchange with the control plane broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("the control plane did not answer within {} seconds", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
    /// It answered with a problem.
    #[error("{}", describe(.0))]
    Problem(Box<Problem>),
    /// It answered with something else.
    #[error("{}", describe_strange(*status, said))]
    NotUnderstood {
        /// HTTP status.
        status: u16,
        /// The answer, if it is a short text.
        said: String,
    },
}

fn describe(problem: &Problem) -> String {
    match &problem.detail {
        Some(detail) => format!("{}: {detail} ({})", problem.title, problem.code),
        None => format!("{} ({})", problem.title, problem.code),
    }
}

fn describe_strange(status: u16, said: &str) -> String {
    match (status, said) {
        (404, _) => {
            "there is no control plane at this address, or one of another release (404)".to_owned()
        }
        (_, "") => format!("the control plane's answer was not understood (status {status})"),
        _ => format!("the control plane refused ({status}): {said}"),
    }
}

/// Longest text of a strange answer that is shown.
const MAX_SAID_BYTES: usize = 300;

/// A status, the header fields and the body.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: http::HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// This answer, as one that was not expected.
    pub(super) fn strange(&self) -> ConnectionError {
        let is_text = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/plain"));
        let said = str::from_utf8(&self.body).ok().filter(|said| {
            is_text && said.len() <= MAX_SAID_BYTES && !said.contains(char::is_control)
        });
        ConnectionError::NotUnderstood {
            status: self.status,
            said: said.unwrap_or_default().to_owned(),
        }
    }

    /// The body as JSON if the status is a success, its problem otherwise.
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, ConnectionError> {
        if (200..300).contains(&self.status) {
            let body: &[u8] = if self.body.is_empty() {
                b"null"
            } else {
                &self.body
            };
            return serde_json::from_slice(body)
                .map_err(|error| ConnectionError::Broken(error.into()));
        }
        match serde_json::from_slice(&self.body) {
            Ok(problem) => Err(ConnectionError::Problem(Box::new(problem))),
            Err(_) => Err(self.strange()),
        }
    }
}

/// A way to the control plane, with the login if there is one. Each exchange is a connection of its own.
#[derive(Debug, Clone)]
pub struct Connection {
    target: Target,
    /// What comes before all paths: the tenant's.
    base: String,
    token: Option<Arc<Redacted<String>>>,
}

impl Connection {
    /// A way to `target`.
    pub const fn new(target: Target) -> Self {
        Self {
            target,
            base: String::new(),
            token: None,
        }
    }

    /// Leads to a tenant beside the fleet's own.
    #[must_use]
    pub fn of_tenant(mut self, tenant: &TenantName) -> Self {
        self.base = format!("{TENANTS_PATH}{tenant}");
        self
    }

    /// What comes before the paths of its requests: nothing for the fleet itself.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Shows `token` with each request.
    #[must_use]
    pub fn with_token(mut self, token: Redacted<String>) -> Self {
        self.token = Some(Arc::new(token));
        self
    }

    /// Where it leads.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// `GET path`, JSON back.
    pub async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, ConnectionError> {
        self.send(self.request("GET", path, None)?).await?.json()
    }

    /// `method path` with a JSON body, JSON back.
    pub async fn call<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ConnectionError> {
        let body = Some(("application/json", body.to_string()));
        self.send(self.request(method, path, body)?).await?.json()
    }

    /// A request with the login; `body` is media type and text.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, String)>,
    ) -> Result<Request<Full<Bytes>>, ConnectionError> {
        let authority = match &self.target {
            Target::Socket(_) => "localhost".to_owned(),
            Target::Https { base, .. } => base
                .authority()
                .map(ToString::to_string)
                .unwrap_or_default(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::HOST, authority);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let (media_type, text) = body.unwrap_or(("", String::new()));
        if !media_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        request
            .body(Full::new(Bytes::from(text)))
            .map_err(|error| ConnectionError::Broken(error.into()))
    }

    /// Sends `request` and reads the whole answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, ConnectionError> {
        let exchange = async {
            match &self.target {
                Target::Socket(path) => {
                    let stream = UnixStream::connect(path).await;
                    exchange(stream.map_err(|source| self.unreachable(source))?, request).await
                }
                Target::Https { base, roots_pem } => {
                    exchange(self.connect_tls(base, roots_pem).await?, request).await
                }
            }
        };
        tokio::time::timeout(EXCHANGE_TIMEOUT, exchange)
            .await
            .map_err(|_| ConnectionError::Timeout)?
    }

    async fn connect_tls(
        &self,
        base: &Uri,
        roots_pem: &[u8],
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, ConnectionError> {
        let invalid = || ConnectionError::Address {
            address: base.to_string(),
        };
        if base.scheme_str() != Some("https") {
            return Err(invalid());
        }
        let host = base
            .host()
            .ok_or_else(invalid)?
            .trim_matches(['[', ']'])
            .to_owned();
        let config = testudo_trust::web_client_config(roots_pem, &["http/1.1"])
            .map_err(|error| ConnectionError::Roots(error.into()))?;
        let tcp = TcpStream::connect((host.as_str(), base.port_u16().unwrap_or(443))).await;
        let tcp = tcp.map_err(|source| self.unreachable(source))?;
        let name = ServerName::try_from(host)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        tls.map_err(|source| self.unreachable(source))
    }

    fn unreachable(&self, source: io::Error) -> ConnectionError {
        let target = match &self.target {
            Target::Socket(path) => path.display().to_string(),
            Target::Https { base, .. } => base.to_string(),
        };
        ConnectionError::Unreachable { target, source }
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| ConnectionError::Broken(error.into());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let driver = tokio::spawn(connection);
    let (head, body) = sender
        .send_request(request)
        .await
        .map_err(broken)?
        .into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| {
            let what = if error.is::<LengthLimitError>() {
                "the answer is too long".into()
            } else {
                error
            };
            ConnectionError::Broken(what)
        })?;
    driver.abort();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.to_bytes(),
    })
}
