//! What happens when something changes under open connections: policy, revocations, start and stop.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
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

/// Changes of what is enforced, unless `TESTUDO_SWAPS` says how many, e.g. `1000`: each is compiled, which takes its time
/// without optimisation.
const SWAPS: u64 = 20;
/// After this time the clients get another token: one lives five minutes.
const TOKEN_AGE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "a longer run is asked for by its environment"
)]
async fn changes_under_load_fail_no_request() {
    let swaps = std::env::var("TESTUDO_SWAPS").map_or(SWAPS, |text| text.parse().unwrap());
    let mut fleet = Fleet::start().await;
    let token = Arc::new(Mutex::new(fleet.token(ALICE)));
    let done = Arc::<AtomicBool>::default();
    let answered = Arc::<AtomicUsize>::default();
    let mut clients = Vec::new();
    for path in ["/public", "/orders/7"] {
        let (mut over_http1, connection) =
            http1::handshake(TokioIo::new(fleet.gateway_stream().await))
                .await
                .unwrap();
        tokio::spawn(connection);
        let stream = TokioIo::new(fleet.gateway_h2_stream().await);
        let (mut over_http2, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
        let token = Arc::clone(&token);
        clients.push(tokio::spawn(async move {
            let request = |uri: String| {
                let request = Request::get(uri).header("host", "localhost");
                let authorization = format!("Bearer {}", token.lock().unwrap());
                let request = request.header("authorization", authorization);
                request.body(Empty::<Bytes>::new()).unwrap()
            };
            while !done.load(Ordering::Relaxed) {
                let (one, two) = tokio::join!(
                    over_http1.send_request(request(path.to_owned())),
                    over_http2.send_request(request(format!("https://localhost{path}"))),
                );
                for answer in [one.unwrap(), two.unwrap()] {
                    assert_eq!(answer.status(), 200, "{path}");
                    answer.into_body().collect().await.unwrap();
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let mut renewed = Instant::now();
    for version in 2..2 + swaps {
        fleet.snapshot.version.0 = version;
        if renewed.elapsed() > TOKEN_AGE {
            *token.lock().unwrap() = fleet.token(ALICE);
            renewed = Instant::now();
        }
        // What changes concerns others; each change is compiled and swapped as a whole all the same.
        let policies = &mut fleet.snapshot.policies[0].text;
        let unchanged = policies.find("// change").unwrap_or(policies.len());
        policies.truncate(unchanged);
        policies.push_str(&format!(
            "// change {version}\n@id(\"others-{version}\") permit (principal in Fleet::Group::\"clerks\", \
             action == Fleet::Action::\"admin\", resource == Fleet::Route::\"orders:orders.create\");"
        ));
        let proxies = ["gateway", "orders"];
        let proxies = if version % 10 == 0 {
            &proxies[..]
        } else {
            &proxies[..1]
        };
        for proxy in proxies {
            let snapshot = fleet.snapshot.clone();
            let state = Arc::clone(&fleet.proxies[proxy].state);
            let activated = tokio::task::spawn_blocking(move || state.activate(snapshot)).await;
            assert_eq!(activated.unwrap().unwrap().0, version);
        }
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let answered = answered.load(Ordering::Relaxed) as u64;
    eprintln!("{answered} answers during {swaps} changes, each as it should be");
    assert!(answered > 5 * swaps, "{answered} answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_kept_connections_and_answers_what_they_still_ask() {
    let mut fleet = Fleet::start().await;
    let (mut kept, connection) = http1::handshake(TokioIo::new(fleet.gateway_stream().await))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        let request = Request::get("/public").header("host", "localhost");
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let answer = kept.send_request(request()).await.unwrap();
    assert!(!answer.headers().contains_key("connection"));
    answer.into_body().collect().await.unwrap();
    let idle = fleet.gateway_stream().await;
    let gateway = fleet.proxies.get_mut("gateway").unwrap();
    let (signal, threads) = (
        gateway.drain.take().unwrap(),
        gateway.running.take().unwrap(),
    );
    let drained = tokio::spawn(signal.start(Duration::from_secs(10)));
    // Both had been opened before; one has not said anything yet.
    let until_last = async {
        loop {
            kept.ready().await.unwrap();
            let answer = kept.send_request(request()).await.unwrap();
            assert_eq!(answer.status(), 200);
            let is_last = answer.headers().get("connection");
            let is_last = is_last.is_some_and(|value| value == "close");
            answer.into_body().collect().await.unwrap();
            if is_last {
                break connection.await.unwrap().unwrap();
            }
        }
    };
    let first = client::over_http1(idle, "GET", "/public", &[], b"");
    let ((), reply) = tokio::join!(until_last, first);
    assert_eq!(reply.status, 200);
    assert_eq!(
        drained.await.unwrap(),
        testudo_runtime::DrainOutcome::Complete
    );
    tokio::task::spawn_blocking(move || threads.join().unwrap())
        .await
        .unwrap();
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
