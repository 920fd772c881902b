//! Signed authorization requests (JAR, RFC 9101): the parameters as claims of a JWT that the client has signed with one
//! of its registered keys, so that nobody on the way can change them.
//!
//! With a request object nothing beside it counts (section 6.3). It is read here by value only; by reference there are
//! pushed requests and nothing else: we fetch no address that a client names.

use serde::Deserialize;
use serde_json::{Map, Value};
use testudo_model::Timestamp;
use testudo_trust::{JwkSet, check_times, verify_jwt};

use crate::{
    Fault, Parameters, Provider,
    limits::{ASSERTION_CLOCK_SKEW, MAX_REQUEST_OBJECT_AGE},
    pushed::KEPT,
    records::Client,
};

/// `typ` of a request object (section 10.8): no other token of the client is one.
const REQUEST_TYPE: &str = "oauth-authz-req+jwt";

/// Why a request object is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestObjectError {
    /// The client has registered no keys to verify it with.
    #[error("this client has registered no keys to sign requests with")]
    NoKeys,
    /// Not a request object, or not of the client.
    #[error(
        "`request` is not a JWT of type {REQUEST_TYPE} that a key of the client has signed with ES256"
    )]
    Untrusted,
    /// A claim that is missing, of another type, or says something that cannot be.
    #[error("the request object is refused: {0}")]
    Claim(&'static str),
    /// `request` came twice, or beside a `request_uri`.
    #[error("send one `request` or one `request_uri`")]
    Several,
    /// Our fault.
    #[error("the request object could not be read")]
    Unavailable(#[from] Fault),
}

/// What a request object says beside the parameters (RFC 9101 section 4, FAPI 2.0 Message Signing section 5.3.1).
#[derive(Deserialize)]
struct RequestClaims {
    iss: String,
    aud: Value,
    client_id: String,
    exp: i64,
    nbf: i64,
    iat: Option<i64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Provider {
    /// The parameters of the request object in `sent`, if there is one.
    pub(crate) fn read_request_object(
        &self,
        sent: &Parameters,
        client: &Client,
    ) -> Result<Option<Parameters>, RequestObjectError> {
        let Some(object) = sent.get("request") else {
            return Ok(None);
        };
        if sent.is_repeated("request") || sent.get("request_uri").is_some() {
            return Err(RequestObjectError::Several);
        }
        let jwks = client.jwks.as_deref().ok_or(RequestObjectError::NoKeys)?;
        let keys = JwkSet::parse(jwks).map_err(|_| Fault::Key {
            what: "key set of the client",
        })?;
        let claims = verify_jwt::<RequestClaims>(object, REQUEST_TYPE, &keys)
            .map_err(|_| RequestObjectError::Untrusted)?;
        self.check_request_claims(&claims, client)
            .map_err(RequestObjectError::Claim)?;
        parameters(&claims.others)
            .map(Some)
            .map_err(RequestObjectError::Claim)
    }

    fn check_request_claims(
        &self,
        claims: &RequestClaims,
        client: &Client,
    ) -> Result<(), &'static str> {
        let name = client.client_id.as_str();
        if claims.iss != name || claims.client_id != name {
            return Err("iss and client_id must both be the client id");
        }
        if claims.aud.as_str() != Some(&self.settings.issuer) {
            return Err("aud must be the issuer, as a text");
        }
        let now = self.clock.now();
        let (nbf, exp) = (claims.nbf, claims.exp);
        let begun = claims.iat.unwrap_or(nbf);
        let age = now.since(Timestamp::from_unix_seconds(nbf));
        let lifetime = Timestamp::from_unix_seconds(exp).since(Timestamp::from_unix_seconds(nbf));
        if check_times(begun, Some(nbf), exp, now, ASSERTION_CLOCK_SKEW).is_err()
            || age > MAX_REQUEST_OBJECT_AGE
            || lifetime > MAX_REQUEST_OBJECT_AGE
        {
            return Err(
                "it has ended, has not begun, or its nbf and exp are more than an hour away",
            );
        }
        // Section 4: no request in a request. Section 10.8: what has a subject could be taken for an assertion.
        if ["request", "request_uri", "sub"]
            .into_iter()
            .any(|name| claims.others.contains_key(name))
        {
            return Err("it has a request, a request_uri or a sub");
        }
        Ok(())
    }
}

/// The claims that are parameters.
fn parameters(claims: &Map<String, Value>) -> Result<Parameters, &'static str> {
    let mut pairs = Vec::new();
    for (name, value) in claims {
        // What means nothing to us in a query means nothing here; but self-registration is answered as there.
        if !KEPT.contains(&name.as_str()) && name != "registration" {
            continue;
        }
        match value {
            Value::String(text) => pairs.push((name.as_str(), text.clone())),
            Value::Number(number) if name == "max_age" => {
                pairs.push((name.as_str(), number.to_string()));
            }
            Value::Array(list) if name == "resource" => {
                for resource in list {
                    let resource = resource.as_str().ok_or("resource is not a text")?;
                    pairs.push((name.as_str(), resource.to_owned()));
                }
            }
            Value::Object(_) if name == "registration" => {
                pairs.push((name.as_str(), value.to_string()));
            }
            _ => return Err("a parameter is not a text"),
        }
    }
    Parameters::from_pairs(pairs).map_err(|_| "it has too many parameters")
}
