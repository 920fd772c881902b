//! Tokens of issuers that are not ours: clouds, clusters and build systems sign with what they have.
//!
//! What we issue and what our clients prove themselves with is ES256 and nothing else. Here the key decides: each key verifies
//! with the one algorithm it is for, and a token that says another is refused (RFC 8725 section 3.1).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    JoseError,
    jwk::{allow_verifying, key_id, listed_keys},
    verify::{Purpose, Token},
};
use crate::base64url;

/// Bytes of the shortest and the longest RSA modulus: 2048 and 8192 bits (RFC 8725 section 3.2).
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Longest RSA exponent; 65537 has three bytes.
const MAX_RSA_EXPONENT: usize = 8;

/// The verification keys of an issuer that is not ours.
#[derive(Debug, Clone)]
pub struct ForeignKeySet {
    keys: Vec<ForeignKey>,
}

#[derive(Debug, Clone)]
struct ForeignKey {
    id: Option<String>,
    /// `alg`, if its publisher restricts it.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    /// `ES256`, `ES384` or `EdDSA`.
    Point {
        algorithm: &'static str,
        key: ParsedPublicKey,
    },
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl ForeignKeySet {
    /// Reads a JWK Set (RFC 7517) or a SPIFFE bundle.
    ///
    /// Keys for something else than signatures, of a kind that is not known, or too weak are skipped: they never verify
    /// anything. A malformed key, one that is private, and a `kid` that two keys share refuse the whole set.
    ///
    /// # Errors
    /// See above; also a set without any key to verify with.
    pub fn parse(text: &str) -> Result<Self, JoseError> {
        let mut keys: Vec<ForeignKey> = Vec::new();
        for members in listed_keys(text)? {
            let Some(key) = ForeignKey::read(&members)? else {
                continue;
            };
            if keys.iter().any(|other| other.id == key.id) {
                return Err(JoseError::KeySet("two keys have the same `kid`"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(JoseError::KeySet(
                "it has no key for RS256, PS256, ES256, ES384 or EdDSA signatures",
            ));
        }
        Ok(Self { keys })
    }

    /// Whether the key that `token` names is here. Says nothing of the token.
    pub fn has_key_of(&self, token: &str) -> bool {
        let token = Token::parse(token, Purpose::Foreign);
        token.is_ok_and(|token| self.find(token.header("kid")).is_ok())
    }

    /// The key a token names; without a name, the only one there is.
    fn find(&self, id: Option<&Value>) -> Result<&ForeignKey, JoseError> {
        match (id, self.keys.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(JoseError::KeyIdMissing),
            (Some(id), keys) => {
                let id = id.as_str().ok_or(JoseError::UnknownKey)?;
                let found = keys.iter().find(|key| key.id.as_deref() == Some(id));
                found.ok_or(JoseError::UnknownKey)
            }
        }
    }
}

/// Verifies a compact JWS of another issuer with a key of `keys` and reads its claims. `typ` is `JWT`, `JOSE`, or not there.
/// Issuer, audience and times are the caller's to check.
///
/// # Errors
/// [`JoseError::UnknownKey`] if its key is not in the set, which may be too old; else what is wrong with it.
pub fn verify_foreign_jwt<C: DeserializeOwned>(
    token: &str,
    keys: &ForeignKeySet,
) -> Result<C, JoseError> {
    let token = Token::parse(token, Purpose::Foreign)?;
    let key = keys.find(token.header("kid"))?;
    let algorithm = token.header("alg").and_then(Value::as_str);
    let algorithm = algorithm.ok_or(JoseError::Algorithm)?;
    if !key.is_for(algorithm) {
        return Err(JoseError::Algorithm);
    }
    token.claims_if(|message, signature| key.material.verify(algorithm, message, signature))
}

impl ForeignKey {
    /// `None` for a key that does not verify signatures as they are made today.
    fn read(members: &Map<String, Value>) -> Result<Option<Self>, JoseError> {
        let text = |name| members.get(name).and_then(Value::as_str);
        // `jwt-svid`: SPIFFE Trust Domain and Bundle section 4.
        let for_signatures =
            !members.contains_key("use") || matches!(text("use"), Some("sig" | "jwt-svid"));
        let algorithm = match members.get("alg") {
            None => None,
            Some(Value::String(algorithm)) => Some(algorithm.clone()),
            Some(_) => return Ok(None),
        };
        if !for_signatures || !members.get("key_ops").is_none_or(allow_verifying) {
            return Ok(None);
        }
        let is_private = ["d", "p", "q", "k"]
            .iter()
            .any(|name| members.contains_key(*name));
        if is_private {
            return Err(JoseError::KeySet("it publishes a private key"));
        }
        let bytes = |name| {
            let bytes = text(name).and_then(base64url::decode);
            bytes.ok_or(JoseError::KeySet("a key is malformed"))
        };
        let material = match (text("kty"), text("crv")) {
            (Some("EC"), Some("P-256")) => {
                let point = uncompressed(&bytes("x")?, &bytes("y")?, 32)?;
                Material::point("ES256", &ECDSA_P256_SHA256_FIXED, point)?
            }
            (Some("EC"), Some("P-384")) => {
                let point = uncompressed(&bytes("x")?, &bytes("y")?, 48)?;
                Material::point("ES384", &ECDSA_P384_SHA384_FIXED, point)?
            }
            (Some("OKP"), Some("Ed25519")) => Material::point("EdDSA", &ED25519, bytes("x")?)?,
            (Some("RSA"), _) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                if !RSA_MODULUS.contains(&n.len()) || e.len() > MAX_RSA_EXPONENT {
                    return Ok(None);
                }
                Material::Rsa { n, e }
            }
            _ => return Ok(None),
        };
        let key = Self {
            id: key_id(members)?,
            algorithm,
            material,
        };
        Ok(Some(key))
    }

    fn is_for(&self, algorithm: &str) -> bool {
        let of_material = match &self.material {
            Material::Point { algorithm: own, .. } => *own == algorithm,
            Material::Rsa { .. } => rsa_parameters(algorithm).is_some(),
        };
        of_material && self.algorithm.as_ref().is_none_or(|own| own == algorithm)
    }
}

impl Material {
    fn point(
        algorithm: &'static str,
        verification: &'static impl aws_lc_rs::signature::VerificationAlgorithm,
        bytes: Vec<u8>,
    ) -> Result<Self, JoseError> {
        let key = ParsedPublicKey::new(verification, bytes)
            .map_err(|_| JoseError::KeySet("a key is not a point on its curve"))?;
        Ok(Self::Point { algorithm, key })
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Point { key, .. } => key.verify_sig(message, signature).is_ok(),
            Self::Rsa { n, e } => rsa_parameters(algorithm).is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }),
        }
    }
}

