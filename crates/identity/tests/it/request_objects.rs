//! Signed authorization requests (JAR, RFC 9101), at the authorization endpoint and pushed, and whoever tampers with them.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use testudo_identity::{
    AdminError, Authorization, AuthorizeError, ClientPolicy, ClientProfile, NewSecret, OauthError,
    Parameters, PushedRequest, TokenRequest,
};
use testudo_model::{Clock, Redacted, event::Outcome};
use testudo_trust::{SigningKey, base64url, hmac_sha256};

use crate::house::{
    House, ISSUER, SECRET, WEB_REDIRECT, challenge, code_of, form, native_request, query,
    redemption, web_profile,
};

const TYPE: &str = "oauth-authz-req+jwt";
const APP: &str = "signing-app";

/// A client with a secret, and with a key that it signs requests with.
struct Signer {
    house: House,
    key: SigningKey,
}

impl Signer {
    fn new(policy: ClientPolicy) -> Self {
        let (house, key) = (House::new(), SigningKey::generate());
        let profile = ClientProfile {
            jwks: Some(json!({ "keys": [key.public_jwk()] }).to_string()),
            policy,
            ..web_profile()
        };
        let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
        let name = APP.parse().unwrap();
        house
            .provider
            .create_client(&name, profile, &secret, &house.caller)
            .unwrap();
        Self { house, key }
    }

    fn lenient() -> Self {
        Self::new(ClientPolicy::default())
    }

