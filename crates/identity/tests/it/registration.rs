//! Clients that register themselves, and those who would like to.

use std::{sync::Barrier, thread, time::Duration};

use serde_json::{Value, json};
use testudo_identity::{
    AdminError, AuthMethod, Authorization, Caller, ConsentDecision, ErrorCode, GrantType,
    NewRegistrationToken, NewSecret, RedirectKind, RegistrationError, RegistrationPolicy, Seed,
    SeedClient, SeedError,
};
use testudo_model::{ClientName, event::Outcome};
use testudo_trust::{RsaSigningKey, SigningKey};

use crate::house::{House, VERIFIER, challenge, changed, form, native_profile, query};

const REDIRECT: &str = "https://wiki.apps.example/cb";

fn policy() -> RegistrationPolicy {
    RegistrationPolicy {
        grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        scopes: vec!["orders:read".parse().unwrap()],
        auth_methods: vec![
            AuthMethod::None,
            AuthMethod::ClientSecretBasic,
            AuthMethod::ClientSecretPost,
            AuthMethod::PrivateKeyJwt,
        ],
        redirects: vec![RedirectKind::Https],
        redirect_hosts: vec!["*.apps.example".to_owned()],
        pkce_optional: false,
        client_lifetime_seconds: None,
    }
}

/// What a client sends; `changes` are put over it.
fn metadata(changes: &Value) -> Vec<u8> {
    let mut metadata = json!({
        "client_name": "Wiki",
        "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": "openid profile offline_access orders:read",
        "token_endpoint_auth_method": "client_secret_post",
    });
    let changes = changes.as_object().unwrap().clone();
    metadata.as_object_mut().unwrap().extend(changes);
    metadata.to_string().into_bytes()
}

fn text<'d>(document: &'d Value, name: &str) -> &'d str {
    document[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name}: {document}"))
}

/// A house that registers clients.
struct Registry {
    house: House,
}

impl Registry {
    fn open(policy: RegistrationPolicy) -> Self {
        let registry = Self {
            house: House::new(),
        };
        registry.set(Some(policy));
        registry
    }

    fn set(&self, registration: Option<RegistrationPolicy>) {
        let seed = Seed {
            registration,
            ..Seed::default()
        };
        let house = &self.house;
        house.provider.seed(&seed, &house.caller).unwrap();
    }

    fn token(&self, uses: u32) -> String {
        let new = NewRegistrationToken {
            label: Some("for the wiki".to_owned()),
            uses,
            lifetime: Duration::from_secs(3600),
        };
        let house = &self.house;
        let made = house
            .provider
            .create_registration_token(&new, &house.caller);
        made.unwrap().1.expose().clone()
    }

    fn register(&self, token: &str, changes: &Value) -> Result<Value, RegistrationError> {
        let house = &self.house;
        house
            .provider
            .register_client(token, &metadata(changes), &house.caller)
            .map(|document| document.expose().clone())
    }

    fn registered(&self, changes: &Value) -> Value {
        self.register(&self.token(1), changes).unwrap()
    }

    fn show(&self, client: &str, token: &str) -> Result<Value, RegistrationError> {
        let house = &self.house;
        house
            .provider
            .registered_client(client, token, &house.caller)
            .map(|document| document.expose().clone())
    }

    /// Replaces what a client registered.
    fn replace(
        &self,
        client: &str,
        token: &str,
        changes: &Value,
    ) -> Result<Value, RegistrationError> {
        let mut body: Value = serde_json::from_slice(&metadata(changes)).unwrap();
        if body.get("client_id").is_none() {
            body["client_id"] = json!(client);
        }
        let house = &self.house;
        house
            .provider
            .reregister_client(client, token, body.to_string().as_bytes(), &house.caller)
            .map(|document| document.expose().clone())
    }
}

fn code(error: &RegistrationError) -> (ErrorCode, u16) {
    let answer = error.to_oauth();
    (answer.error, answer.status)
}

#[test]
fn nobody_registers_without_a_policy() {
    let registry = Registry::open(policy());
    let token = registry.token(1);
    let endpoint = "https://id.bookshop.example/oauth2/register";
    let provider = &registry.house.provider;
    assert_eq!(
        provider.discovery().unwrap()["registration_endpoint"],
        endpoint
    );
    let made = registry.registered(&json!({}));
    registry.set(None);
    assert!(
        provider
            .discovery()
            .unwrap()
            .get("registration_endpoint")
            .is_none()
    );
    let off = |error: RegistrationError| matches!(error, RegistrationError::Off);
    assert!(off(registry.register(&token, &json!({})).unwrap_err()));
    let (client, access) = (
        text(&made, "client_id"),
        text(&made, "registration_access_token"),
    );
    assert!(off(registry.show(client, access).unwrap_err()));
    assert!(off(registry
        .replace(client, access, &json!({}))
        .unwrap_err()));
    let events = registry
        .house
        .events_named("registration.policy", Outcome::Success);
    let targets: Vec<_> = events.iter().map(|event| event.target.as_deref()).collect();
    assert_eq!(targets, [Some("on"), Some("off")]);
}

