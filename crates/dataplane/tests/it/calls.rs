//! What must work: the main job, through every hop.

use testudo_model::event::Outcome;

use crate::{
    client,
    fleet::{ALICE, BOB, Fleet},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_call_reaches_the_service_with_fields_it_may_trust() {
    let fleet = Fleet::start().await;
    let forged = [
        ("x-user-id", "usr_admin"),
        ("X_User_Id", "usr_admin"),
        ("x.user.roles", "admin"),
        ("x-calling-service", "admin"),
        ("x-forwarded-for", "198.51.100.1"),
        ("forwarded", "for=198.51.100.1"),
        ("x-forwarded-proto", "http"),
        ("txn-token", "a.b.c"),
        ("x-original-url", "/admin"),
        ("connection", "x-user-name, traceparent"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("x-mine", "kept"),
    ];
    let reply = fleet
        .call("GET", "/orders/%37?a=b", Some(&fleet.token(ALICE)), &forged)
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(
        reply.json["path"], "/orders/7?a=b",
        "the canonical path is what is forwarded"
    );
    for (field, value) in [
        ("x-user-id", ALICE),
        ("x-user-name", "alice"),
        ("x-user-groups", "clerks"),
        ("x-user-roles", "clerk"),
        ("x-user-scopes", "orders:read orders:write"),
        ("x-calling-service", "gateway"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "localhost"),
        ("host", "localhost"),
        ("x-mine", "kept"),
    ] {
        assert_eq!(reply.received(field), Some(value), "{field}");
    }
    for absent in [
        "authorization",
        "x_user_id",
        "x.user.roles",
        "forwarded",
        "x-original-url",
        "connection",
    ] {
        assert_eq!(reply.received(absent), None, "{absent}");
    }
    assert!(
        reply
            .received("txn-token")
            .is_some_and(|token| token != "a.b.c")
    );
    assert!(reply.received("traceparent").is_some());
    assert_eq!(reply.headers["x-own"], "kept");
    assert_ne!(reply.headers["testudo-decision"], "dec_forged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hop_decides_and_every_decision_is_recorded() {
    let fleet = Fleet::start().await;
    let reply = fleet
        .get("/orders/7/via/inventory", Some(&fleet.token(ALICE)))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json["called"]["status"], 200, "{reply:?}");
    let called = &reply.json["called"]["body"]["headers"];
    assert_eq!(
        called["x-user-id"],
        serde_json::json!([ALICE]),
        "the user goes along by the trace alone"
    );
    assert_eq!(called["x-calling-service"], serde_json::json!(["orders"]));
    assert_eq!(called["x-forwarded-for"], serde_json::json!(["127.0.0.1"]));

    let decided = |proxy: &str| -> Vec<String> {
        let events = fleet.proxies[proxy].ledger.events();
        assert!(
            events.iter().all(|event| event.outcome == Outcome::Success),
            "{events:?}"
        );
        events
            .into_iter()
            .filter_map(|event| {
                let decision = event.decision?;
                assert_eq!(decision.reason, "allowed");
                decision
                    .operation
                    .map(|operation| format!("{} {operation}", event.activity))
            })
            .collect()
    };
    assert_eq!(decided("gateway"), ["decision.gateway orders.stock"]);
    assert_eq!(
        decided("orders"),
        [
            "decision.inbound orders.stock",
            "decision.outbound stock.read"
        ]
    );
    assert_eq!(decided("inventory"), ["decision.inbound stock.read"]);
    let transactions: std::collections::HashSet<_> = ["gateway", "orders", "inventory"]
        .into_iter()
        .flat_map(|proxy| fleet.proxies[proxy].ledger.events())
        .filter_map(|event| event.decision.and(event.transaction))
        .collect();
    assert_eq!(transactions.len(), 1, "one transaction through all hops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_the_answer_is_401_and_says_how_to_log_in() {
    let fleet = Fleet::start().await;
    let reply = fleet.get("/orders/7", None).await;
    assert_eq!((reply.status, reply.code()), (401, "policy.user_required"));
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    let decision = reply.json["decision"].as_str().unwrap();
    assert_eq!(reply.headers["testudo-decision"], decision);
    assert_eq!(
        fleet.gateway().ledger.decision(decision).unwrap().outcome,
        Outcome::Denied
    );
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_user_is_refused_with_a_decision_that_names_the_leg() {
    let fleet = Fleet::start().await;
    let reply = fleet.get("/orders/7", Some(&fleet.token(BOB))).await;
    assert_eq!(
        (reply.status, reply.code()),
        (403, "policy.user_leg_denied")
    );
    let event = fleet
        .gateway()
        .ledger
        .decision(reply.json["decision"].as_str().unwrap())
        .unwrap();
    assert_eq!(event.actor.subject.as_deref(), Some(BOB));
    let legs = event.decision.unwrap().grounds.legs;
    assert_eq!(legs.last().unwrap().leg, "user");
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_user_through_the_wrong_service_is_refused() {
    let fleet = Fleet::start().await;
    let reply = fleet
        .get("/mail/via/inventory", Some(&fleet.token(ALICE)))
        .await;
    assert_eq!(reply.status, 200, "the mailer itself may be called");
    assert_eq!(reply.json["called"]["status"], 403, "{reply:?}");
    assert_eq!(
        reply.json["called"]["body"]["code"],
        "policy.service_leg_denied"
    );
    assert_eq!(fleet.upstreams["inventory"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_calls_for_itself_has_no_user() {
    let fleet = Fleet::start().await;
    let outbound = fleet.proxies["orders"].outbound.unwrap();
    let reply = client::plain(outbound, "GET", "http://inventory/stock/7", &[]).await;
    assert_eq!((reply.status, reply.code()), (401, "policy.user_required"));
    let unknown = client::plain(outbound, "GET", "http://elsewhere.example/", &[]).await;
    assert_eq!((unknown.status, unknown.code()), (404, "route.not_found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_served_like_http1() {
    let fleet = Fleet::start().await;
    let authorization = format!("Bearer {}", fleet.token(ALICE));
    let fields = [
        ("authorization", authorization.as_str()),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let stream = fleet.gateway_h2_stream().await;
    let reply = client::over_http2(stream, "POST", "/orders", &fields, b"12345")
        .await
        .unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json["body"], 5);
    assert_eq!(reply.received("cookie"), Some("a=1; b=2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_through_the_whole_chain_all_succeed() {
    let fleet = std::sync::Arc::new(Fleet::start().await);
    let token = fleet.token(ALICE);
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (fleet, token) = (fleet.clone(), token.clone());
            tokio::spawn(async move { fleet.get("/orders/7/via/inventory", Some(&token)).await })
        })
        .collect();
    for call in calls {
        let reply = call.await.unwrap();
        assert_eq!(
            (reply.status, &reply.json["called"]["status"]),
            (200, &serde_json::json!(200))
        );
    }
    let page = fleet.metrics_page();
    assert!(
        page.contains(r#"testudo_cache_lookups_total{cache="token",result="hit"}"#),
        "{page}"
    );
    let counted = r#"testudo_requests_total{role="outbound",service="inventory",status="2xx",reason="allowed"} 200"#;
    assert!(page.contains(counted), "{page}");
}
