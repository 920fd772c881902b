//! Service accounts: client credentials with a secret and without.

use std::time::Duration;

use testudo_identity::{
    Caller, ClientKind, ClientProfile, GrantType, NewSecret, Peer, PresentedToken,
    ServiceAccountProfile, TokenError, TokenRequest, TokenResponse,
};
use testudo_model::{
    AccessTokenClaims, Redacted,
    event::{Detail, Outcome},
    snapshot::Revoked,
};
use testudo_trust::hash_password;

use crate::house::{House, SECRET, THUMBPRINT, form, restock_peer};

fn ask(
    house: &House,
    pairs: &[(&str, &str)],
    peer: Option<&Peer>,
) -> Result<TokenResponse, TokenError> {
    let mut all = vec![("grant_type", "client_credentials")];
    all.extend(pairs);
    let parameters = form(&all);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer,
    };
    house.provider.token(&request, &house.caller)
}

#[test]
fn a_secret_gets_a_token_for_the_account_itself() {
    let house = House::new();
    let tokens = ask(
        &house,
        &[("client_id", "restock"), ("client_secret", SECRET)],
        None,
    )
    .unwrap();
    let claims: AccessTokenClaims = house.access_claims(&tokens);
    assert!(claims.sub.starts_with("sva_"));
    assert_eq!(claims.client_id, "restock");
    assert_eq!(claims.scope, "stock:read stock:write");
    assert!(claims.sid.is_none() && claims.cnf.is_none() && claims.auth_time.is_none());
    assert!(tokens.refresh_token.is_none() && tokens.id_token.is_none());
}

#[test]
fn the_certificate_of_the_connection_is_enough_and_binds_the_token() {
    let house = House::new();
    let peer = restock_peer();
    for pairs in [vec![], vec![("client_id", "restock")]] {
        let tokens = ask(&house, &pairs, Some(&peer)).unwrap();
        let claims = house.access_claims(&tokens);
        assert_eq!(claims.client_id, "restock");
        assert_eq!(
            claims.cnf.unwrap().certificate_thumbprint.as_deref(),
            Some(THUMBPRINT)
        );
    }
}

#[test]
fn another_workload_is_not_the_account() {
    let house = House::new();
    let other = Peer {
        spiffe_id: "spiffe://bookshop.example/svc/orders".parse().unwrap(),
        certificate_thumbprint: THUMBPRINT.to_owned(),
    };
    for pairs in [
        vec![],
        vec![("client_id", "restock")],
        vec![("client_id", "web")],
    ] {
        let error = ask(&house, &pairs, Some(&other)).unwrap_err().to_oauth();
        assert_eq!(
            (error.error.as_str(), error.status),
            ("invalid_client", 401)
        );
    }
    let error = ask(&house, &[("client_id", "restock")], None)
        .unwrap_err()
        .to_oauth();
    assert_eq!(error.error.as_str(), "invalid_client");
}

#[test]
fn a_wrong_secret_is_not_saved_by_the_right_certificate() {
    let house = House::new();
    let pairs = [("client_id", "restock"), ("client_secret", "wrong")];
    let error = ask(&house, &pairs, Some(&restock_peer()))
        .unwrap_err()
        .to_oauth();
    assert_eq!(error.error.as_str(), "invalid_client");
}

#[test]
fn a_workload_with_two_accounts_must_say_which() {
    let house = House::new();
    let peer = restock_peer();
    let profile = ServiceAccountProfile {
        workloads: vec![peer.spiffe_id.clone()],
        ..ServiceAccountProfile::default()
    };
    let name = "second".parse().unwrap();
    house
        .provider
        .create_service_account(&name, profile, &NewSecret::None, &house.caller)
        .unwrap();
    assert!(ask(&house, &[], Some(&peer)).is_err());
    let tokens = ask(&house, &[("client_id", "second")], Some(&peer)).unwrap();
    assert_eq!(house.access_claims(&tokens).client_id, "second");
}

#[test]
fn scopes_beyond_the_accounts_are_refused() {
    let house = House::new();
    let peer = restock_peer();
    let narrow = ask(&house, &[("scope", "stock:read")], Some(&peer)).unwrap();
    assert_eq!(narrow.scope, "stock:read");
    for scope in ["openid", "stock:read admin", "\"", "stock:READ"] {
        let error = ask(&house, &[("scope", scope)], Some(&peer))
            .unwrap_err()
            .to_oauth();
        assert_eq!(error.error.as_str(), "invalid_scope", "{scope}");
    }
}

