//! Rates, sizes and deadlines.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;

use crate::{
    client,
    fleet::{ALICE, BOB, Fleet},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_limit_the_answer_is_429_and_says_when_to_come_back() {
    let fleet = Fleet::start().await;
    let token = fleet.token(ALICE);
    for _ in 0..2 {
        assert_eq!(fleet.get("/limited", Some(&token)).await.status, 200);
    }
    let reply = fleet.get("/limited", Some(&fleet.token(ALICE))).await;
    assert_eq!(
        (reply.status, reply.code()),
        (429, "limit.exceeded"),
        "a new token is no new allowance"
    );
    assert_eq!(reply.headers["retry-after"], "30");
    assert_eq!(reply.headers["ratelimit-policy"], "\"user\";q=2;w=60");
    assert!(
        reply.headers["ratelimit"]
            .to_str()
            .unwrap()
            .starts_with("\"user\";r=0;t=")
    );
    assert_eq!(
        fleet.get("/limited", Some(&fleet.token(BOB))).await.status,
        403,
        "Bob has his own allowance"
    );
    assert_eq!(fleet.upstreams["orders"].seen(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_by_address_hold_before_any_signature_is_checked() {
    let fleet = Fleet::start_with(|snapshot| {
        snapshot.gateway.limits = serde_json::from_value(
            json!([{ "per": "ip", "requests": 3, "period_millis": 60_000, "burst": 3 }]),
        )
        .unwrap();
    })
    .await;
    for _ in 0..3 {
        assert_eq!(
            fleet
                .get("/orders/7", Some("forged.forged.forged"))
                .await
                .status,
            401
        );
    }
    // Whatever the caller claims to be: the address is the peer's.
    let spoofed = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-real-ip", "203.0.113.8"),
    ];
    let reply = fleet
        .call("GET", "/orders/7", Some(&fleet.token(ALICE)), &spoofed)
        .await;
    assert_eq!(reply.status, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_whether_it_says_its_size_or_not() {
    let fleet = Fleet::start().await;
    let stream = fleet.gateway_stream().await;
    let reply = client::over_http1(stream, "POST", "/public", &[], &[0; 1001]).await;
    assert_eq!(
        (reply.status, reply.code()),
        (413, "request.body_too_large")
    );

    let chunked = format!(
        "POST /public HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("c8\r\n{}\r\n", "x".repeat(200)).repeat(6)
    );
    let answer = client::raw(fleet.gateway_stream().await, chunked.as_bytes()).await;
    assert_eq!(client::status_of(&answer), 413, "{answer}");

    let fits = client::over_http1(
        fleet.gateway_stream().await,
        "POST",
        "/public",
        &[],
        &[0; 1000],
    )
    .await;
    assert_eq!((fits.status, &fits.json["body"]), (200, &json!(1000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_answer_costs_its_deadline_and_no_more() {
    let fleet = Fleet::start().await;
    let started = std::time::Instant::now();
    let reply = fleet.get("/slow", None).await;
    assert_eq!((reply.status, reply.code()), (504, "upstream.timed_out"));
    assert!(started.elapsed() < Duration::from_millis(1500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_is_a_503() {
    let fleet = Fleet::start_with(|snapshot| {
        let orders = snapshot
            .services
            .iter_mut()
            .find(|service| service.name.as_str() == "orders")
            .unwrap();
        orders.upstream = "127.0.0.1:1".parse().unwrap();
    })
    .await;
    let reply = fleet.get("/public", None).await;
    assert_eq!((reply.status, reply.code()), (503, "upstream.unreachable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_recorded_is_refused() {
    let fleet = Fleet::start().await;
    let token = fleet.token(ALICE);
    for proxy in ["orders", "gateway"] {
        let full = &fleet.proxies[proxy].ledger.full;
        full.store(true, Ordering::SeqCst);
        let reply = fleet.get("/orders/7", Some(&token)).await;
        assert_eq!(
            (reply.status, reply.code()),
            (503, "proxy.spool_full"),
            "{proxy}"
        );
        full.store(false, Ordering::SeqCst);
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    assert_eq!(fleet.get("/orders/7", Some(&token)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_addresses_are_refused_and_trusted_proxies_believed() {
    let fleet = Fleet::start_with(|snapshot| {
        snapshot.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        snapshot.gateway.ip.deny = vec!["203.0.113.0/24".parse().unwrap()];
        let mailer = snapshot
            .services
            .iter_mut()
            .find(|service| service.name.as_str() == "mailer")
            .unwrap();
        mailer.ip.allow = vec!["198.51.100.0/24".parse().unwrap()];
    })
    .await;
    let token = fleet.token(ALICE);
    let from = async |path: &str, client: &str| {
        fleet
            .call("GET", path, Some(&token), &[("x-forwarded-for", client)])
            .await
    };
    assert_eq!(
        from("/orders/7", "203.0.113.7").await.code(),
        "source.denied"
    );
    assert_eq!(
        from("/orders/7", "::ffff:203.0.113.7").await.code(),
        "source.denied"
    );
    assert_eq!(
        from("/orders/7", "203.0.113.7, 127.0.0.9").await.code(),
        "source.denied"
    );
    let allowed = from("/orders/7", "203.0.113.7, 192.0.2.1").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.received("x-forwarded-for"), Some("192.0.2.1"));
    assert_eq!(
        from("/mail/via/inventory", "192.0.2.1").await.code(),
        "source.denied"
    );
    assert_eq!(
        from("/mail/via/inventory", "198.51.100.1").await.status,
        200
    );
}