#[test]
fn nobody_registers_without_a_token_that_is_good() {
    let registry = Registry::open(policy());
    let house = &registry.house;
    let good = registry.token(1);
    let (id, secret) = good.split_once('.').unwrap();
    let other = registry.token(1);
    let (_, others) = other.split_once('.').unwrap();
    for bad in [
        String::new(),
        id.to_owned(),
        secret.to_owned(),
        format!("{id}."),
        format!("{id}.{others}"),
        format!("{id}.{secret}x"),
        format!("rgt_00000000000000000000000000.{secret}"),
    ] {
        let refused = registry.register(&bad, &json!({})).unwrap_err();
        assert_eq!(code(&refused), (ErrorCode::InvalidToken, 401), "{bad}");
        // Whoever may not register does not learn what could be.
        let refused = registry.register(&bad, &json!({ "scope": "unheard:of" }));
        assert!(matches!(refused, Err(RegistrationError::Token)));
    }
    assert!(
        !house
            .events_named("client.register", Outcome::Denied)
            .is_empty()
    );
    registry.register(&good, &json!({})).unwrap();

    house.clock.advance(Duration::from_secs(3600));
    let refused = registry.register(&other, &json!({})).unwrap_err();
    assert!(
        matches!(refused, RegistrationError::Token),
        "it is too late"
    );
    let taken_back = registry.token(1);
    let page = house.provider.registration_tokens(None, 10).unwrap();
    assert_eq!(page.items.len(), 1, "what is used up or expired is gone");
    let id = page.items[0].record.id.clone();
    house
        .provider
        .delete_registration_token(&id, &house.caller)
        .unwrap();
    let refused = registry.register(&taken_back, &json!({})).unwrap_err();
    assert!(matches!(refused, RegistrationError::Token));
    let gone = house.provider.delete_registration_token(&id, &house.caller);
    assert!(matches!(gone, Err(AdminError::NotFound { .. })));
}

#[test]
fn a_token_registers_so_many_clients_and_no_more_even_at_once() {
    let registry = Registry::open(policy());
    let token = registry.token(3);
    let refused = registry.register(&token, &json!({ "scope": "stock:write" }));
    assert!(
        matches!(refused, Err(RegistrationError::Metadata { .. })),
        "costs no use"
    );
    let others: Vec<_> = (0..8)
        .map(|seed| registry.house.another_provider(seed + 100))
        .collect();
    let barrier = Barrier::new(others.len());
    let made: usize = thread::scope(|scope| {
        let threads: Vec<_> = others
            .iter()
            .map(|provider| {
                let (barrier, token) = (&barrier, &token);
                scope.spawn(move || {
                    barrier.wait();
                    provider.register_client(token, &metadata(&json!({})), &Caller::default())
                })
            })
            .collect();
        let answers = threads.into_iter().map(|thread| thread.join().unwrap());
        answers.filter(Result::is_ok).count()
    });
    assert_eq!(made, 3);
    let events = registry
        .house
        .events_named("client.register", Outcome::Success);
    assert_eq!(events.len(), 3);
}

#[test]
fn tokens_are_for_some_clients_and_some_time() {
    let registry = Registry::open(policy());
    let house = &registry.house;
    let hour = Duration::from_secs(3600);
    for (uses, lifetime) in [
        (0, hour),
        (1_001, hour),
        (1, Duration::ZERO),
        (1, 721 * hour),
    ] {
        let new = NewRegistrationToken {
            label: None,
            uses,
            lifetime,
        };
        let refused = house
            .provider
            .create_registration_token(&new, &house.caller);
        assert!(matches!(refused, Err(AdminError::Invalid { .. })));
    }
}