#[test]
fn an_account_has_no_other_grant_and_a_client_not_this_one() {
    let house = House::new();
    for (client, grant) in [
        ("restock", "authorization_code"),
        ("restock", "refresh_token"),
        ("web", "client_credentials"),
    ] {
        let parameters = form(&[
            ("grant_type", grant),
            ("client_id", client),
            ("client_secret", SECRET),
        ]);
        let error = house.token(&parameters).unwrap_err().to_oauth();
        assert_eq!(
            error.error.as_str(),
            "unauthorized_client",
            "{client} {grant}"
        );
    }
}

#[test]
fn a_disabled_account_gets_no_token_and_loses_those_it_has() {
    let house = House::new();
    let id = house
        .provider
        .service_account_by_name(&"restock".parse().unwrap())
        .unwrap()
        .record
        .id;
    house
        .provider
        .set_service_account_disabled(&id, true, &house.caller)
        .unwrap();
    assert!(ask(&house, &[], Some(&restock_peer())).is_err());
    assert_eq!(
        house.revocations()[0].what,
        Revoked::Subject(id.to_string())
    );
}

#[test]
fn a_rotated_secret_and_the_one_before_work_side_by_side_for_a_while() {
    let house = House::new();
    let works = |secret: &str| {
        ask(
            &house,
            &[("client_id", "restock"), ("client_secret", secret)],
            None,
        )
        .is_ok()
    };
    let name = "restock".parse().unwrap();
    let day = Duration::from_secs(24 * 3600);
    let second = house
        .provider
        .rotate_client_secret(&name, day, &house.caller)
        .unwrap();
    assert!(works(SECRET) && works(second.expose()));
    house.clock.advance(day);
    assert!(!works(SECRET) && works(second.expose()));
    let third = house
        .provider
        .rotate_client_secret(&name, Duration::ZERO, &house.caller)
        .unwrap();
    assert!(!works(second.expose()) && works(third.expose()));
}

#[test]
fn a_secret_known_only_by_its_argon2_hash_works() {
    let house = House::new();
    let secret = Redacted::new("a secret from elsewhere".to_owned());
    let hash = Redacted::new(hash_password(&secret, &testudo_trust::SystemEntropy));
    let name = "imported".parse().unwrap();
    let profile = ServiceAccountProfile::default();
    house
        .provider
        .create_service_account(&name, profile, &NewSecret::Hash(hash), &house.caller)
        .unwrap();
    let pairs = [
        ("client_id", "imported"),
        ("client_secret", secret.expose().as_str()),
    ];
    assert!(ask(&house, &pairs, None).is_ok());
    assert!(
        ask(
            &house,
            &[("client_id", "imported"), ("client_secret", "wrong")],
            None
        )
        .is_err()
    );
}

#[test]
fn a_web_client_can_run_as_a_workload_and_its_user_tokens_are_bound() {
    let house = House::new();
    let peer = restock_peer();
    let profile = ClientProfile {
        display_name: "Bound".to_owned(),
        kind: ClientKind::Confidential,
        redirect_uris: vec![crate::house::WEB_REDIRECT.parse().unwrap()],
        grants: vec![GrantType::AuthorizationCode],
        scopes: vec![],
        workload: Some(peer.spiffe_id.clone()),
        ..ClientProfile::default()
    };
    let name = "bound".parse().unwrap();
    house
        .provider
        .create_client(&name, profile, &NewSecret::None, &house.caller)
        .unwrap();
    let request = crate::house::native_request(&[
        ("client_id", "bound"),
        ("redirect_uri", crate::house::WEB_REDIRECT),
        ("scope", "openid"),
    ]);
    let code = crate::house::code_of(&house.login_through(&request));
    let parameters = crate::house::redemption(
        &code,
        &[
            ("client_id", "bound"),
            ("redirect_uri", crate::house::WEB_REDIRECT),
        ],
    );
    let redeem = |peer| {
        let request = TokenRequest {
            parameters: &parameters,
            authorization: None,
            dpop: None,
            peer,
        };
        house.provider.token(&request, &house.caller)
    };
    assert!(redeem(None).is_err());
    let tokens = redeem(Some(&peer)).unwrap();
    assert!(
        tokens.refresh_token.is_none(),
        "the client has no refresh grant"
    );
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, Some(&peer)))
            .is_ok()
    );
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_err()
    );
    let other = Peer {
        certificate_thumbprint: "another".to_owned(),
        ..peer
    };
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, Some(&other)))
            .is_err()
    );
}

