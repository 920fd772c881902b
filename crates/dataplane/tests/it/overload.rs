//! More calls than an upstream takes: the important ones are made, the others told to come back, and afterwards all is as
//! before.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{body::Body, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use testudo_model::{Priority, ServiceProtocol, snapshot::Snapshot};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};

use crate::{client::over_http2, fleet::Fleet};

fn set_priority(snapshot: &mut Snapshot, operation: &str, priority: Priority) {
    let mut routes = snapshot
        .services
        .iter_mut()
        .flat_map(|service| &mut service.routes);
    let route = routes.find(|route| route.operation.as_str() == operation);
    route.unwrap().priority = priority;
}

/// A connection to the gateway, for requests with bodies of this kind.
async fn connect<B>(fleet: &Fleet) -> http2::SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TokioIo::new(fleet.gateway_h2_stream().await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// A flood of `count` calls on one connection: the status and fields of each, and how long it took.
async fn flood(
    fleet: &Fleet,
    path: &'static str,
    content_type: &'static str,
    count: usize,
) -> Vec<(u16, HeaderMap, Duration)> {
    flood_on(connect(fleet).await, path, content_type, count).await
}

async fn flood_on(
    sender: http2::SendRequest<Empty<Bytes>>,
    path: &'static str,
    content_type: &'static str,
    count: usize,
) -> Vec<(u16, HeaderMap, Duration)> {
    let call = || {
        let mut sender = sender.clone();
        async move {
            let request = Request::get(format!("https://localhost{path}"));
            let request = request.header("content-type", content_type);
            let started = Instant::now();
            let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
            let (head, body) = answer.await.unwrap().into_parts();
            let took = started.elapsed();
            body.collect().await.unwrap();
            (head.status.as_u16(), head.headers, took)
        }
    };
    join_all((0..count).map(|_| call())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upstream_gets_the_critical_calls_and_the_others_are_told_to_come_back() {
    let fleet = Fleet::start_with(|snapshot| {
        // Answered after two seconds, and at once.
        set_priority(snapshot, "orders.finishing", Priority::Low);
        set_priority(snapshot, "orders.public", Priority::Critical);
    })
    .await;
    let stream = fleet.gateway_h2_stream().await;
    over_http2(stream, "GET", "/public", &[], b"")
        .await
        .unwrap();
    for role in ["gateway", "inbound"] {
        let first =
            format!("testudo_upstream_concurrency_limit{{role=\"{role}\",service=\"orders\"}} 256");
        assert!(fleet.metrics_page().contains(&first));
    }
    let critical = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            sleep(Duration::from_millis(50)).await;
            let stream = fleet.gateway_h2_stream().await;
            let started = Instant::now();
            let reply = over_http2(stream, "GET", "/public", &[], b"")
                .await
                .unwrap();
            assert_eq!(reply.status, 200);
            slowest = slowest.max(started.elapsed());
        }
        slowest
    };
    let grpc = async {
        sleep(Duration::from_millis(300)).await;
        flood(&fleet, "/slow-but-fine", "application/grpc", 1).await
    };
    let low = flood(&fleet, "/slow-but-fine", "text/plain", 200);
    let (low, grpc, slowest) = tokio::join!(low, grpc, critical);

    let answered = low.iter().filter(|(status, ..)| *status == 200).count();
    assert_eq!(answered, 128, "half of what the gateway asks for at first");
    for (status, fields, took) in low.iter().filter(|(status, ..)| *status != 200) {
        assert_eq!(
            (*status, &fields["retry-after"]),
            (503, &"1".parse().unwrap())
        );
        assert!(*took < Duration::from_secs(2), "{took:?}: told in time");
    }
    let (status, fields, _) = &grpc[0];
    assert_eq!(
        (*status, &fields["grpc-status"]),
        (200, &"14".parse().unwrap())
    );
    assert_eq!(fields["grpc-retry-pushback-ms"], "1000");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");

    let page = fleet.metrics_page();
    let counted = "testudo_turned_away_total{role=\"gateway\",priority=\"low\",by=\"upstream\"} 73";
    assert!(page.contains(counted), "{page}");
    let refused = fleet.gateway().ledger.events().into_iter().filter(|event| {
        event.activity == "request.refuse.gateway"
            && format!("{:?}", event.details).contains("upstream.overloaded")
    });
    assert!(refused.count() >= 20, "a sample is on record");

    let again = flood(&fleet, "/slow-but-fine", "text/plain", 100).await;
    assert!(again.iter().all(|(status, ..)| *status == 200), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_do_not_come_take_nobodys_place() {
    let fleet =
        Fleet::start_with(|snapshot| set_priority(snapshot, "orders.public", Priority::Low)).await;
    let sender = connect(&fleet).await;
    let mut withheld = Vec::new();
    for _ in 0..200 {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let request = Request::post("https://localhost/public").header("content-length", "1000");
        let answer = sender.clone().send_request(request.body(body).unwrap());
        withheld.push(tokio::spawn(answer));
    }
    sleep(Duration::from_millis(1_500)).await;
    for _ in 0..20 {
        let connection = fleet.gateway_h2_stream().await;
        let reply = over_http2(connection, "GET", "/public", &[], b"").await;
        assert_eq!(reply.unwrap().status, 200);
    }
    let waiting = withheld.iter().filter(|answer| !answer.is_finished());
    assert!(waiting.count() >= 128, "as many as could take all places");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_have_not_begun_take_nobodys_place() {
    let fleet =
        Fleet::start_with(|snapshot| set_priority(snapshot, "orders.finishing", Priority::Low))
            .await;
    let streams = flood(&fleet, "/slow-but-fine", "application/grpc", 128);
    let call = async {
        sleep(Duration::from_millis(1_200)).await;
        flood(&fleet, "/slow-but-fine", "text/plain", 1).await
    };
    let (streams, call) = tokio::join!(streams, call);
    assert_eq!(call[0].0, 200, "it did not have to wait for them");
    assert!(streams.iter().all(|(status, ..)| *status == 200));
}

/// Many times as many as there are places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_take_nobodys_place() {
    let fleet =
        Fleet::start_with(|snapshot| set_priority(snapshot, "orders.public", Priority::Low)).await;
    let polls = flood(&fleet, "/slow-but-fine", "text/plain", 600);
    let call = async {
        sleep(Duration::from_millis(1_500)).await;
        flood(&fleet, "/public", "text/plain", 1).await
    };
    let (polls, call) = tokio::join!(polls, call);
    assert_eq!(call[0].0, 200, "it did not have to wait for them");
    let answered = polls.iter().filter(|(status, ..)| *status == 200).count();
    assert!(
        answered > 2 * 224,
        "{answered} of 600: each second lets as many in"
    );
}

/// A class, how many of its calls are sent, and how long one may wait before it is told to come back.
const CLASSES: [(Priority, &str, usize, Duration); 4] = [
    (
        Priority::Low,
        "/leisurely/low",
        150,
        Duration::from_millis(500),
    ),
    (
        Priority::Default,
        "/leisurely/default",
        150,
        Duration::from_secs(2),
    ),
    (
        Priority::High,
        "/leisurely/high",
        600,
        Duration::from_secs(3),
    ),
    (
        Priority::Critical,
        "/leisurely/critical",
        150,
        Duration::from_secs(5),
    ),
];

/// A route for each class, which the service answers after 800 ms.
fn add_classes(snapshot: &mut Snapshot) {
    let mut services = snapshot.services.iter_mut();
    let orders = services.find(|service| service.name.as_str() == "orders");
    let routes = &mut orders.unwrap().routes;
    let slow = routes
        .iter()
        .find(|route| route.operation.as_str() == "orders.finishing")
        .unwrap()
        .clone();
    for (priority, path, ..) in CLASSES {
        let mut route = slow.clone();
        route.operation = format!("orders.{}", priority.as_str()).parse().unwrap();
        route.path = path.parse().unwrap();
        route.priority = priority;
        routes.push(route);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_matters_more_is_served_first_although_they_came_last() {
    const SLACK: Duration = Duration::from_millis(1_500);
    let fleet = Fleet::start_with(add_classes).await;
    let mut floods = Vec::new();
    for ((_, path, count, _), number) in CLASSES.into_iter().zip(0..) {
        let (sender, service) = (connect(&fleet).await, &fleet.upstreams["orders"]);
        floods.push(async move {
            // Low is first, and fills its half.
            while number > 0 && service.seen() < 128 {
                sleep(Duration::from_millis(5)).await;
            }
            sleep(Duration::from_millis(150 * number)).await;
            flood_on(sender, path, "text/plain", count).await
        });
    }
    let floods = join_all(floods).await;
    let mut shares = Vec::new();
    for ((priority, _, _, patience), answers) in CLASSES.iter().zip(&floods) {
        let refused = answers.iter().filter(|(status, ..)| *status != 200);
        for (status, fields, took) in refused.clone() {
            assert_eq!(*status, 503, "{priority:?}");
            assert_eq!(fields["retry-after"], "1", "{priority:?}");
            assert!(*took < *patience + SLACK, "{priority:?}: {took:?}");
        }
        shares.push(answers.len() - refused.count());
    }
    // The rest of low is gone before a place is free.
    assert_eq!((shares[0], shares[3]), (128, 150), "{shares:?}");
    // A quarter as many asked for one as for the other.
    assert!(2 * shares[1] < shares[2], "{shares:?}");
    // Nothing has to be reset.
    for (priority, path, ..) in CLASSES {
        let again = flood(&fleet, path, "text/plain", 40).await;
        assert!(
            again.iter().all(|(status, ..)| *status == 200),
            "{priority:?}: {again:?}"
        );
    }
}

/// A service that fails, and how many connections and requests it has seen.
struct Failing {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It closes each connection that it accepts.
    Accepting,
    /// It closes the connection when it has the request.
    Answering,
    /// It says so.
    Saying,
}

impl Failing {
    async fn start(failure: Failure) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (
            Arc::clone(&service.connections),
            Arc::clone(&service.requests),
        );
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                if failure == Failure::Accepting {
                    continue;
                }
                let requests = Arc::clone(&requests);
                tokio::spawn(async move {
                    let mut request = [0; 16 * 1024];
                    while let Ok(1..) = stream.read(&mut request).await {
                        requests.fetch_add(1, Ordering::SeqCst);
                        if failure == Failure::Answering {
                            return;
                        }
                        let answer = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        service
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_always_fails_gets_at_most_a_fifth_more_than_was_asked_for() {
    const CALLS: usize = 100;
    for failure in [Failure::Accepting, Failure::Answering, Failure::Saying] {
        for protocol in [ServiceProtocol::Http1, ServiceProtocol::H2c] {
            // It does not speak HTTP/2, so it cannot say anything in it.
            if protocol == ServiceProtocol::H2c && failure == Failure::Saying {
                continue;
            }
            let service = Failing::start(failure).await;
            let fleet = Fleet::start_with(|snapshot| {
                for known in &mut snapshot.services {
                    known.upstream = service.address;
                    known.protocol = protocol;
                }
            })
            .await;
            for _ in 0..CALLS / 20 {
                let answers = flood(&fleet, "/public", "text/plain", 20).await;
                assert!(
                    answers.iter().all(|(status, ..)| *status >= 500),
                    "{failure:?}"
                );
            }
            let connections = service.connections.load(Ordering::SeqCst);
            let requests = service.requests.load(Ordering::SeqCst);
            let most = CALLS * 12 / 10 + 10;
            assert!(
                connections <= most,
                "{failure:?} {protocol:?}: {connections} connections"
            );
            assert!(
                requests <= most,
                "{failure:?} {protocol:?}: {requests} requests"
            );
            assert!(connections.max(requests) > 0);
        }
    }
}
