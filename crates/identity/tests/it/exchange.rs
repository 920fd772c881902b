//! Token exchange (RFC 8693): who gets a token about whom, and what it is worth.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use proptest::prelude::*;
use testudo_identity::{
    ExchangePolicy, ExchangeQuestion, NewSecret, OauthError, Outbox, Parameters, Peer,
    PresentedToken, Provider, ServiceAccountProfile, TokenRequest, TokenResponse, TokenType,
};
use testudo_model::{
    AccessTokenClaims, Clock, Redacted,
    event::{Detail, Outcome},
    snapshot::Revoked,
};
use testudo_testkit::SeededEntropy;

use crate::house::{AUDIENCE, House, SECRET, THUMBPRINT, changed, form, restock_peer, settings};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Permits what is asked for `inventory`, and for anything else nothing.
struct Inventory;

impl ExchangePolicy for Inventory {
    fn permit(&self, question: &ExchangeQuestion<'_>) -> Result<Vec<String>, String> {
        assert!(question.actor.starts_with("sva_"));
        match question.service.as_str() {
            "inventory" => Ok(vec!["restock-acts".to_owned()]),
            _ => Err("policy.user_leg_denied".to_owned()),
        }
    }
}

/// A house whose provider exchanges tokens for `inventory`, and alice's token.
struct Desk {
    house: House,
    provider: Provider,
    alices: String,
}

impl Desk {
    fn new() -> Self {
        let house = House::new();
        for name in ["second", "third", "fourth", "fifth"] {
            let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
            let profile = ServiceAccountProfile::default();
            let name = name.parse().unwrap();
            house
                .provider
                .create_service_account(&name, profile, &secret, &house.caller)
                .unwrap();
        }
        let provider = Provider::open(
            &house.store,
            settings(),
            house.clock.clone(),
            SeededEntropy::new(7),
            Arc::new(Outbox),
        );
        let provider = provider.unwrap().exchanging(Arc::new(Inventory));
        let alices = house.tokens().access_token;
        Self {
            house,
            provider,
            alices,
        }
    }

    /// What `restock` asks for with alice's token, with changes.
    fn asked(&self, changes: &[(&str, &str)]) -> Parameters {
        let defaults = [
            ("grant_type", GRANT),
            ("client_id", "restock"),
            ("client_secret", SECRET),
            ("subject_token", &self.alices),
            ("subject_token_type", ACCESS_TOKEN),
            ("audience", "inventory"),
        ];
        changed(&defaults, changes)
    }

    fn send(
        &self,
        parameters: &Parameters,
        peer: Option<&Peer>,
    ) -> Result<TokenResponse, OauthError> {
        let request = TokenRequest {
            parameters,
            authorization: None,
            dpop: None,
            peer,
        };
        let answer = self.provider.token(&request, &self.house.caller);
        answer.map_err(|error| error.to_oauth())
    }

    fn exchange(&self, changes: &[(&str, &str)]) -> Result<TokenResponse, OauthError> {
        self.send(&self.asked(changes), None)
    }

    fn error(&self, changes: &[(&str, &str)]) -> (String, u16) {
        let error = self.exchange(changes).unwrap_err();
        (error.error.as_str().to_owned(), error.status)
    }

    /// A token of an account about itself.
    fn own(&self, account: &str) -> String {
        let parameters = form(&[
            ("grant_type", "client_credentials"),
            ("client_id", account),
            ("client_secret", SECRET),
        ]);
        self.send(&parameters, None).unwrap().access_token
    }

    fn claims(&self, token: &str) -> AccessTokenClaims {
        self.house.claims(token, "at+jwt")
    }
}

#[test]
fn the_token_is_about_the_same_subject_for_one_service_and_says_who_acts() {
    let desk = Desk::new();
    let before = desk.claims(&desk.alices);
    desk.house.clock.advance(Duration::from_secs(60));
    let tokens = desk.exchange(&[("scope", "orders:read")]).unwrap();
    assert_eq!(
        serde_json::to_value(&tokens).unwrap()["issued_token_type"],
        ACCESS_TOKEN
    );
    assert_eq!(
        (tokens.token_type, tokens.expires_in),
        (TokenType::Bearer, 240)
    );
    assert!(tokens.refresh_token.is_none() && tokens.id_token.is_none());
    let claims = desk.claims(&tokens.access_token);
    let restock = desk.claims(&desk.own("restock")).sub;
    assert_eq!(claims.act.as_ref().unwrap().chain(), [restock.as_str()]);
    assert_ne!(claims.jti, before.jti);
    assert_eq!(
        claims,
        AccessTokenClaims {
            aud: format!("{AUDIENCE}/inventory"),
            iat: desk.house.clock.now().unix_seconds(),
            jti: claims.jti.clone(),
            client_id: "restock".to_owned(),
            scope: "orders:read".to_owned(),
            act: claims.act.clone(),
            ..before
        },
        "all else is as it was, the end too"
    );
    let events = desk.house.events_named("token.exchange", Outcome::Success);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].details["actors"], Detail::from(restock.as_str()));
    assert_eq!(events[0].details["audience"], Detail::from("inventory"));
    assert_eq!(events[0].details["policies"], Detail::from("restock-acts"));
    let alices = desk.claims(&desk.alices).jti;
    assert_eq!(
        events[0].details["subject_token"],
        Detail::from(alices.as_str())
    );
    assert_eq!(
        events[0].actor.subject.as_deref(),
        Some(claims.sub.as_str())
    );
    assert_eq!(events[0].actor.session, claims.sid);
    // At the provider's own resources it opens nothing.
    let presented = PresentedToken::bearer(&tokens.access_token, None);
    assert!(desk.provider.access_token(presented).is_err());
    assert!(desk.provider.user_info(presented).is_err());
}

