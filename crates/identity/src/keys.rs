//! Signing keys: three at a time, so that nobody ever meets a token whose key they have not seen.
//!
//! `next` is published a whole rotation before it signs, `current` signs, `previous` verifies what it signed.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testudo_model::{Timestamp, event::EventClass};
use testudo_store::{Expected, Record, Versioned};
use testudo_trust::{JwkSet, SigningKey};

use crate::{
    Caller, Fault, Provider,
    change::{Report, until_settled},
    limits::{SIGNING_KEY_CACHE, SIGNING_KEY_ROTATION},
    secret::StoredSecret,
    verified::VerifiedTokens,
};

/// Why signing keys are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRotation {
    /// It is time: all three keys move up by one, tokens stay valid.
    Scheduled,
    /// A key may be known to somebody: all are replaced, every token is void at once.
    Compromise,
}

/// The keys in use, ready to sign and verify.
pub(crate) struct Keys {
    pub(crate) current: SigningKey,
    pub(crate) published: Value,
    pub(crate) verification: JwkSet,
    /// What `verification` has verified.
    pub(crate) verified: VerifiedTokens,
}

/// The keys as last read.
#[derive(Default)]
pub(crate) struct KeyCache(Mutex<Option<Cached>>);

struct Cached {
    keys: Arc<Keys>,
    read_at_nanos: u64,
}

impl Provider {
    /// The JWK Set (RFC 7517): public halves of next, current and previous.
    ///
    /// # Errors
    /// The store fails.
    pub fn jwks(&self) -> Result<Value, Fault> {
        Ok(self.signing_keys()?.published.clone())
    }

    /// Rotates the signing keys if the current one is old enough. For a reconciler to call now and then; says
    /// whether it did.
    ///
    /// # Errors
    /// The store fails.
    pub fn rotate_signing_keys_if_due(&self, caller: &Caller) -> Result<bool, Fault> {
        self.rotate_keys(
            KeyRotation::Scheduled,
            |keys, now| now.since(keys.rotated_at) >= SIGNING_KEY_ROTATION,
            caller,
        )
    }

    /// Rotates the signing keys now. Snapshots carry the published keys: distribute one afterwards.
    ///
    /// # Errors
    /// The store fails.
    pub fn rotate_signing_keys(&self, why: KeyRotation, caller: &Caller) -> Result<(), Fault> {
        self.rotate_keys(why, |_, _| true, caller).map(|_| ())
    }

    /// Rotates the keys if they are `due`, as they are when the rotation is committed: another node may have been
    /// faster, and twice at once would make a key sign that nobody has seen yet.
    fn rotate_keys(
        &self,
        why: KeyRotation,
        due: impl Fn(&SigningKeys, Timestamp) -> bool,
        caller: &Caller,
    ) -> Result<bool, Fault> {
        let rotated = until_settled(|| {
            let Versioned { record, version } = self.load_signing_keys()?;
            let now = self.clock.now();
            if !due(&record, now) {
                return Ok(Some(false));
            }
            let (rotated, outcome) = match why {
                KeyRotation::Scheduled => (record.moved_up(now)?, "scheduled"),
                KeyRotation::Compromise => (SigningKeys::generate(now)?, "compromise"),
            };
            let report = Report::new(EventClass::EntityManagement, "signing_key.rotate")
                .target("identity provider")
                .detail("why", outcome);
            let change = self.change().put(Expected::Version(version), &rotated);
            Ok::<_, Fault>(change.report(report, caller).commit()?.then_some(true))
        })?;
        if rotated {
            *self.keys.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(rotated)
    }

    /// The keys, at most [`SIGNING_KEY_CACHE`] old.
    pub(crate) fn signing_keys(&self) -> Result<Arc<Keys>, Fault> {
        let now = self.clock.monotonic_nanos();
        let mut cached = self.keys.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Cached {
            keys,
            read_at_nanos,
        }) = &*cached
            && u128::from(now.saturating_sub(*read_at_nanos)) < SIGNING_KEY_CACHE.as_nanos()
        {
            return Ok(Arc::clone(keys));
        }
        let keys = Arc::new(self.load_signing_keys()?.record.usable()?);
        *cached = Some(Cached {
            keys: Arc::clone(&keys),
            read_at_nanos: now,
        });
        Ok(keys)
    }

    /// The stored keys; makes them if there are none.
    fn load_signing_keys(&self) -> Result<Versioned<SigningKeys>, Fault> {
        until_settled(|| {
            let stored = self.tenant.get::<SigningKeys>(SigningKeys::KEY)?;
            if stored.is_none() {
                let keys = SigningKeys::generate(self.clock.now())?;
                self.change().put(Expected::Absent, &keys).commit()?;
            }
            Ok(stored)
        })
    }
}

/// The private keys, PKCS#8. The store seals them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SigningKeys {
    previous: Option<StoredSecret>,
    current: StoredSecret,
    next: StoredSecret,
    rotated_at: Timestamp,
}

impl SigningKeys {
    const KEY: &'static str = "es256";

    fn generate(now: Timestamp) -> Result<Self, Fault> {
        Ok(Self {
            previous: None,
            current: new_key()?,
            next: new_key()?,
            rotated_at: now,
        })
    }

    fn moved_up(self, now: Timestamp) -> Result<Self, Fault> {
        Ok(Self {
            previous: Some(self.current),
            current: self.next,
            next: new_key()?,
            rotated_at: now,
        })
    }

    fn usable(&self) -> Result<Keys, Fault> {
        let current = parse(&self.current)?;
        let mut public = vec![parse(&self.next)?.public_jwk(), current.public_jwk()];
        if let Some(previous) = &self.previous {
            public.push(parse(previous)?.public_jwk());
        }
        let published = json!({ "keys": public });
        let verification = JwkSet::parse(&published.to_string()).map_err(|_| Fault::Key {
            what: "signing key set",
        })?;
        Ok(Keys {
            current,
            published,
            verification,
            verified: VerifiedTokens::default(),
        })
    }
}

impl Record for SigningKeys {
    const COLLECTION: &'static str = "identity.signing_keys";

    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

fn new_key() -> Result<StoredSecret, Fault> {
    Ok(StoredSecret::from_bytes(
        SigningKey::generate().to_pkcs8().expose(),
    ))
}

fn parse(stored: &StoredSecret) -> Result<SigningKey, Fault> {
    let unusable = Fault::Key {
        what: "signing key",
    };
    let Some(pkcs8) = stored.bytes() else {
        return Err(unusable);
    };
    SigningKey::from_pkcs8(&pkcs8).map_err(|_| unusable)
}
