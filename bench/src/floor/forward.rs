//! What the floor sends requests with: kept HTTP/1.1 connections with one request on each, or one HTTP/2 connection.

use std::{
    convert::Infallible,
    io::{self, Write},
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::Scheme};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use testudo_model::limits;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Boxing, IdentityFiles, Wire, tls};
use crate::Outcome;

/// What the certificates of the bench are for.
const PEER: &str = "localhost";

type Sender = http1::SendRequest<Incoming>;

/// Where requests go.
pub(super) struct Upstream {
    address: SocketAddr,
    over: Wire,
    tls: Option<Arc<ClientConfig>>,
    /// Connections that carry no request.
    idle: Mutex<Vec<Sender>>,
    /// The connection that carries all of them.
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Incoming>>>,
}

/// The body of an answer. When it is complete, its connection can be used again.
pub(super) struct Passing {
    body: Option<Incoming>,
    lease: Option<(Sender, Arc<Upstream>)>,
}

impl Upstream {
    pub(super) fn new(
        address: SocketAddr,
        over: Wire,
        identity: &IdentityFiles,
    ) -> Outcome<Arc<Self>> {
        let tls = match over {
            Wire::Plain => None,
            _ => Some(tls::client(over, identity)?),
        };
        Ok(Arc::new(Self {
            address,
            over,
            tls,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        }))
    }

    /// The upstream's answer to `request`, or 502.
    pub(super) async fn pass_on(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Passing>, Infallible> {
        request.headers_mut().remove(header::CONNECTION);
        let answer = if self.over == Wire::Mesh {
            self.pass_on_http2(request).await
        } else {
            self.pass_on_http1(request).await
        };
        Ok(answer.unwrap_or_else(|error| {
            drop(writeln!(io::stderr(), "cannot pass on: {error}"));
            bad_gateway()
        }))
    }

    async fn pass_on_http1(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Outcome<Response<Passing>> {
        in_origin_form(&mut request)?;
        let mut sender = match self.kept().await {
            Some(sender) => sender,
            None => self.open_http1().await?,
        };
        let answer = sender.send_request(request).await?;
        Ok(answer.map(|body| Passing {
            body: Some(body),
            lease: Some((sender, self)),
        }))
    }

    async fn pass_on_http2(&self, mut request: Request<Incoming>) -> Outcome<Response<Passing>> {
        in_absolute_form(&mut request)?;
        let mut sender = self.shared().await?;
        let answer = sender.send_request(request).await?;
        Ok(answer.map(|body| Passing {
            body: Some(body),
            lease: None,
        }))
    }

    /// A connection that was used before and still stands.
    async fn kept(&self) -> Option<Sender> {
        loop {
            let mut sender = self.idle().pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn shared(&self) -> Outcome<http2::SendRequest<Incoming>> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = &*shared
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let sender = self.open_http2().await?;
        *shared = Some(sender.clone());
        Ok(sender)
    }

    async fn open_http1(&self) -> Outcome<Sender> {
        let stream = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// With the windows of Testudo's own mesh connections.
    async fn open_http2(&self) -> Outcome<http2::SendRequest<Incoming>> {
        let (sender, connection) = http2::Builder::new(Boxing)
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::MESH_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::MESH_CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(self.connect().await?))
            .await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect(&self) -> Outcome<Box<dyn Connection>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(config) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let name = ServerName::try_from(PEER)?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// TCP with or without TLS.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connection for S {}

/// From HTTP/2 (RFC 9112 section 3.2.1). What came over HTTP/1.1 is in this form already.
fn in_origin_form(request: &mut Request<Incoming>) -> Outcome {
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    let host = HeaderValue::from_str(authority.as_str())?;
    let uri = mem::take(request.uri_mut());
    let path = uri.into_parts().path_and_query.ok_or("no path")?;
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

/// What HTTP/2 makes its pseudo-header fields of (RFC 9113 section 8.3.1).
fn in_absolute_form(request: &mut Request<Incoming>) -> Outcome {
    let host = request
        .headers_mut()
        .remove(header::HOST)
        .ok_or("no Host")?;
    let mut parts = mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(host.as_bytes().try_into()?);
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(())
}

fn bad_gateway() -> Response<Passing> {
    let mut answer = Response::new(Passing {
        body: None,
        lease: None,
    });
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.get_mut().body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let nothing = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(nothing, Body::size_hint)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if self.is_end_stream()
            && let Some((sender, upstream)) = self.lease.take()
        {
            upstream.idle().push(sender);
        }
    }
}
