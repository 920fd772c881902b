//! Keys beside tokens and instead of secrets, over TLS: DPoP (RFC 9449) and `private_key_jwt` (RFC 7523).

use std::fs;

use serde_json::{Value, json};
use testudo_model::{Clock, Entropy, random_bytes};
use testudo_runtime::SystemClock;
use testudo_trust::{SigningKey, SystemEntropy, base64url, sha256};

use crate::{
    browser::{Browser, code_form, form_request, refresh_form},
    forge::get,
    shop::Shop,
    wire::Answer,
};

/// A client's key.
struct Key<'s> {
    shop: &'s Shop,
    key: SigningKey,
}

impl<'s> Key<'s> {
    fn new(shop: &'s Shop) -> Self {
        Self {
            shop,
            key: SigningKey::generate(),
        }
    }

    fn issuer(&self) -> &str {
        self.shop.fleet.ready["server"].as_str().unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = base64url::encode(&self.key.sign_raw(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A proof for a request at the identity provider.
    fn proof(&self, method: &str, path: &str, more: &[(&str, &str)]) -> String {
        let mut claims = json!({
            "jti": unique(),
            "htm": method,
            "htu": format!("{}{path}", self.issuer()),
            "iat": now(),
        });
        for (name, value) in more {
            claims[name] = json!(value);
        }
        let header = json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": self.key.public_jwk() });
        self.sign(&header, &claims)
    }

    /// A token request, and the same again with the nonce that the first answer asks for.
    fn token(&self, form: &[(&str, &str)]) -> Answer {
        let ask = |proof: &str| {
            let field = format!("DPoP: {proof}\r\n");
            self.shop
                .ask_server(&form_request("/oauth2/token", form, &field))
        };
        let first = ask(&self.proof("POST", "/oauth2/token", &[]));
        assert_eq!(
            (first.status, first.json()["error"].as_str()),
            (400, Some("use_dpop_nonce"))
        );
        let nonce = first.header("dpop-nonce").unwrap();
        ask(&self.proof("POST", "/oauth2/token", &[("nonce", nonce)]))
    }

    /// A request for userinfo as an honest client makes it.
    fn user_info(&self, token: &str) -> Answer {
        let ath = base64url::encode(&sha256(token.as_bytes()));
        let ask = |nonce: &str| {
            let claims = [("ath", &*ath), ("nonce", nonce)];
            let proof = self.proof("GET", "/oauth2/userinfo", &claims);
            let fields = format!("Authorization: DPoP {token}\r\nDPoP: {proof}\r\n");
            self.shop.ask_server(&get("/oauth2/userinfo", &fields))
        };
        let first = ask("made-up");
        assert_eq!(first.status, 401, "{first:?}");
        assert!(
            first
                .header("www-authenticate")
                .unwrap()
                .contains("use_dpop_nonce")
        );
        ask(first.header("dpop-nonce").unwrap())
    }
}

fn now() -> i64 {
    SystemClock::new().now().unix_seconds()
}

fn unique() -> String {
    let entropy: &dyn Entropy = &SystemEntropy;
    base64url::encode(&random_bytes::<16>(entropy))
}

#[test]
fn a_token_that_is_bound_to_a_key_opens_nothing_without_it() {
    let shop = Shop::open("");
    let document = shop
        .ask_server(&get("/.well-known/openid-configuration", ""))
        .json();
    assert_eq!(
        document["dpop_signing_alg_values_supported"],
        json!(["ES256"])
    );
    let (key, thief) = (Key::new(&shop), Key::new(&shop));
    let code = Browser::new(&shop).log_in("alice")["code"].clone();
    let answer = key.token(&code_form(&code));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("dpop-nonce").is_some());
    let tokens = answer.json();
    assert_eq!(tokens["token_type"], "DPoP");
    let token = tokens["access_token"].as_str().unwrap();
    assert_eq!(key.user_info(token).status, 200);

    // The token alone, in every place that takes tokens.
    let bearer = format!("Authorization: Bearer {token}\r\n");
    for path in ["/oauth2/userinfo", "/api/v1/status"] {
        assert_eq!(shop.ask_server(&get(path, &bearer)).status, 401, "{path}");
    }
    let bare = format!("Authorization: DPoP {token}\r\n");
    for fields in [&bearer, &bare] {
        let answer = shop.send(get("/api/orders/1", fields).as_bytes()).unwrap();
        assert_eq!(answer.status, 401, "the gateway wants a proof: {answer:?}");
    }
    assert!(shop.upstream.take().is_empty());
    assert_eq!(shop.ask_server(&get("/oauth2/userinfo", &bare)).status, 401);
    assert_eq!(thief.user_info(token).status, 401);

    // With a proof the gateway lets it in, once, whichever worker a connection comes to.
    let ath = base64url::encode(&sha256(token.as_bytes()));
    let made_by = |holder: &Key<'_>, nonce: &str| {
        let htu = ("htu", "https://localhost/api/orders/1");
        holder.proof("GET", "", &[htu, ("ath", &ath), ("nonce", nonce)])
    };
    let order = |proof: &str| {
        let fields = format!("Authorization: DPoP {token}\r\nDPoP: {proof}\r\n");
        shop.send(get("/api/orders/1", &fields).as_bytes()).unwrap()
    };
    let first = order(&made_by(&key, "none yet"));
    let nonce = first.header("dpop-nonce").unwrap_or("none").to_owned();
    let stolen = order(&made_by(&thief, &nonce));
    assert_eq!(
        (stolen.status, stolen.json()["code"].as_str()),
        (401, Some("token.proof"))
    );
    let proof = made_by(&key, &nonce);
    let passed = (0..24).filter(|_| order(&proof).status == 200).count();
    assert_eq!(passed, 1);

    // Two proofs, and one twice.
    let nonce = answer.header("dpop-nonce").unwrap();
    let proof = key.proof("POST", "/oauth2/token", &[("nonce", nonce)]);
    let other = key.proof("POST", "/oauth2/token", &[("nonce", nonce)]);
    let refresh_token = tokens["refresh_token"].as_str().unwrap();
    let refresh = |fields: &str| {
        shop.ask_server(&form_request(
            "/oauth2/token",
            &refresh_form(refresh_token),
            fields,
        ))
    };
    let two = refresh(&format!("DPoP: {proof}\r\nDPoP: {other}\r\n"));
    assert_eq!(two.json()["error"], "invalid_dpop_proof");
    assert_eq!(
        refresh("").json()["error"],
        "invalid_dpop_proof",
        "no proof at all"
    );
    let first = refresh(&format!("DPoP: {proof}\r\n"));
    assert_eq!(first.status, 200, "{first:?}");
    let replayed = refresh(&format!("DPoP: {proof}\r\n"));
    assert_eq!(replayed.json()["error"], "invalid_dpop_proof");

    // The refresh token with another key ends it all.
    let newest = first.json()["refresh_token"].as_str().unwrap().to_owned();
    let stolen = thief.token(&refresh_form(&newest));
    assert_eq!(stolen.json()["error"], "invalid_grant");
    assert_eq!(
        key.token(&refresh_form(&newest)).json()["error"],
        "invalid_grant"
    );
    assert_eq!(key.user_info(token).status, 401);
}

#[test]
fn a_client_with_a_key_in_the_fleet_file_needs_no_secret() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let key = Key::new(&shop);
    let jwks = json!({ "keys": [key.key.public_jwk()] });
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    let signer =
        format!("\n[service_accounts.signer]\nscopes = [\"stock:read\"]\njwks = '{jwks}'\n");
    fs::write(folder.fleet_file(), format!("{file}{signer}")).unwrap();
    folder.run(&["apply", "fleet.toml"]);

