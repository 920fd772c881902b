//! Tokens that are bound to a key (DPoP, RFC 9449) at the gateway.

use std::time::Duration;

use serde_json::{Value, json};
use testudo_model::{Confirmation, LimitKey, RateLimit, TokenId, random_bytes};
use testudo_trust::{SigningKey, base64url, sha256};

use crate::{
    client::{self, Reply},
    fleet::{ALICE, Fleet},
};

const ORDER: &str = "https://localhost/orders/7";

/// Alice with a key that her token is bound to.
struct Holder<'f> {
    fleet: &'f Fleet,
    key: SigningKey,
    token: String,
}

impl<'f> Holder<'f> {
    fn new(fleet: &'f Fleet) -> Self {
        let key = SigningKey::generate();
        let token = bound_to(fleet, Some(key.key_id()), None);
        Self { fleet, key, token }
    }

    /// A proof for reading an order, of now, with `changes`; `null` takes a claim away.
    fn proof(&self, changes: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "jti": base64url::encode(&random_bytes::<16>(&*self.fleet.entropy)),
            "htm": "GET",
            "htu": ORDER,
            "iat": self.fleet.clock.now().unix_seconds(),
            "ath": base64url::encode(&sha256(self.token.as_bytes())),
        });
        for (name, value) in changes {
            claims[name] = value.clone();
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(*name);
            }
        }
        let header = json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": self.key.public_jwk() });
        let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = base64url::encode(&self.key.sign_raw(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    async fn send(&self, proofs: &[&str]) -> Reply {
        send(self.fleet, &format!("DPoP {}", self.token), proofs).await
    }

    /// A nonce, from the challenge to a proof that is surely too old.
    async fn nonce(&self) -> String {
        let challenged = self.send(&[&self.proof(&[("iat", json!(1))])]).await;
        assert_eq!(
            (challenged.status, challenged.code()),
            (401, "token.proof_nonce")
        );
        assert_eq!(
            challenges(&challenged),
            [r#"DPoP error="use_dpop_nonce", algs="ES256""#]
        );
        challenged.headers["dpop-nonce"]
            .to_str()
            .unwrap()
            .to_owned()
    }
}

fn bound_to(fleet: &Fleet, key: Option<&str>, certificate: Option<&str>) -> String {
    let mut claims = fleet.claims(ALICE);
    claims.cnf = Some(Confirmation {
        certificate_thumbprint: certificate.map(str::to_owned),
        key_thumbprint: key.map(str::to_owned),
    });
    fleet.sign(&claims)
}

async fn send(fleet: &Fleet, authorization: &str, proofs: &[&str]) -> Reply {
    let mut fields = vec![("authorization", authorization)];
    fields.extend(proofs.iter().map(|proof| ("dpop", *proof)));
    let stream = fleet.gateway_stream().await;
    client::over_http1(stream, "GET", "/orders/7", &fields, b"").await
}

fn challenges(reply: &Reply) -> Vec<&str> {
    let fields = reply.headers.get_all("www-authenticate").iter();
    fields.map(|field| field.to_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_a_proof_by_its_key_passes_once_and_the_service_sees_neither() {
    let fleet = Fleet::start().await;
    let alice = Holder::new(&fleet);
    let nonce = alice.nonce().await;
    let proof = alice.proof(&[("nonce", json!(nonce))]);
    let reply = alice.send(&[&proof]).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.received("x-user-id"), Some(ALICE));
    for name in ["authorization", "dpop"] {
        assert!(reply.json["headers"].get(name).is_none(), "{name}");
    }
    let replayed = alice.send(&[&proof]).await;
    assert_eq!(
        (replayed.status, replayed.code()),
        (401, "token.proof_replayed")
    );
    assert_eq!(
        challenges(&replayed),
        [r#"DPoP error="invalid_dpop_proof", algs="ES256""#]
    );
    assert_eq!(fleet.upstreams["orders"].seen(), 1);
    let events = fleet.gateway().ledger.events();
    let refused = events
        .iter()
        .filter(|event| event.activity == "request.refuse.gateway")
        .filter_map(|event| serde_json::to_value(&event.details["code"]).ok());
    let codes: Vec<_> = refused.collect();
    assert_eq!(codes, ["token.proof_nonce", "token.proof_replayed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_same_proof_sent_many_times_at_once_one_passes() {
    let fleet = Fleet::start().await;
    let alice = Holder::new(&fleet);
    let nonce = alice.nonce().await;
    let proof = alice.proof(&[("nonce", json!(nonce))]);
    let proofs = [proof.as_str()];
    let sent = (0..16).map(|_| alice.send(&proofs));
    let replies = futures_util::future::join_all(sent).await;
    let passed = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(passed, 1, "{replies:?}");
    assert_eq!(fleet.upstreams["orders"].seen(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_right_needs_no_nonce_once_the_gateway_has_run_for_a_while() {
    let fleet = Fleet::start().await;
    let alice = Holder::new(&fleet);
    let at =
        |seconds: i64| alice.proof(&[("iat", json!(fleet.clock.now().unix_seconds() + seconds))]);
    // It could have been used before the gateway started.
    assert_eq!(alice.send(&[&at(0)]).await.code(), "token.proof_nonce");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(alice.send(&[&at(0)]).await.code(), "token.proof_nonce");
    let newer = at(10);
    assert_eq!(alice.send(&[&newer]).await.status, 200);
    assert_eq!(alice.send(&[&newer]).await.code(), "token.proof_replayed");
    assert_eq!(alice.send(&[&at(15)]).await.code(), "token.proof_nonce");
    // Somebody else's nonce says nothing, neither for nor against it.
    let foreign = "A".repeat(32);
    let proof = alice.proof(&[
        ("iat", json!(fleet.clock.now().unix_seconds() + 10)),
        ("nonce", json!(foreign)),
    ]);
    assert_eq!(alice.send(&[&proof]).await.status, 200);
    let proof = alice.proof(&[("nonce", json!(foreign))]);
    assert_eq!(alice.send(&[&proof]).await.code(), "token.proof_nonce");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_anything_else_than_this_request_is_refused() {
    let fleet = Fleet::start().await;
    let (alice, thief) = (Holder::new(&fleet), Holder::new(&fleet));
    let nonce = json!(alice.nonce().await);
    let with =
        |name: &'static str, value: Value| alice.proof(&[("nonce", nonce.clone()), (name, value)]);
    let other_token = base64url::encode(&sha256(thief.token.as_bytes()));
    let thiefs = thief.proof(&[
        ("nonce", nonce.clone()),
        (
            "ath",
            json!(base64url::encode(&sha256(alice.token.as_bytes()))),
        ),
    ]);
    let good = with("jti", json!("good"));
    for (what, proofs) in [
        ("none", vec![]),
        ("two", vec![good.clone(), with("jti", json!("too"))]),
        ("the same twice", vec![good.clone(), good.clone()]),
        ("two in one field", vec![format!("{good}, {good}")]),
        ("not one", vec!["a.b.c".to_owned()]),
        ("empty", vec![String::new()]),
        ("the token itself", vec![alice.token.clone()]),
        ("by another key", vec![thiefs]),
        ("another method", vec![with("htm", json!("POST"))]),
        ("method in small letters", vec![with("htm", json!("get"))]),
        ("no method", vec![with("htm", Value::Null)]),
        (
            "another path",
            vec![with("htu", json!("https://localhost/orders/8"))],
        ),
        (
            "another host",
            vec![with("htu", json!("https://evil.example/orders/7"))],
        ),
        (
            "in the clear",
            vec![with("htu", json!("http://localhost/orders/7"))],
        ),
        ("no address", vec![with("htu", Value::Null)]),
        ("another token", vec![with("ath", json!(other_token))]),
        ("no token", vec![with("ath", Value::Null)]),
        ("no name", vec![with("jti", json!(""))]),
        ("an endless name", vec![with("jti", json!("j".repeat(257)))]),
        ("no time", vec![with("iat", Value::Null)]),
        (
            "of the future",
            vec![with("iat", json!(fleet.clock.now().unix_seconds() + 62))],
        ),
    ] {
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        let reply = alice.send(&proofs).await;
        assert_eq!(
            (reply.status, reply.code()),
            (401, "token.proof"),
            "{what}: {reply:?}"
        );
        assert_eq!(
            challenges(&reply),
            [r#"DPoP error="invalid_dpop_proof", algs="ES256""#],
            "{what}"
        );
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    assert_eq!(
        alice.send(&[&good]).await.status,
        200,
        "refusals used nothing up"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheme_and_the_token_agree_on_whether_it_is_bound() {
    let fleet = Fleet::start().await;
    let alice = Holder::new(&fleet);
    let nonce = alice.nonce().await;
    let plain = fleet.token(ALICE);
    let of_plain = json!(base64url::encode(&sha256(plain.as_bytes())));
    let proof = alice.proof(&[("nonce", json!(nonce))]);
    let proof_of_plain = alice.proof(&[("nonce", json!(nonce)), ("ath", of_plain)]);
    let certified = bound_to(&fleet, None, Some("A".repeat(43).as_str()));
    let both = bound_to(
        &fleet,
        Some(alice.key.key_id()),
        Some("A".repeat(43).as_str()),
    );
    let neither = bound_to(&fleet, None, None);
    for (what, authorization, proof) in [
        (
            "bound, as a bearer token",
            format!("Bearer {}", alice.token),
            &proof,
        ),
        (
            "not bound, with a proof",
            format!("DPoP {plain}"),
            &proof_of_plain,
        ),
        (
            "bound to a certificate",
            format!("Bearer {certified}"),
            &proof,
        ),
        ("the same with a proof", format!("DPoP {certified}"), &proof),
        ("bound to both", format!("DPoP {both}"), &proof),
        (
            "bound to what is not known",
            format!("DPoP {neither}"),
            &proof,
        ),
    ] {
        let reply = send(&fleet, &authorization, &[proof]).await;
        assert_eq!(
            (reply.status, reply.code()),
            (401, "token.unbound"),
            "{what}"
        );
        assert_eq!(
            challenges(&reply),
            [
                r#"Bearer error="invalid_token""#,
                r#"DPoP error="invalid_token", algs="ES256""#
            ],
            "{what}"
        );
    }
    let remembered = send(&fleet, &format!("Bearer {}", alice.token), &[]).await;
    assert_eq!(remembered.code(), "token.unbound");
    assert_eq!(alice.send(&[&proof]).await.status, 200);
    let remembered = send(&fleet, &format!("Bearer {}", alice.token), &[]).await;
    assert_eq!(
        remembered.code(),
        "token.unbound",
        "also one that was good a moment ago"
    );
    assert_eq!(
        send(&fleet, &format!("Bearer {plain}"), &[&proof])
            .await
            .status,
        200
    );
    assert_eq!(fleet.upstreams["orders"].seen(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_for_a_name_that_is_not_the_gateways_is_not_good_there_under_that_name() {
    let fleet = Fleet::start().await;
    let alice = Holder::new(&fleet);
    let nonce = alice.nonce().await;
    // What alice sent to an evil service of that name, passed on as it came.
    let proof = alice.proof(&[
        ("nonce", json!(nonce)),
        ("htu", json!("https://evil.example/orders/7")),
    ]);
    let authorization = format!("DPoP {}", alice.token);
    let fields = [
        ("host", "evil.example"),
        ("authorization", authorization.as_str()),
        ("dpop", proof.as_str()),
    ];
    let stream = fleet.gateway_stream().await;
    let reply = client::over_http1(stream, "GET", "/orders/7", &fields, b"").await;
    assert_eq!((reply.status, reply.code()), (401, "token.proof"));
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_address_has_the_authority_of_the_request() {
    let fleet = Fleet::start().await;
    let alice = Holder::new(&fleet);
    let nonce = alice.nonce().await;
    let proof = alice.proof(&[
        ("nonce", json!(nonce)),
        ("htu", json!("https://LOCALHOST:443/orders/%37")),
    ]);
    let authorization = format!("DPoP {}", alice.token);
    let fields = [("authorization", authorization.as_str()), ("dpop", &proof)];
    let stream = fleet.gateway_h2_stream().await;
    let reply = client::over_http2(stream, "GET", "/orders/7?all=1", &fields, b"").await;
    assert_eq!(reply.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_and_a_used_up_limit_are_told_before_the_proof_is_looked_at() {
    let fleet = Fleet::start_with(|snapshot| {
        snapshot.gateway.limits = vec![RateLimit {
            per: LimitKey::Ip,
            requests: 1,
            period_millis: 60_000,
            burst: 3,
        }];
    })
    .await;
    let alice = Holder::new(&fleet);
    let mut claims = fleet.claims(ALICE);
    claims.jti = TokenId::generate(&*fleet.clock, &*fleet.entropy);
    claims.exp = claims.iat + 1;
    claims.iat -= 60;
    claims.cnf = Some(Confirmation {
        certificate_thumbprint: None,
        key_thumbprint: Some(alice.key.key_id().to_owned()),
    });
    claims.exp -= 30;
    let expired = fleet.sign(&claims);
    let reply = send(&fleet, &format!("DPoP {expired}"), &["nonsense"]).await;
    assert_eq!(reply.code(), "token.expired");
    for _ in 0..2 {
        assert_eq!(alice.send(&["nonsense"]).await.code(), "token.proof");
    }
    assert_eq!(alice.send(&["nonsense"]).await.code(), "limit.exceeded");
}
