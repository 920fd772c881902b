//! Clients share connections, budgets and the ledger: what one of them does is no other's loss.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use testudo_dataplane::state::ProxyState;
use testudo_model::snapshot::{Revocation, Revoked};
use testudo_trust::ExpectedPeer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    client,
    fleet::{ALICE, Fleet},
    frames::{DATA, END_STREAM, Frames, HEADERS, RESET},
};

const WINDOW: u32 = 65_535;
const PATIENCE: Duration = Duration::from_secs(5);

/// A service that answers as soon as it has the head of a request, with `body` of `length` bytes, and tells when one
/// of its connections has ended.
async fn hasty_service(length: usize, body: Vec<u8>) -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, endings) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (ended, body) = (ended.clone(), body.clone());
            tokio::spawn(async move {
                let _ = answer_hastily(stream, length, &body).await;
                ended.send(()).await.unwrap();
            });
        }
    });
    (address, endings)
}

async fn answer_hastily(mut stream: TcpStream, length: usize, body: &[u8]) -> std::io::Result<()> {
    let mut received = Vec::new();
    while stream.read_buf(&mut received).await? > 0 {
        if received.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            received.clear();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body).await?;
        }
    }
    Ok(())
}

async fn fleet_with_orders_at(upstream: SocketAddr) -> Fleet {
    Fleet::start_with(|snapshot| {
        let orders = snapshot.services.iter_mut();
        let mut orders = orders.filter(|service| service.name.as_str() == "orders");
        orders.next().unwrap().upstream = upstream;
    })
    .await
}

async fn http2(fleet: &Fleet, window: u32) -> Frames<impl AsyncReadWrite + use<>> {
    Frames::open(fleet.gateway_h2_stream().await, window).await
}