fn ask_from(house: &House, source: [u8; 4], pairs: &[(&str, &str)]) -> Result<(), TokenError> {
    let mut all = vec![("grant_type", "client_credentials")];
    all.extend(pairs);
    let parameters = form(&all);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer: None,
    };
    let caller = Caller {
        source_ip: Some(source.into()),
        ..Caller::default()
    };
    house.provider.token(&request, &caller).map(|_| ())
}

#[test]
fn who_guesses_client_secrets_has_to_wait_and_is_in_nobody_else_s_way() {
    let house = House::new();
    let (guesser, owner) = ([198, 51, 100, 1], [203, 0, 113, 1]);
    let wrong = [("client_id", "restock"), ("client_secret", "wrong")];
    let right = [("client_id", "restock"), ("client_secret", SECRET)];
    let mut guesses = 0;
    let stopped = loop {
        let error = ask_from(&house, guesser, &wrong).unwrap_err().to_oauth();
        if error.status != 401 {
            break error;
        }
        guesses += 1;
        assert!(guesses < 100);
    };
    assert_eq!((stopped.status, guesses), (429, 20));
    // The right one is not told from a wrong one, until some time has passed.
    assert!(ask_from(&house, guesser, &right).is_err());
    ask_from(&house, owner, &right).unwrap();
    house.clock.advance(Duration::from_secs(5));
    ask_from(&house, guesser, &right).unwrap();
    // Names that nobody has are no way around it.
    let unknown = |n: u32| {
        let name = format!("client-{n}");
        ask_from(&house, guesser, &[("client_id", &name)]).unwrap_err()
    };
    let throttled = (0..1000).find(|n| unknown(*n).to_oauth().status == 429);
    assert!(throttled.is_some_and(|n| n <= 200), "{throttled:?}");
}

#[test]
fn only_a_secret_that_is_stored_as_a_slow_hash_costs_one() {
    let house = House::new();
    let slow = NewSecret::Hash(Redacted::new(hash_password(
        &Redacted::new("a word".to_owned()),
        &*testudo_testkit::SeededEntropy::new(1),
    )));
    let account = ServiceAccountProfile::default();
    house
        .provider
        .create_service_account(&"words".parse().unwrap(), account, &slow, &house.caller)
        .unwrap();
    let costs = |pairs: &[(&str, &str)]| {
        let parameters = form(pairs);
        let request = TokenRequest {
            parameters: &parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        house.provider.costs_a_hash(&request).unwrap()
    };
    assert!(costs(&[("client_id", "words"), ("client_secret", "x")]));
    assert!(!costs(&[("client_id", "words")]));
    assert!(!costs(&[("client_id", "restock"), ("client_secret", "x")]));
    assert!(!costs(&[("client_id", "nobody"), ("client_secret", "x")]));
    assert!(!costs(&[("client_id", "cli"), ("refresh_token", "x")]));
}

#[test]
fn a_flood_of_refusals_is_a_few_events_and_a_count() {
    let house = House::new();
    let refused = || house.events_named("token.issue", Outcome::Denied).len();
    let before = refused();
    for _ in 0..500 {
        let parameters = form(&[
            ("grant_type", "refresh_token"),
            ("client_id", "cli"),
            ("refresh_token", "x"),
        ]);
        let request = TokenRequest {
            parameters: &parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        house.provider.token(&request, &house.caller).unwrap_err();
    }
    assert_eq!(refused() - before, 20);
    house.provider.report_unrecorded_refusals().unwrap();
    house.clock.advance(Duration::from_secs(60));
    house.provider.report_unrecorded_refusals().unwrap();
    house.provider.report_unrecorded_refusals().unwrap();
    let summaries = house.events_named("token.refusals", Outcome::Denied);
    let counts: Vec<_> = summaries
        .iter()
        .map(|event| &event.details["count"])
        .collect();
    assert_eq!(counts, [&Detail::Number(480)]);
}
