//! Sending on what was permitted. Every way out of a proxy is in this file and takes a [`Permit`].

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
};

use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, response,
};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use testudo_model::{ServiceProtocol, snapshot::TransferRules};
use tokio::io::AsyncWriteExt;

use crate::{
    arriving::Arriving,
    authorize::Permit,
    body::{AnswerBody, RequestBody},
    connection,
    framing::{Target, outgoing_uri},
    grpc,
    headers::{self, TESTUDO_DECISION},
    inflight::Delivery,
    metrics::Role,
    overload::Turn,
    pace::Deadline,
    pool::{self, Answer, Outbound},
    proxy::Worker,
    proxy_protocol,
    rejection::{Rejection, UpstreamError},
    relay::{FarSide, Opened},
    tcp,
    transaction::Transaction,
    websocket,
};

/// A request ready to go on, its fields already made for the next hop.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a Target,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    /// Where this proxy stands.
    pub(crate) role: Role,
}

/// What follows the head of a request.
pub(crate) enum Content {
    /// A body.
    Body(Arriving),
    /// The frames of a WebSocket, once it is opened.
    Websocket,
    /// The bytes of a connection, once it is opened.
    Connection,
}

impl Content {
    /// Of a request with `body` that opens a WebSocket or not.
    pub(crate) fn new(body: impl Into<Arriving>, opens_websocket: bool) -> Self {
        if opens_websocket {
            Self::Websocket
        } else {
            Self::Body(body.into())
        }
    }

    /// The protocol of the extended CONNECT that asks the next proxy for it.
    const fn protocol(&self) -> Option<&'static str> {
        match self {
            Self::Body(_) => None,
            Self::Websocket => Some(websocket::PROTOCOL),
            Self::Connection => Some(connection::PROTOCOL),
        }
    }
}

/// What came of a request.
pub(crate) enum Forwarded {
    /// An answer.
    Answered(Response<AnswerBody>),
    /// A WebSocket or a connection, with the head of the answer that opened it.
    Opened(Response<AnswerBody>, Opened),
}

/// Sends a request to a sidecar of the service that `permit` names.
///
/// # Errors
/// [`Rejection::Upstream`].
pub(crate) async fn to_proxy(
    worker: &Worker,
    permit: &Permit,
    mut outgoing: Outgoing<'_>,
    transaction: Option<&Transaction>,
) -> Result<Forwarded, Rejection> {
    let (service, route) = permit.target().ok_or(Rejection::NoRoute)?;
    let endpoints = worker.proxy.state.endpoints();
    let addresses = endpoints
        .services
        .get(&service.name)
        .map(Vec::as_slice)
        .unwrap_or_default();
    if addresses.is_empty() {
        return Err(UpstreamError::NoEndpoint.into());
    }
    if let Some(transaction) = transaction {
        transaction.put(&mut outgoing.headers);
    }
    let (protocol, role) = (outgoing.content.protocol(), outgoing.role);
    let mut deadline = Deadline::new(route.timeout(), &outgoing.headers);
    let mut request =
        outgoing.into_request(NextHop::Proxy, route.max_body_bytes, permit.transfer())?;
    if let Some(protocol) = protocol {
        extend_connect(&mut request, protocol);
    }
    let turn = Turn::wait(worker, &worker.to_proxies, permit, role, &mut deadline).await?;
    let upload = request.body().upload();
    let mesh = &worker.mesh;
    let sending = pin!(mesh.send(&service.spiffe_id, addresses, request, deadline.at()));
    let answer = turn.send(sending, &upload, &mut deadline).await?;
    let hop = Hop {
        permit,
        from_proxy: true,
        delivery: None,
    };
    if answer.tunnel.is_some() {
        return hop.open(answer).await;
    }
    hop.relay(answer, deadline).map(Forwarded::Answered)
}

/// Opens a connection for `client` to the local service that `permit` names, at its own address.
///
/// # Errors
/// [`Rejection::Upstream`].
pub(crate) async fn connect_to_service(
    permit: &Permit,
    client: IpAddr,
) -> Result<tcp::Connection, Rejection> {
    let (service, _) = permit.target().ok_or(Rejection::NoRoute)?;
    let mut stream = pool::connect(service.upstream).await?;
    if service.connections.proxy_header {
        let header = proxy_protocol::header(client, service.upstream);
        stream
            .write_all(&header)
            .await
            .map_err(|_| UpstreamError::Broken)?;
    }
    Ok(stream.into())
}

/// Makes `request` an extended CONNECT (RFC 8441 section 4) for `protocol`.
fn extend_connect(request: &mut Request<RequestBody>, protocol: &'static str) {
    *request.method_mut() = Method::CONNECT;
    let protocol = Protocol::from_static(protocol);
    request.extensions_mut().insert(protocol);
}