/// `4 || x || y`, of coordinates in their full length (RFC 7518 section 6.2.1.2).
fn uncompressed(x: &[u8], y: &[u8], length: usize) -> Result<Vec<u8>, JoseError> {
    if x.len() != length || y.len() != length {
        return Err(JoseError::KeySet("a key is not a point on its curve"));
    }
    Ok([&[4], x, y].concat())
}

fn rsa_parameters(algorithm: &str) -> Option<&'static RsaParameters> {
    match algorithm {
        "RS256" => Some(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Some(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Some(&RSA_PKCS1_2048_8192_SHA512),
        "PS256" => Some(&RSA_PSS_2048_8192_SHA256),
        "PS384" => Some(&RSA_PSS_2048_8192_SHA384),
        "PS512" => Some(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::EcPublicKeyUncompressedBin,
        rand::SystemRandom,
        rsa::KeySize,
        signature::{
            ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
            RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
        },
    };
    use serde_json::json;

    use super::*;
    use crate::key::SigningKey;

    type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

    /// Somebody who signs, and the public half.
    struct Issuer {
        jwk: Value,
        algorithm: &'static str,
        sign: Sign,
    }

    impl Issuer {
        fn token(&self, header: &Value, claims: &Value) -> String {
            let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
            let signed = format!("{}.{}", encode(header), encode(claims));
            let signature = base64url::encode(&(self.sign)(signed.as_bytes()));
            format!("{signed}.{signature}")
        }

        fn set(&self) -> ForeignKeySet {
            set(std::slice::from_ref(&self.jwk)).unwrap()
        }
    }

    fn set(keys: &[Value]) -> Result<ForeignKeySet, JoseError> {
        ForeignKeySet::parse(&json!({ "keys": keys }).to_string())
    }

    fn rsa(algorithm: &'static str, encoding: &'static dyn RsaEncoding, size: KeySize) -> Issuer {
        let pair = RsaKeyPair::generate(size).unwrap();
        let part = |bytes: &[u8]| base64url::encode(bytes);
        let jwk = json!({
            "kty": "RSA", "kid": "k", "use": "sig",
            "n": part(pair.public_key().modulus().big_endian_without_leading_zero()),
            "e": part(pair.public_key().exponent().big_endian_without_leading_zero()),
        });
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), message, &mut signature)
                .unwrap();
            signature
        };
        Issuer {
            jwk,
            algorithm,
            sign: Box::new(sign),
        }
    }

    fn es256() -> Issuer {
        let key = SigningKey::generate();
        let mut jwk = key.public_jwk();
        jwk["kid"] = json!("k");
        jwk.as_object_mut().unwrap().remove("alg");
        Issuer {
            jwk,
            algorithm: "ES256",
            sign: Box::new(move |message| key.sign_raw(message)),
        }
    }

    fn es384() -> Issuer {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let point: EcPublicKeyUncompressedBin =
            aws_lc_rs::encoding::AsBigEndian::as_be_bytes(pair.public_key()).unwrap();
        let (x, y) = point.as_ref()[1..].split_at(48);
        let jwk = json!({
            "kty": "EC", "crv": "P-384", "kid": "k", "use": "jwt-svid",
            "x": base64url::encode(x), "y": base64url::encode(y),
        });
        let sign = move |message: &[u8]| {
            pair.sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec()
        };
        Issuer {
            jwk,
            algorithm: "ES384",
            sign: Box::new(sign),
        }
    }

    fn eddsa() -> Issuer {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = base64url::encode(pair.public_key().as_ref());
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x });
        let sign = move |message: &[u8]| pair.sign(message).as_ref().to_vec();
        Issuer {
            jwk,
            algorithm: "EdDSA",
            sign: Box::new(sign),
        }
    }

    fn issuers() -> Vec<Issuer> {
        vec![
            rsa("RS256", &RSA_PKCS1_SHA256, KeySize::Rsa2048),
            rsa("PS256", &RSA_PSS_SHA256, KeySize::Rsa2048),
            es256(),
            es384(),
            eddsa(),
        ]
    }

    #[test]
    fn each_algorithm_verifies_with_its_own_key_and_with_no_other() {
        let issuers = issuers();
        let claims = json!({ "sub": "x" });
        for issuer in &issuers {
            let header = json!({ "alg": issuer.algorithm, "kid": "k", "typ": "JWT" });
            let token = issuer.token(&header, &claims);
            let read = |keys: &ForeignKeySet| verify_foreign_jwt::<Value>(&token, keys);
            assert_eq!(read(&issuer.set()).unwrap(), claims, "{}", issuer.algorithm);
            for other in issuers.iter().filter(|other| other.jwk != issuer.jwk) {
                assert!(read(&other.set()).is_err(), "{}", issuer.algorithm);
            }
            let (signed, _) = token.rsplit_once('.').unwrap();
            for signature in ["", "AAAA"] {
                let forged = format!("{signed}.{signature}");
                assert!(verify_foreign_jwt::<Value>(&forged, &issuer.set()).is_err());
            }
        }
    }

    #[test]
    fn the_algorithm_is_the_keys_and_not_the_tokens() {
        let issuer = rsa("RS256", &RSA_PKCS1_SHA256, KeySize::Rsa2048);
        let restricted = {
            let mut jwk = issuer.jwk.clone();
            jwk["alg"] = json!("PS256");
            set(&[jwk]).unwrap()
        };
        let good = issuer.token(&json!({ "alg": "RS256", "kid": "k" }), &json!({}));
        assert!(verify_foreign_jwt::<Value>(&good, &issuer.set()).is_ok());
        assert!(matches!(
            verify_foreign_jwt::<Value>(&good, &restricted),
            Err(JoseError::Algorithm)
        ));
        for algorithm in ["none", "HS256", "rs256", "RS1", "ES256", "EdDSA", ""] {
            let token = issuer.token(&json!({ "alg": algorithm, "kid": "k" }), &json!({}));
            let refused = verify_foreign_jwt::<Value>(&token, &issuer.set());
            assert!(matches!(refused, Err(JoseError::Algorithm)), "{algorithm}");
        }
        for (name, value) in [
            ("crit", json!(["b64"])),
            ("jwk", issuer.jwk.clone()),
            ("jku", json!("https://evil.example/keys")),
            ("x5c", json!([])),
            ("typ", json!("at+jwt")),
            ("typ", json!("dpop+jwt")),
        ] {
            let mut header = json!({ "alg": "RS256", "kid": "k" });
            header[name] = value;
            let token = issuer.token(&header, &json!({}));
            assert!(
                verify_foreign_jwt::<Value>(&token, &issuer.set()).is_err(),
                "{name}"
            );
        }
        let unknown = issuer.token(&json!({ "alg": "RS256", "kid": "other" }), &json!({}));
        assert!(matches!(
            verify_foreign_jwt::<Value>(&unknown, &issuer.set()),
            Err(JoseError::UnknownKey)
        ));
    }

    #[test]
    fn keys_that_are_weak_or_for_something_else_are_skipped_and_broken_ones_refuse_the_set() {
        let good = es256().jwk;
        let weak =
            json!({ "kty": "RSA", "kid": "w", "e": "AQAB", "n": base64url::encode(&[0xff; 128]) });
        let secret = json!({ "kty": "oct", "kid": "s" });
        let mut encryption = good.clone();
        (encryption["use"], encryption["kid"]) = (json!("enc"), json!("e"));
        for skipped in [&weak, &secret, &encryption] {
            assert!(set(std::slice::from_ref(skipped)).is_err(), "{skipped}");
            assert_eq!(set(&[good.clone(), skipped.clone()]).unwrap().keys.len(), 1);
        }
        let changed = |name: &str, value: Value| {
            let mut jwk = good.clone();
            jwk["kid"] = json!("b");
            jwk[name] = value;
            jwk
        };
        for broken in [
            changed("d", json!("AAAA")),
            changed("x", json!("AAAA")),
            changed("x", good["y"].clone()),
            changed("kid", json!(7)),
            changed("kid", json!("k")),
        ] {
            assert!(set(&[good.clone(), broken.clone()]).is_err(), "{broken}");
        }
    }
}