#[test]
fn a_registered_client_is_one_like_others_that_asks_people_first() {
    let registry = Registry::open(policy());
    let house = &registry.house;
    let logo = "https://wiki.apps.example/x.png";
    let made = registry.registered(&json!({ "client_name": "Command line", "logo_uri": logo }));
    // What the standard means by nothing.
    assert_eq!(text(&made, "id_token_signed_response_alg"), "RS256");
    assert_eq!(made["client_secret_expires_at"], 0);
    let (client, secret) = (text(&made, "client_id"), text(&made, "client_secret"));
    let challenge = challenge();
    let request = |changes: &[(&'static str, &'static str)]| {
        let defaults = [
            ("response_type", "code"),
            ("client_id", client),
            ("redirect_uri", REDIRECT),
            ("scope", "openid offline_access orders:read stock:write"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        changed(&defaults, changes)
    };
    // Anybody may call themselves what they like: people see where they go.
    let prompt = house.prompt(&request(&[]));
    assert_eq!(prompt.client_name, "wiki.apps.example (Command line)");
    let logged_in = house.login_through(&request(&[]));
    let session = logged_in.session_cookie.expose();
    let asked = |parameters| {
        let provider = &house.provider;
        provider.authorize(&parameters, Some(session), None, &house.caller)
    };
    // To be logged in is no answer, neither by a login just now nor by one before.
    assert!(matches!(
        asked(request(&[])),
        Ok(Authorization::Consent { .. })
    ));
    assert!(asked(request(&[("prompt", "none")])).is_err());
    let location = logged_in.location.expose();
    let answer = house
        .consent(location, session, ConsentDecision::Allow)
        .unwrap();
    let redemption = form(&[
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("client_secret", secret),
        ("code", &query(&answer)["code"]),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ]);
    let tokens = house.token(&redemption).unwrap();
    let granted = "offline_access openid orders:read";
    assert_eq!(tokens.scope, granted, "not more than registered");
    let elsewhere = [("redirect_uri", "https://other.apps.example/cb")];
    assert!(asked(request(&elsewhere)).is_err());

    // An administrator sees what it says and where it comes from, and ends it.
    let name: ClientName = client.parse().unwrap();
    let stored = house.provider.client(&name).unwrap();
    let registered = stored.record.registered.as_ref().unwrap();
    assert_eq!(registered.about.logo_uri.as_deref(), Some(logo));
    house
        .provider
        .delete_client(&name, stored.version, &house.caller)
        .unwrap();
    let refresh = form(&[
        ("grant_type", "refresh_token"),
        ("client_id", client),
        ("client_secret", secret),
        ("refresh_token", tokens.refresh_token.as_deref().unwrap()),
    ]);
    assert!(house.token(&refresh).is_err());
    let access = text(&made, "registration_access_token");
    assert!(matches!(
        registry.show(client, access),
        Err(RegistrationError::Token)
    ));
}

#[test]
fn a_client_manages_itself_and_no_other() {
    let registry = Registry::open(policy());
    let (made, other) = (
        registry.registered(&json!({})),
        registry.registered(&json!({ "token_endpoint_auth_method": "none" })),
    );
    let (client, access) = (
        text(&made, "client_id"),
        text(&made, "registration_access_token"),
    );
    let shown = registry.show(client, access).unwrap();
    assert_eq!(shown["redirect_uris"], json!([REDIRECT]));
    assert_eq!(
        text(&shown, "registration_client_uri"),
        format!("https://id.bookshop.example/oauth2/register/{client}")
    );
    assert!(
        shown.get("client_secret").is_none(),
        "nobody knows it any more"
    );
    assert!(other.get("client_secret").is_none(), "it has none");

    let others = text(&other, "registration_access_token");
    let secret = text(&made, "client_secret");
    let house = &registry.house;
    for (client, token) in [
        (client, others),
        (client, secret),
        (client, ""),
        (client, &*registry.token(1)),
        (text(&other, "client_id"), access),
        ("cli", access),
        ("cli", ""),
        ("restock", access),
        ("dcr-nobody", access),
        ("../register", access),
    ] {
        let refused = [
            registry.show(client, token).map(drop),
            registry.replace(client, token, &json!({})).map(drop),
            house
                .provider
                .deregister_client(client, token, &house.caller),
        ];
        for refused in refused {
            assert_eq!(
                code(&refused.unwrap_err()),
                (ErrorCode::InvalidToken, 401),
                "{client}"
            );
        }
    }
    house
        .provider
        .deregister_client(client, access, &house.caller)
        .unwrap();
    assert!(matches!(
        registry.show(client, access),
        Err(RegistrationError::Token)
    ));
    let name: ClientName = client.parse().unwrap();
    assert!(house.provider.client(&name).is_err());
    let deleted = house.events_named("client.delete", Outcome::Success);
    assert_eq!(deleted[0].target.as_deref(), Some(client));
}

#[test]
fn each_change_gives_the_next_token_and_its_first_use_ends_the_one_before() {
    let registry = Registry::open(policy());
    let made = registry.registered(&json!({}));
    let (client, first) = (
        text(&made, "client_id"),
        text(&made, "registration_access_token"),
    );
    let lost = registry
        .replace(client, first, &json!({ "client_name": "Wiki 2" }))
        .unwrap();
    assert!(lost.get("client_secret").is_none(), "it has the one it had");
    // The answer was lost on the way: the client tries again with what it has.
    let again = registry
        .replace(client, first, &json!({ "client_name": "Wiki 3" }))
        .unwrap();
    let (lost, second) = (
        text(&lost, "registration_access_token"),
        text(&again, "registration_access_token"),
    );
    assert!(matches!(
        registry.show(client, lost),
        Err(RegistrationError::Token)
    ));
    assert_eq!(
        text(&registry.show(client, second).unwrap(), "client_name"),
        "Wiki 3"
    );
    for old in [first, lost] {
        assert!(matches!(
            registry.show(client, old),
            Err(RegistrationError::Token)
        ));
        let refused = registry.replace(client, old, &json!({}));
        assert!(matches!(refused, Err(RegistrationError::Token)));
    }
    registry.show(client, second).unwrap();
}

#[test]
fn a_change_is_a_whole_and_says_nothing_that_is_not_for_clients_to_say() {
    let registry = Registry::open(policy());
    let made = registry.registered(&json!({}));
    let (client, access) = (
        text(&made, "client_id"),
        text(&made, "registration_access_token"),
    );
    for wrong in [
        json!({ "client_id": "cli" }),
        json!({ "client_id": null }),
        json!({ "client_secret": "x" }),
        json!({ "registration_access_token": access }),
        json!({ "registration_client_uri": "https://evil.example/" }),
        json!({ "client_secret_expires_at": 0 }),
        json!({ "client_id_issued_at": 0 }),
        json!({ "scope": "stock:write" }),
        json!({ "jwks_uri": "http://169.254.169.254/" }),
    ] {
        let refused = registry.replace(client, access, &wrong).unwrap_err();
        assert_eq!(
            code(&refused),
            (ErrorCode::InvalidClientMetadata, 400),
            "{wrong}"
        );
    }
    let elsewhere = json!({ "redirect_uris": ["https://evil.example/"] });
    let refused = registry.replace(client, access, &elsewhere).unwrap_err();
    assert_eq!(code(&refused), (ErrorCode::InvalidRedirectUri, 400));

    // From a secret to a key: the secret proves nothing any more. And back: it gets another one.
    let secret = text(&made, "client_secret");
    let key = SigningKey::generate();
    let with_key = json!({
        "client_secret": secret,
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": { "keys": [key.public_jwk()] },
    });
    let replaced = registry.replace(client, access, &with_key).unwrap();
    assert_eq!(replaced["jwks"]["keys"][0]["kid"], key.key_id());
    let login = |secret: &str| {
        let form = form(&[
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("client_secret", secret),
            ("code", "none"),
        ]);
        registry.house.token(&form).unwrap_err().to_oauth().error
    };
    assert_eq!(login(secret), ErrorCode::InvalidClient);
    let access = text(&replaced, "registration_access_token");
    let replaced = registry.replace(client, access, &json!({})).unwrap();
    let renewed = text(&replaced, "client_secret");
    assert_ne!(renewed, secret);
    assert_eq!(login(secret), ErrorCode::InvalidClient);
    assert_ne!(login(renewed), ErrorCode::InvalidClient);
    let shown = registry.show(client, text(&replaced, "registration_access_token"));
    assert!(
        shown.unwrap().get("jwks").is_none(),
        "what is not said again is gone"
    );
}

#[test]
fn the_policy_of_the_day_counts_for_changes_and_leaves_what_is_registered() {
    let registry = Registry::open(policy());
    let made = registry.registered(&json!({}));
    let (client, access) = (
        text(&made, "client_id"),
        text(&made, "registration_access_token"),
    );
    registry.set(Some(RegistrationPolicy {
        scopes: Vec::new(),
        ..policy()
    }));
    let refused = registry.replace(client, access, &json!({})).unwrap_err();
    assert!(matches!(refused, RegistrationError::Metadata { .. }));
    let shown = registry.show(client, access).unwrap();
    assert!(text(&shown, "scope").contains("orders:read"));
}

#[test]
fn a_client_that_is_disabled_cannot_change_that() {
    let registry = Registry::open(policy());
    let made = registry.registered(&json!({}));
    let (client, access) = (
        text(&made, "client_id"),
        text(&made, "registration_access_token"),
    );
    let house = &registry.house;
    let name: ClientName = client.parse().unwrap();
    house
        .provider
        .set_client_disabled(&name, true, &house.caller)
        .unwrap();
    assert!(matches!(
        registry.show(client, access),
        Err(RegistrationError::Token)
    ));
    let refused = registry.replace(client, access, &json!({}));
    assert!(matches!(refused, Err(RegistrationError::Token)));
    house
        .provider
        .set_client_disabled(&name, false, &house.caller)
        .unwrap();
    registry.show(client, access).unwrap();
}

#[test]
fn a_client_ends_when_its_time_is_over_and_leaves_nothing() {
    let registry = Registry::open(RegistrationPolicy {
        client_lifetime_seconds: Some(3600),
        ..policy()
    });
    let house = &registry.house;
    let before = house.provider.clients(None, 100).unwrap().items.len();
    let made = registry.registered(&json!({}));
    let (issued, expires) = (
        made["client_id_issued_at"].as_i64().unwrap(),
        made["client_secret_expires_at"].as_i64().unwrap(),
    );
    assert_eq!(expires, issued + 3600);
    let (client, access) = (
        text(&made, "client_id"),
        text(&made, "registration_access_token"),
    );
    // A change gives it no further time.
    house.clock.advance(Duration::from_secs(3000));
    let replaced = registry.replace(client, access, &json!({})).unwrap();
    let access = text(&replaced, "registration_access_token");
    house.clock.advance(Duration::from_secs(601));
    assert!(matches!(
        registry.show(client, access),
        Err(RegistrationError::Token)
    ));
    assert_eq!(
        house.provider.clients(None, 100).unwrap().items.len(),
        before
    );
    // Its name is free again, and whoever takes it finds nothing of it.
    let name: ClientName = client.parse().unwrap();
    let taken =
        house
            .provider
            .create_client(&name, native_profile(), &NewSecret::None, &house.caller);
    taken.unwrap();
    assert!(matches!(
        registry.show(client, access),
        Err(RegistrationError::Token)
    ));
    let secret = form(&[
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("client_secret", text(&made, "client_secret")),
        ("code", "none"),
    ]);
    assert_eq!(
        house.token(&secret).unwrap_err().to_oauth().error,
        ErrorCode::InvalidClient
    );
}

#[test]
fn no_secret_is_told_to_the_ledger_or_in_debug_output() {
    let registry = Registry::open(policy());
    let token = registry.token(2);
    let house = &registry.house;
    let document = house
        .provider
        .register_client(&token, &metadata(&json!({})), &house.caller)
        .unwrap();
    let made = document.expose().clone();
    let printed = format!("{document:?}");
    let told = serde_json::to_string(&house.events()).unwrap();
    let (_, secret) = token.split_once('.').unwrap();
    for secret in [
        secret,
        text(&made, "client_secret"),
        text(&made, "registration_access_token"),
    ] {
        assert!(!printed.contains(secret) && !told.contains(secret));
    }
    let tokens = house.provider.registration_tokens(None, 10).unwrap();
    assert_eq!(tokens.items[0].record.uses_left, 1);
    assert!(!format!("{tokens:?}").contains(secret));
}

#[test]
fn a_file_does_not_take_over_what_manages_itself() {
    let registry = Registry::open(policy());
    let made = registry.registered(&json!({}));
    let client_id: ClientName = text(&made, "client_id").parse().unwrap();
    let seed = Seed {
        clients: vec![SeedClient {
            client_id,
            profile: native_profile(),
            secret: NewSecret::None,
        }],
        registration: Some(policy()),
        ..Seed::default()
    };
    let house = &registry.house;
    let refused = house.provider.seed(&seed, &house.caller);
    assert!(matches!(
        refused,
        Err(SeedError::Refused {
            why: AdminError::Taken { .. },
            ..
        })
    ));
}

#[test]
fn keys_that_nothing_is_verified_with_are_not_kept_and_never_prove_anything() {
    let registry = Registry::open(policy());
    let rsa = RsaSigningKey::generate().public_jwk();
    let with = |changes: Value| registry.register(&registry.token(1), &changes);
    let secret = json!({ "jwks": { "keys": [rsa] } });
    let made = with(secret).unwrap();
    assert!(made.get("jwks").is_none(), "{made}");
    assert!(made["client_secret"].is_string());
    for refused in [
        json!({ "jwks": { "keys": [rsa] }, "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "jwks": { "keys": [rsa] }, "require_signed_request_object": true }),
        json!({ "jwks": { "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] } }),
        json!({ "jwks": { "keys": [] } }),
        json!({ "jwks": "keys" }),
    ] {
        let answer = with(refused.clone());
        assert!(
            matches!(answer, Err(RegistrationError::Metadata { .. })),
            "{refused}: {answer:?}"
        );
    }
}