/// Sends a request to the local service that `permit` names, at its own address.
///
/// # Errors
/// [`Rejection::Upstream`].
pub(crate) async fn to_service(
    worker: &Worker,
    permit: &Permit,
    outgoing: Outgoing<'_>,
    delivery: Option<Delivery>,
) -> Result<Forwarded, Rejection> {
    let (service, route) = permit.target().ok_or(Rejection::NoRoute)?;
    let authority = outgoing.target.authority.as_str();
    let mut deadline = Deadline::new(route.timeout(), &outgoing.headers);
    let own = &worker.to_service;
    let turn = Turn::wait(worker, own, permit, outgoing.role, &mut deadline).await?;
    let hop = Hop {
        permit,
        from_proxy: false,
        delivery,
    };
    if matches!(outgoing.content, Content::Websocket) {
        // Over HTTP/1.1 whatever else the service speaks: few speak RFC 8441.
        let mut request =
            outgoing.into_request(NextHop::Http1, route.max_body_bytes, permit.transfer())?;
        let expected = websocket::ask_service(&mut request, &*worker.entropy)
            .ok_or(UpstreamError::Handshake)?;
        let upload = request.body().upload();
        let sending = pin!(worker.local.switch(service.upstream, request));
        let answer = turn.send(sending, &upload, &mut deadline).await?;
        return match expected.agreed(&answer.response) {
            Some(true) => hop.open(answer).await,
            Some(false) => hop.relay(answer, deadline).map(Forwarded::Answered),
            None => Err(UpstreamError::Handshake.into()),
        };
    }
    let answer = match service.protocol {
        ServiceProtocol::Http1 => {
            let request =
                outgoing.into_request(NextHop::Http1, route.max_body_bytes, permit.transfer())?;
            let upload = request.body().upload();
            let sending = pin!(worker.local.send(service.upstream, request));
            turn.send(sending, &upload, &mut deadline).await?
        }
        ServiceProtocol::H2c => {
            let request =
                outgoing.into_request(NextHop::H2c, route.max_body_bytes, permit.transfer())?;
            let upload = request.body().upload();
            let sending = pin!(worker.h2c.send(service.upstream, request));
            turn.send(sending, &upload, &mut deadline).await?
        }
        // It takes connections and no requests.
        ServiceProtocol::Tcp | ServiceProtocol::Tls => return Err(Rejection::NoRoute),
    };
    let mut response = hop.relay(answer, deadline)?;
    lead_back(response.headers_mut(), service.upstream, authority);
    Ok(Forwarded::Answered(response))
}

/// Who is next, as far as it changes what a request looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextHop {
    /// A proxy, over HTTP/2.
    Proxy,
    /// The service, over HTTP/1.1.
    Http1,
    /// The service, over HTTP/2.
    H2c,
}

impl NextHop {
    /// The scheme in the target, which HTTP/1.1 leaves out.
    const fn scheme(self) -> Option<&'static str> {
        match self {
            Self::Proxy => Some("https"),
            Self::H2c => Some("http"),
            Self::Http1 => None,
        }
    }
}

impl Outgoing<'_> {
    fn into_request(
        mut self,
        next: NextHop,
        max_body_bytes: u64,
        transfer: TransferRules,
    ) -> Result<Outbound, Rejection> {
        if let Content::Body(body) = &self.content
            && body.size_hint().lower() > max_body_bytes
        {
            return Err(UpstreamError::BodyTooLarge.into());
        }
        if next == NextHop::Http1 {
            headers::set(&mut self.headers, header::HOST, &self.target.authority);
            join_cookies(&mut self.headers);
            self.announce_body();
        } else {
            // HTTP/2 carries the host in `:authority`.
            self.headers.remove(header::HOST);
            if grpc::is_grpc(&self.headers) {
                // It ended with the last hop, and gRPC servers insist on it.
                let trailers = HeaderValue::from_static("trailers");
                self.headers.insert(header::TE, trailers);
            }
        }
        let uri = outgoing_uri(self.target, next.scheme()).ok_or(UpstreamError::Broken)?;
        let mut request = Box::new(Request::new(match self.content {
            Content::Body(body) => {
                // The messages of a gRPC client come when it has them.
                let transfer = (!grpc::is_grpc(&self.headers)).then_some(transfer);
                RequestBody::new(body, max_body_bytes, transfer)
            }
            Content::Websocket | Content::Connection => RequestBody::none(),
        }));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.version_mut() = match next {
            NextHop::Http1 => Version::HTTP_11,
            NextHop::Proxy | NextHop::H2c => Version::HTTP_2,
        };
        *request.headers_mut() = self.headers;
        Ok(request)
    }

    /// Says that there is a body where HTTP/1.1 expects none and its length is not known: hyper would leave it out, and
    /// the service would see another request than the one that was sent.
    fn announce_body(&mut self) {
        let expects_none = matches!(self.method, Method::GET | Method::HEAD);
        let has_body = matches!(&self.content, Content::Body(body) if !body.is_end_stream());
        if expects_none && has_body && !self.headers.contains_key(header::CONTENT_LENGTH) {
            let chunked = HeaderValue::from_static("chunked");
            self.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
    }
}