trait AsyncReadWrite: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncReadWrite for S {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_behind_an_upload_whose_answer_has_passed() {
    let (service, mut endings) = hasty_service(2, b"ok".to_vec()).await;
    let fleet = fleet_with_orders_at(service).await;
    let mut slow = fleet.gateway_stream().await;
    let begun = b"POST /public HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx";
    slow.write_all(begun).await.unwrap();
    let mut answer = [0; 15];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    // The client goes on some day; its connection to the service is not kept for that.
    timeout(PATIENCE, endings.recv()).await.unwrap().unwrap();
    let next = timeout(PATIENCE, fleet.get("/public", None)).await.unwrap();
    assert_eq!(next.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_holds_the_service_until_the_deadline_and_no_longer() {
    // More than any socket buffer and window on the way.
    let body = vec![0; 16 * 1024 * 1024];
    let (service, mut endings) = hasty_service(body.len(), body).await;
    let fleet = fleet_with_orders_at(service).await;
    let mut client = http2(&fleet, 0).await;
    client.request(1, END_STREAM, "GET", "/slow", "");
    assert_eq!(client.next_of(1).await.unwrap().kind, HEADERS);
    timeout(PATIENCE, endings.recv()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_stop_nobody_else() {
    let (service, _endings) = hasty_service(1024 * 1024, vec![0; 1024 * 1024]).await;
    let fleet = fleet_with_orders_at(service).await;
    let mut client = http2(&fleet, 0).await;
    for number in 0..100 {
        let stream = 2 * number + 1;
        client.request(stream, END_STREAM, "GET", "/public", "");
        assert_eq!(client.next_of(stream).await.unwrap().kind, HEADERS);
    }
    let (mut reader, mut taken) = (fleet.gateway_stream().await, Vec::new());
    let request = b"GET /public HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    reader.write_all(request).await.unwrap();
    let all = timeout(PATIENCE, reader.read_to_end(&mut taken)).await;
    assert!(
        all.is_ok() && taken.len() > 1024 * 1024,
        "{} bytes",
        taken.len()
    );
}

/// Runs `disturbances` while a call of somebody else is under way, and expects that call to succeed.
async fn meanwhile(fleet: &Fleet, disturbances: impl AsyncFnOnce()) {
    let call = fleet.get("/slow-but-fine", None);
    let disturbances = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        disturbances().await;
    };
    let (reply, ()) = tokio::join!(call, disturbances);
    assert_eq!(reply.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_are_broken_off_break_no_call_of_others() {
    let fleet = Fleet::start().await;
    meanwhile(&fleet, async || {
        for _ in 0..25 {
            let mut client = http2(&fleet, WINDOW).await;
            client.request(1, 0, "POST", "/public", "10");
            client.queue(DATA, 0, 1, b"x");
            client.flush().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            // NO_ERROR, which hyper takes for the end of the body.
            client.queue(RESET, 0, 1, &[0; 4]);
            client.flush().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_the_fleet_may_have_many_calls_that_break_the_rules_and_a_client_few() {
    let fleet = Fleet::start().await;
    let orders = fleet.identity(&fleet.service_id("orders"));
    let clock = std::sync::Arc::clone(&fleet.clock);
    let config =
        testudo_trust::mesh_client_config(&orders, ExpectedPeer::InTrustDomain, clock, &["h2"]);
    let sidecar = fleet.proxies["inventory"].address;
    let mesh = client::tls(sidecar, config).await.unwrap();
    assert!(survives_breaches(Frames::open(mesh, WINDOW).await).await);
    assert!(!survives_breaches(http2(&fleet, WINDOW).await).await);
}

/// Sends bodies that are shorter than they say, and answers whether the connection still serves.
async fn survives_breaches(mut client: Frames<impl AsyncReadWrite>) -> bool {
    for number in 0..40 {
        let stream = 2 * number + 1;
        client.request(stream, 0, "POST", "/none", "10");
        client.queue(DATA, END_STREAM, stream, b"x");
        if client.next_of(stream).await.is_none() {
            return false;
        }
    }
    client.request(1001, END_STREAM, "GET", "/none", "");
    client.next_of(1001).await.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_head_has_no_body() {
    let fleet = Fleet::start().await;
    let mut client = http2(&fleet, WINDOW).await;
    client.request(1, END_STREAM, "HEAD", "/nowhere", "");
    let head = client.next_of(1).await.unwrap();
    assert_eq!((head.kind, head.flags & END_STREAM), (HEADERS, END_STREAM));
    let reply = fleet.call("HEAD", "/nowhere", None, &[]).await;
    assert_eq!(reply.status, 404);
    assert_ne!(reply.headers["content-length"], "0", "what GET would have");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_call_uses_up_no_allowance_that_callers_share() {
    let fleet = Fleet::start_with(|snapshot| {
        let twice =
            |per| json!([{ "per": per, "requests": 2, "period_millis": 60_000, "burst": 2 }]);
        snapshot.gateway.limits = serde_json::from_value(twice("service")).unwrap();
        let routes = snapshot
            .services
            .iter_mut()
            .flat_map(|service| &mut service.routes);
        for route in routes.filter(|route| route.operation.as_str() == "orders.read") {
            route.limits = serde_json::from_value(twice("route")).unwrap();
        }
    })
    .await;
    for _ in 0..5 {
        assert_eq!(fleet.get("/orders/7", None).await.status, 401);
    }
    let token = fleet.token(ALICE);
    for expected in [200, 200, 429] {
        let reply = fleet.get("/orders/7", Some(&token)).await;
        assert_eq!(reply.status, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_without_tokens_is_recorded_as_a_sample_and_counted_whole() {
    let fleet = Fleet::start().await;
    let (mut recorded, mut unrecorded) = (0, 0);
    while unrecorded < 20 {
        let reply = fleet.get("/orders/7", None).await;
        assert_eq!((reply.status, reply.code()), (401, "policy.user_required"));
        match reply.headers.get("testudo-decision") {
            Some(id) => {
                let found = fleet.gateway().ledger.decision(id.to_str().unwrap());
                assert!(found.is_some(), "a decision that is named can be found");
                recorded += 1;
            }
            None => {
                let detail = reply.json["detail"].as_str().unwrap();
                assert!(detail.contains("not recorded"), "{detail}");
                unrecorded += 1;
            }
        }
        assert!(
            recorded + unrecorded < 3_000,
            "a flood is not recorded whole"
        );
    }
    assert!(recorded >= 100, "{recorded}");
    let events = fleet.gateway().ledger.events();
    let denials = events.iter().filter(|event| event.actor.subject.is_none());
    assert!(
        denials.count() <= recorded + 1,
        "the connection and the sample"
    );
    let page = fleet.metrics_page();
    let counted = page
        .lines()
        .find(|line| line.starts_with("testudo_requests_total") && line.contains("user_required"))
        .and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    assert_eq!(counted, Some(recorded + unrecorded));
}

fn revoke(state: &ProxyState, fleet: &Fleet) {
    let now = fleet.clock.now();
    let revocation = Revocation {
        sequence: 1,
        what: Revoked::Subject(ALICE.to_owned()),
        // The tokens of the tests were issued two seconds ago.
        at: testudo_model::Timestamp::from_unix_seconds(now.unix_seconds() - 1),
        expires: now + Duration::from_secs(300),
    };
    state.apply_revocations(&[revocation]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_late_makes_no_fresh_login_of_a_revoked_one() {
    let fleet = Fleet::start().await;
    let token = fleet.token(ALICE);
    assert_eq!(fleet.get("/orders/7", Some(&token)).await.status, 200);
    revoke(&fleet.proxies["orders"].state, &fleet);
    let reply = fleet.get("/orders/8", Some(&token)).await;
    assert_eq!((reply.status, reply.code()), (401, "token.transaction"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_without_users_hears_of_none() {
    let fleet = Fleet::start().await;
    let reply = fleet.get("/public", Some(&fleet.token(ALICE))).await;
    assert_eq!(reply.status, 200);
    for field in ["x-user-id", "x-user-name", "x-user-scopes", "x-user-groups"] {
        assert_eq!(reply.received(field), None, "{field}");
    }
    let events = fleet.proxies["orders"].ledger.events();
    assert!(events.iter().all(|event| event.actor.subject.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_gateway_takes_the_sidecar_takes_with_what_was_added() {
    let fleet = Fleet::start().await;
    // With the access token almost all that a client may send; the transaction token is longer.
    let value = "v".repeat(350);
    let names: Vec<_> = (10..95).map(|number| format!("x-field-{number}")).collect();
    let fields: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), value.as_str()))
        .collect();
    let reply = fleet
        .call("GET", "/orders/7", Some(&fleet.token(ALICE)), &fields)
        .await;
    assert_eq!(reply.status, 200, "{}", reply.json);
}
