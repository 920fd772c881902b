//! CONNECT at the outbound listener: a way for clients that know no other, and a way to nowhere else.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{self, status_of},
    fleet::{ALICE, Fleet},
};

const OPENED: &str = "HTTP/1.1 200 OK\r\n";

fn connect_to(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

fn get(host: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// Reads the head of an answer that has no body.
async fn head(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let all = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(Duration::from_secs(5), all).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(ended.is_ok(), "the connection stays open: {answer}");
    answer
}

async fn open(outbound: SocketAddr, authority: &str) -> TcpStream {
    let mut stream = TcpStream::connect(outbound).await.unwrap();
    stream
        .write_all(connect_to(authority).as_bytes())
        .await
        .unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with(OPENED), "{answer}");
    let lower = answer.to_ascii_lowercase();
    // RFC 9110 section 9.3.6: neither may stand in the answer.
    assert!(
        !lower.contains("content-length") && !lower.contains("transfer-encoding"),
        "{answer}"
    );
    stream
}

/// What comes back, to the end, for bytes sent in one go on a new connection.
async fn exchange(outbound: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(outbound).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

/// A fleet whose inventory anybody may ask about the stock: what is tested here is the way there.
async fn fleet() -> (Fleet, SocketAddr) {
    let fleet = Fleet::start_with(|snapshot| {
        let inventory = snapshot
            .services
            .iter_mut()
            .find(|s| s.name.as_str() == "inventory");
        let route = &mut inventory.unwrap().routes[0];
        route.user = testudo_model::UserRequirement::None;
    })
    .await;
    let outbound = fleet.proxies["orders"].outbound.unwrap();
    (fleet, outbound)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_to_a_service_is_served_like_any_outbound_connection() {
    let (fleet, outbound) = fleet().await;
    for host in ["inventory", "inventory:80", "INVENTORY"] {
        let mut stream = open(outbound, "inventory:80").await;
        stream
            .write_all(get(host, "/stock/7").as_bytes())
            .await
            .unwrap();
        let answer = rest(&mut stream).await;
        assert_eq!(status_of(&answer), 200, "{answer}");
        assert!(
            answer.contains(r#""x-calling-service":["orders"]"#),
            "{answer}"
        );
    }
    // HTTP/1.1 with several requests, and HTTP/2 with prior knowledge.
    let mut stream = open(outbound, "inventory:80").await;
    let one = "GET /stock/7 HTTP/1.1\r\nHost: inventory\r\n\r\n".to_owned();
    stream
        .write_all((one.clone() + &get("inventory", "/stock/8")).as_bytes())
        .await
        .unwrap();
    let answers = rest(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    let stream = open(outbound, "inventory:80").await;
    let reply = client::plain_http2(stream, "http://inventory/stock/9").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(fleet.upstreams["inventory"].seen(), 6);
    let page = fleet.metrics_page();
    let counted = r#"testudo_requests_total{role="outbound",service="inventory",status="2xx",reason="allowed"} 6"#;
    assert!(page.contains(counted), "CONNECT itself is no call: {page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_in_a_tunnel_is_decided_about() {
    let fleet = Fleet::start().await;
    // The mailer may open a tunnel to the inventory; calling it is what the policies deny.
    let mut stream = open(fleet.proxies["mailer"].outbound.unwrap(), "inventory:80").await;
    stream
        .write_all(get("inventory", "/stock/7").as_bytes())
        .await
        .unwrap();
    let answer = rest(&mut stream).await;
    assert_eq!(status_of(&answer), 403, "{answer}");
    assert!(answer.contains("policy.service_leg_denied"), "{answer}");
    // And a call through a tunnel has the user of the trace it belongs to, like any other.
    let reply = fleet
        .get("/orders/7/via/inventory", Some(&fleet.token(ALICE)))
        .await;
    assert_eq!(reply.json["called"]["status"], 200);
    assert_eq!(fleet.upstreams["inventory"].seen(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leads_elsewhere_is_refused_and_its_connection_ends() {
    let (fleet, outbound) = fleet().await;
    for (authority, status, code) in [
        ("elsewhere.example:80", 403, "request.connect_elsewhere"),
        ("elsewhere.example:443", 403, "request.connect_elsewhere"),
        ("127.0.0.1:80", 403, "request.connect_elsewhere"),
        ("[::1]:80", 403, "request.connect_elsewhere"),
        ("inventory:443", 501, "request.connect_encrypted"),
        ("inventory", 400, "request.connect_malformed"),
        ("orders@inventory:80", 400, "request.connect_malformed"),
        ("inventory:80@orders:80", 400, "request.connect_malformed"),
    ] {
        // Bytes meant for the tunnel must not be read as the next request of the connection.
        let pipelined = get("inventory", "/stock/7");
        let answer = exchange(outbound, &(connect_to(authority) + &pipelined)).await;
        assert_eq!(status_of(&answer), status, "{authority}: {answer}");
        assert!(answer.contains(code), "{authority}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{authority}: {answer}"
        );
    }
    let with_body =
        "CONNECT inventory:80 HTTP/1.1\r\nHost: inventory:80\r\nContent-Length: 5\r\n\r\nhello";
    assert!(
        exchange(outbound, with_body)
            .await
            .contains("request.connect_malformed")
    );
    assert_eq!(fleet.upstreams["inventory"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_the_named_authority_passes_a_tunnel() {
    let (fleet, outbound) = fleet().await;
    let others = [
        get("orders", "/public"),
        get("inventory:8080", "/stock/7"),
        get("inventory", "http://orders/public"),
        get("orders", "http://orders/public"),
    ];
    for request in &others {
        let mut stream = open(outbound, "inventory:80").await;
        // What follows a misdirected request is not served either.
        let pipelined =
            request.replace("Connection: close\r\n", "") + &get("inventory", "/stock/7");
        stream.write_all(pipelined.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert_eq!(status_of(&answer), 421, "{request}: {answer}");
        assert!(answer.contains("request.misdirected"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert_eq!(
        fleet.upstreams["inventory"].seen() + fleet.upstreams["orders"].seen(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_sent_before_the_answer_to_connect_are_held_to_the_same_rules() {
    let (fleet, outbound) = fleet().await;
    let good = exchange(
        outbound,
        &(connect_to("inventory:80") + &get("inventory", "/stock/7")),
    )
    .await;
    assert!(good.starts_with(OPENED), "{good}");
    assert!(
        good.contains("HTTP/1.1 200 OK\r\n\r\n") || good.matches("HTTP/1.1 200").count() == 2,
        "{good}"
    );
    let bad = exchange(
        outbound,
        &(connect_to("inventory:80") + &get("orders", "/public")),
    )
    .await;
    assert!(
        bad.starts_with(OPENED) && bad.contains("request.misdirected"),
        "{bad}"
    );
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_carries_http_and_no_other_protocol_and_no_second_tunnel() {
    let (fleet, outbound) = fleet().await;
    let mut stream = open(outbound, "inventory:80").await;
    stream
        .write_all(connect_to("inventory:80").as_bytes())
        .await
        .unwrap();
    let nested = rest(&mut stream).await;
    assert!(nested.contains("request.method"), "{nested}");
    // The beginning of a TLS handshake.
    let mut stream = open(outbound, "inventory:80").await;
    stream
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        .await
        .unwrap();
    let tls = rest(&mut stream).await;
    assert!(tls.is_empty() || status_of(&tls) == 400, "{tls}");
    assert_eq!(fleet.upstreams["inventory"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_and_the_inbound_side_know_no_connect() {
    let fleet = Fleet::start().await;
    let answer = client::raw(
        fleet.gateway_stream().await,
        connect_to("orders:80").as_bytes(),
    )
    .await;
    assert_eq!(status_of(&answer), 501, "{answer}");
    let identity = fleet.identity(&fleet.service_id("orders"));
    let stream = fleet.attack_raw("inventory", &identity).await.unwrap();
    let answer = client::raw(stream, connect_to("inventory:80").as_bytes()).await;
    assert_eq!(status_of(&answer), 501, "{answer}");
}
