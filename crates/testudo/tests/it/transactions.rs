//! Forged, foreign and replayed transaction tokens, straight at a sidecar.

use serde_json::{Value, json};
use testudo_model::{Clock, TransactionId};
use testudo_runtime::SystemClock;
use testudo_trust::{IdentitySource, SigningKey, SystemEntropy, base64url};

use crate::{
    forge::{Rows, base64_of, get, impostor, merge, row, signed, unsigned, with_hmac},
    paths::transaction_of,
    shop::{Shop, claims_of, domain, service},
    wire::{self, Answer},
};

/// What an edge writes into a transaction token for alice.
fn transaction_claims(issuer: &str, access: &Value) -> Value {
    let (clock, entropy) = (SystemClock::new(), SystemEntropy);
    let now = clock.now().unix_seconds();
    json!({
        "iss": issuer, "aud": "shop.example", "iat": now, "exp": now + 60,
        "txn": TransactionId::generate(&clock, &entropy).as_str(),
        "sub": access["sub"], "scope": "",
        "tctx": { "issuer": access["iss"], "token_id": access["jti"], "client_id": "cli", "session": access["sid"],
            "issued_at": now, "assurance": 1, "authenticated_at": now, "bound": false },
        "rctx": { "req_ip": "127.0.0.1", "method": "GET", "path": "/api/orders/1" },
    })
}

fn x5c(chain: &[Vec<u8>]) -> Value {
    chain.iter().map(|der| base64_of(der)).collect()
}

