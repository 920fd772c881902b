//! Reading tokens. The order of the checks is the order of their cost: size, form, header, key, signature;
//! the payload is looked at last, when it is known who wrote it.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use testudo_model::{
    SpiffeId, Timestamp,
    limits::{MAX_TOKEN_BYTES, MAX_TOKEN_DEPTH},
};

use super::{JoseError, JwkSet, json::check_object};
use crate::{
    encoding::{base64, base64url},
    key::{PublicPoint, SIGNATURE_BYTES},
    x509::{self, MAX_CHAIN, TrustBundle},
};

/// Header parameters that would let a token choose its key, its meaning or its size.
/// (`crit`: we understand no extension, RFC 7515 section 4.1.11.)
const REFUSED: [&str; 8] = ["crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "cty"];

/// Verifies a compact JWS with a key of `keys` and reads its claims.
///
/// The header must say `ES256` and the `expected_typ` (also as `application/…`, in any case: RFC 7515 section
/// 4.1.9), and must name its key unless the set has only one. Times, audience and issuer are the caller's to
/// check: see [`check_times`](super::check_times).
pub fn verify_jwt<C: DeserializeOwned>(
    token: &str,
    expected_typ: &str,
    keys: &JwkSet,
) -> Result<C, JoseError> {
    let token = Token::parse(token, expected_typ)?;
    if token.header.contains_key("x5c") {
        return Err(JoseError::HeaderParameter("x5c"));
    }
    let kid = match token.header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.as_str()),
        Some(_) => return Err(JoseError::UnknownKey),
    };
    token.claims(keys.find(kid)?)
}

/// Verifies a compact JWS signed with the key of an SVID, whose chain is in `x5c`, and reads its claims.
///
/// The chain must be valid in `bundle` at `now`. Returns the claims with the identity of the signer. Whether
/// that identity may sign such a token, and times and audience, are the caller's to check.
pub fn verify_jwt_x5c<C: DeserializeOwned>(
    token: &str,
    expected_typ: &str,
    bundle: &TrustBundle,
    now: Timestamp,
) -> Result<(C, SpiffeId), JoseError> {
    let token = Token::parse(token, expected_typ)?;
    let chain = token.chain()?;
    let signer = bundle.verify_svid(&chain, now).map_err(JoseError::Chain)?;
    let leaf = chain.first().ok_or(JoseError::ChainMissing)?;
    let key = x509::public_point(leaf).map_err(JoseError::Chain)?;
    Ok((token.claims(&key)?, signer))
}

/// A token whose form and header are in order, and whose signature is still to be checked.
struct Token<'t> {
    header: Map<String, Value>,
    signed: &'t str,
    payload: &'t str,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    fn parse(token: &'t str, expected_typ: &str) -> Result<Self, JoseError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JoseError::TooLarge {
                what: "the token",
                limit: MAX_TOKEN_BYTES,
            });
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JoseError::NotCompact)?;
        let (header, payload) = signed.split_once('.').ok_or(JoseError::NotCompact)?;
        if payload.contains('.') {
            return Err(JoseError::NotCompact);
        }
        let header = read_header(header, expected_typ)?;
        let signature = base64url::decode(signature).ok_or(JoseError::NotCompact)?;
        if signature.len() != SIGNATURE_BYTES {
            return Err(JoseError::Signature);
        }
        Ok(Self {
            header,
            signed,
            payload,
            signature,
        })
    }

    /// The claims, if `key` signed them.
    fn claims<C: DeserializeOwned>(&self, key: &PublicPoint) -> Result<C, JoseError> {
        if !key.verify(self.signed.as_bytes(), &self.signature) {
            return Err(JoseError::Signature);
        }
        let payload = base64url::decode(self.payload).ok_or(JoseError::NotCompact)?;
        check_object(&payload, MAX_TOKEN_DEPTH).map_err(|source| JoseError::Json {
            part: "payload",
            source,
        })?;
        serde_json::from_slice(&payload).map_err(JoseError::Claims)
    }

    /// The certificates of `x5c`: base64 (not base64url) of DER, leaf first.
    fn chain(&self) -> Result<Vec<Vec<u8>>, JoseError> {
        let list = self
            .header
            .get("x5c")
            .and_then(Value::as_array)
            .ok_or(JoseError::ChainMissing)?;
        if list.is_empty() || list.len() > MAX_CHAIN {
            return Err(JoseError::ChainMissing);
        }
        let decode = |value: &Value| value.as_str().and_then(base64::decode);
        list.iter()
            .map(|value| decode(value).ok_or(JoseError::ChainMissing))
            .collect()
    }
}

fn read_header(encoded: &str, expected_typ: &str) -> Result<Map<String, Value>, JoseError> {
    let text = base64url::decode(encoded).ok_or(JoseError::NotCompact)?;
    let not_json = |source| JoseError::Json {
        part: "header",
        source,
    };
    check_object(&text, MAX_TOKEN_DEPTH).map_err(not_json)?;
    let header: Map<String, Value> = serde_json::from_slice(&text).map_err(not_json)?;
    if header.get("alg").and_then(Value::as_str) != Some("ES256") {
        return Err(JoseError::Algorithm);
    }
    if let Some(name) = REFUSED.into_iter().find(|name| header.contains_key(*name)) {
        return Err(JoseError::HeaderParameter(name));
    }
    let typ = header.get("typ").and_then(Value::as_str).unwrap_or("");
    let is_expected = |typ: &str| typ.eq_ignore_ascii_case(expected_typ);
    // A `typ` with no slash stands for `application/` and itself.
    let without_prefix = typ
        .split_once('/')
        .filter(|(top, _)| top.eq_ignore_ascii_case("application"));
    if !is_expected(typ) && !without_prefix.is_some_and(|(_, sub)| is_expected(sub)) {
        return Err(JoseError::Type {
            expected: expected_typ.to_owned(),
        });
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515 appendix A.3: what our signature check says to somebody else's token.
    #[test]
    fn the_es256_example_of_rfc_7515_verifies_and_has_no_type() {
        let coordinate = |text| base64url::decode(text).unwrap().try_into().unwrap();
        let key = PublicPoint::from_coordinates(
            coordinate("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
            coordinate("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
        )
        .unwrap();
        let signed = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6\
                      Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        assert!(key.verify(signed.as_bytes(), &base64url::decode(signature).unwrap()));
        let token = format!("{signed}.{signature}");
        assert!(matches!(
            Token::parse(&token, "at+jwt"),
            Err(JoseError::Type { .. })
        ));
        let (signed, payload) = (signed, signed.split_once('.').unwrap().1);
        let signature = base64url::decode(signature).unwrap();
        let token = Token {
            header: Map::new(),
            signed,
            payload,
            signature,
        };
        let claims: Value = token.claims(&key).unwrap();
        assert_eq!(claims["http://example.com/is_root"], true);
    }
}
