//! Health, readiness and metrics (port 15020): `/healthz`, `/readyz`, `/metrics`. Loopback by default.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use testudo_runtime::{DrainWatch, Metrics, Readiness, Sockets};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::debug;

/// A scraper needs one connection; more than a few is a mistake.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is told about this process.
#[derive(Clone)]
pub struct Ops {
    /// Metrics to print.
    pub metrics: Metrics,
    /// Gates that must be open.
    pub readiness: Readiness,
}

impl Ops {
    /// Listens on `address`.
    pub fn bind(sockets: &Sockets, address: SocketAddr) -> io::Result<TcpListener> {
        let bind = || {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(vec![socket])
        };
        sockets
            .open("ops", address, bind)
            .and_then(|bound| {
                let only = bound.into_iter().next();
                TcpListener::from_std(only.ok_or(io::ErrorKind::AddrNotAvailable)?)
            })
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot listen on {address} for health and metrics: {error}"),
                )
            })
    }

    /// Answers until `drain` starts.
    pub async fn serve(self, listener: TcpListener, mut drain: DrainWatch) {
        let permits = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut stopping = std::pin::pin!(drain.drained());
        loop {
            let stream = tokio::select! {
                () = &mut stopping => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let Ok(permit) = std::sync::Arc::clone(&permits).try_acquire_owned() else {
                continue;
            };
            let ops = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = ops.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    debug!(%error, "ops connection ended");
                }
                drop(permit);
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return respond(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "GET only\n".to_owned(),
            );
        }
        match request.uri().path() {
            "/healthz" => respond(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" => self.ready(),
            "/metrics" => {
                let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                respond(StatusCode::OK, media_type, self.metrics.encode())
            }
            _ => respond(
                StatusCode::NOT_FOUND,
                "text/plain",
                "/healthz /readyz /metrics\n".to_owned(),
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let status = self.readiness.status();
        let ready = status.iter().all(|(_, reason)| reason.is_none());
        let gates: serde_json::Map<_, _> = status
            .into_iter()
            .map(|(name, reason)| {
                (
                    name,
                    reason.map_or_else(|| json!("ready"), |reason| json!(reason)),
                )
            })
            .collect();
        let code = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        respond(
            code,
            "application/json",
            format!("{}\n", json!({ "ready": ready, "gates": gates })),
        )
    }
}

fn respond(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(media_type),
    );
    response
}
