//! Sending trace spans to an OpenTelemetry collector: OTLP over HTTP in JSON encoding
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! Nobody waits for a collector. While it is away, batches are tried again a few times and then dropped and counted.

use std::{error::Error, fs, io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use testudo_dataplane::web_client_config;
use testudo_runtime::{SpanBatch, SpanQueue};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tracing::{debug, info, warn};

use crate::failure::{Exit, Failure};

/// Where OTLP/HTTP takes traces, below the collector's base address.
const TRACES_PATH: &str = "v1/traces";
/// OTLP's default for one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between tries; a batch is dropped after the last.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// Longest pause a collector may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A collector's answer says little.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;
type Sender = SendRequest<Full<Bytes>>;

/// Where spans are sent.
#[derive(Debug)]
pub struct Collector {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

/// What the collector said about a batch.
enum Verdict {
    /// Has it, but for so many spans.
    Accepted { rejected: u64 },
    /// Wants it later.
    Later {
        pause: Option<Duration>,
        status: StatusCode,
    },
    /// Will never want it.
    Refused { status: StatusCode },
}

impl Collector {
    /// The collector at `endpoint`, e.g. `http://127.0.0.1:4318`. `ca_file` is the PEM file with the CA of an `https`
    /// one.
    pub fn new(endpoint: &str, ca_file: Option<&Path>) -> Result<Self, Failure> {
        let invalid = || {
            Failure::new(
                Exit::Failed,
                format!("`{endpoint}` is not the address of an OTLP collector"),
            )
            .help("write it like `http://127.0.0.1:4318`")
        };
        let uri: Uri = format!("{}/{TRACES_PATH}", endpoint.trim_end_matches('/'))
            .parse()
            .map_err(|_| invalid())?;
        let host = uri
            .host()
            .ok_or_else(invalid)?
            .trim_matches(['[', ']'])
            .to_owned();
        let (tls, default_port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(client_config(ca_file)?), 443),
            _ => return Err(invalid()),
        };
        let port = uri.port_u16().unwrap_or(default_port);
        Ok(Self {
            uri,
            host,
            port,
            tls,
        })
    }

    /// Sends what is put into the queue until nobody can put anything into it any more.
    pub async fn export(self, mut queue: SpanQueue) {
        let mut connection = None;
        let mut is_away = false;
        while let Some(batch) = queue.next_batch().await {
            let outcome = self.deliver(batch, &mut connection, &queue).await;
            match &outcome {
                Ok(()) if is_away => {
                    info!(collector = %self.uri, "the trace collector takes spans again")
                }
                Err(error) if !is_away => {
                    warn!(collector = %self.uri, %error, "the trace collector takes no spans; they are dropped");
                }
                _ => {}
            }
            is_away = outcome.is_err();
        }
    }

    async fn deliver(
        &self,
        batch: SpanBatch,
        connection: &mut Option<Sender>,
        queue: &SpanQueue,
    ) -> Result<(), BoxError> {
        let body = Bytes::from(batch.to_otlp_json());
        let mut pauses = PAUSES.into_iter();
        loop {
            let posted =
                tokio::time::timeout(EXPORT_TIMEOUT, self.post(connection, body.clone())).await;
            let (error, asked): (BoxError, _) = match posted.unwrap_or_else(|late| Err(late.into()))
            {
                Ok(Verdict::Accepted { rejected }) => {
                    batch.delivered(rejected);
                    return Ok(());
                }
                Ok(Verdict::Refused { status }) => {
                    batch.rejected();
                    return Err(format!("the answer is {status}").into());
                }
                Ok(Verdict::Later { pause, status }) => {
                    (format!("the answer is {status}").into(), pause)
                }
                Err(error) => {
                    *connection = None;
                    (error, None)
                }
            };
            // Whoever stops the process does not wait for a collector that is away.
            let Some(pause) = pauses.next().filter(|_| !queue.is_closed()) else {
                batch.undelivered();
                return Err(error);
            };
            debug!(%error, "a batch of spans is tried again");
            tokio::time::sleep(asked.unwrap_or(pause).min(MAX_PAUSE)).await;
        }
    }

    async fn post(
        &self,
        connection: &mut Option<Sender>,
        body: Bytes,
    ) -> Result<Verdict, BoxError> {
        let sender = match connection.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let sender = connection.insert(sender);
        sender.ready().await?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let request = Request::post(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("testudo/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(body))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await?
            .to_bytes();
        Ok(match head.status {
            status if status.is_success() => Verdict::Accepted {
                rejected: rejected_spans(&body),
            },
            status if is_retryable(status) => {
                let seconds = head
                    .headers
                    .get(header::RETRY_AFTER)
                    .and_then(|value| value.to_str().ok()?.parse().ok());
                Verdict::Later {
                    pause: seconds.map(Duration::from_secs),
                    status,
                }
            }
            status => Verdict::Refused { status },
        })
    }

    async fn connect(&self) -> Result<Sender, BoxError> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            None => handshake(tcp).await,
            Some(config) => {
                let name = ServerName::try_from(self.host.clone())?;
                handshake(
                    TlsConnector::from(Arc::clone(config))
                        .connect(name, tcp)
                        .await?,
                )
                .await
            }
        }
    }
}

fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Failure> {
    let Some(path) = ca_file else {
        let error = "the CA of the OTLP collector is not known";
        return Err(Failure::new(Exit::Failed, error)
            .help("give its PEM file with --otlp-ca; this host's are often in /etc/ssl/certs/ca-certificates.crt"));
    };
    let unusable = |error: BoxError| {
        Failure::new(
            Exit::Failed,
            format!(
                "cannot use {} as the OTLP collector's CA: {error}",
                path.display()
            ),
        )
    };
    let pem = fs::read(path).map_err(|error: io::Error| unusable(error.into()))?;
    web_client_config(&pem, &["http/1.1"]).map_err(|error| unusable(error.into()))
}

async fn handshake<S>(stream: S) -> Result<Sender, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "the connection to the trace collector ended");
        }
    });
    Ok(sender)
}

