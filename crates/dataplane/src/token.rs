//! The outside access token: found in one place only, verified once, remembered until something it depends on
//! changes.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use testudo_model::{ACCESS_TOKEN_TYPE, AccessTokenClaims, Clock, Timestamp, limits};
use testudo_trust::{JoseError, check_times, verify_jwt};

use crate::{
    api_keys::{self, X_API_KEY},
    cache::{Generations, TokenEnding, token_ending},
    principal::Principal,
    state::{Enforced, ProxyState},
};

/// What comes before a token (RFC 6750 section 2.1, RFC 9449 section 7.1), in any case.
const BEARER: &[u8] = b"bearer ";
const DPOP: &[u8] = b"dpop ";

/// Why a token is refused. The text is public; it does not say which keys exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// RFC 9110 section 11.6.2: one field. Two parsers would choose different ones.
    #[error("there must be exactly one `Authorization` field, or one API key")]
    Several,
    /// RFC 9700 section 4.3.2: queries end up in logs and histories.
    #[error("an access token or API key in the query is never accepted; send `Authorization`")]
    InQuery,
    /// Not `Bearer <token>` and not `DPoP <token>`.
    #[error("`Authorization` must be `Bearer` or `DPoP` and one token")]
    Scheme,
    /// Longer than [`limits::MAX_TOKEN_BYTES`].
    #[error("the token is longer than {} bytes", limits::MAX_TOKEN_BYTES)]
    TooLong,
    /// Not signed by a trusted issuer, or not a token at all.
    #[error("no trusted issuer signed this token")]
    Untrusted,
    /// Signed for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Before or after its time.
    #[error("the token is expired or not yet valid")]
    Time,
    /// Taken back.
    #[error("the token is revoked")]
    Revoked,
    /// Not an API key that is good today, or none at all.
    #[error("this is no API key of this fleet, or it has ended")]
    UnknownKey,
    /// The service did not ask for API keys.
    #[error("this service takes no API keys")]
    KeyNotTaken,
    /// The key is for other networks.
    #[error("this API key is not to be used from this address")]
    KeyNetwork,
    /// Bound to a key, and the scheme says that it is not; or the other way round (RFC 8705 section 3, RFC 9449
    /// section 7.2).
    #[error(
        "a token that is bound to a key comes with the scheme `DPoP` and a proof, any other with `Bearer`; one that is \
         bound to a certificate is not for here"
    )]
    Unbound,
}

impl TokenError {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Several | Self::InQuery => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Several | Self::InQuery | Self::Scheme => "token.misplaced",
            Self::TooLong | Self::Untrusted => "token.untrusted",
            Self::Audience => "token.audience",
            Self::Time => "token.expired",
            Self::Revoked => "token.revoked",
            Self::Unbound => "token.unbound",
            Self::UnknownKey => "token.api_key_unknown",
            Self::KeyNotTaken => "token.api_key_not_taken",
            Self::KeyNetwork => "token.api_key_network",
        }
    }
}

/// A verified access token.
#[derive(Debug)]
pub(crate) struct Login {
    /// Distinguishes verified tokens of this worker: a short key for what is made from one.
    pub(crate) serial: u64,
    /// Who.
    pub(crate) principal: Principal,
    /// End of the token.
    pub(crate) expires: Timestamp,
    /// The one service the token is for, if it is not for the whole fleet.
    pub(crate) service: Option<Box<str>>,
    /// Thumbprint of the key it is bound to (`jkt`): whoever uses it must prove to hold that.
    pub(crate) key: Option<Box<str>>,
}

/// An access token or API key as it came with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// The scheme was `DPoP`: a proof of possession comes with it.
    pub(crate) has_proof: bool,
    pub(crate) token: &'a [u8],
}

/// What a request brings as its access token, `None` if it brings no credentials at all. Whether it is a token at all
/// is left to [`token68`]: what is remembered was one.
///
/// # Errors
/// [`TokenError`] when there is anything but exactly one.
pub(crate) fn credentials<'a>(
    headers: &'a HeaderMap,
    query: Option<&str>,
) -> Result<Option<Credentials<'a>>, TokenError> {
    if query.is_some_and(|query| has_token_parameter(query) || api_keys::is_in_query(query)) {
        return Err(TokenError::InQuery);
    }
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let mut keys = api_keys::shown_in_field(headers);
    let field = match (fields.next(), keys.next()) {
        (None, None) => return Ok(None),
        (None, Some(key)) if headers.get_all(X_API_KEY).iter().count() == 1 => {
            return checked(false, key).map(Some);
        }
        (Some(field), None) if fields.next().is_none() => field,
        _ => return Err(TokenError::Several),
    };
    let field = field.as_bytes();
    let (has_proof, token) = match after(BEARER, field) {
        Some(token) => (false, token),
        None => (true, after(DPOP, field).ok_or(TokenError::Scheme)?),
    };
    checked(has_proof, token).map(Some)
}