#[test]
fn it_is_bound_to_what_the_account_has_and_dies_with_the_login() {
    let desk = Desk::new();
    let peer = restock_peer();
    let parameters = desk.asked(&[("client_id", ""), ("client_secret", "")]);
    let tokens = desk.send(&parameters, Some(&peer)).unwrap();
    let claims = desk.claims(&tokens.access_token);
    let bound = claims.cnf.unwrap().certificate_thumbprint;
    assert_eq!(bound.as_deref(), Some(THUMBPRINT));
    // Logged out: neither the token she had nor what came of it is good.
    let session = claims.sid.unwrap();
    desk.provider
        .take_back(Revoked::Session(session), &desk.house.caller)
        .unwrap();
    assert_eq!(desk.error(&[]), ("invalid_request".to_owned(), 400));
    let told = |token: &str| {
        let parameters = form(&[
            ("client_id", "restock"),
            ("client_secret", SECRET),
            ("token", token),
        ]);
        let request = TokenRequest {
            parameters: &parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        let told = desk.provider.introspect(&request, &desk.house.caller);
        told.unwrap().active
    };
    assert!(!told(&tokens.access_token));
    assert!(told(&desk.own("restock")));
}

#[test]
fn a_chain_of_accounts_is_told_newest_first_and_has_an_end() {
    let desk = Desk::new();
    let mut token = desk.alices.clone();
    let mut chain = Vec::new();
    for account in ["restock", "second", "third", "fourth"] {
        let tokens = desk
            .exchange(&[("client_id", account), ("subject_token", &token)])
            .unwrap();
        token = tokens.access_token;
        chain.insert(0, desk.claims(&desk.own(account)).sub);
        assert_eq!(desk.claims(&token).act.unwrap().chain(), chain);
    }
    assert_eq!(
        desk.error(&[("client_id", "fifth"), ("subject_token", &token)]),
        ("invalid_request".to_owned(), 400)
    );
    let events = desk.house.events_named("token.exchange", Outcome::Success);
    let last = events.last().unwrap();
    assert_eq!(last.details["actors"], Detail::from(chain.join(" ")));
}

#[test]
fn nothing_becomes_more_than_it_was() {
    let desk = Desk::new();
    for (changes, code) in [
        (vec![("scope", "orders:read stock:write")], "invalid_scope"),
        (vec![("scope", "orders read\u{e9}")], "invalid_scope"),
        (vec![("audience", "orders")], "invalid_target"),
        (vec![("audience", "nowhere")], "invalid_target"),
        (vec![("audience", AUDIENCE)], "invalid_target"),
        (vec![("audience", "")], "invalid_target"),
        (vec![("audience", "in ventory")], "invalid_target"),
        (vec![("resource", "https://evil.example")], "invalid_target"),
        (
            vec![("resource", "bookshop.example/orders")],
            "invalid_target",
        ),
        (
            vec![("audience", ""), ("resource", "bookshop.example/orders")],
            "invalid_target",
        ),
        (
            vec![
                ("audience", ""),
                ("resource", "bookshop.example.evil/inventory"),
            ],
            "invalid_target",
        ),
        (
            vec![("audience", ""), ("resource", AUDIENCE)],
            "invalid_target",
        ),
    ] {
        assert_eq!(desk.error(&changes).0, code, "{changes:?}");
    }
    let by_resource =
        desk.exchange(&[("audience", ""), ("resource", "bookshop.example/inventory")]);
    let narrow = by_resource.unwrap().access_token;
    assert_eq!(desk.claims(&narrow).aud, "bookshop.example/inventory");
    // A token for one service is exchanged for that service or for none, whatever the policies say.
    struct Everything;
    impl ExchangePolicy for Everything {
        fn permit(&self, _: &ExchangeQuestion<'_>) -> Result<Vec<String>, String> {
            Ok(Vec::new())
        }
    }
    let provider = desk
        .house
        .another_provider(9)
        .exchanging(Arc::new(Everything));
    let desk = Desk { provider, ..desk };
    assert!(desk.exchange(&[("audience", "orders")]).is_ok());
    let wider = [("subject_token", narrow.as_str()), ("audience", "orders")];
    assert_eq!(desk.error(&wider).0, "invalid_target");
    assert!(desk.exchange(&[("subject_token", &narrow)]).is_ok());
}

#[test]
fn only_tokens_of_ours_that_are_good_now_are_exchanged() {
    let desk = Desk::new();
    let id_token = desk.house.tokens().id_token.unwrap();
    let refresh_token = desk.house.tokens().refresh_token.unwrap();
    let stranger = House::new().tokens().access_token;
    let (cut, _) = desk.alices.split_at(desk.alices.len() - 4);
    for (what, changes, code) in [
        (
            "an ID token",
            vec![("subject_token", id_token.as_str())],
            "invalid_request",
        ),
        (
            "a refresh token",
            vec![("subject_token", &refresh_token)],
            "invalid_request",
        ),
        (
            "of another provider",
            vec![("subject_token", &stranger)],
            "invalid_request",
        ),
        ("cut", vec![("subject_token", cut)], "invalid_request"),
        ("none", vec![("subject_token", "")], "invalid_request"),
        (
            "no type",
            vec![("subject_token_type", "")],
            "invalid_request",
        ),
        (
            "another type",
            vec![(
                "subject_token_type",
                "urn:ietf:params:oauth:token-type:id_token",
            )],
            "invalid_request",
        ),
        (
            "for another type",
            vec![(
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:refresh_token",
            )],
            "invalid_request",
        ),
        (
            "an actor without its type",
            vec![("actor_token", cut)],
            "invalid_request",
        ),
        (
            "a type without an actor",
            vec![("actor_token_type", ACCESS_TOKEN)],
            "invalid_request",
        ),
    ] {
        assert_eq!(desk.error(&changes), (code.to_owned(), 400), "{what}");
    }
    assert!(
        desk.exchange(&[("requested_token_type", ACCESS_TOKEN)])
            .is_ok()
    );
    desk.house.clock.advance(Duration::from_secs(300));
    assert_eq!(desk.error(&[]).0, "invalid_request", "it has ended");
}

#[test]
fn an_actor_token_is_of_the_account_that_asks() {
    let desk = Desk::new();
    let with_actor = |token: &str| {
        desk.exchange(&[("actor_token", token), ("actor_token_type", ACCESS_TOKEN)])
            .map(|tokens| desk.claims(&tokens.access_token).act.unwrap().chain().len())
            .map_err(|error| error.error.as_str().to_owned())
    };
    assert_eq!(with_actor(&desk.own("restock")), Ok(1));
    let refused = Err("invalid_request".to_owned());
    assert_eq!(with_actor(&desk.own("second")), refused);
    assert_eq!(with_actor(&desk.alices), refused);
    // One that acts for itself through another is not the account itself.
    let own = desk.own("restock");
    let acted = desk.exchange(&[("client_id", "second"), ("subject_token", &own)]);
    assert_eq!(with_actor(&acted.unwrap().access_token), refused);
    let foreign = desk.house.events_named("token.issue", Outcome::Denied);
    assert_eq!(foreign.len(), 3, "somebody tried to be somebody else");
}

#[test]
fn without_a_policy_or_an_account_there_is_no_exchange() {
    let desk = Desk::new();
    assert_eq!(
        desk.error(&[("audience", "orders")]),
        ("invalid_target".to_owned(), 400)
    );
    let denied = desk.house.events_named("token.exchange", Outcome::Denied);
    assert_eq!(denied.len(), 1);
    assert_eq!(denied[0].details["audience"], Detail::from("orders"));
    // Clients of people exchange nothing, with or without a secret.
    for client in [
        vec![("client_id", "web")],
        vec![("client_id", "cli"), ("client_secret", "")],
    ] {
        assert_eq!(desk.error(&client).0, "unauthorized_client");
    }
    assert_eq!(
        desk.error(&[("client_secret", "wrong")]),
        ("invalid_client".to_owned(), 401)
    );
    let bare = Desk {
        provider: desk.house.another_provider(8),
        ..desk
    };
    assert_eq!(bare.error(&[]).0, "invalid_target");
}

/// One for all cases: making it takes longer than a thousand of them.
static DESK: LazyLock<Desk> = LazyLock::new(Desk::new);

proptest! {
    #[test]
    fn whatever_is_asked_the_answer_is_never_more_than_the_token_brought(
        scope in "(orders:read|orders:write|openid|profile|stock:write| ){0,4}",
        audience in "(inventory|orders|bookshop|[a-z/.]{0,12})",
    ) {
        let desk = &*DESK;
        let before = desk.claims(&desk.alices);
        if let Ok(tokens) = desk.exchange(&[("scope", &scope), ("audience", &audience)]) {
            let claims = desk.claims(&tokens.access_token);
            prop_assert_eq!(claims.aud, format!("{AUDIENCE}/inventory"));
            prop_assert!(claims.exp <= before.exp);
            for scope in claims.scope.split(' ').filter(|scope| !scope.is_empty()) {
                prop_assert!(before.scope.split(' ').any(|had| had == scope));
            }
        }
    }
}