    /// Claims of a request with changes: `null` takes one away.
    fn claims(&self, changes: &[(&str, Value)]) -> Value {
        let now = self.house.clock.now().unix_seconds();
        let mut claims = json!({
            "iss": APP, "aud": ISSUER, "client_id": APP, "iat": now, "nbf": now, "exp": now + 60,
            "response_type": "code", "redirect_uri": WEB_REDIRECT, "scope": "openid orders:read",
            "state": "signed", "code_challenge": challenge(), "code_challenge_method": "S256",
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        claims
    }

    fn object(&self, changes: &[(&str, Value)]) -> String {
        signed(&self.key, &header(), &self.claims(changes))
    }

    fn authorize(&self, request: &Parameters) -> Result<Authorization, AuthorizeError> {
        self.house
            .provider
            .authorize(request, None, None, &self.house.caller)
    }

    /// What a request object alone is worth: nothing, the text that is shown, or the code the client is told.
    fn verdict(&self, object: &str) -> Option<String> {
        let refused = self
            .authorize(&form(&[("client_id", APP), ("request", object)]))
            .err()?;
        Some(match refused {
            AuthorizeError::Refused { location, .. } => query(&location)["error"].clone(),
            shown => shown.to_string(),
        })
    }

    fn push(&self, pairs: &[(&str, &str)]) -> Result<PushedRequest, OauthError> {
        let own = [("client_id", APP), ("client_secret", SECRET)];
        let parameters = form(&[&own[..], pairs].concat());
        let request = TokenRequest {
            parameters: &parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        let pushed = self
            .house
            .provider
            .push_authorization(&request, &self.house.caller);
        pushed.map_err(|error| error.to_oauth())
    }
}

fn header() -> Value {
    json!({ "alg": "ES256", "typ": TYPE })
}

fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let text = format!("{}.{}", encode(header), encode(claims));
    let signature = base64url::encode(&key.sign_raw(text.as_bytes()));
    format!("{text}.{signature}")
}

fn shown(why: &str) -> String {
    format!("the application that sent you here has signed its request badly: {why}")
}

#[test]
fn what_is_signed_is_what_the_user_logs_in_for_whatever_else_the_browser_says() {
    let signer = Signer::lenient();
    let object = signer.object(&[
        ("max_age", json!(600)),
        ("resource", json!(["bookshop.example"])),
    ]);
    let bent = form(&[
        ("client_id", APP),
        ("request", &object),
        ("redirect_uri", "https://evil.example/cb"),
        ("scope", "orders:write"),
        ("state", "bent"),
        ("response_type", "token"),
        ("code_challenge_method", "plain"),
        ("code_challenge", "x"),
        ("nonce", "bent"),
    ]);
    let logged_in = signer.house.login_through(&bent);
    let location = logged_in.location.expose();
    assert!(location.starts_with(WEB_REDIRECT), "{location}");
    assert_eq!(query(location)["state"], "signed");
    let own = [
        ("client_id", APP),
        ("client_secret", SECRET),
        ("redirect_uri", WEB_REDIRECT),
    ];
    let code = code_of(&logged_in);
    let tokens = signer.house.token(&redemption(&code, &own)).unwrap();
    assert_eq!(tokens.scope, "openid orders:read");
    let granted = signer
        .house
        .events_named("authorization.grant", Outcome::Success);
    assert_eq!(granted[0].details["signed"], true.into());
}

#[test]
fn an_object_that_the_client_has_not_signed_as_a_request_is_none() {
    let signer = Signer::lenient();
    let thief = SigningKey::generate();
    let claims = signer.claims(&[]);
    let with = |name: &str, value: Value| {
        let mut header = header();
        header[name] = value;
        signed(&signer.key, &header, &claims)
    };
    let unsigned = |alg: &str| {
        let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
        let head = json!({ "alg": alg, "typ": TYPE });
        format!("{}.{}", encode(&head), encode(&claims))
    };
    let with_secret = {
        let text = unsigned("HS256");
        let mac = hmac_sha256(SECRET.as_bytes(), text.as_bytes());
        format!("{text}.{}", base64url::encode(&mac))
    };
    let refused = shown(
        "`request` is not a JWT of type oauth-authz-req+jwt that a key of the client has signed with ES256",
    );
    for (what, object) in [
        ("by somebody else", signed(&thief, &header(), &claims)),
        ("unsigned", format!("{}.", unsigned("none"))),
        ("with the secret", with_secret),
        ("an assertion", with("typ", json!("JWT"))),
        ("a proof", with("typ", json!("dpop+jwt"))),
        ("an access token", with("typ", json!("at+jwt"))),
        ("of no type", with("typ", Value::Null)),
        ("with a key of its own", with("jwk", thief.public_jwk())),
        (
            "with an address of keys",
            with("jku", json!("https://evil.example")),
        ),
        ("with another key's name", with("kid", json!("other"))),
        ("with an extension", with("crit", json!(["exp"]))),
        ("encrypted", "a.b.c.d.e".to_owned()),
        ("text", "request".to_owned()),
        ("huge", "a".repeat(9_000)),
        ("without nbf", signer.object(&[("nbf", Value::Null)])),
        ("without exp", signer.object(&[("exp", Value::Null)])),
        (
            "without client_id",
            signer.object(&[("client_id", Value::Null)]),
        ),
    ] {
        assert_eq!(signer.verdict(&object), Some(refused.clone()), "{what}");
    }
    assert_eq!(signer.verdict(&signer.object(&[])), None);
}

#[test]
fn an_object_for_somebody_else_or_of_another_time_is_refused() {
    let signer = Signer::lenient();
    let now = signer.house.clock.now().unix_seconds();
    for (what, changes) in [
        ("another client", vec![("iss", json!("web"))]),
        ("another client_id", vec![("client_id", json!("web"))]),
        (
            "another issuer",
            vec![("aud", json!("https://other.example"))],
        ),
        (
            "several audiences",
            vec![("aud", json!([ISSUER, "https://other.example"]))],
        ),
        ("no audience", vec![("aud", json!(7))]),
        (
            "over",
            vec![
                ("exp", json!(now - 11)),
                ("nbf", json!(now - 60)),
                ("iat", json!(now - 60)),
            ],
        ),
        ("not begun", vec![("nbf", json!(now + 61))]),
        ("of the future", vec![("iat", json!(now + 61))]),
        ("too long", vec![("exp", json!(now + 3_602))]),
        (
            "too old",
            vec![
                ("nbf", json!(now - 3_601)),
                ("iat", json!(now - 3_601)),
                ("exp", json!(now - 1)),
            ],
        ),
        ("upside down", vec![("exp", json!(now - 5))]),
        ("endless", vec![("exp", json!(i64::MAX))]),
        ("a request in it", vec![("request", json!("x"))]),
        (
            "a reference in it",
            vec![("request_uri", json!("https://evil.example/r"))],
        ),
        ("an assertion in disguise", vec![("sub", json!(APP))]),
        ("a list for a text", vec![("state", json!(["a", "b"]))]),
        ("a number for a text", vec![("scope", json!(7))]),
        (
            "two kinds of resources",
            vec![("resource", json!(["bookshop.example", 7]))],
        ),
    ] {
        let verdict = signer.verdict(&signer.object(&changes)).unwrap();
        assert!(
            verdict.starts_with(&shown("the request object is refused: ")),
            "{what}: {verdict}"
        );
    }
    assert_eq!(
        signer.verdict(&signer.object(&[("nbf", json!(now + 8))])),
        None
    );
    assert_eq!(
        signer.verdict(&signer.object(&[("exp", json!(now + 3_600))])),
        None
    );
}

#[test]
fn a_signature_makes_a_bad_request_no_better() {
    let signer = Signer::lenient();
    let unknown =
        "the application that sent you here asks to return to an address it has not registered";
    for (name, value, expected) in [
        ("redirect_uri", json!("https://evil.example/cb"), unknown),
        ("redirect_uri", Value::Null, unknown),
        ("response_type", json!("token"), "unsupported_response_type"),
        ("code_challenge_method", json!("plain"), "invalid_request"),
        ("code_challenge", Value::Null, "invalid_request"),
        ("scope", json!("stock:write"), "invalid_scope"),
        (
            "resource",
            json!(["bookshop.example", "other"]),
            "invalid_target",
        ),
        (
            "registration",
            json!({ "x": 1 }),
            "registration_not_supported",
        ),
        ("max_age", json!(-1), "invalid_request"),
        ("prompt", json!("none"), "login_required"),
    ] {
        let verdict = signer.verdict(&signer.object(&[(name, value.clone())]));
        assert_eq!(verdict.as_deref(), Some(expected), "{name} {value}");
    }
}

#[test]
fn there_is_one_request_and_its_client_has_keys() {
    let signer = Signer::lenient();
    let object = signer.object(&[]);
    let pushed = signer.push(&[("request", &object)]).unwrap();
    for pairs in [
        vec![("request", object.as_str()), ("request", &object)],
        vec![
            ("request", &object),
            ("request_uri", "https://evil.example/r"),
        ],
        vec![("request", &object), ("request_uri", &pushed.request_uri)],
    ] {
        let mut all = vec![("client_id", APP)];
        all.extend(pairs);
        let refused = signer.authorize(&form(&all)).unwrap_err();
        assert!(
            matches!(
                refused,
                AuthorizeError::RequestObject(_) | AuthorizeError::UnknownRequest
            ),
            "{refused}"
        );
    }
    // Of another client, which has no keys; and under the name of another.
    for client in ["cli", "web"] {
        let refused = signer.authorize(&form(&[("client_id", client), ("request", &object)]));
        assert_eq!(
            refused.unwrap_err().to_string(),
            shown("this client has registered no keys to sign requests with")
        );
    }
    let nobody = signer.authorize(&form(&[("request", &object)]));
    assert!(matches!(nobody, Err(AuthorizeError::UnknownClient)));
}

#[test]
fn a_signed_request_can_be_pushed_with_nothing_beside_it() {
    let signer = Signer::lenient();
    let object = signer.object(&[]);
    let uri = signer.push(&[("request", &object)]).unwrap().request_uri;
    let logged_in = signer
        .house
        .login_through(&form(&[("client_id", APP), ("request_uri", &uri)]));
    assert_eq!(query(logged_in.location.expose())["state"], "signed");
    for (name, value) in [
        ("scope", "openid"),
        ("state", "x"),
        ("redirect_uri", WEB_REDIRECT),
    ] {
        let mixed = signer.push(&[("request", &object), (name, value)]);
        let mixed = mixed.unwrap_err();
        assert_eq!(
            (mixed.error.as_str(), mixed.status),
            ("invalid_request", 400),
            "{name}"
        );
    }
    let forged = signed(&SigningKey::generate(), &header(), &signer.claims(&[]));
    let refused = signer.push(&[("request", &forged)]).unwrap_err();
    assert_eq!(
        (refused.error.as_str(), refused.status),
        ("invalid_request_object", 400)
    );
}

#[test]
fn a_client_that_must_sign_is_not_heard_otherwise() {
    let signer = Signer::new(ClientPolicy {
        require_signed_request_object: true,
        ..ClientPolicy::default()
    });
    let plain = [("client_id", APP), ("redirect_uri", WEB_REDIRECT)];
    let refused = signer.authorize(&native_request(&plain));
    let Err(AuthorizeError::Refused { location, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(query(&location)["error"], "invalid_request");
    let challenge = challenge();
    let pushed = signer.push(&[
        ("response_type", "code"),
        ("redirect_uri", WEB_REDIRECT),
        ("scope", "openid"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]);
    assert_eq!(pushed.unwrap_err().error.as_str(), "invalid_request");
    let object = signer.object(&[]);
    assert_eq!(signer.verdict(&object), None);
    let uri = signer.push(&[("request", &object)]).unwrap().request_uri;
    let logged_in = signer
        .house
        .login_through(&form(&[("client_id", APP), ("request_uri", &uri)]));
    assert!(!code_of(&logged_in).is_empty());
    // Without keys nobody could.
    let keyless = ClientProfile {
        policy: ClientPolicy {
            require_signed_request_object: true,
            ..ClientPolicy::default()
        },
        ..web_profile()
    };
    let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    let name = "keyless".parse().unwrap();
    let house = &signer.house;
    let made = house
        .provider
        .create_client(&name, keyless, &secret, &house.caller);
    assert!(matches!(made, Err(AdminError::Invalid { .. })));
}

/// One for all cases: making it takes longer than a thousand of them.
static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::lenient);

proptest! {
    #[test]
    fn a_changed_character_anywhere_is_refused(
        at in any::<proptest::sample::Index>(), to in "[A-Za-z0-9_.-]",
    ) {
        let good = SIGNER.object(&[]);
        let at = at.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != good);
        prop_assert!(SIGNER.verdict(&changed).is_some());
    }
}
