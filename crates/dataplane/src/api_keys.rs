//! API keys at the gateway: known by their digests, which came with the snapshot. Nobody is asked about one.
//!
//! A key is where a client puts it: behind `Bearer`, or in `X-API-Key`. A value of that field that does not begin as our keys
//! do is the service's own business and passes. What is a key of ours never does.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use testudo_model::{
    ApiKeyId, Timestamp, TokenContext,
    snapshot::{ApiKey, Snapshot},
};
use testudo_trust::{ApiKeyText, constant_time_eq, hex, sha256};

use crate::{
    iplist::IpSet,
    principal::Principal,
    state::ProxyState,
    token::{Login, TokenError},
};

/// The other place for a key.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Set in the serial of a key, and in that of no token: those are counted.
const OF_A_KEY: u64 = 1 << 63;
/// One factor: whoever has the key is its owner.
const ASSURANCE: i64 = 1;

/// The keys of a snapshot.
#[derive(Default)]
pub(crate) struct ApiKeys {
    keys: HashMap<ApiKeyId, Known>,
}

struct Known {
    digest: String,
    login: Arc<Login>,
    services: Vec<String>,
    networks: IpSet,
}

/// Where a key is used.
pub(crate) struct KeyUse<'a> {
    /// The called service.
    pub(crate) service: &'a str,
    /// Whether that takes keys.
    pub(crate) is_taken: bool,
    /// The client's address.
    pub(crate) client: IpAddr,
    pub(crate) now: Timestamp,
}

impl ApiKeys {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let keys = snapshot.directory.api_keys.iter();
        Self {
            keys: keys.map(|key| (key.id.clone(), Known::new(key))).collect(),
        }
    }

    /// The login of whoever shows `text`, if nothing has taken it back.
    ///
    /// # Errors
    /// [`TokenError`]; [`TokenError::UnknownKey`] alone says nothing about any key there is.
    pub(crate) fn login(
        &self,
        text: &str,
        place: &KeyUse<'_>,
        state: &ProxyState,
    ) -> Result<Arc<Login>, TokenError> {
        let shown = ApiKeyText::parse(text).ok_or(TokenError::UnknownKey)?;
        // Compared also if there is none with this id, so that the time does not tell.
        let known = self.keys.get(shown.id());
        let digest = known.map_or(NO_DIGEST, |known| known.digest.as_str());
        let is_it = constant_time_eq(hex::encode(shown.digest()).as_bytes(), digest.as_bytes());
        let known = known.filter(|_| is_it).ok_or(TokenError::UnknownKey)?;
        if state
            .revocations()
            .revokes_token(known.login.principal.identity())
        {
            return Err(TokenError::Revoked);
        }
        if known.login.expires <= place.now {
            return Err(TokenError::Time);
        }
        if !place.is_taken {
            return Err(TokenError::KeyNotTaken);
        }
        let is_for = |services: &[String]| {
            services.is_empty() || services.iter().any(|service| service == place.service)
        };
        if !is_for(&known.services) {
            return Err(TokenError::Audience);
        }
        if !known.networks.is_empty() && !known.networks.contains(place.client) {
            return Err(TokenError::KeyNetwork);
        }
        Ok(Arc::clone(&known.login))
    }
}

/// As long as a digest, and of nothing.
const NO_DIGEST: &str = "----------------------------------------------------------------";

impl Known {
    fn new(key: &ApiKey) -> Self {
        let issued_at = key.issued_at.unix_seconds();
        let principal = Principal {
            subject: key.subject.clone(),
            scopes: key.scopes.iter().map(ToString::to_string).collect(),
            context: TokenContext {
                issuer: key.issuer.clone(),
                token_id: key.token_id(),
                issued_at,
                client_id: key.client_id.to_string(),
                session: None,
                assurance: ASSURANCE,
                authenticated_at: issued_at,
                bound: false,
                is_api_key: true,
            },
        };
        let services = key.services.iter().map(ToString::to_string);
        Self {
            login: Arc::new(Login {
                serial: serial(key),
                principal,
                expires: key.expires,
                service: None,
                key: None,
            }),
            digest: key.digest.clone(),
            services: services.collect(),
            networks: IpSet::new(&key.networks),
        }
    }
}

/// The same in every snapshot, as long as what is minted for the key would be the same.
fn serial(key: &ApiKey) -> u64 {
    let scopes = key.scopes.iter().map(|scope| format!(" {scope}"));
    let named: String = std::iter::once(key.digest.clone()).chain(scopes).collect();
    let digest = sha256(named.as_bytes());
    let number = digest.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(number) | OF_A_KEY
}

/// The values of `X-API-Key` that are meant as keys of ours.
pub(crate) fn shown_in_field(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(X_API_KEY).iter();
    values
        .map(http::HeaderValue::as_bytes)
        .filter(|value| ApiKeyText::is_meant(value))
}

/// Whether a parameter is a whole key: queries end up in logs and histories, so whoever sends one there has just lost it.
pub(crate) fn is_in_query(query: &str) -> bool {
    query.split(['&', '=']).any(|word| {
        let word = percent_decode_str(word).decode_utf8();
        word.is_ok_and(|word| ApiKeyText::parse(&word).is_some())
    })
}

/// Takes keys of ours out of a request that goes on.
pub(crate) fn remove(headers: &mut HeaderMap) {
    if shown_in_field(headers).next().is_some() {
        headers.remove(X_API_KEY);
    }
}

/// The key behind a token, if it is one: they were made as one.
pub(crate) fn id_of(context: &TokenContext) -> Option<ApiKeyId> {
    let id = || ApiKeyId::from(context.token_id.ulid());
    context.is_api_key.then(id)
}
