//! Taking back: sessions, users, tokens.

use std::time::Duration;

use testudo_identity::{
    Authorization, EndReason, PresentedToken, RevokeError, TokenRequest, UserInfoError,
};
use testudo_model::{
    event::Outcome,
    snapshot::{Revocation, Revoked},
};

use crate::house::{House, SECRET, claimed_request, code_of, form, native_request, query};

fn revoke(house: &House, pairs: &[(&str, &str)]) -> Result<(), RevokeError> {
    let parameters = form(pairs);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer: None,
    };
    house.provider.revoke(&request, &house.caller)
}

fn is_accepted(house: &House, access_token: &str) -> bool {
    house
        .provider
        .user_info(PresentedToken::bearer(access_token, None))
        .is_ok()
}

#[test]
fn revoking_a_refresh_token_ends_the_grant_and_its_access_tokens() {
    let house = House::new();
    let (mine, others) = (house.tokens(), house.tokens());
    let refresh_token = mine.refresh_token.as_deref().unwrap();
    revoke(&house, &[("client_id", "cli"), ("token", refresh_token)]).unwrap();
    assert!(!is_accepted(&house, &mine.access_token));
    assert!(house.refresh(refresh_token).is_err());
    assert!(is_accepted(&house, &others.access_token));
}

#[test]
fn revoking_an_access_token_takes_it_alone_back() {
    let house = House::new();
    let tokens = house.tokens();
    revoke(
        &house,
        &[("client_id", "cli"), ("token", &tokens.access_token)],
    )
    .unwrap();
    assert!(!is_accepted(&house, &tokens.access_token));
    assert!(
        house
            .refresh(tokens.refresh_token.as_deref().unwrap())
            .is_ok()
    );
}

#[test]
fn revoking_a_token_again_adds_nothing_to_the_log_or_the_ledger() {
    let house = House::new();
    let tokens = house.tokens();
    let form = [("client_id", "cli"), ("token", &*tokens.access_token)];
    for _ in 0..3 {
        revoke(&house, &form).unwrap();
    }
    assert_eq!(house.revocations().len(), 1);
    assert_eq!(
        house.events_named("revocation.add", Outcome::Success).len(),
        1
    );
}

#[test]
fn a_user_with_all_the_grants_there_may_be_can_be_disabled() {
    use testudo_identity::limits::{MAX_GRANTS_PER_SESSION, MAX_GRANTS_PER_USER};
    let house = House::new();
    let offline = claimed_request(&[("scope", "openid offline_access")]);
    let mut first = None;
    for _ in 0..=MAX_GRANTS_PER_USER / MAX_GRANTS_PER_SESSION {
        let cookie = house.login_through(&offline).session_cookie;
        for _ in 0..MAX_GRANTS_PER_SESSION {
            let answer =
                house
                    .provider
                    .authorize(&offline, Some(cookie.expose()), None, &house.caller);
            let Authorization::Code { location } = answer.unwrap() else {
                panic!("no code")
            };
            let tokens = house.redeem_claimed(&query(location.expose())["code"]);
            first.get_or_insert(tokens.unwrap());
            house.clock.advance(Duration::from_millis(1));
        }
    }
    let grants = || -> usize {
        let sessions = house.provider.sessions_of(&house.alice).unwrap();
        sessions.iter().map(|session| session.grants.len()).sum()
    };
    assert_eq!(grants(), MAX_GRANTS_PER_USER);
    let oldest = first.unwrap().refresh_token.unwrap();
    assert!(house.refresh(&oldest).is_err(), "the oldest made room");
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    assert_eq!(grants(), 0);
}

#[test]
fn a_client_cannot_revoke_tokens_of_another_and_learns_nothing() {
    let house = House::new();
    let tokens = house.tokens();
    let refresh_token = tokens.refresh_token.as_deref().unwrap();
    for token in [tokens.access_token.as_str(), refresh_token, "garbage"] {
        let pairs = [
            ("client_id", "web"),
            ("client_secret", SECRET),
            ("token", token),
        ];
        assert!(revoke(&house, &pairs).is_ok());
    }
    assert!(is_accepted(&house, &tokens.access_token));
    assert!(house.refresh(refresh_token).is_ok());
    let unproven = revoke(&house, &[("client_id", "web"), ("token", "x")]).unwrap_err();
    assert_eq!(unproven.to_oauth().status, 401);
    let missing = revoke(&house, &[("client_id", "cli")]).unwrap_err();
    assert_eq!(missing.to_oauth().error.as_str(), "invalid_request");
}