/// The way back from the next hop.
struct Hop<'a> {
    permit: &'a Permit,
    from_proxy: bool,
    delivery: Option<Delivery>,
}

impl Hop<'_> {
    /// The answer on its way to the client.
    fn relay(self, answer: Answer, deadline: Deadline) -> Result<Response<AnswerBody>, Rejection> {
        let Answer {
            response, lease, ..
        } = answer;
        // Nobody asked for another protocol.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError::Handshake.into());
        }
        let (head, body) = response.into_parts();
        let pace = deadline.begun(&head.headers);
        let body = AnswerBody::relay(
            body,
            pace,
            self.permit.transfer(),
            self.from_proxy,
            lease,
            self.delivery,
        );
        Ok(passed_on(head, body, self.permit, self.from_proxy))
    }

    /// The stream that the next hop has opened.
    async fn open(self, answer: Answer) -> Result<Forwarded, Rejection> {
        let Answer {
            mut response,
            tunnel,
            lease,
        } = answer;
        let far: FarSide = match tunnel {
            Some(tunnel) => Box::new(tunnel),
            None => {
                let switched = hyper::upgrade::on(&mut response).await;
                Box::new(TokioIo::new(switched.map_err(|_| UpstreamError::Broken)?))
            }
        };
        let (head, _) = response.into_parts();
        let head = passed_on(head, AnswerBody::empty(), self.permit, self.from_proxy);
        let opened = Opened {
            far,
            lease,
            delivery: self.delivery,
        };
        Ok(Forwarded::Opened(head, opened))
    }
}

fn passed_on(
    mut head: response::Parts,
    body: AnswerBody,
    permit: &Permit,
    from_proxy: bool,
) -> Response<AnswerBody> {
    headers::sanitise_response(&mut head.headers, from_proxy);
    // The decision closest to the service explains the answer best; it is kept if a proxy of ours made it.
    if !head.headers.contains_key(TESTUDO_DECISION)
        && let Ok(decision) = HeaderValue::from_str(permit.decision().as_str())
    {
        head.headers
            .insert(TESTUDO_DECISION, headers::passing(decision));
    }
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// A service names itself in redirects as it sees itself: in plain HTTP, often with its own port. Its callers
/// are behind TLS and a gateway, so a `Location` that leads back to the service becomes a path (RFC 9110 section
/// 10.2.2).
fn lead_back(headers: &mut HeaderMap, upstream: SocketAddr, authority: &str) {
    let path = headers
        .get(header::LOCATION)
        .and_then(|location| location.to_str().ok())
        .and_then(|location| own_path(location, upstream, authority));
    if let Some(path) = path.and_then(|path| HeaderValue::from_str(&path).ok()) {
        headers.insert(header::LOCATION, path);
    }
}

/// What follows the authority of `location`, if that is the service's or the one it was called by.
fn own_path(location: &str, upstream: SocketAddr, authority: &str) -> Option<String> {
    let rest = location.strip_prefix("http://")?;
    let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(authority, |(host, _)| host);
    let is_own = [host, authority].contains(&named)
        || named == upstream.to_string()
        || named == format!("{host}:{}", upstream.port());
    // `//elsewhere` would lead to another host, and browsers read a backslash as a slash.
    let leads_away = path.starts_with("//") || path.starts_with("/\\");
    match is_own && !leads_away {
        true if path.starts_with('/') => Some(path.to_owned()),
        true => Some(format!("/{path}")),
        false => None,
    }
}

/// RFC 9113 section 8.2.3: HTTP/2 may split cookies into several fields, HTTP/1.1 has one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_to_the_service_itself_is_a_path_and_one_elsewhere_stays() {
        let upstream = "127.0.0.1:7001".parse().unwrap();
        let path = |location| own_path(location, upstream, "shop.example:8443");
        for (location, expected) in [
            ("http://shop.example:8443/a?b=c", "/a?b=c"),
            ("http://shop.example/a", "/a"),
            ("http://shop.example:7001/docs/", "/docs/"),
            ("http://127.0.0.1:7001", "/"),
            ("http://127.0.0.1:7001?x=1", "/?x=1"),
        ] {
            assert_eq!(path(location).as_deref(), Some(expected), "{location}");
        }
        for location in [
            "/a",
            "https://shop.example/a",
            "http://elsewhere.example/a",
            "http://shop.example.evil.example/",
            "http://shop.example@evil.example/",
            "http://shop.example:8443//evil.example/",
            "http://shop.example:8443/\\evil.example/",
        ] {
            assert_eq!(path(location), None, "{location}");
        }
    }

    #[test]
    fn split_cookies_become_one_field() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2", "c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        assert_eq!(
            headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(),
            ["a=1; b=2; c=3"]
        );
    }
}
