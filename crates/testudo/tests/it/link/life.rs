//! A proxy's life: it joins, renews, follows, is let go, and gets over it when the control plane is away.

use testudo_dataplane::revocations::TokenIdentity;
use testudo_model::TokenId;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_joins_enforces_what_it_is_told_and_its_events_reach_the_ledger() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    assert_eq!(proxy.identity.current().id(), &service("orders"));
    assert!(
        !proxy.readiness.is_ready(),
        "without a snapshot everything is refused"
    );

    control_plane.publish(1);
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    eventually("the proxy is ready", || proxy.readiness.is_ready()).await;
    let done = Rollout {
        newest: SnapshotVersion(1),
        enforcing: 1,
        behind: 0,
        refused: 0,
        revocations_behind: 0,
    };
    eventually("the acknowledgement is visible", || {
        control_plane.distribution.rollout() == done
    })
    .await;
    eventually("the acknowledgement is on record", || {
        let known = control_plane.workloads.instances().unwrap();
        known.len() == 1 && known[0].acknowledged == Some(SnapshotVersion(1))
    })
    .await;
    eventually("its address is known to all", || {
        let orders: ServiceName = "orders".parse().unwrap();
        let at: SocketAddr = "127.0.0.1:15006".parse().unwrap();
        proxy.state.endpoints().services.get(&orders) == Some(&vec![at])
    })
    .await;

    proxy.record("test.event");
    eventually("the event is in the ledger", || {
        control_plane.activities() == ["test.event"]
    })
    .await;
    eventually("the spool is empty", || {
        proxy.spool.status().unshipped_blocks == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_drains_says_goodbye_and_leaves_the_endpoints_at_once() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let mut proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let endpoints = || control_plane.workloads.endpoints().unwrap().services.len();
    eventually("it is there", || endpoints() == 1).await;
    drop(proxy.drain.take());
    eventually("it is gone", || endpoints() == 0).await;
    eventually("the link ended", || proxy.running.is_finished()).await;
    // The last event is recorded after the link ended, and still arrives.
    proxy.record("test.last");
    let spool = Arc::clone(&proxy.spool);
    assert!(
        tokio::task::spawn_blocking(move || spool.close(PATIENCE))
            .await
            .unwrap()
    );
    assert!(proxy.link.ship_rest(PATIENCE).await);
    assert_eq!(control_plane.activities(), ["test.last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_admits_once_and_only_at_the_control_plane_it_pins() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    let enrol = async |token: &JoinToken, expected: Option<Expected>| {
        join(None, Some(token), None, expected.as_ref(), clock.clone())
            .await
            .map(|membership| membership.identity)
    };
    let token = control_plane.token(&service("orders"));

    let wrong_pin = JoinToken {
        ca_sha256: random_bytes(&SystemEntropy),
        ..token.clone()
    };
    let error = enrol(&wrong_pin, None).await.unwrap_err();
    assert!(matches!(error, LinkError::Untrusted { .. }), "{error}");
    let other_fleet = JoinToken {
        identity: "spiffe://other.example/svc/orders".parse().unwrap(),
        ..token.clone()
    };
    assert!(enrol(&other_fleet, None).await.is_err());
    let forged = JoinToken {
        secret: "A".repeat(43).into(),
        ..token.clone()
    };
    let error = with_causes(&enrol(&forged, None).await.unwrap_err());
    assert!(error.contains("not known"), "{error}");

    // None of that used it up.
    let orders = || Some(Expected::Exactly(service("orders")));
    let identity = enrol(&token, orders()).await.unwrap();
    assert_eq!(identity.current().id(), &service("orders"));
    let error = with_causes(&enrol(&token, None).await.unwrap_err());
    assert!(error.contains("was used"), "{error}");

    // Nor does a proxy that is somebody else use a token up, as long as it says whom it is for.
    let for_stock = control_plane.token(&service("stock"));
    for other in [orders().unwrap(), Expected::Gateway] {
        let error = enrol(&for_stock, Some(other)).await.unwrap_err();
        assert!(matches!(error, LinkError::WrongIdentity { .. }), "{error}");
    }
    enrol(&for_stock, Some(Expected::Sidecar)).await.unwrap();
    // A token that lies about it gets a certificate that the proxy does not take.
    let disguised = JoinToken {
        identity: service("orders"),
        ..control_plane.token(&service("stock"))
    };
    let error = enrol(&disguised, orders()).await.unwrap_err();
    assert!(matches!(error, LinkError::WrongIdentity { .. }), "{error}");
    let error = join(None, None, None, None, clock.clone())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, LinkError::TokenNeeded), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_with_a_new_key_and_nothing_else_is_noticed() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    let first = proxy.identity.current();

    // Past the latest time of renewal, before the end of the certificate.
    clock.shift_to(Duration::from_secs(11 * 60));
    eventually("it is renewed", || {
        proxy.identity.current().not_after() > first.not_after()
    })
    .await;
    assert_ne!(
        proxy.identity.current().key().key_id(),
        first.key().key_id()
    );

    // Past the end of the first one: whatever still hung on it would fail now.
    clock.shift_to(Duration::from_secs(16 * 60));
    proxy.record("test.after_renewal");
    eventually("events still arrive", || {
        control_plane.activities() == ["test.after_renewal"]
    })
    .await;
    control_plane.publish(2);
    eventually("snapshots still arrive", || proxy.enforces() == 2).await;
    // A clock that jumps may end the lease of an instance before it speaks up again.
    eventually("it is in place", || {
        let instances = control_plane.workloads.instances().unwrap();
        instances.iter().all(|known| !known.departed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_a_proxy_cannot_enforce_is_refused_and_both_sides_know() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    control_plane.publish(1);
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    control_plane
        .distribution
        .publish(&snapshot(2, &["telepathy"]))
        .unwrap();
    eventually("the refusal is visible", || {
        control_plane.distribution.rollout().refused == 1
    })
    .await;
    assert_eq!(proxy.enforces(), 1);
    eventually("the proxy knows that it is behind", || {
        proxy.state.is_behind()
    })
    .await;
    let refused = control_plane
        .workloads
        .instances()
        .unwrap()
        .remove(0)
        .refused
        .unwrap();
    assert!(refused.as_str().contains("telepathy"), "{refused:?}");
    control_plane.publish(3);
    eventually("the next one is enforced", || proxy.enforces() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_pushed_and_a_revoked_workload_is_let_go() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let orders = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let stock = Proxy::join(&control_plane, &service("stock"), &folders.at("stock")).await;
    eventually("both watch", || {
        control_plane.distribution.connected().len() == 2
    })
    .await;

    let began = Instant::now();
    control_plane
        .distribution
        .revoke(Revoked::Subject("usr_mallory".to_owned()))
        .unwrap();
    eventually("everybody knows", || {
        [&orders, &stock]
            .iter()
            .all(|proxy| proxy.state.revocations().sequence() == 1)
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "pushed, not polled: {:?}",
        began.elapsed()
    );

    let revoked = control_plane
        .workloads
        .revoke(&service("stock"), &Caller::default())
        .unwrap();
    control_plane.distribution.revoke(revoked).unwrap();
    eventually("the other proxy refuses it", || {
        orders
            .state
            .revocations()
            .revokes_workload(&service("stock"))
    })
    .await;
    eventually("it no longer watches", || {
        control_plane
            .distribution
            .connected()
            .iter()
            .all(|proxy| proxy.id == service("orders"))
    })
    .await;
    eventually("its address is gone", || {
        let stock: ServiceName = "stock".parse().unwrap();
        !orders.state.endpoints().services.contains_key(&stock)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_control_plane_is_away_a_proxy_goes_on_and_loses_no_event() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    proxy.record("test.0");
    eventually("the first event arrived", || {
        control_plane.activities() == ["test.0"]
    })
    .await;
    let port = control_plane.address.port();
    control_plane.stop().await;

    for number in 1..=5 {
        proxy.record(&format!("test.{number}"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eventually("events wait", || proxy.spool.status().unshipped_blocks > 0).await;
    assert_eq!(proxy.enforces(), 1);
    assert!(proxy.readiness.is_ready(), "{:?}", proxy.readiness.status());

    let control_plane = ControlPlane::start(&folders.at("server"), port, &clock).await;
    control_plane
        .distribution
        .revoke(Revoked::Subject("usr_mallory".to_owned()))
        .unwrap();
    control_plane.publish(2);
    eventually("it catches up", || proxy.enforces() == 2).await;
    eventually("with revocations", || {
        proxy.state.revocations().sequence() == 1
    })
    .await;
    eventually("every event arrived once, in order", || {
        control_plane.activities() == ["test.0", "test.1", "test.2", "test.3", "test.4", "test.5"]
    })
    .await;
    eventually("the endpoints did not empty", || {
        proxy.state.endpoints().services.len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_a_state_key_restarts_without_a_token_and_without_a_control_plane() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let start = |token: Option<JoinToken>, key: [u8; 32], server: SocketAddr| {
        let (data, clock) = (folders.at("orders"), clock.clone());
        async move {
            Proxy::start(Start {
                data: &data,
                token,
                server,
                key: Some(key),
                inbound: None,
                clock,
            })
            .await
        }
    };
    let (address, port) = (control_plane.address, control_plane.address.port());
    let token = control_plane.token(&service("orders"));
    let proxy = start(Some(token), [1; 32], address).await.unwrap();
    control_plane
        .distribution
        .revoke(Revoked::Subject("usr_mallory".to_owned()))
        .unwrap();
    eventually("it is up to date", || {
        proxy.enforces() == 1 && proxy.state.revocations().sequence() == 1
    })
    .await;
    // What is kept for a restart is kept a moment later.
    eventually("it is on disk", || {
        ["identity", "snapshot", "revocations"]
            .iter()
            .all(|name| folders.at("orders").join(name).exists())
    })
    .await;
    control_plane.stop().await;
    proxy.record("test.unshipped");
    proxy.kill().await;

    let proxy = start(None, [1; 32], address).await.unwrap();
    assert_eq!(proxy.identity.current().id(), &service("orders"));
    assert_eq!(proxy.enforces(), 1, "before anybody was asked");
    assert_eq!(proxy.state.revocations().sequence(), 1);
    let control_plane = ControlPlane::start(&folders.at("server"), port, &clock).await;
    eventually("the event of the last run arrived", || {
        control_plane.activities() == ["test.unshipped"]
    })
    .await;
    proxy.kill().await;

    // Nothing of it is readable, and another key opens nothing.
    let mut files = std::fs::read_dir(folders.at("orders"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    assert!(files.all(|path| path.is_dir() || !contains(&path, "fleet.example")));
    let other = RootKey::from_bytes([2; 32]);
    assert!(StateFolder::open(&folders.at("orders"), &other, Arc::new(SystemEntropy)).is_err());
    // Once the certificate is over for more than a day, only a token helps.
    clock.shift_to(Duration::from_secs(25 * 3600));
    let error = start(None, [1; 32], address).await.err().unwrap();
    assert!(matches!(error, LinkError::TokenNeeded), "{error}");
}

fn contains(path: &Path, text: &str) -> bool {
    std::fs::read(path)
        .unwrap()
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_rotate_while_everything_runs() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    // The control plane's clock jumps over the days of the rotation; the proxy's does not.
    let server_clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &server_clock).await;
    control_plane.publish(1);
    let token = Some(control_plane.token(&service("orders")));
    let (data, server) = (folders.at("orders"), control_plane.address);
    let start = Start {
        data: &data,
        token,
        server,
        key: None,
        inbound: None,
        clock: clock.clone(),
    };
    let proxy = Proxy::start(start).await.unwrap();
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    let old_root = proxy.identity.current().chain().last().unwrap().clone();

    control_plane
        .workloads
        .rotate_ca(&Caller::default())
        .unwrap();
    eventually("the new root is trusted before it signs", || {
        proxy.identity.bundle().roots().len() == 2
    })
    .await;
    server_clock.shift_to(Duration::from_secs(25 * 3600));
    control_plane.workloads.maintain().unwrap();
    server_clock.shift_to(Duration::ZERO);
    let new_root = control_plane.workloads.bundle().unwrap().bundle.roots()[0].clone();
    assert_ne!(new_root, old_root, "the new root signs");
    eventually(
        "the control plane shows a certificate of the new root",
        || control_plane.identity.current().chain().last() == Some(&new_root),
    )
    .await;

    // Past the latest time of renewal, before the end of the first certificate; then past its end.
    for (version, shift) in [(2, 11), (3, 16)] {
        for clock in [&clock, &server_clock] {
            clock.shift_to(Duration::from_secs(shift * 60));
        }
        control_plane.publish(version);
        eventually("snapshots still arrive", || proxy.enforces() == version).await;
        eventually("the proxy has a certificate of the new root", || {
            proxy.identity.current().chain().last() == Some(&new_root)
        })
        .await;
    }
    proxy.record("test.after_rotation");
    eventually("events still arrive", || {
        control_plane.activities() == ["test.after_rotation"]
    })
    .await;
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_went_back_to_a_backup_is_followed_though_its_numbers_are_lower() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let revoke = |control_plane: &ControlPlane, subject: &str| {
        let what = Revoked::Subject(subject.to_owned());
        control_plane.distribution.revoke(what).unwrap();
    };
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    revoke(&control_plane, "usr_before");
    let port = control_plane.address.port();
    control_plane.stop().await;
    copy_folder(&folders.at("server"), &folders.at("backup"));

    let control_plane = ControlPlane::start(&folders.at("server"), port, &clock).await;
    control_plane.publish(5);
    let orders = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    for number in 0..3 {
        revoke(&control_plane, &format!("usr_lost_{number}"));
    }
    eventually("the proxy is ahead of the backup", || {
        orders.enforces() == 5 && orders.state.revocations().sequence() == 4
    })
    .await;
    control_plane.stop().await;

    let control_plane = ControlPlane::start(&folders.at("backup"), port, &clock).await;
    // The same numbers again, to others, and more than the proxy has seen.
    for number in 0..5 {
        revoke(&control_plane, &format!("usr_new_{number}"));
    }
    control_plane.publish(2);
    let _stock = Proxy::join(&control_plane, &service("stock"), &folders.at("stock")).await;
    eventually("its policies are followed", || orders.enforces() == 2).await;
    let is_revoked = |subject: &str| {
        let token = TokenId::generate(&*clock, &SystemEntropy);
        let identity = TokenIdentity {
            token: &token,
            session: None,
            subject,
            issued_at: 0,
        };
        orders.state.revocations().revokes_token(identity)
    };
    eventually("its revocations are", || {
        (0..5).all(|number| is_revoked(&format!("usr_new_{number}")))
    })
    .await;
    assert!(
        is_revoked("usr_before") && is_revoked("usr_lost_2"),
        "and none is forgotten"
    );
    let stock: ServiceName = "stock".parse().unwrap();
    eventually("its addresses are", || {
        orders.state.endpoints().services.contains_key(&stock)
    })
    .await;
    control_plane.publish(3);
    eventually("and what comes then", || orders.enforces() == 3).await;
}
