//! What happens when something changes under open connections: policy, revocations, start and stop.

use std::time::Duration;

use testudo_model::snapshot::{Revocation, Revoked};

use crate::{
    client,
    fleet::{ALICE, Fleet},
};

pub fn revocation(fleet: &Fleet, sequence: u64, what: Revoked) -> Revocation {
    let at = fleet.clock.now();
    Revocation {
        sequence,
        at,
        expires: at + Duration::from_secs(600),
        what,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_session_is_refused_by_every_proxy_at_once() {
    let fleet = Fleet::start().await;
    let claims = fleet.claims(ALICE);
    let (token, other) = (fleet.sign(&claims), fleet.token(ALICE));
    let reply = fleet.get("/orders/7", Some(&token)).await;
    assert_eq!(reply.status, 200);
    let inside = reply.received("txn-token").unwrap().to_owned();
    let gateway = fleet.identity(&fleet.domain.gateway());
    let with_token = [("txn-token", inside.as_str())];
    assert_eq!(
        fleet
            .attack("orders", &gateway, "/orders/7", &with_token)
            .await
            .unwrap()
            .status,
        200
    );

    let revoked = revocation(&fleet, 1, Revoked::Session(claims.sid.unwrap()));
    for proxy in fleet.proxies.values() {
        proxy
            .state
            .apply_revocations(std::slice::from_ref(&revoked))
            .unwrap();
    }
    let reply = fleet.get("/orders/7", Some(&token)).await;
    assert_eq!((reply.status, reply.code()), (401, "token.revoked"));
    let reply = fleet
        .attack("orders", &gateway, "/orders/7", &with_token)
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.code()),
        (401, "token.transaction"),
        "the remembered inside token as well"
    );
    assert_eq!(
        fleet.get("/orders/7", Some(&other)).await.status,
        200,
        "another session goes on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_workload_is_refused_and_its_open_connections_closed() {
    let fleet = Fleet::start().await;
    assert_eq!(fleet.get("/public", None).await.status, 200);
    let orders = fleet.service_id("orders");
    let revoked = revocation(&fleet, 1, Revoked::Workload(orders.clone()));
    for proxy in fleet.proxies.values() {
        proxy
            .state
            .apply_revocations(std::slice::from_ref(&revoked))
            .unwrap();
    }
    let reply = fleet.get("/public", None).await;
    assert_eq!((reply.status, reply.code()), (403, "peer.refused"));
    let reply = fleet
        .attack("inventory", &fleet.identity(&orders), "/stock/7", &[])
        .await
        .unwrap();
    assert_eq!((reply.status, reply.code()), (403, "peer.refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stricter_policy_holds_for_connections_that_are_open() {
    let mut fleet = Fleet::start().await;
    let token = fleet.token(ALICE);
    let path = "/orders/7/via/inventory";
    assert_eq!(
        fleet.get(path, Some(&token)).await.json["called"]["status"],
        200
    );
    fleet.snapshot.version.0 += 1;
    let inventory = fleet
        .snapshot
        .services
        .iter_mut()
        .find(|s| s.name.as_str() == "inventory")
        .unwrap();
    inventory.quarantined = true;
    // The called side alone knows first: the caller's proxy still believes the old snapshot.
    fleet.proxies["inventory"]
        .state
        .activate(fleet.snapshot.clone())
        .unwrap();
    let reply = fleet.get(path, Some(&token)).await;
    assert_eq!(reply.json["called"]["status"], 403, "{reply:?}");
    assert_eq!(
        reply.json["called"]["body"]["code"],
        "policy.service_leg_denied"
    );
    fleet.activate();
    assert_eq!(
        fleet.get(path, Some(&token)).await.json["called"]["status"],
        403
    );
    assert_eq!(fleet.upstreams["inventory"].seen(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_be_enforced_is_refused_and_the_old_one_kept() {
    let fleet = Fleet::start().await;
    let state = &fleet.gateway().state;
    let mut next = fleet.snapshot.clone();
    next.version.0 = 2;
    next.requires.push("time-travel".to_owned());
    assert!(
        state
            .activate(next.clone())
            .unwrap_err()
            .to_string()
            .contains("time-travel")
    );
    next.requires.pop();
    next.policies[0].text = "permit (principal".to_owned();
    state.activate(next).unwrap_err();
    assert_eq!(state.snapshot_version().unwrap().0, 1);
    assert_eq!(
        fleet
            .get("/orders/7", Some(&fleet.token(ALICE)))
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_what_runs_and_takes_nothing_new() {
    let mut fleet = Fleet::start().await;
    let stream = fleet.gateway_h2_stream().await;
    let running = tokio::spawn(client::over_http2(
        stream,
        "GET",
        "/slow-but-fine",
        &[],
        b"",
    ));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let address = fleet.gateway().address;
    let gateway = fleet.proxies.get_mut("gateway").unwrap();
    let (signal, threads) = (
        gateway.drain.take().unwrap(),
        gateway.running.take().unwrap(),
    );
    let drained = tokio::spawn(signal.start(Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "nothing new"
    );
    assert_eq!(
        running.await.unwrap().unwrap().status,
        200,
        "what runs is finished"
    );
    assert_eq!(
        drained.await.unwrap(),
        testudo_runtime::DrainOutcome::Complete
    );
    tokio::task::spawn_blocking(move || threads.join().unwrap())
        .await
        .unwrap();
}
