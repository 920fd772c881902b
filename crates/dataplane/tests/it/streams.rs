//! Answers that last: server-sent events and gRPC.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use testudo_model::{ServiceProtocol, event::Detail, snapshot::Revoked};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    changes::revocation,
    fleet::{ALICE, BOB, Fleet},
};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(400);

type Body = BoxBody<Bytes, Infallible>;

/// A service that sends events, and speaks gRPC as far as a proxy can see.
#[derive(Clone, Default)]
struct Sender {
    /// Answers that somebody listens to.
    listeners: Arc<AtomicUsize>,
    /// What the last request brought.
    received: Arc<Mutex<HeaderMap>>,
    seen: Arc<AtomicUsize>,
}

/// One listener; gone when the answer is dropped.
struct Listener(Arc<AtomicUsize>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Sender {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sender = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let sender = sender.clone();
                        async move { Ok::<_, Infallible>(sender.answer(request).await) }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        address
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        *self.received.lock().unwrap() = request.headers().clone();
        match request.uri().path() {
            "/events" => self.events("text/event-stream"),
            "/dripping" => self.events("text/plain"),
            "/grpc/stall" => {
                sleep(60 * SECOND).await;
                Response::new(Empty::new().boxed())
            }
            _ => self.echo(request.into_body()),
        }
    }

    fn listener(&self) -> Listener {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        Listener(Arc::clone(&self.listeners))
    }

    /// Ten events a second, for ever.
    fn events(&self, content_type: &str) -> Response<Body> {
        let events = unfold((0, self.listener()), |(number, listener)| async move {
            sleep(Duration::from_millis(100)).await;
            let event = Bytes::from(format!("data: {number}\n\n"));
            Some((Ok(Frame::data(event)), (number + 1, listener)))
        });
        answer(content_type, BoxBody::new(StreamBody::new(events)))
    }

    /// Every message back as it comes, and at the end what gRPC ends with.
    fn echo(&self, body: Incoming) -> Response<Body> {
        let begin = (Some(body), self.listener());
        let messages = unfold(begin, |(body, listener)| async move {
            let mut body = body?;
            let (frame, rest) = match body.frame().await {
                Some(Ok(frame)) => (frame, Some(body)),
                _ => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    trailers.insert("x-trailer", "kept".parse().unwrap());
                    (Frame::trailers(trailers), None)
                }
            };
            Some((Ok(frame), (rest, listener)))
        });
        answer("application/grpc", BoxBody::new(StreamBody::new(messages)))
    }

    async fn has_no_listener_within(&self, limit: Duration) -> bool {
        let since = Instant::now();
        while self.listeners.load(Ordering::SeqCst) > 0 {
            if since.elapsed() > limit {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

fn answer(content_type: &str, body: Body) -> Response<Body> {
    Response::builder()
        .header("content-type", content_type)
        .body(body)
        .unwrap()
}

/// A fleet whose `orders` is a [`Sender`] that speaks `protocol`.
async fn fleet(protocol: ServiceProtocol) -> (Fleet, Sender) {
    let sender = Sender::default();
    let address = sender.start().await;
    let fleet = Fleet::start_with(|snapshot| {
        let named = |service: &&mut testudo_model::Service| service.name.as_str() == "orders";
        let orders = snapshot.services.iter_mut().find(named).unwrap();
        (orders.upstream, orders.protocol) = (address, protocol);
        let route = |operation: &str, method: &str, path: &str, timeout: u128, limits| {
            let route = json!({ "operation": operation, "methods": [method], "path": path,
                "action": "read", "user": "required", "scopes": [], "sensitivity": 0, "step_up": false,
                "limits": limits, "max_body_bytes": 1000, "timeout_millis": timeout as u64 });
            serde_json::from_value(route).unwrap()
        };
        let timeout = TIMEOUT.as_millis();
        let limit = json!([{ "per": "user", "requests": 1, "period_millis": 60_000, "burst": 1 }]);
        orders.routes.extend([
            route("events", "GET", "/events", timeout, json!([])),
            route("dripping", "GET", "/dripping", timeout, json!([])),
            route("grpc.call", "POST", "/grpc/{method}", 10_000, json!([])),
            route("grpc.limited", "POST", "/grpc/limited", 10_000, limit),
        ]);
    })
    .await;
    (fleet, sender)
}

async fn gateway(fleet: &Fleet) -> http2::SendRequest<Body> {
    let stream = TokioIo::new(fleet.gateway_h2_stream().await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn request(method: Method, path: &str, token: Option<&str>, body: Body) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(body).unwrap()
}

fn grpc(path: &str, token: Option<&str>, body: Body) -> Request<Body> {
    let mut request = request(Method::POST, path, token, body);
    for (name, value) in [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// A request body that is written bit by bit.
fn live_body() -> (mpsc::Sender<&'static str>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let messages = unfold(receiver, |mut receiver| async move {
        let message: &str = receiver.recv().await?;
        Some((Ok(Frame::data(Bytes::from(message))), receiver))
    });
    (sender, BoxBody::new(StreamBody::new(messages)))
}

async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    timeout(2 * SECOND, body.frame())
        .await
        .expect("a frame in time")
}

async fn next_text(body: &mut Incoming) -> String {
    let data = next(body).await.unwrap().unwrap().into_data().unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_one_by_one_beyond_the_deadline_and_their_listener_is_missed_at_once() {
    for protocol in [ServiceProtocol::Http1, ServiceProtocol::H2c] {
        let (fleet, service) = fleet(protocol).await;
        let token = fleet.token(ALICE);
        let mut client = gateway(&fleet).await;
        let listening = request(Method::GET, "/events", Some(&token), BoxBody::default());
        let mut events = client.send_request(listening).await.unwrap().into_body();
        let since = Instant::now();
        for number in 0..8 {
            assert_eq!(next_text(&mut events).await, format!("data: {number}\n\n"));
        }
        assert!(since.elapsed() > TIMEOUT, "{:?}", since.elapsed());
        drop(events);
        assert!(service.has_no_listener_within(SECOND).await, "{protocol:?}");

        // What is no stream has to be there by the deadline.
        let dripping = request(Method::GET, "/dripping", Some(&token), BoxBody::default());
        let body = client.send_request(dripping).await.unwrap().into_body();
        let since = Instant::now();
        assert!(timeout(2 * SECOND, body.collect()).await.unwrap().is_err());
        assert!(since.elapsed() < SECOND);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_over_http1_is_missed_as_well() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (fleet, service) = fleet(ServiceProtocol::Http1).await;
    let token = fleet.token(ALICE);
    let mut stream = fleet.gateway_stream().await;
    let head =
        format!("GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut heard = String::new();
    while !heard.contains("data: 7") {
        let mut bytes = [0; 1024];
        let count = timeout(2 * SECOND, stream.read(&mut bytes)).await.unwrap();
        heard.push_str(std::str::from_utf8(&bytes[..count.unwrap()]).unwrap());
        assert!(heard.matches("data: ").count() <= 8, "{heard}");
    }
    drop(stream);
    assert!(service.has_no_listener_within(SECOND).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_session_that_they_were_opened_in() {
    let (fleet, service) = fleet(ServiceProtocol::H2c).await;
    let claims = fleet.claims(ALICE);
    let token = fleet.sign(&claims);
    let mut client = gateway(&fleet).await;
    let listening = request(Method::GET, "/events", Some(&token), BoxBody::default());
    let mut events = client.send_request(listening).await.unwrap().into_body();
    next_text(&mut events).await;
    let (messages, body) = live_body();
    messages.send("hello").await.unwrap();
    let call = grpc("/grpc/chat", Some(&token), body);
    let mut answers = client.send_request(call).await.unwrap().into_body();
    assert_eq!(next_text(&mut answers).await, "hello");

    let revoked = revocation(&fleet, 1, Revoked::Session(claims.sid.unwrap()));
    let gateway = fleet.gateway();
    gateway.state.apply_revocations(&[revoked]).unwrap();
    let ended = timeout(SECOND, events.collect()).await;
    assert!(
        ended.unwrap().is_err(),
        "an answer that was cut is no whole one"
    );
    let trailers = next(&mut answers).await.unwrap().unwrap();
    let trailers = trailers.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "7", "{trailers:?}");
    assert!(service.has_no_listener_within(SECOND).await);
    let ends: Vec<_> = gateway
        .ledger
        .events()
        .into_iter()
        .filter(|event| event.activity == "stream.close.gateway")
        .map(|event| event.details["reason"].clone())
        .collect();
    assert_eq!(ends, vec![Detail::from("user_revoked"); 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_call_streams_both_ways_and_ends_with_its_trailers() {
    let (fleet, service) = fleet(ServiceProtocol::H2c).await;
    let token = fleet.token(ALICE);
    let mut client = gateway(&fleet).await;
    let (messages, body) = live_body();
    messages.send("one").await.unwrap();
    let call = grpc("/grpc/chat", Some(&token), body);
    let answer = client.send_request(call).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut answers = answer.into_body();
    assert_eq!(next_text(&mut answers).await, "one");
    messages.send("two").await.unwrap();
    assert_eq!(next_text(&mut answers).await, "two");
    drop(messages);
    let trailers = next(&mut answers).await.unwrap().unwrap();
    let trailers = trailers.into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-trailer"]),
        (&"0".parse().unwrap(), &"kept".parse().unwrap())
    );
    let received = service.received.lock().unwrap().clone();
    assert_eq!(received["te"], "trailers");
    assert_eq!(received["x-user-id"], ALICE);
    assert!(!received.contains_key("authorization"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_grpc_call_learns_why_the_way_grpc_tells_it() {
    let (fleet, service) = fleet(ServiceProtocol::H2c).await;
    let (alice, bob) = (fleet.token(ALICE), fleet.token(BOB));
    let mut client = gateway(&fleet).await;
    let limited = grpc("/grpc/limited", Some(&alice), BoxBody::default());
    client.send_request(limited).await.unwrap();
    assert_eq!(service.seen.load(Ordering::SeqCst), 1);
    for (path, token, status, code) in [
        ("/grpc/call", None, "16", "policy.user_required"),
        ("/grpc/call", Some("nonsense"), "16", "token.untrusted"),
        ("/grpc/call", Some(&*bob), "7", "policy.user_leg_denied"),
        ("/nowhere/call", Some(&*alice), "12", "route.not_found"),
        ("/grpc/limited", Some(&*alice), "8", "limit.exceeded"),
    ] {
        let call = grpc(path, token, BoxBody::default());
        let answer = client.send_request(call).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let fields = answer.headers().clone();
        assert_eq!(fields["content-type"], "application/grpc");
        assert_eq!(fields["grpc-status"], status, "{fields:?}");
        let message = fields["grpc-message"].to_str().unwrap();
        assert!(message.starts_with(code), "{message}");
        let was_decided = code.starts_with("policy.");
        assert_eq!(fields.contains_key("testudo-decision"), was_decided);
        assert_eq!(fields.contains_key("grpc-retry-pushback-ms"), status == "8");
        let body = answer.into_body().collect().await.unwrap();
        assert!(body.to_bytes().is_empty());
    }
    assert_eq!(service.seen.load(Ordering::SeqCst), 1);
    let page = fleet.metrics_page();
    assert!(
        page.contains(r#"status="4xx",reason="policy.user_leg_denied""#),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_that_waits_shorter_than_the_route_is_answered_then() {
    let (fleet, _service) = fleet(ServiceProtocol::H2c).await;
    let token = fleet.token(ALICE);
    let mut client = gateway(&fleet).await;
    let mut call = grpc("/grpc/stall", Some(&token), BoxBody::default());
    let fields = call.headers_mut();
    fields.insert("grpc-timeout", "300m".parse().unwrap());
    let answer = timeout(2 * SECOND, client.send_request(call)).await;
    assert_eq!(answer.unwrap().unwrap().headers()["grpc-status"], "4");

    let (messages, body) = live_body();
    messages.send("one").await.unwrap();
    let mut call = grpc("/grpc/chat", Some(&token), body);
    let fields = call.headers_mut();
    fields.insert("grpc-timeout", "300m".parse().unwrap());
    let mut answers = client.send_request(call).await.unwrap().into_body();
    assert_eq!(next_text(&mut answers).await, "one");
    // The deadline is of the whole call, and a client looks for the outcome in trailers.
    let trailers = next(&mut answers).await.unwrap().unwrap();
    assert_eq!(trailers.into_trailers().unwrap()["grpc-status"], "4");
    assert!(next(&mut answers).await.is_none());
}
