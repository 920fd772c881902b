//! What identity providers elsewhere say of themselves: asked when somebody wants to log in there, and kept for a while.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use testudo_identity::{
    IdentityProvider, TokenCall, UpstreamMetadata,
    limits::{ISSUER_KEYS_FRESH, ISSUER_KEYS_GOOD, ISSUER_KEYS_PAUSE, ISSUER_KEYS_RETRY},
};
use testudo_model::{Clock, Redacted, Timestamp};
use testudo_runtime::with_causes;
use testudo_trust::ForeignKeySet;

use crate::outbound::{Outbound, OutboundError};

/// Where an issuer says it (OpenID Connect Discovery 1.0 section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

type Failure = Box<dyn Error + Send + Sync>;

/// An identity provider as it describes itself.
pub struct Upstream {
    /// Its addresses.
    pub metadata: UpstreamMetadata,
    /// Its keys.
    pub keys: ForeignKeySet,
}

/// What is known of all that were asked.
pub struct Upstreams {
    outbound: Arc<Outbound>,
    clock: Arc<dyn Clock>,
    slots: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
}

/// Of one issuer. Whoever holds it asks; others wait for the answer.
#[derive(Default)]
struct Slot {
    known: Option<(Arc<Upstream>, Timestamp)>,
    tried_at: Option<Timestamp>,
}

/// How new what is known must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Fresh,
    /// A key is missing.
    Newer,
}

/// An identity provider could not be asked.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the identity provider cannot be reached")]
pub struct Unreachable;

impl Upstreams {
    pub fn new(outbound: Arc<Outbound>, clock: Arc<dyn Clock>) -> Self {
        Self {
            outbound,
            clock,
            slots: Mutex::default(),
        }
    }

    /// What `at` says of itself.
    ///
    /// # Errors
    /// It cannot be reached, and could not for a day; the log says why.
    pub async fn of(&self, at: &IdentityProvider) -> Result<Arc<Upstream>, Unreachable> {
        self.ask(at, Wanted::Fresh).await
    }

    /// The same where a key is missing: asked again, if that was not a moment ago.
    ///
    /// # Errors
    /// As above.
    pub async fn again(&self, at: &IdentityProvider) -> Result<Arc<Upstream>, Unreachable> {
        self.ask(at, Wanted::Newer).await
    }

    async fn ask(
        &self,
        at: &IdentityProvider,
        wanted: Wanted,
    ) -> Result<Arc<Upstream>, Unreachable> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(at.issuer.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if slot.is_due(wanted, self.clock.now()) {
            slot.tried_at = Some(self.clock.now());
            match self.fetch(&at.issuer).await {
                Ok(upstream) => slot.known = Some((Arc::new(upstream), self.clock.now())),
                Err(error) => tracing::warn!(
                    identity_provider = at.name,
                    error = with_causes(&*error),
                    "an identity provider cannot be asked: what is known of it goes on for a day"
                ),
            }
        }
        slot.usable(self.clock.now()).ok_or(Unreachable)
    }

    async fn fetch(&self, issuer: &str) -> Result<Upstream, Failure> {
        let address = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
        let document = self.outbound.get(&address).await?;
        let metadata = UpstreamMetadata::read(&document, issuer, self.outbound.allows_http())?;
        let keys = self.outbound.get(metadata.jwks_uri()).await?;
        let keys = ForeignKeySet::parse(std::str::from_utf8(&keys)?)?;
        Ok(Upstream { metadata, keys })
    }

    /// Redeems a code: status and answer.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn redeem(&self, call: &TokenCall) -> Result<(u16, Vec<u8>), OutboundError> {
        let authorization = call.authorization.as_ref();
        let (status, body) = self
            .outbound
            .post_form(&call.url, authorization, &call.form)
            .await?;
        Ok((status, body.to_vec()))
    }

    /// What is said of whose access token it is.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn user_info(
        &self,
        url: &str,
        access_token: &Redacted<String>,
    ) -> Result<Vec<u8>, OutboundError> {
        let told = self.outbound.get_as(url, access_token).await?;
        Ok(told.to_vec())
    }
}

impl Slot {
    fn is_due(&self, wanted: Wanted, now: Timestamp) -> bool {
        let age = self.known.as_ref().map(|(_, at)| now.since(*at));
        let (is_wanted, pause) = match (age, wanted) {
            (None, _) => (true, ISSUER_KEYS_RETRY),
            (Some(_), Wanted::Newer) => (true, ISSUER_KEYS_PAUSE),
            (Some(age), Wanted::Fresh) => (age >= ISSUER_KEYS_FRESH, ISSUER_KEYS_PAUSE),
        };
        is_wanted && self.tried_at.is_none_or(|at| now.since(at) >= pause)
    }

    fn usable(&self, now: Timestamp) -> Option<Arc<Upstream>> {
        let (upstream, at) = self.known.as_ref()?;
        (now.since(*at) < ISSUER_KEYS_GOOD).then(|| Arc::clone(upstream))
    }
}
