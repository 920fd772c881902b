//! A join token admits one proxy, once, as what it was made for.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use testudo_model::{
    JoinToken, Redacted,
    event::{Detail, Outcome},
};
use testudo_trust::{sha256, spiffe_id_of};
use testudo_workload::{Caller, JoinTokenRequest, WorkloadError};

use crate::fixture::{DAY, Fleet, HOUR, id, orders, request};

fn enrol(fleet: &Fleet, credential: &Redacted<String>) -> Result<Vec<Vec<u8>>, WorkloadError> {
    let enrolled = fleet
        .workloads
        .enrol(credential, &request(), &Caller::default())?;
    Ok(enrolled.issued.chain)
}

#[test]
fn a_proxy_gets_the_identity_its_token_was_made_for_whatever_it_asks() {
    let fleet = Fleet::new();
    let caller = Caller::default();
    let enrolled = fleet
        .workloads
        .enrol(&fleet.credential(&orders()), &request(), &caller)
        .unwrap();
    assert_eq!(enrolled.issued.id, orders());
    assert_eq!(spiffe_id_of(&enrolled.issued.chain[0]).unwrap(), orders());
    let now = testudo_model::Clock::now(&*fleet.clock);
    assert_eq!(
        enrolled
            .bundle
            .bundle
            .verify_svid(&enrolled.issued.chain, now)
            .unwrap(),
        orders()
    );
    assert_eq!(enrolled.issued.not_after.since(now).as_secs(), 15 * 60);
    assert_eq!(
        fleet.events.last(),
        ("workload.enrol".to_owned(), Outcome::Success)
    );
}

#[test]
fn the_printed_token_pins_the_root_that_enrolment_shows() {
    let fleet = Fleet::new();
    let request = JoinTokenRequest {
        id: orders(),
        lifetime: HOUR,
        server: Some("10.0.0.7:9444".to_owned()),
    };
    let made = fleet
        .workloads
        .create_join_token(&request, &Caller::default())
        .unwrap();
    let copied = JoinToken::parse(made.print().expose()).unwrap();
    let chain = enrol(&fleet, &copied.credential()).unwrap();
    assert_eq!(sha256(chain.last().unwrap()), copied.ca_sha256);
    assert_eq!(
        fleet.workloads.bundle().unwrap().bundle.sha256(),
        copied.ca_sha256
    );
}

#[test]
fn a_token_works_once() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    enrol(&fleet, &credential).unwrap();
    assert!(matches!(
        enrol(&fleet, &credential),
        Err(WorkloadError::JoinTokenUsed { .. })
    ));
    assert_eq!(
        fleet.events.last(),
        ("workload.enrol".to_owned(), Outcome::Denied)
    );
}

#[test]
fn of_many_parallel_redemptions_one_wins() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    let won = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                match enrol(&fleet, &credential) {
                    Ok(_) => won.fetch_add(1, Ordering::SeqCst),
                    Err(WorkloadError::JoinTokenUsed { .. }) => 0,
                    Err(other) => panic!("{other}"),
                };
            });
        }
    });
    assert_eq!(won.into_inner(), 1);
}

#[test]
fn an_expired_a_deleted_and_a_guessed_token_admit_nobody() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    let (token, secret) = JoinToken::parse_credential(credential.expose()).unwrap();
    let guess = format!(
        "{token}.{}",
        secret.expose().chars().rev().collect::<String>()
    );
    assert!(matches!(
        enrol(&fleet, &guess.into()),
        Err(WorkloadError::JoinTokenUnknown)
    ));
    for garbage in ["", ".", "join_.", "x.y", &"a".repeat(10_000)] {
        let refused = enrol(&fleet, &garbage.to_owned().into());
        assert!(
            matches!(refused, Err(WorkloadError::JoinTokenUnknown)),
            "{garbage}"
        );
    }
    fleet.clock.advance(HOUR);
    assert!(matches!(
        enrol(&fleet, &credential),
        Err(WorkloadError::JoinTokenExpired { .. })
    ));

    let credential = fleet.credential(&orders());
    let (token, _) = JoinToken::parse_credential(credential.expose()).unwrap();
    let delete = |token| {
        fleet
            .workloads
            .delete_join_token(token, &Caller::default())
            .unwrap()
    };
    let deleted = delete(&token).unwrap();
    assert_eq!((deleted.id, deleted.used), (orders(), None));
    assert_eq!(
        fleet.events.last(),
        ("join_token.delete".to_owned(), Outcome::Success)
    );
    assert!(matches!(
        enrol(&fleet, &credential),
        Err(WorkloadError::JoinTokenUnknown)
    ));
    assert_eq!(delete(&token), None);
}

