//! Public keys as JSON Web Keys (RFC 7517).

use serde_json::{Map, Value, json};
use testudo_model::limits::MAX_TOKEN_DEPTH;

use super::{JoseError, json::check_object};
use crate::{
    base64url,
    key::{PublicPoint, SigningKey},
    sha256,
};

/// A key set of a large provider has about 10 KiB.
const MAX_KEY_SET_BYTES: usize = 64 * 1024;
/// More keys than an issuer needs while rotating.
const MAX_KEYS: usize = 64;
/// Longest `kid`; a thumbprint has 43 characters.
const MAX_KEY_ID_BYTES: usize = 256;

/// The ES256 verification keys of one issuer.
#[derive(Debug, Clone)]
pub struct JwkSet {
    keys: Vec<Jwk>,
}

/// One public key.
#[derive(Debug, Clone)]
pub(super) struct Jwk {
    id: Option<String>,
    pub(super) point: PublicPoint,
}

impl JwkSet {
    /// Reads a JWK Set.
    ///
    /// Keys of another type, curve, `use`, `key_ops` or `alg` are not for us and are skipped (RFC 7517 section 5): they
    /// never verify anything. A P-256 key that is malformed or private, and a `kid` that two keys share,
    /// refuse the whole set: its publisher has lost control of it.
    pub fn parse(text: &str) -> Result<Self, JoseError> {
        let mut keys: Vec<Jwk> = Vec::new();
        for members in listed_keys(text)? {
            let Some(key) = Jwk::read(&members)? else {
                continue;
            };
            if keys.iter().any(|other| other.id == key.id) {
                return Err(JoseError::KeySet("two keys have the same `kid`"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(JoseError::KeySet("it has no ES256 signature key"));
        }
        Ok(Self { keys })
    }

    /// Number of usable keys; at least one.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never: a set without keys is refused.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key a token names; without a name, the only one there is.
    pub(super) fn find(&self, id: Option<&str>) -> Result<&PublicPoint, JoseError> {
        match (id, self.keys.as_slice()) {
            (None, [only]) => Ok(&only.point),
            (None, _) => Err(JoseError::KeyIdMissing),
            (Some(_), keys) => {
                let found = keys.iter().find(|key| key.id.as_deref() == id);
                found.map(|key| &key.point).ok_or(JoseError::UnknownKey)
            }
        }
    }
}

/// The members of all keys of a set, whatever they are for.
pub(super) fn listed_keys(text: &str) -> Result<Vec<Map<String, Value>>, JoseError> {
    if text.len() > MAX_KEY_SET_BYTES {
        return Err(JoseError::TooLarge {
            what: "the key set",
            limit: MAX_KEY_SET_BYTES,
        });
    }
    let not_json = |source| JoseError::Json {
        part: "key set",
        source,
    };
    check_object(text.as_bytes(), MAX_TOKEN_DEPTH).map_err(not_json)?;
    let mut set: Map<String, Value> = serde_json::from_str(text).map_err(not_json)?;
    let Some(Value::Array(listed)) = set.remove("keys") else {
        return Err(JoseError::KeySet("it has no list `keys`"));
    };
    if listed.len() > MAX_KEYS {
        return Err(JoseError::KeySet("it has more than 64 keys"));
    }
    let members = listed.into_iter().map(|key| match key {
        Value::Object(members) => Ok(members),
        _ => Err(JoseError::KeySet("a key is not an object")),
    });
    members.collect()
}

/// `kid`, if there is one.
pub(super) fn key_id(members: &Map<String, Value>) -> Result<Option<String>, JoseError> {
    match members.get("kid") {
        None => Ok(None),
        Some(Value::String(id)) if id.len() <= MAX_KEY_ID_BYTES => Ok(Some(id.clone())),
        Some(_) => Err(JoseError::KeySet("a `kid` is not a short text")),
    }
}

impl Jwk {
    /// `None` for a key that is not for ES256 signatures.
    pub(super) fn read(members: &Map<String, Value>) -> Result<Option<Self>, JoseError> {
        let text = |name| members.get(name).and_then(Value::as_str);
        let is = |name, wanted| text(name) == Some(wanted);
        let is_or_absent = |name, wanted| !members.contains_key(name) || is(name, wanted);
        let ours = is("kty", "EC")
            && is("crv", "P-256")
            && is_or_absent("use", "sig")
            && is_or_absent("alg", "ES256")
            && members.get("key_ops").is_none_or(allow_verifying);
        if !ours {
            return Ok(None);
        }
        if members.contains_key("d") {
            return Err(JoseError::KeySet("it publishes a private key"));
        }
        let id = key_id(members)?;
        // RFC 7518 section 6.2.1.2: coordinates have their full length.
        let coordinate = |name| {
            text(name)
                .and_then(base64url::decode)
                .and_then(|bytes| bytes.try_into().ok())
        };
        let point = coordinate("x")
            .zip(coordinate("y"))
            .and_then(|(x, y)| PublicPoint::from_coordinates(x, y))
            .ok_or(JoseError::KeySet("a key is not a point on P-256"))?;
        Ok(Some(Self { id, point }))
    }
}

/// Whether `key_ops` names what we do with a key (RFC 7517 section 4.3).
pub(super) fn allow_verifying(operations: &Value) -> bool {
    let operations = operations.as_array();
    operations.is_some_and(|operations| operations.iter().any(|name| name == "verify"))
}

impl SigningKey {
    /// The public half as a JWK with `kid`, `use` and `alg`.
    pub fn public_jwk(&self) -> Value {
        let (x, y) = self
            .public_point()
            .get(1..)
            .unwrap_or_default()
            .split_at(32);
        json!({
            "kty": "EC",
            "crv": "P-256",
            "x": base64url::encode(x),
            "y": base64url::encode(y),
            "kid": self.key_id(),
            "use": "sig",
            "alg": "ES256",
        })
    }
}

/// JWK thumbprint with SHA-256 (RFC 7638 section 3): required members in lexical order, no white space.
pub(crate) fn thumbprint(point: &PublicPoint) -> String {
    let (x, y) = (base64url::encode(point.x()), base64url::encode(point.y()));
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    base64url::encode(&sha256(canonical.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &[Value]) -> Result<JwkSet, JoseError> {
        JwkSet::parse(&json!({ "keys": keys }).to_string())
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    #[test]
    fn the_thumbprint_matches_the_example_of_rfc_9449() {
        let coordinate = |text| base64url::decode(text).unwrap().try_into().unwrap();
        let point = PublicPoint::from_coordinates(
            coordinate("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs"),
            coordinate("9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"),
        );
        assert_eq!(
            thumbprint(&point.unwrap()),
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
        );
    }

    #[test]
    fn a_published_key_is_found_by_its_thumbprint() {
        let (one, other) = (SigningKey::generate(), SigningKey::generate());
        let set = set(&[one.public_jwk(), other.public_jwk()]).unwrap();
        assert_eq!(set.len(), 2);
        assert_eq!(
            thumbprint(set.find(Some(one.key_id())).unwrap()),
            one.key_id()
        );
        assert!(matches!(
            set.find(Some("other")),
            Err(JoseError::UnknownKey)
        ));
        assert!(matches!(set.find(None), Err(JoseError::KeyIdMissing)));
    }

    #[test]
    fn keys_for_other_purposes_never_enter_a_set() {
        let good = SigningKey::generate().public_jwk();
        for (name, value) in [
            ("kty", json!("oct")),
            ("kty", json!("RSA")),
            ("kty", json!(["EC"])),
            ("crv", json!("P-384")),
            ("crv", json!("secp256k1")),
            ("use", json!("enc")),
            ("use", json!(null)),
            ("alg", json!("ES384")),
            ("alg", json!("HS256")),
            ("alg", json!("es256")),
            ("key_ops", json!(["encrypt"])),
            ("key_ops", json!(["deriveKey", "deriveBits"])),
            ("key_ops", json!([])),
            ("key_ops", json!("verify")),
            ("key_ops", json!(null)),
        ] {
            let other = with(good.clone(), name, value);
            assert!(
                matches!(set(std::slice::from_ref(&other)), Err(JoseError::KeySet(_))),
                "{other}"
            );
            assert_eq!(set(&[good.clone(), other]).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_key_may_say_that_it_verifies() {
        let good = SigningKey::generate().public_jwk();
        for operations in [json!(["verify"]), json!(["sign", "verify"])] {
            let said = with(good.clone(), "key_ops", operations);
            assert_eq!(set(&[said]).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_set_out_of_control_is_refused_as_a_whole() {
        let good = SigningKey::generate().public_jwk();
        for bad in [
            with(good.clone(), "d", json!("c2VjcmV0")),
            with(good.clone(), "kid", json!(7)),
            with(good.clone(), "kid", json!("k".repeat(257))),
            with(good.clone(), "x", json!("AAAA")),
            with(good.clone(), "y", good["x"].clone()),
            with(
                good.clone(),
                "x",
                json!(format!("{}=", good["x"].as_str().unwrap())),
            ),
        ] {
            let fine = SigningKey::generate().public_jwk();
            assert!(
                matches!(set(&[fine, bad.clone()]), Err(JoseError::KeySet(_))),
                "{bad}"
            );
        }
        let same_id = with(
            SigningKey::generate().public_jwk(),
            "kid",
            good["kid"].clone(),
        );
        assert!(set(&[good.clone(), same_id]).is_err());
        assert!(set(&[]).is_err());
        assert!(set(&vec![good; 65]).is_err());
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":[],"keys":[]}"#,
            r#"{"keys":[1]}"#,
        ] {
            assert!(JwkSet::parse(text).is_err(), "{text}");
        }
        let large = format!("{}{}", " ".repeat(MAX_KEY_SET_BYTES), "{}");
        assert!(matches!(
            JwkSet::parse(&large),
            Err(JoseError::TooLarge { .. })
        ));
    }
}
