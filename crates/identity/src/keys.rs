//! Signing keys: three at a time, so that nobody ever meets a token whose key they have not seen.
//!
//! `next` is published a whole rotation before it signs, `current` signs, `previous` verifies what it signed.
//!
//! What the fleet reads is signed with ES256. For relying parties that read RS256 alone there are three RSA keys beside,
//! made when the first of them is there, and used for what it is told and for nothing else.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testudo_model::{Timestamp, event::EventClass};
use testudo_store::{Expected, Record, Versioned};
use testudo_trust::{ForeignKeySet, JwkSet, RsaSigningKey, SigningKey};

use crate::{
    Caller, Fault, Provider,
    change::{Report, until_settled},
    limits::{SIGNING_KEY_CACHE, SIGNING_KEY_ROTATION},
    records::{ClientSigning, SignatureAlgorithm},
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
    /// For relying parties that want RS256; absent until there is one.
    current_rsa: Option<RsaSigningKey>,
    published: Value,
    /// Of what is published, what verifies what the fleet reads.
    published_to_fleet: Value,
    pub(crate) verification: JwkSet,
    /// Verifies what relying parties were told.
    pub(crate) told: ForeignKeySet,
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

    /// Those of them that verify access tokens.
    pub(crate) fn fleet_jwks(&self) -> Result<Value, Fault> {
        Ok(self.signing_keys()?.published_to_fleet.clone())
    }

    /// Signs what a relying party is told, as it wants it.
    pub(crate) fn sign_told(
        &self,
        algorithm: SignatureAlgorithm,
        typ: &str,
        claims: &impl Serialize,
    ) -> Result<String, Fault> {
        let keys = self.signing_keys()?;
        let signed = match algorithm {
            SignatureAlgorithm::Es256 => keys.current.sign_jwt(typ, claims),
            SignatureAlgorithm::Rs256 => match &keys.current_rsa {
                Some(key) => key.sign_jwt(typ, claims),
                None => self.first_rsa_key()?.sign_jwt(typ, claims),
            },
        };
        signed.map_err(Fault::Sign)
    }

    /// Makes the keys that a client of this kind is told things with, if there are none: before it comes for the first time
    /// and finds them published.
    pub(crate) fn prepare_to_sign(&self, signing: &ClientSigning) -> Result<(), Fault> {
        if signing.uses(SignatureAlgorithm::Rs256) {
            self.prepare_to_sign_with(SignatureAlgorithm::Rs256)?;
        }
        Ok(())
    }

    /// Makes the keys of `algorithm`, if there are none. Those of ES256 are always there.
    pub(crate) fn prepare_to_sign_with(&self, algorithm: SignatureAlgorithm) -> Result<(), Fault> {
        if algorithm == SignatureAlgorithm::Rs256 && self.signing_keys()?.current_rsa.is_none() {
            self.first_rsa_key()?;
        }
        Ok(())
    }

    /// Makes the RSA keys, if there are none.
    fn first_rsa_key(&self) -> Result<RsaSigningKey, Fault> {
        let stored = self.load_signing_keys(SignatureAlgorithm::Rs256)?;
        self.forget_signing_keys();
        parse_rsa(&stored.record.current)
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

    /// Rotates the keys of each algorithm that is in use, if they are `due`.
    fn rotate_keys(
        &self,
        why: KeyRotation,
        due: impl Fn(&SigningKeys, Timestamp) -> bool,
        caller: &Caller,
    ) -> Result<bool, Fault> {
        let mut rotated = self.rotate_keys_of(SignatureAlgorithm::Es256, why, &due, caller)?;
        if self.stored_keys(SignatureAlgorithm::Rs256)?.is_some() {
            rotated |= self.rotate_keys_of(SignatureAlgorithm::Rs256, why, &due, caller)?;
        }
        Ok(rotated)
    }

    /// Whether they are due is asked as they are when the rotation is committed: another node may have been faster, and
    /// twice at once would make a key sign that nobody has seen yet.
    fn rotate_keys_of(
        &self,
        algorithm: SignatureAlgorithm,
        why: KeyRotation,
        due: impl Fn(&SigningKeys, Timestamp) -> bool,
        caller: &Caller,
    ) -> Result<bool, Fault> {
        let rotated = until_settled(|| {
            let Versioned { record, version } = self.load_signing_keys(algorithm)?;
            let now = self.clock.now();
            if !due(&record, now) {
                return Ok(Some(false));
            }
            let (rotated, outcome) = match why {
                KeyRotation::Scheduled => (record.moved_up(now), "scheduled"),
                KeyRotation::Compromise => (SigningKeys::generate(algorithm, now), "compromise"),
            };
            let report = Report::new(EventClass::EntityManagement, "signing_key.rotate")
                .target("identity provider")
                .detail("why", outcome)
                .detail("algorithm", algorithm.as_str());
            let change = self.change().put(Expected::Version(version), &rotated);
            Ok::<_, Fault>(change.report(report, caller).commit()?.then_some(true))
        })?;
        if rotated {
            self.forget_signing_keys();
        }
        Ok(rotated)
    }

    /// They are read again before they are used.
    fn forget_signing_keys(&self) {
        *self.keys.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
        let es256 = self.load_signing_keys(SignatureAlgorithm::Es256)?.record;
        let rs256 = self.stored_keys(SignatureAlgorithm::Rs256)?;
        let rs256 = rs256.map(|stored| stored.record);
        let keys = Arc::new(Keys::usable(&es256, rs256.as_ref())?);
        *cached = Some(Cached {
            keys: Arc::clone(&keys),
            read_at_nanos: now,
        });
        Ok(keys)
    }

    /// The stored keys; makes them if there are none.
    fn load_signing_keys(
        &self,
        algorithm: SignatureAlgorithm,
    ) -> Result<Versioned<SigningKeys>, Fault> {
        until_settled(|| {
            let stored = self.stored_keys(algorithm)?;
            if stored.is_none() {
                let keys = SigningKeys::generate(algorithm, self.clock.now());
                self.change().put(Expected::Absent, &keys).commit()?;
            }
            Ok(stored)
        })
    }

    fn stored_keys(
        &self,
        algorithm: SignatureAlgorithm,
    ) -> Result<Option<Versioned<SigningKeys>>, Fault> {
        Ok(self.tenant.get::<SigningKeys>(algorithm.as_str())?)
    }
}

/// The private keys, PKCS#8. The store seals them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SigningKeys {
    algorithm: SignatureAlgorithm,
    previous: Option<StoredSecret>,
    current: StoredSecret,
    next: StoredSecret,
    rotated_at: Timestamp,
}

