//! Clients: a well-behaved one over HTTP/1.1 and HTTP/2, and raw bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Reply {
    /// A field the service says it received, if it received it exactly once.
    pub fn received(&self, name: &str) -> Option<&str> {
        match self.json["headers"][name].as_array().map(Vec::as_slice) {
            Some([only]) => only.as_str(),
            _ => None,
        }
    }

    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or("")
    }
}

pub async fn tls(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

fn request(method: &str, uri: &str, fields: &[(&str, &str)], body: &[u8]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap()
}

async fn reply(response: http::Response<hyper::body::Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let bytes = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        json,
    }
}

pub async fn over_http1(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    method: &str,
    uri: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = request(method, uri, fields, body);
    if !request.headers().contains_key("host") {
        let host = request
            .uri()
            .authority()
            .map_or("localhost".to_owned(), ToString::to_string);
        request.headers_mut().insert("host", host.parse().unwrap());
    }
    reply(sender.send_request(request).await.unwrap()).await
}

pub async fn over_http2(
    stream: TlsStream<TcpStream>,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Reply, hyper::Error> {
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = request(method, &format!("https://localhost{path}"), fields, body);
    Ok(reply(sender.send_request(request).await?).await)
}

/// Plain HTTP to a sidecar's outbound listener; `uri` in absolute form, as with `HTTP_PROXY`.
pub async fn plain(address: SocketAddr, method: &str, uri: &str, fields: &[(&str, &str)]) -> Reply {
    let stream = TcpStream::connect(address).await.unwrap();
    over_http1(stream, method, uri, fields, b"").await
}

/// A GET over HTTP/2 with prior knowledge on a plain stream.
pub async fn plain_http2(stream: TcpStream, uri: &str) -> Reply {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    reply(
        sender
            .send_request(request("GET", uri, &[], b""))
            .await
            .unwrap(),
    )
    .await
}

/// Sends `bytes` and returns what comes back until the other side closes, or for two seconds.
pub async fn raw(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of a raw HTTP/1.1 answer, 0 if there is none.
pub fn status_of(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}
