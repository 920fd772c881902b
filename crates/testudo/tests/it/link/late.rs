//! The control plane was away until certificates ended: what still lets a proxy in again, and what does not.

use testudo_model::limits::{LATE_RENEWAL, SVID_LIFETIME};

use super::{refusals::call, *};

const NIGHT: Duration = Duration::from_secs(8 * 3600);

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_certificate_is_good_for_a_renewal_and_for_no_other_call() {
    const INVALID_ARGUMENT: &str = "3";
    const UNAUTHENTICATED: &str = "16";
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    let token = control_plane.token(&domain().gateway());
    let gateway = Expected::Gateway;
    let membership = join(None, Some(&token), None, Some(&gateway), clock.clone()).await;
    let identity = membership.unwrap().identity;
    let try_all = async || {
        let mut statuses = Vec::new();
        for method in [
            "Proxy/Renew",
            "Proxy/IssueWebCertificate",
            "Proxy/Ship",
            "Proxy/Watch",
            "Enrolment/Enrol",
        ] {
            let server = ExpectedPeer::Id(domain().server());
            let tls = mesh_client_config(&identity, server, clock.clone(), &["h2"]);
            statuses.push(call(control_plane.address, tls, method).await.ok());
        }
        statuses
    };
    let code = |code: &str| Some(code.to_owned());
    let holding = try_all().await;
    assert_eq!(holding[0], code(INVALID_ARGUMENT), "the message is empty");
    assert!(
        !holding[1..4].contains(&code(UNAUTHENTICATED)),
        "{holding:?}"
    );

    clock.shift_to(SVID_LIFETIME + NIGHT);
    eventually("the control plane has its own next certificate", || {
        control_plane.identity.current().not_after() > clock.now()
    })
    .await;
    let ended = try_all().await;
    assert_eq!(
        ended[0],
        code(INVALID_ARGUMENT),
        "it is asked what it wants"
    );
    for refused in &ended[1..] {
        assert_eq!(*refused, code(UNAUTHENTICATED));
    }

    clock.shift_to(SVID_LIFETIME + LATE_RENEWAL);
    eventually("the control plane has its own next certificate", || {
        control_plane.identity.current().not_after() > clock.now()
    })
    .await;
    assert_eq!(
        try_all().await,
        [const { None }; 5],
        "no handshake any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_long_outage_a_proxy_renews_and_loses_no_event() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    let port = control_plane.address.port();
    control_plane.stop().await;
    proxy.record("test.before_the_end");
    eventually("it waits", || proxy.spool.status().unshipped_blocks > 0).await;
    clock.shift_to(SVID_LIFETIME + NIGHT);
    eventually("the proxy says that its certificate ended", || {
        !proxy.readiness.is_ready()
    })
    .await;

    let control_plane = ControlPlane::start(&folders.at("server"), port, &clock).await;
    control_plane.publish(2);
    eventually("it is renewed", || {
        proxy.identity.current().not_after() > clock.now()
    })
    .await;
    eventually("snapshots arrive", || proxy.enforces() == 2).await;
    eventually("the proxy is ready", || proxy.readiness.is_ready()).await;
    proxy.record("test.afterwards");
    eventually("no event is lost", || {
        control_plane.activities() == ["test.before_the_end", "test.afterwards"]
    })
    .await;
}

/// Starts `orders` from what its data folder has.
async fn restart(
    folders: &Folders,
    control_plane: &ControlPlane,
    token: Option<JoinToken>,
) -> Result<Proxy, LinkError> {
    Proxy::start(Start {
        data: &folders.at("orders"),
        token,
        server: control_plane.address,
        key: Some([1; 32]),
        inbound: None,
        clock: Arc::clone(&control_plane.clock),
    })
    .await
}

/// `orders` has joined, and was stopped for a night.
async fn stopped_for_a_night(folders: &Folders) -> ControlPlane {
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let token = control_plane.token(&service("orders"));
    let proxy = restart(folders, &control_plane, Some(token)).await.unwrap();
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    proxy.kill().await;
    clock.shift_to(SVID_LIFETIME + NIGHT);
    eventually("the control plane has its own next certificate", || {
        control_plane.identity.current().not_after() > clock.now()
    })
    .await;
    control_plane
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_stopped_for_a_night_starts_without_a_token() {
    let folders = Folders::new();
    let control_plane = stopped_for_a_night(&folders).await;
    let proxy = restart(&folders, &control_plane, None).await.unwrap();
    assert!(proxy.identity.current().not_after() > control_plane.clock.now());
    proxy.record("test.next_morning");
    eventually("its events arrive", || {
        control_plane.activities() == ["test.next_morning"]
    })
    .await;
    proxy.kill().await;
    // The renewed identity is the one that was kept.
    let proxy = restart(&folders, &control_plane, None).await.unwrap();
    proxy.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_or_revoked_meanwhile_stays_out_until_it_has_a_new_token() {
    for revoked in [false, true] {
        let folders = Folders::new();
        let control_plane = stopped_for_a_night(&folders).await;
        let (workloads, caller) = (&control_plane.workloads, Caller::default());
        let declare = |names: &[&str]| {
            let services = names.iter().map(|name| name.parse().unwrap()).collect();
            let web_names = vec!["localhost".to_owned()];
            let fleet = FleetIdentities {
                services,
                web_names,
            };
            workloads.declare(&fleet, &caller).unwrap();
        };
        if revoked {
            workloads.revoke(&service("orders"), &caller).unwrap();
        } else {
            declare(&["stock"]);
        }
        let error = restart(&folders, &control_plane, None).await.err().unwrap();
        let error = with_causes(&error);
        let reason = if revoked {
            "was revoked"
        } else {
            "is not registered"
        };
        assert!(error.contains(reason), "{error}");

        if revoked {
            workloads.reinstate(&service("orders"), &caller).unwrap();
        } else {
            declare(&["orders", "stock"]);
        }
        let error = restart(&folders, &control_plane, None).await.err().unwrap();
        let error = with_causes(&error);
        assert!(error.contains("revoked or removed since"), "{error}");
        let token = control_plane.token(&service("orders"));
        let proxy = restart(&folders, &control_plane, Some(token))
            .await
            .unwrap();
        proxy.kill().await;
    }
}