/// OTLP, "Failures": these and no others may be tried again.
fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

/// `partialSuccess.rejectedSpans`: a 64-bit number, so JSON has it as a string or a number. A body that says nothing
/// rejects nothing.
fn rejected_spans(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    match answer.pointer("/partialSuccess/rejectedSpans") {
        Some(Value::String(digits)) => digits.parse().unwrap_or(0),
        Some(number) => number.as_u64().unwrap_or(0),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_a_base_url() {
        for (endpoint, uri, port) in [
            (
                "http://127.0.0.1:4318",
                "http://127.0.0.1:4318/v1/traces",
                4318,
            ),
            ("http://collector/", "http://collector/v1/traces", 80),
            ("http://[::1]:9/otlp", "http://[::1]:9/otlp/v1/traces", 9),
        ] {
            let collector = Collector::new(endpoint, None).unwrap();
            assert_eq!(
                (collector.uri.to_string().as_str(), collector.port),
                (uri, port)
            );
        }
        for bad in ["", "127.0.0.1:4318", "grpc://collector:4317", "http://"] {
            assert!(Collector::new(bad, None).is_err(), "{bad}");
        }
        let failure = Collector::new("https://collector", None).unwrap_err();
        assert!(failure.help.unwrap().contains("--otlp-ca"));
    }

    #[test]
    fn a_collector_may_reject_a_part_of_a_batch() {
        assert_eq!(
            rejected_spans(br#"{"partialSuccess":{"rejectedSpans":"3"}}"#),
            3
        );
        assert_eq!(
            rejected_spans(br#"{"partialSuccess":{"rejectedSpans":3}}"#),
            3
        );
        assert_eq!(rejected_spans(b"{}"), 0);
        assert_eq!(rejected_spans(b""), 0);
    }
}