#[test]
fn whoever_deletes_a_token_learns_that_somebody_has_used_it() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    let (token, _) = JoinToken::parse_credential(credential.expose()).unwrap();
    enrol(&fleet, &credential).unwrap();
    let used_at = testudo_model::Clock::now(&*fleet.clock);
    fleet.clock.advance(HOUR);
    let delete = || {
        fleet
            .workloads
            .delete_join_token(&token, &Caller::default())
    };
    assert_eq!(delete().unwrap().unwrap().used, Some(used_at));
    let events = fleet.events.taken.lock().unwrap();
    let event = events.last().unwrap();
    assert_eq!(event.activity, "join_token.delete");
    assert_eq!(event.details["used"], used_at.to_string().into());
}

#[test]
fn a_malformed_request_does_not_use_the_token_up() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    let refused = fleet
        .workloads
        .enrol(&credential, b"not a request", &Caller::default());
    assert!(matches!(refused, Err(WorkloadError::Certificate(_))));
    enrol(&fleet, &credential).unwrap();
}

#[test]
fn a_token_lives_a_day_at_most_and_is_for_registered_identities_only() {
    let fleet = Fleet::new();
    let mut request = JoinTokenRequest {
        id: orders(),
        lifetime: DAY * 30,
        server: None,
    };
    fleet
        .workloads
        .create_join_token(&request, &Caller::default())
        .unwrap();
    let listed = fleet.workloads.join_tokens().unwrap();
    assert_eq!(listed[0].expires.since(listed[0].created), DAY);
    request.id = id("/svc/nobody");
    let refused = fleet
        .workloads
        .create_join_token(&request, &Caller::default());
    assert!(matches!(refused, Err(WorkloadError::NotRegistered { .. })));
}

#[test]
fn a_revocation_voids_outstanding_tokens() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    fleet
        .workloads
        .revoke(&orders(), &Caller::default())
        .unwrap();
    assert!(matches!(
        enrol(&fleet, &credential),
        Err(WorkloadError::Revoked { .. })
    ));
}

#[test]
fn what_cannot_be_recorded_is_not_handed_out() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    *fleet.events.broken.lock().unwrap() = true;
    assert!(matches!(
        enrol(&fleet, &credential),
        Err(WorkloadError::NotRecorded(_))
    ));
    let renewed = fleet.renew(&orders());
    assert!(matches!(renewed, Err(WorkloadError::NotRecorded(_))));
}

#[test]
fn no_event_carries_a_secret() {
    let fleet = Fleet::new();
    let credential = fleet.credential(&orders());
    enrol(&fleet, &credential).unwrap();
    let (_, secret) = JoinToken::parse_credential(credential.expose()).unwrap();
    let events = format!("{:?}", fleet.events.taken.lock().unwrap());
    assert!(!events.contains(secret.expose()));
    assert!(!format!("{:?}", fleet.workloads.join_tokens().unwrap()).contains(secret.expose()));
}

#[test]
fn a_flood_of_guessed_tokens_is_a_few_events_and_a_count() {
    let fleet = Fleet::new();
    let caller = Caller {
        source_ip: Some([198, 51, 100, 1].into()),
        ..Caller::default()
    };
    let guess = Redacted::new("join_00000000000000000000000000.guess".to_owned());
    for _ in 0..500 {
        fleet
            .workloads
            .enrol(&guess, &request(), &caller)
            .unwrap_err();
    }
    fleet.clock.advance(std::time::Duration::from_secs(60));
    for _ in 0..2 {
        fleet.workloads.report_unrecorded_refusals().unwrap();
    }
    let events = fleet.events.taken.lock().unwrap().clone();
    let count = |activity: &str| {
        events
            .iter()
            .filter(|event| event.activity == activity)
            .count()
    };
    assert_eq!(count("workload.enrol"), 20);
    assert_eq!(count("workload.refusals"), 1);
    assert_eq!(events.last().unwrap().details["count"], Detail::Number(480));
}