fn checked(has_proof: bool, token: &[u8]) -> Result<Credentials<'_>, TokenError> {
    if token.len() > limits::MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    Ok(Credentials { has_proof, token })
}

/// What follows `scheme`, if `field` begins with it.
fn after<'a>(scheme: &[u8], field: &'a [u8]) -> Option<&'a [u8]> {
    let (begin, rest) = field.split_at_checked(scheme.len())?;
    begin.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// `token` as text.
///
/// # Errors
/// [`TokenError::Scheme`] if it is no `token68` (RFC 9110 section 11.2).
pub(crate) fn token68(token: &[u8]) -> Result<&str, TokenError> {
    let allowed = |b: &u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'+' | b'/' | b'=')
    };
    let is_token = !token.is_empty() && token.iter().all(allowed);
    let text = std::str::from_utf8(token).ok().filter(|_| is_token);
    text.ok_or(TokenError::Scheme)
}

/// RFC 6750 section 2.3: `access_token` as a query parameter, however its name is escaped.
fn has_token_parameter(query: &str) -> bool {
    query.split('&').any(|parameter| {
        let name = parameter
            .split_once('=')
            .map_or(parameter, |(name, _)| name);
        percent_encoding::percent_decode_str(name).eq(b"access_token".iter().copied())
    })
}

/// Verified tokens of one worker.
pub(crate) struct TokenVerifier {
    clock: Arc<dyn Clock>,
    verified: Mutex<Generations<TokenEnding, Verified>>,
    next_serial: AtomicU64,
}

/// A token whose signature was good.
#[derive(Clone)]
pub(crate) struct Verified {
    token: Arc<str>,
    login: Arc<Login>,
    issuers: [u8; 32],
    /// Revocation sequence it was checked against, `None` if it was not yet.
    revocations: Option<u64>,
}