    let assertion = |changes: &[(&str, Value)]| {
        let mut claims = json!({
            "iss": "signer",
            "sub": "signer",
            "aud": key.issuer(),
            "iat": now(),
            "exp": now() + 60,
            "jti": unique(),
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        key.sign(&json!({ "alg": "ES256", "kid": key.key.key_id() }), &claims)
    };
    let ask = |assertion: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
            ("client_assertion", assertion),
        ];
        shop.ask_server(&form_request("/oauth2/token", &form, ""))
    };
    let good = assertion(&[]);
    let answer = ask(&good);
    assert_eq!(
        (answer.status, answer.json()["scope"].as_str()),
        (200, Some("stock:read"))
    );
    for (what, bad) in [
        ("used before", good),
        (
            "for the endpoint",
            assertion(&[("aud", json!(format!("{}/oauth2/token", key.issuer())))]),
        ),
        (
            "for somebody else",
            assertion(&[("aud", json!("https://evil.example"))]),
        ),
        (
            "of another client",
            assertion(&[("iss", json!("robot")), ("sub", json!("robot"))]),
        ),
        (
            "over",
            assertion(&[("exp", json!(now() - 60)), ("iat", json!(now() - 120))]),
        ),
        (
            "of another key",
            Key::new(&shop).sign(&json!({ "alg": "ES256" }), &json!({ "sub": "signer" })),
        ),
    ] {
        let answer = ask(&bad);
        assert_eq!(
            (answer.status, answer.json()["error"].as_str()),
            (401, Some("invalid_client")),
            "{what}: {answer:?}"
        );
    }
    // Keys that cannot be used change nothing, and the file is told to be wrong.
    let broken = signer.replace("P-256", "P-512");
    fs::write(folder.fleet_file(), format!("{file}{broken}")).unwrap();
    for arguments in [
        &["apply", "fleet.toml", "--dry-run"][..],
        &["apply", "fleet.toml"],
    ] {
        let refused = folder.testudo(arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{said}");
        assert!(
            said.contains("`signer`") && said.contains("no ES256 signature key"),
            "{said}"
        );
    }
    assert_eq!(ask(&assertion(&[])).status, 200);
}
