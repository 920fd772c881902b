//! A service that knows nothing of Testudo: it tells what it received, and calls others through its sidecar
//! passing on `traceparent` and nothing else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::client;

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<AtomicUsize>,
    pub outbound: Arc<Mutex<Option<SocketAddr>>>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            outbound: Arc::default(),
        };
        let served = upstream.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let served = served.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let served = served.clone();
                        async move { Ok::<_, Infallible>(served.answer(request).await) }
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        upstream
    }

    /// Requests it has received.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if request.headers().contains_key("upgrade") {
            return echo(request);
        }
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        match path.split('/').nth(1) {
            Some("slow" | "slow-but-fine") => tokio::time::sleep(Duration::from_secs(2)).await,
            Some("leisurely") => tokio::time::sleep(Duration::from_millis(800)).await,
            _ => {}
        }
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes().len())
            .unwrap_or(0);
        let called = match path.rsplit_once("/via/") {
            Some((_, service)) => Some(self.call(service, &head.headers).await),
            None => None,
        };
        let told = json!({ "path": head.uri.to_string(), "method": head.method.as_str(),
            "headers": fields(&head.headers), "body": body, "called": called });
        let mut response = Response::new(Full::new(Bytes::from(told.to_string())));
        // What a service may not claim.
        response
            .headers_mut()
            .insert("testudo-decision", "dec_forged".parse().unwrap());
        response
            .headers_mut()
            .insert("x-own", "kept".parse().unwrap());
        response
    }

    async fn call(&self, service: &str, received: &HeaderMap) -> Value {
        let outbound = self.outbound.lock().unwrap().unwrap();
        let trace = received["traceparent"].to_str().unwrap();
        let fields = [("traceparent", trace), ("x-user-id", "usr_forged")];
        let reply = client::plain(
            outbound,
            "GET",
            &format!("http://{service}/stock/7"),
            &fields,
        )
        .await;
        json!({ "status": reply.status, "body": reply.json })
    }
}

/// Opens a WebSocket, says in a line what opened it, and sends back every byte, until the other side ends.
fn echo(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let told = json!({ "path": request.uri().to_string(), "headers": fields(request.headers()) });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let kept = answer.headers_mut();
    let key = request.headers()["sec-websocket-key"].to_str().unwrap();
    kept.insert("sec-websocket-accept", accept(key).parse().unwrap());
    kept.insert("connection", "Upgrade".parse().unwrap());
    kept.insert("upgrade", "websocket".parse().unwrap());
    for name in ["sec-websocket-protocol", "sec-websocket-extensions"] {
        if let Some(value) = request.headers().get(name) {
            kept.insert(name, value.clone());
        }
    }
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        to.write_all(format!("{told}\n").as_bytes()).await.unwrap();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    });
    answer
}

/// RFC 6455 section 4.2.2.
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = testudo_trust::sha1_checksum(text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

fn fields(headers: &HeaderMap) -> Value {
    let mut fields = serde_json::Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        fields.insert(name.to_string(), json!(values));
    }
    Value::Object(fields)
}