#[test]
fn logging_out_ends_everything_the_session_gave() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[("scope", "openid offline_access")]));
    let tokens = house.redeem(&code_of(&logged_in)).unwrap();
    let cookie = logged_in.session_cookie.expose();
    house.log_out(cookie);
    house.log_out(cookie);
    assert!(house.provider.session(cookie).unwrap().is_none());
    assert!(!is_accepted(&house, &tokens.access_token));
    assert!(
        house
            .refresh(tokens.refresh_token.as_deref().unwrap())
            .is_err()
    );
}

#[test]
fn a_session_is_listed_with_its_clients_and_can_be_ended_by_either_id() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    let tokens = house.redeem(&code_of(&logged_in)).unwrap();
    let listed = house.provider.sessions_of(&house.alice).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, logged_in.session);
    assert_eq!(listed[0].grants[0].client_id.as_str(), "cli");
    assert_eq!(listed[0].source_ip, house.caller.source_ip);

    let sid = house.access_claims(&tokens).sid.unwrap();
    assert!(
        house
            .provider
            .end_session(&sid, EndReason::Administrator, &house.caller)
            .unwrap()
    );
    assert!(!is_accepted(&house, &tokens.access_token));
    let listed = house.provider.sessions_of(&house.alice).unwrap();
    assert!(listed[0].grants.is_empty(), "the login itself goes on");
    let login = &logged_in.session;
    assert!(
        house
            .provider
            .end_session(login, EndReason::Administrator, &house.caller)
            .unwrap()
    );
    assert!(house.provider.sessions_of(&house.alice).unwrap().is_empty());
    assert!(
        !house
            .provider
            .end_session(login, EndReason::Administrator, &house.caller)
            .unwrap()
    );
}

#[test]
fn an_offline_grant_outlives_its_login_in_the_list_and_can_still_be_ended() {
    let house = House::new();
    let parameters = native_request(&[("scope", "openid offline_access")]);
    let logged_in = house.login_through(&parameters);
    let tokens = house.redeem(&code_of(&logged_in)).unwrap();
    house.clock.advance(Duration::from_secs(13 * 3600));
    let listed = house.provider.sessions_of(&house.alice).unwrap();
    assert_eq!(
        (listed[0].id.clone(), listed[0].expires_at),
        (logged_in.session.clone(), None)
    );
    let ended =
        house
            .provider
            .end_session(&logged_in.session, EndReason::Administrator, &house.caller);
    assert!(ended.unwrap());
    assert!(
        house
            .refresh(tokens.refresh_token.as_deref().unwrap())
            .is_err()
    );
}

#[test]
fn disabling_a_user_is_one_entry_that_voids_all_they_have() {
    let house = House::new();
    let tokens = [house.tokens(), house.tokens()];
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    assert!(
        house
            .revocations()
            .iter()
            .any(|entry| entry.what == Revoked::User(house.alice.clone()))
    );
    for tokens in &tokens {
        assert!(!is_accepted(&house, &tokens.access_token));
        assert!(
            house
                .refresh(tokens.refresh_token.as_deref().unwrap())
                .is_err()
        );
    }
    assert!(house.provider.sessions_of(&house.alice).unwrap().is_empty());
    house
        .provider
        .enable_user(&house.alice, &house.caller)
        .unwrap();
    house.clock.advance(Duration::from_secs(2));
    assert!(
        is_accepted(&house, &house.tokens().access_token),
        "new tokens are not concerned"
    );
}

