//! Reading tokens. The order of the checks is the order of their cost: size, form, header, key, signature;
//! the payload is looked at last, when it is known who wrote it.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use testudo_model::{
    SpiffeId, Timestamp,
    limits::{MAX_TOKEN_BYTES, MAX_TOKEN_DEPTH},
};

use super::{JoseError, JwkSet, json::check_object, jwk::Jwk, thumbprint};
use crate::{
    encoding::{base64, base64url},
    key::PublicPoint,
    x509::{MAX_CHAIN, TrustBundle},
};

/// Header parameters that would let a token choose its key, its meaning or its size.
/// (`crit`: we understand no extension, RFC 7515 section 4.1.11.)
const REFUSED: [&str; 8] = ["crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "cty"];

/// What a token must say it is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'t> {
    /// This `typ`, also as `application/…`, in any case (RFC 7515 section 4.1.9).
    Typed(&'t str),
    /// The same, with the key it is signed with in `jwk`.
    OwnKey(&'t str),
    /// What proves a client: RFC 7523 names no `typ`, its successor names one.
    ClientAssertion,
    /// A token of another issuer, signed with whatever algorithm its key is for.
    Foreign,
}

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
    let token = Token::parse(token, Purpose::Typed(expected_typ))?;
    token.claims(token.key_in(keys)?)
}

/// The same for an assertion that a client proves itself with (RFC 7523 section 2.2): its `typ` is
/// `client-authentication+jwt`, `JWT`, or not there. Returns the thumbprint of the key (RFC 7638) too.
pub fn verify_client_assertion<C: DeserializeOwned>(
    assertion: &str,
    keys: &JwkSet,
) -> Result<(C, String), JoseError> {
    let token = Token::parse(assertion, Purpose::ClientAssertion)?;
    let key = token.key_in(keys)?;
    Ok((token.claims(key)?, thumbprint(key)))
}

/// Verifies a compact JWS with the key in its own header (`jwk`, RFC 7515 section 4.1.3), and reads its claims.
///
/// That says nothing about who wrote it, only that they have the key: for proofs of possession (RFC 9449). Returns
/// the thumbprint of the key (RFC 7638) too. Times and everything else are the caller's to check.
pub fn verify_jwt_of_own_key<C: DeserializeOwned>(
    token: &str,
    expected_typ: &str,
) -> Result<(C, String), JoseError> {
    let token = Token::parse(token, Purpose::OwnKey(expected_typ))?;
    let jwk = token.header.get("jwk").and_then(Value::as_object);
    let key = Jwk::read(jwk.ok_or(JoseError::OwnKey)?)?.ok_or(JoseError::OwnKey)?;
    Ok((token.claims(&key.point)?, thumbprint(&key.point)))
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
    let token = Token::parse(token, Purpose::Typed(expected_typ))?;
    let signer = bundle
        .signer(token.chain()?, now)
        .map_err(JoseError::Chain)?;
    Ok((token.claims(&signer.key)?, signer.id.clone()))
}

/// A token whose form and header are in order, and whose signature is still to be checked.
pub(super) struct Token<'t> {
    header: Map<String, Value>,
    signed: &'t str,
    payload: &'t str,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    pub(super) fn parse(token: &'t str, purpose: Purpose<'_>) -> Result<Self, JoseError> {
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
        let header = read_header(header, purpose)?;
        let signature = base64url::decode(signature).ok_or(JoseError::NotCompact)?;
        Ok(Self {
            header,
            signed,
            payload,
            signature,
        })
    }

    /// The key it names, or the only one there is.
    fn key_in<'k>(&self, keys: &'k JwkSet) -> Result<&'k PublicPoint, JoseError> {
        if self.header.contains_key("x5c") {
            return Err(JoseError::HeaderParameter("x5c"));
        }
        match self.header.get("kid") {
            None => keys.find(None),
            Some(Value::String(kid)) => keys.find(Some(kid)),
            Some(_) => Err(JoseError::UnknownKey),
        }
    }

    /// A header parameter.
    pub(super) fn header(&self, name: &str) -> Option<&Value> {
        self.header.get(name)
    }

    /// The claims, if `key` signed them.
    fn claims<C: DeserializeOwned>(&self, key: &PublicPoint) -> Result<C, JoseError> {
        self.claims_if(|message, signature| key.verify(message, signature))
    }

    /// The claims, if message and signature pass `verify`.
    pub(super) fn claims_if<C: DeserializeOwned>(
        &self,
        verify: impl FnOnce(&[u8], &[u8]) -> bool,
    ) -> Result<C, JoseError> {
        if !verify(self.signed.as_bytes(), &self.signature) {
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

fn read_header(encoded: &str, purpose: Purpose<'_>) -> Result<Map<String, Value>, JoseError> {
    let text = base64url::decode(encoded).ok_or(JoseError::NotCompact)?;
    let not_json = |source| JoseError::Json {
        part: "header",
        source,
    };
    check_object(&text, MAX_TOKEN_DEPTH).map_err(not_json)?;
    let header: Map<String, Value> = serde_json::from_slice(&text).map_err(not_json)?;
    let is_foreign = matches!(purpose, Purpose::Foreign);
    if !is_foreign && header.get("alg").and_then(Value::as_str) != Some("ES256") {
        return Err(JoseError::Algorithm);
    }
    let is_refused = |name: &&str| match purpose {
        Purpose::OwnKey(_) if *name == "jwk" => false,
        _ => header.contains_key(*name),
    };
    if is_foreign && header.contains_key("x5c") {
        return Err(JoseError::HeaderParameter("x5c"));
    }
    if let Some(name) = REFUSED.into_iter().find(is_refused) {
        return Err(JoseError::HeaderParameter(name));
    }
    purpose.check(header.get("typ"))?;
    Ok(header)
}

impl Purpose<'_> {
    fn check(self, typ: Option<&Value>) -> Result<(), JoseError> {
        let (expected, is_optional) = match self {
            Self::Typed(typ) | Self::OwnKey(typ) => (typ, false),
            Self::ClientAssertion => ("client-authentication+jwt", true),
            // JWT-SVID section 2.3.
            Self::Foreign => ("JOSE", true),
        };
        let typ = match typ {
            None if is_optional => return Ok(()),
            Some(Value::String(typ)) => typ.as_str(),
            None | Some(_) => "",
        };
        let is_expected = |typ: &str| {
            typ.eq_ignore_ascii_case(expected) || (is_optional && typ.eq_ignore_ascii_case("JWT"))
        };
        // A `typ` with no slash stands for `application/` and itself.
        let without_prefix = typ
            .split_once('/')
            .filter(|(top, _)| top.eq_ignore_ascii_case("application"));
        if is_expected(typ) || without_prefix.is_some_and(|(_, sub)| is_expected(sub)) {
            Ok(())
        } else {
            Err(JoseError::Type {
                expected: expected.to_owned(),
            })
        }
    }
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
            Token::parse(&token, Purpose::Typed("at+jwt")),
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