impl TokenVerifier {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            verified: Mutex::new(Generations::new(limits::MAX_CACHED_TOKENS)),
            next_serial: AtomicU64::new(1),
        }
    }

    /// `token`, if its signature was verified before, with the keys of today.
    pub(crate) fn remembered(&self, token: &[u8], enforced: &Enforced) -> Option<Verified> {
        let known = self.lock().get(&token_ending(token)?)?;
        let holds =
            known.token.as_bytes() == token && known.issuers == *enforced.issuers_fingerprint();
        holds.then_some(known)
    }

    /// The login behind a token, if nothing has taken it back since it was verified. `has_proof`: it came with a proof,
    /// which is still to be checked.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) fn login(
        &self,
        known: Verified,
        has_proof: bool,
        state: &ProxyState,
    ) -> Result<Arc<Login>, TokenError> {
        // The number before the entries: one that arrives in between is looked at again next time.
        let revocations = state.revocations().generation();
        let is_checked = known.revocations == Some(revocations);
        if !is_checked
            && state
                .revocations()
                .revokes_token(known.login.principal.identity())
        {
            self.forget(&known.token);
            return Err(TokenError::Revoked);
        }
        if known.login.expires <= self.clock.now() {
            self.forget(&known.token);
            return Err(TokenError::Time);
        }
        if known.login.key.is_some() != has_proof {
            return Err(TokenError::Unbound);
        }
        let login = Arc::clone(&known.login);
        if !is_checked {
            self.remember(Verified {
                revocations: Some(revocations),
                ..known
            });
        }
        Ok(login)
    }

    /// Verifies the signature of `token`, and what it says about where and when it is good.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) fn verify(&self, token: &str, enforced: &Enforced) -> Result<Verified, TokenError> {
        let (claims, audience) = enforced
            .issuers()
            .iter()
            .find_map(|issuer| {
                let claims: Result<Claims, JoseError> =
                    verify_jwt(token, ACCESS_TOKEN_TYPE, &issuer.keys);
                claims
                    .ok()
                    .filter(|c| c.access.iss == issuer.issuer)
                    .map(|c| (c, &issuer.audience))
            })
            .ok_or(TokenError::Untrusted)?;
        let Claims { access, nbf } = claims;
        let service = if access.aud == *audience {
            None
        } else {
            let service = AccessTokenClaims::service_of_audience(&access.aud, audience);
            Some(service.map(Box::from).ok_or(TokenError::Audience)?)
        };
        check_times(
            access.iat,
            nbf,
            access.exp,
            self.clock.now(),
            limits::CLOCK_SKEW,
        )
        .map_err(|_| TokenError::Time)?;
        let key = match &access.cnf {
            Some(confirmation) => {
                // Clients have no certificates here, and a confirmation that is not understood binds to something we
                // cannot check.
                let thumbprint = confirmation
                    .key_thumbprint
                    .as_deref()
                    .filter(|_| confirmation.certificate_thumbprint.is_none())
                    .ok_or(TokenError::Unbound)?;
                Some(Box::from(thumbprint))
            }
            None => None,
        };
        let login = Login {
            serial: self.next_serial.fetch_add(1, Ordering::Relaxed),
            principal: Principal::from_access_token(&access, key.is_some()),
            expires: Timestamp::from_unix_seconds(access.exp) + limits::CLOCK_SKEW,
            service,
            key,
        };
        Ok(Verified {
            token: token.into(),
            login: Arc::new(login),
            issuers: *enforced.issuers_fingerprint(),
            revocations: None,
        })
    }

    fn remember(&self, known: Verified) {
        if let Some(ending) = token_ending(known.token.as_bytes()) {
            self.lock().insert(ending, known);
        }
    }

    fn forget(&self, token: &str) {
        if let Some(ending) = token_ending(token.as_bytes()) {
            self.lock().remove(&ending);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Generations<TokenEnding, Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claims of an access token and the one registered claim that our own tokens never have.
#[derive(Deserialize)]
struct Claims {
    #[serde(flatten)]
    access: AccessTokenClaims,
    #[serde(default)]
    nbf: Option<i64>,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn found(values: &[&str], query: Option<&str>) -> Result<Option<String>, TokenError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                header::AUTHORIZATION,
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let Some(Credentials { has_proof, token }) = credentials(&headers, query)? else {
            return Ok(None);
        };
        let scheme = if has_proof { "proved " } else { "" };
        token68(token).map(|token| Some(format!("{scheme}{token}")))
    }

    #[test]
    fn a_token_is_read_from_exactly_one_place() {
        assert_eq!(found(&[], None), Ok(None));
        assert_eq!(
            found(&["Bearer a.b.c"], Some("q=access_token")),
            Ok(Some("a.b.c".to_owned()))
        );
        assert_eq!(found(&["bearer a.b.c"], None), Ok(Some("a.b.c".to_owned())));
        assert_eq!(
            found(&["dPoP a.b.c"], None),
            Ok(Some("proved a.b.c".to_owned()))
        );
        for (values, query, error) in [
            (&["DPoP"][..], None, TokenError::Scheme),
            (&["DPoP "], None, TokenError::Scheme),
            (&["DPoPa.b.c"], None, TokenError::Scheme),
            (&["DPoP  a.b.c"], None, TokenError::Scheme),
            (&["DPoP a.b.c, Bearer a.b.c"], None, TokenError::Scheme),
            (&["DPoP a.b.c", "Bearer a.b.c"], None, TokenError::Several),
            (&["Bearer a.b.c", "Bearer a.b.c"], None, TokenError::Several),
            (&["Bearer a.b.c", "Basic YTpi"], None, TokenError::Several),
            (
                &["Bearer a.b.c"],
                Some("access_token=a.b.c"),
                TokenError::InQuery,
            ),
            (&[], Some("x=1&access%5Ftoken=a.b.c"), TokenError::InQuery),
            (&["Bearer  a.b.c"], None, TokenError::Scheme),
            (&["Bearer\ta.b.c"], None, TokenError::Scheme),
            (&["Bearer a.b.c d"], None, TokenError::Scheme),
            (&["Bearer a.b.c, Bearer d"], None, TokenError::Scheme),
            (&["Bearer"], None, TokenError::Scheme),
            (&["Bearer "], None, TokenError::Scheme),
            (&["Basic YTpi"], None, TokenError::Scheme),
            (&["a.b.c"], None, TokenError::Scheme),
            (&["Bearer \u{e9}"], None, TokenError::Scheme),
            (&[""], None, TokenError::Scheme),
        ] {
            assert_eq!(found(values, query), Err(error), "{values:?} {query:?}");
        }
        let huge = format!("Bearer {}", "a".repeat(1 << 20));
        assert_eq!(found(&[&huge], None), Err(TokenError::TooLong));
    }
}
