//! Proofs of possession and client assertions: the two kinds of token whose key or type is not the issuer's to say.

use proptest::prelude::*;
use serde_json::{Value, json};
use testudo_trust::{
    JoseError, JwkSet, SigningKey, base64url, hmac_sha256, verify_client_assertion, verify_jwt,
    verify_jwt_of_own_key,
};

const PROOF: &str = "dpop+jwt";

fn signed(header: &Value, key: &SigningKey) -> String {
    let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let text = format!("{}.{}", encode(header), encode(&json!({ "jti": "one" })));
    let signature = base64url::encode(&key.sign_raw(text.as_bytes()));
    format!("{text}.{signature}")
}

fn proof(key: &SigningKey, name: &str, value: Value) -> String {
    let mut header = json!({ "alg": "ES256", "typ": PROOF, "jwk": key.public_jwk() });
    header[name] = value;
    signed(&header, key)
}

fn read(token: &str) -> Result<(Value, String), JoseError> {
    verify_jwt_of_own_key(token, PROOF)
}

#[test]
fn a_proof_is_of_the_key_it_names_by_content() {
    let key = SigningKey::generate();
    let (claims, thumbprint) = read(&proof(&key, "typ", json!(PROOF))).unwrap();
    assert_eq!(
        (claims["jti"].as_str(), thumbprint.as_str()),
        (Some("one"), key.key_id())
    );
    let mut bare = key.public_jwk();
    for name in ["kid", "use", "alg"] {
        bare.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(read(&proof(&key, "jwk", bare)).unwrap().1, key.key_id());
}

#[test]
fn a_proof_by_another_key_or_of_another_kind_is_none() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let mut private = key.public_jwk();
    private["d"] = json!("c2VjcmV0");
    let rsa = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" });
    for (name, value) in [
        ("jwk", other.public_jwk()),
        ("jwk", private),
        ("jwk", rsa),
        ("jwk", json!({ "kty": "oct", "k": "AAAA" })),
        ("jwk", json!(null)),
        ("jwk", json!([key.public_jwk()])),
        ("jwk", json!(key.public_jwk().to_string())),
        (
            "jwk",
            json!({ "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA" }),
        ),
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        ("alg", json!("ES384")),
        ("typ", json!("JWT")),
        ("typ", json!("at+jwt")),
        ("typ", json!(null)),
        ("crit", json!(["exp"])),
        ("jku", json!("https://evil.example/keys")),
        ("x5u", json!("https://evil.example/chain")),
        ("b64", json!(false)),
    ] {
        let token = proof(&key, name, value.clone());
        assert!(read(&token).is_err(), "{name}: {value}");
    }
    // The public key as a shared secret.
    let header = json!({ "alg": "HS256", "typ": PROOF, "jwk": key.public_jwk() });
    let text = signed(&header, &key).rsplit_once('.').unwrap().0.to_owned();
    let mac = hmac_sha256(key.public_jwk().to_string().as_bytes(), text.as_bytes());
    assert!(read(&format!("{text}.{}", base64url::encode(&mac))).is_err());
    // A key in the header is for proofs alone.
    let set = JwkSet::parse(&json!({ "keys": [key.public_jwk()] }).to_string()).unwrap();
    let token = proof(&key, "kid", json!(key.key_id()));
    assert!(matches!(
        verify_jwt::<Value>(&token, PROOF, &set),
        Err(JoseError::HeaderParameter("jwk"))
    ));
}

#[test]
fn an_assertion_has_one_of_three_types_and_a_key_of_the_set() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let keys = [key.public_jwk(), other.public_jwk()];
    let set = JwkSet::parse(&json!({ "keys": keys }).to_string()).unwrap();
    let assertion = |typ: Option<Value>, signer: &SigningKey| {
        let mut header = json!({ "alg": "ES256", "kid": key.key_id() });
        if let Some(typ) = typ {
            header["typ"] = typ;
        }
        verify_client_assertion::<Value>(&signed(&header, signer), &set)
    };
    for typ in ["JWT", "jwt", "client-authentication+jwt", "application/jwt"] {
        let (_, thumbprint) = assertion(Some(json!(typ)), &key).unwrap();
        assert_eq!(thumbprint, key.key_id());
    }
    assert!(assertion(None, &key).is_ok());
    for typ in [
        json!("at+jwt"),
        json!(PROOF),
        json!("txntoken+jwt"),
        json!(""),
        json!(7),
        json!(null),
    ] {
        let refused = assertion(Some(typ.clone()), &key);
        assert!(matches!(refused, Err(JoseError::Type { .. })), "{typ}");
    }
    assert!(matches!(assertion(None, &other), Err(JoseError::Signature)));
}

proptest! {
    #[test]
    fn a_changed_character_anywhere_is_refused(
        at in any::<proptest::sample::Index>(), to in "[A-Za-z0-9_.-]",
    ) {
        let key = SigningKey::generate();
        let good = proof(&key, "typ", json!(PROOF));
        let at = at.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != good);
        prop_assert!(read(&changed).is_err());
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text: String) {
        prop_assert!(read(&text).is_err());
        let key = SigningKey::generate();
        let set = JwkSet::parse(&json!({ "keys": [key.public_jwk()] }).to_string()).unwrap();
        prop_assert!(verify_client_assertion::<Value>(&text, &set).is_err());
    }
}