#[test]
fn the_log_is_dense_ordered_and_forgets_what_can_no_longer_matter() {
    let house = House::new();
    for _ in 0..3 {
        house
            .provider
            .end_sessions_of(&house.alice, &house.caller)
            .unwrap();
    }
    let (entries, newest) = house.provider.revocations_since(0).unwrap();
    let sequences: Vec<u64> = entries
        .iter()
        .map(|entry: &Revocation| entry.sequence)
        .collect();
    assert_eq!((sequences.as_slice(), newest), (&[1, 2, 3][..], 3));
    assert_eq!(house.provider.revocations_since(2).unwrap().0.len(), 1);
    assert_eq!(house.provider.revocations_since(3).unwrap(), (vec![], 3));
    house.clock.advance(Duration::from_secs(3600));
    assert_eq!(house.provider.revocations_since(0).unwrap(), (vec![], 3));
    house
        .provider
        .end_sessions_of(&house.alice, &house.caller)
        .unwrap();
    assert_eq!(
        house.provider.revocations_since(0).unwrap().0[0].sequence,
        4
    );
}

#[test]
fn an_entry_outlives_every_token_it_concerns() {
    let house = House::new();
    let tokens = house.tokens();
    revoke(
        &house,
        &[("client_id", "cli"), ("token", &tokens.access_token)],
    )
    .unwrap();
    let entry = &house.revocations()[0];
    let expiry = house.access_claims(&tokens).exp;
    assert!(entry.expires.unix_seconds() > expiry + 60);
}

#[test]
fn a_second_node_knows_of_a_revocation_at_once() {
    let house = House::new();
    let other = house.another_provider(5);
    let tokens = house.tokens();
    assert!(
        other
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_ok()
    );
    revoke(
        &house,
        &[("client_id", "cli"), ("token", &tokens.access_token)],
    )
    .unwrap();
    assert!(
        other
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_err()
    );
}

#[test]
fn userinfo_takes_access_tokens_of_users_and_nothing_else() {
    let house = House::new();
    let tokens = house.tokens();
    let id_token = tokens.id_token.clone().unwrap();
    let flipped = tokens.access_token.replacen("ey", "eY", 1);
    for bad in ["", "x.y.z", &id_token, &flipped, &"a".repeat(100_000)] {
        let error = house
            .provider
            .user_info(PresentedToken::bearer(bad, None))
            .unwrap_err();
        assert!(matches!(error, UserInfoError::InvalidToken));
        assert!(
            error
                .to_oauth()
                .challenge
                .unwrap()
                .contains("invalid_token")
        );
    }
    let plain = house.redeem(&code_of(
        &house.login_through(&native_request(&[("scope", "orders:read")])),
    ));
    let error = house
        .provider
        .user_info(PresentedToken::bearer(&plain.unwrap().access_token, None))
        .unwrap_err();
    assert_eq!(
        (error.to_oauth().status, error.to_oauth().error.as_str()),
        (403, "insufficient_scope")
    );
    house.clock.advance(Duration::from_secs(300));
    assert!(!is_accepted(&house, &tokens.access_token), "expired");
}

#[test]
fn every_end_of_a_session_is_an_event_with_its_reason() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    house.log_out(logged_in.session_cookie.expose());
    let ended = house.events_named("session.end", Outcome::Success);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].target.as_deref(), Some(house.alice.as_str()));
}

#[test]
fn the_admin_api_gets_claims_of_good_tokens_alone() {
    let house = House::new();
    let tokens = house.tokens();
    let claims = house
        .provider
        .access_token(PresentedToken::bearer(&tokens.access_token, None))
        .unwrap();
    assert_eq!(claims.sub, house.alice.as_str());
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    assert!(
        house
            .provider
            .access_token(PresentedToken::bearer(&tokens.access_token, None))
            .is_err()
    );
}

#[test]
fn logins_and_tokens_change_nothing_that_shows_in_snapshots() {
    let house = House::new();
    let shows = |collection: &str| testudo_identity::SNAPSHOT_COLLECTIONS.contains(&collection);
    let start = house
        .store
        .changes_since(0, 10_000)
        .unwrap()
        .last()
        .unwrap()
        .sequence;
    let tokens = house.tokens();
    house
        .refresh(tokens.refresh_token.as_deref().unwrap())
        .unwrap();
    let _ = house.try_login("alice", "wrong");
    let changes = house.store.changes_since(start, 10_000).unwrap();
    assert!(changes.len() > 5 && changes.iter().all(|change| !shows(&change.collection)));
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    let changes = house.store.changes_since(start, 10_000).unwrap();
    assert!(changes.iter().any(|change| shows(&change.collection)));
}