impl SigningKeys {
    fn generate(algorithm: SignatureAlgorithm, now: Timestamp) -> Self {
        Self {
            algorithm,
            previous: None,
            current: new_key(algorithm),
            next: new_key(algorithm),
            rotated_at: now,
        }
    }

    fn moved_up(self, now: Timestamp) -> Self {
        Self {
            algorithm: self.algorithm,
            previous: Some(self.current),
            current: self.next,
            next: new_key(self.algorithm),
            rotated_at: now,
        }
    }

    /// Next, current and previous.
    fn all(&self) -> impl Iterator<Item = &StoredSecret> {
        [&self.next, &self.current]
            .into_iter()
            .chain(&self.previous)
    }
}

impl Record for SigningKeys {
    const COLLECTION: &'static str = "identity.signing_keys";

    fn key(&self) -> String {
        self.algorithm.as_str().to_owned()
    }
}

impl Keys {
    fn usable(es256: &SigningKeys, rs256: Option<&SigningKeys>) -> Result<Self, Fault> {
        let unusable = |_| Fault::Key {
            what: "signing key set",
        };
        let mut public = Vec::new();
        for key in es256.all() {
            public.push(parse(key)?.public_jwk());
        }
        let published_to_fleet = json!({ "keys": public });
        for key in rs256.into_iter().flat_map(SigningKeys::all) {
            public.push(parse_rsa(key)?.public_jwk());
        }
        let published = json!({ "keys": public });
        Ok(Self {
            current: parse(&es256.current)?,
            current_rsa: rs256.map(|keys| parse_rsa(&keys.current)).transpose()?,
            verification: JwkSet::parse(&published_to_fleet.to_string()).map_err(unusable)?,
            told: ForeignKeySet::parse(&published.to_string()).map_err(unusable)?,
            published_to_fleet,
            published,
            verified: VerifiedTokens::default(),
        })
    }
}

fn new_key(algorithm: SignatureAlgorithm) -> StoredSecret {
    let pkcs8 = match algorithm {
        SignatureAlgorithm::Es256 => SigningKey::generate().to_pkcs8(),
        SignatureAlgorithm::Rs256 => RsaSigningKey::generate().to_pkcs8(),
    };
    StoredSecret::from_bytes(pkcs8.expose())
}

const UNUSABLE: Fault = Fault::Key {
    what: "signing key",
};

fn parse(stored: &StoredSecret) -> Result<SigningKey, Fault> {
    let pkcs8 = stored.bytes().ok_or(UNUSABLE)?;
    SigningKey::from_pkcs8(&pkcs8).map_err(|_| UNUSABLE)
}

fn parse_rsa(stored: &StoredSecret) -> Result<RsaSigningKey, Fault> {
    let pkcs8 = stored.bytes().ok_or(UNUSABLE)?;
    RsaSigningKey::from_pkcs8(&pkcs8).map_err(|_| UNUSABLE)
}