#[test]
fn no_forged_transaction_token_is_accepted_by_a_sidecar() {
    let (shop, issuer_key) = Shop::open("").with_issuer_key();
    let access_token = shop.token("alice");
    let access = claims_of(&access_token);
    let helper = shop.member(Some("helper"));
    let edge = shop.member(None);
    let (helper_svid, edge_svid) = (helper.current(), edge.current());
    let edge_id = domain().gateway();
    let good_claims = transaction_claims(edge_id.as_str(), &access);
    let header =
        |chain: &[Vec<u8>]| json!({ "alg": "ES256", "typ": "txntoken+jwt", "x5c": x5c(chain) });
    let good_header = header(edge_svid.chain());
    let sign = |header: &Value, claims: &Value, key: &SigningKey| {
        signed(&header.to_string(), claims.to_string().as_bytes(), key)
    };
    let by_edge = |header: &Value, claims: &Value| sign(header, claims, edge_svid.key());
    let ask = |identity: &IdentitySource, fields: &str| -> Answer {
        let mut connection = shop.at_sidecar("shop", identity).unwrap();
        wire::exchange(&mut connection, get("/api/orders/1", fields).as_bytes())
            .unwrap()
            .expect("an answer")
    };
    let with_token = |token: &str| ask(&helper, &format!("Txn-Token: {token}\r\n"));

    let good = by_edge(&good_header, &good_claims);
    assert_eq!(with_token(&good).status, 200, "the lever works");
    assert_eq!(
        shop.upstream.take_one().only("x-user-id").as_deref(),
        access["sub"].as_str()
    );

    let (foreign, _) = impostor(&edge_id);
    let service_claims = transaction_claims(service("helper").as_str(), &access);
    let mut rows: Rows = vec![
        row(
            "a service signs as itself",
            sign(
                &header(helper_svid.chain()),
                &service_claims,
                helper_svid.key(),
            ),
        ),
        row(
            "a service signs as the edge",
            sign(
                &header(helper_svid.chain()),
                &good_claims,
                helper_svid.key(),
            ),
        ),
        row(
            "a service signs with the edge's chain",
            sign(&good_header, &good_claims, helper_svid.key()),
        ),
        row(
            "the edge's chain, another issuer",
            by_edge(&good_header, &service_claims),
        ),
        row(
            "an edge of another CA",
            sign(&header(foreign.chain()), &good_claims, foreign.key()),
        ),
        row(
            "both chains, the foreign first",
            sign(
                &header(&[foreign.chain(), edge_svid.chain()].concat()),
                &good_claims,
                foreign.key(),
            ),
        ),
        row(
            "both chains, ours first",
            sign(
                &header(&[edge_svid.chain(), foreign.chain()].concat()),
                &good_claims,
                foreign.key(),
            ),
        ),
        row(
            "the provider signs",
            sign(
                &json!({ "alg": "ES256", "typ": "txntoken+jwt", "kid": issuer_key.key_id() }),
                &good_claims,
                &issuer_key,
            ),
        ),
        row(
            "the provider signs with the edge's chain",
            sign(&good_header, &good_claims, &issuer_key),
        ),
        row("the outside token", access_token.clone()),
        row("nothing", String::new()),
        row("garbage", "garbage".to_owned()),
        row(
            "no signature",
            unsigned(&good_header.to_string(), good_claims.to_string().as_bytes()) + ".",
        ),
        row("a megabyte", "a".repeat(20_000)),
        row("twice in one field", format!("{good}, {good}")),
    ];
    let der = edge_svid.key().public_der();
    let leaf = edge_svid.chain()[0].clone();
    for (what, secret) in [
        ("the certificate", &leaf),
        ("its key", &der),
        ("nothing", &Vec::new()),
    ] {
        let mut header = good_header.clone();
        header["alg"] = json!("HS256");
        rows.push(row(
            &format!("HS256 with {what}"),
            with_hmac(
                &header.to_string(),
                good_claims.to_string().as_bytes(),
                secret,
            ),
        ));
    }
    for change in [
        json!({ "alg": "none" }),
        json!({ "alg": "ES384" }),
        json!({ "alg": null }),
        json!({ "typ": "at+jwt" }),
        json!({ "typ": "JWT" }),
        json!({ "typ": null }),
        json!({ "x5c": null }),
        json!({ "x5c": null, "kid": edge_svid.key().key_id() }),
        json!({ "x5c": null, "jwk": edge_svid.key().public_jwk() }),
        json!({ "x5c": [] }),
        json!({ "x5c": [""] }),
        json!({ "x5c": "x" }),
        json!({ "x5c": [base64url::encode(&leaf)] }),
        json!({ "x5c": [[base64_of(&leaf)]] }),
        json!({ "x5c": vec![base64_of(&[0]); 100] }),
        json!({ "x5c": [base64_of(&leaf[..leaf.len() - 1])] }),
        json!({ "x5c": [base64_of(&[&leaf[..], &[0]].concat())] }),
        json!({ "crit": ["x5c"] }),
        json!({ "jku": "http://127.0.0.1:1/" }),
        json!({ "x5u": "http://127.0.0.1:1/" }),
        json!({ "b64": false }),
    ] {
        let mut header = good_header.clone();
        merge(&mut header, &change);
        rows.push(row(
            &format!("header {:.60}", change.to_string()),
            by_edge(&header, &good_claims),
        ));
    }
    let now = SystemClock::new().now().unix_seconds();
    for change in [
        json!({ "aud": "other.example" }),
        json!({ "aud": ["shop.example"] }),
        json!({ "aud": null }),
        json!({ "aud": "https://shop.example" }),
        json!({ "aud": "shop.example." }),
        json!({ "iss": "spiffe://other.example/testudo/gateway" }),
        json!({ "iss": null }),
        json!({ "iat": now - 120, "exp": now - 60 }),
        json!({ "exp": now - 6 }),
        json!({ "iat": now + 60, "exp": now + 120 }),
        json!({ "iat": now, "exp": now }),
        json!({ "exp": null }),
        json!({ "iat": null }),
        json!({ "exp": (now + 60).to_string() }),
        json!({ "exp": 1e19 }),
        json!({ "tctx": null }),
        json!({ "sub": null }),
        json!({ "rctx": null }),
        json!({ "txn": null }),
        json!({ "txn": "x" }),
        json!({ "rctx": { "req_ip": "not an address", "method": "GET", "path": "/" } }),
        json!({ "sub": 1 }),
    ] {
        let mut claims = good_claims.clone();
        merge(&mut claims, &change);
        rows.push(row(
            &format!("claims {change}"),
            by_edge(&good_header, &claims),
        ));
    }
    let parts: Vec<&str> = good.split('.').collect();
    let mut other = good_claims.clone();
    other["sub"] = json!("usr_00000000000000000000000000");
    rows.push(row(
        "another payload",
        format!(
            "{}.{}.{}",
            parts[0],
            base64url::encode(other.to_string().as_bytes()),
            parts[2]
        ),
    ));
    rows.push(row(
        "another header",
        format!(
            "{}.{}.{}",
            base64url::encode(header(foreign.chain()).to_string().as_bytes()),
            parts[1],
            parts[2]
        ),
    ));
    rows.push(row("no third part", format!("{}.{}", parts[0], parts[1])));
    rows.push(row("a fourth part", format!("{good}.x")));
    rows.push(row("padding", format!("{good}=")));

    for (what, token) in &rows {
        let answer = with_token(token);
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        let seen = shop.upstream.take();
        assert!(seen.is_empty(), "{what}: {seen:#?}");
    }
    assert_eq!(
        ask(
            &helper,
            &format!("Txn-Token: {good}\r\nTxn-Token: {good}\r\n")
        )
        .status,
        401
    );
    // Somebody the directory does not know, however well signed.
    assert_eq!(with_token(&by_edge(&good_header, &other)).status, 403);
    assert!(shop.upstream.take().is_empty());

    // Replayed by others than it was given to: they may not call, whoever stands behind.
    let stolen = transaction_of(&shop, &access_token);
    let stranger = shop.member(Some("stranger"));
    assert_eq!(
        ask(&stranger, &format!("Txn-Token: {stolen}\r\n")).status,
        403
    );
    // At the gateway it is no token at all, in any field.
    for fields in [
        format!("Authorization: Bearer {stolen}\r\n"),
        format!("Txn-Token: {stolen}\r\n"),
    ] {
        assert_eq!(
            shop.send(get("/api/orders/1", &fields).as_bytes())
                .unwrap()
                .status,
            401
        );
    }
    assert!(shop.upstream.take().is_empty());
    assert_eq!(
        with_token(&stolen).status,
        200,
        "to whom it was given it is good until it ends"
    );
}
