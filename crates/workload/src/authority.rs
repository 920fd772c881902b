//! The fleet's roots and their rotation without a restart.
//!
//! A root is *prepared* (in the bundle, signs nothing), then *active* (signs), then *retiring* (in the bundle
//! because its certificates still live; its key is gone), then *retired* (kept only to verify old signatures).
//! Peers therefore always know a root before they meet a certificate of it.

use std::{cmp::Reverse, time::Duration};

use serde::{Deserialize, Serialize};
use testudo_model::{
    Timestamp,
    event::{EventClass, Outcome},
};
use testudo_store::Record;
use testudo_trust::{CertificateAuthority, TrustBundle, base64url, hex, sha256};

use crate::{
    Caller, WorkloadError, Workloads,
    enrolment::WEB_LIFETIME,
    join::MAX_JOIN_TOKEN_LIFETIME,
    record::{Amendment, amend},
    sink::Fact,
};

/// Life of a root. Long, because people install it (`ca.pem`); it is replaced at half of it.
const ROOT_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a prepared root is published before it signs. No join token outlives it, so none pins a root
/// that the control plane no longer shows.
const PUBLICATION: Duration = MAX_JOIN_TOKEN_LIFETIME;
/// How long a root stays in the bundle after it signed its last certificate: the longest life it may have given.
const RETIREMENT: Duration = Duration::from_secs(WEB_LIFETIME.as_secs() + 3600);
/// Retired roots kept to verify old signatures. With the living ones they must fit a bundle of 16.
const MAX_RETIRED: usize = 12;

/// Where a root is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootStage {
    /// Signs.
    Active,
    /// Published, signs nothing yet.
    Prepared,
    /// Signs no more; its certificates still live.
    Retiring,
    /// Trusted by nobody; verifies old signatures.
    Retired,
}

/// A root as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// DER certificate.
    pub certificate: Vec<u8>,
    /// SHA-256 of the certificate: the pin of join tokens.
    pub sha256: [u8; 32],
    /// Where it is in its life.
    pub stage: RootStage,
    /// Since when.
    pub since: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
}

/// The roots a peer must trust now. `version` grows with each change.
#[derive(Debug, Clone)]
pub struct PublishedBundle {
    /// Grows with each change; a proxy with a lower one is behind.
    pub version: u64,
    /// The roots, the active one first.
    pub bundle: TrustBundle,
}

/// A step that [`Workloads::maintain`] took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// A new root was prepared and published.
    Prepared,
    /// The prepared root signs from now on; its predecessor is retiring.
    Activated,
    /// A retiring root left the bundle.
    Retired,
}

impl Workloads {
    /// The roots to trust now.
    ///
    /// # Errors
    /// The store fails or holds no root.
    pub fn bundle(&self) -> Result<PublishedBundle, WorkloadError> {
        let set = self.authorities()?;
        let bundle = self.bundle_of(&set, |stage| stage != RootStage::Retired)?;
        Ok(PublishedBundle {
            version: set.version,
            bundle,
        })
    }

    /// The published roots and the retired ones: what verifies a signature made in the past, such as that of
    /// a spooled block. Never use it to accept a connection.
    ///
    /// # Errors
    /// The store fails or holds no root.
    pub fn historic_bundle(&self) -> Result<TrustBundle, WorkloadError> {
        self.bundle_of(&self.authorities()?, |_| true)
    }

    /// All roots, the active one first.
    ///
    /// # Errors
    /// The store fails or holds no root.
    pub fn roots(&self) -> Result<Vec<Root>, WorkloadError> {
        self.authorities()?
            .roots
            .iter()
            .map(StoredRoot::read)
            .collect()
    }

    /// Prepares a new root and publishes it. It becomes active after a day, by [`Workloads::maintain`].
    ///
    /// # Errors
    /// A rotation is already under way, or the store fails.
    pub fn rotate_ca(&self, caller: &Caller) -> Result<PublishedBundle, WorkloadError> {
        let now = self.clock.now();
        let root = self.new_root(RootStage::Prepared)?;
        let step = self.change_authorities(|set| match set.activation() {
            Some(activates) => Err(WorkloadError::RotationUnderWay { activates }),
            None => {
                set.roots.push(root.clone());
                Ok(Some(Rotation::Prepared))
            }
        })?;
        self.record_rotation(step, caller, now)?;
        self.bundle()
    }

    /// Takes the steps of a rotation whose time has come, and starts one when half the active root's life is
    /// over. Call it about once a minute, from any control plane.
    ///
    /// # Errors
    /// The store fails, or a step could not be recorded.
    pub fn maintain(&self) -> Result<Vec<Rotation>, WorkloadError> {
        let now = self.clock.now();
        let mut steps = Vec::new();
        while let Some(step) = self.next_step(now)? {
            self.record_rotation(Some(step), &Caller::default(), now)?;
            steps.push(step);
        }
        Ok(steps)
    }

    /// Makes the first root if there is none.
    pub(crate) fn found(&self) -> Result<(), WorkloadError> {
        if self
            .tenant
            .get::<AuthoritySet>(AuthoritySet::KEY)?
            .is_none()
        {
            let first = self.new_root(RootStage::Active)?;
            let founded = amend(
                &self.tenant,
                AuthoritySet::KEY,
                |set: Option<AuthoritySet>| {
                    Ok(match set {
                        Some(_) => Amendment::Keep(false),
                        None => Amendment::Write(
                            AuthoritySet {
                                version: 1,
                                roots: vec![first.clone()],
                            },
                            true,
                        ),
                    })
                },
            )?;
            if founded {
                self.record(Fact {
                    class: EventClass::ApplicationLifecycle,
                    activity: "ca.found",
                    outcome: Outcome::Success,
                    caller: &Caller::default(),
                    target: self.trust_domain.to_string(),
                    details: vec![("root_sha256", first.pin()?.into())],
                })?;
            }
        }
        self.register_own()
    }

    /// The active root, ready to sign, with its certificate.
    pub(crate) fn active_authority(
        &self,
    ) -> Result<(CertificateAuthority, Vec<u8>), WorkloadError> {
        let set = self.authorities()?;
        let root = set.active().ok_or(WorkloadError::NoActiveRoot)?;
        let certificate = root.certificate()?;
        let key = root
            .key
            .as_deref()
            .and_then(base64url::decode)
            .ok_or(WorkloadError::RootDamaged)?;
        Ok((
            CertificateAuthority::from_parts(&certificate, &key)?,
            certificate,
        ))
    }

    /// The pin for a new join token, and when the root it names stops signing, if that is known.
    pub(crate) fn pin(&self) -> Result<([u8; 32], Option<Timestamp>), WorkloadError> {
        let set = self.authorities()?;
        let root = set.active().ok_or(WorkloadError::NoActiveRoot)?;
        Ok((sha256(&root.certificate()?), set.activation()))
    }

    fn authorities(&self) -> Result<AuthoritySet, WorkloadError> {
        self.tenant
            .get::<AuthoritySet>(AuthoritySet::KEY)?
            .map(|set| set.record)
            .ok_or(WorkloadError::NoActiveRoot)
    }

    fn bundle_of(
        &self,
        set: &AuthoritySet,
        included: impl Fn(RootStage) -> bool,
    ) -> Result<TrustBundle, WorkloadError> {
        let roots = set
            .roots
            .iter()
            .filter(|root| included(root.stage))
            .map(StoredRoot::certificate)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(TrustBundle::new(self.trust_domain.clone(), roots)?)
    }

    fn new_root(&self, stage: RootStage) -> Result<StoredRoot, WorkloadError> {
        let now = self.clock.now();
        let authority = CertificateAuthority::generate(&self.trust_domain, now, ROOT_LIFETIME)?;
        Ok(StoredRoot {
            certificate: base64url::encode(authority.cert_der()),
            key: Some(base64url::encode(authority.key_pkcs8().expose())),
            stage,
            since: now,
            not_after: authority.not_after(),
        })
    }

    /// Changes the roots and gives the set a new version, if `change` took a step.
    fn change_authorities(
        &self,
        change: impl Fn(&mut AuthoritySet) -> Result<Option<Rotation>, WorkloadError>,
    ) -> Result<Option<Rotation>, WorkloadError> {
        amend(
            &self.tenant,
            AuthoritySet::KEY,
            |set: Option<AuthoritySet>| {
                let mut set = set.ok_or(WorkloadError::NoActiveRoot)?;
                let Some(step) = change(&mut set)? else {
                    return Ok(Amendment::Keep(None));
                };
                set.version += 1;
                set.order();
                Ok(Amendment::Write(set, Some(step)))
            },
        )
    }

    fn next_step(&self, now: Timestamp) -> Result<Option<Rotation>, WorkloadError> {
        // Made only when needed: each is a key pair.
        let due = self.authorities()?.is_half_spent(now);
        let successor = if due {
            Some(self.new_root(RootStage::Prepared)?)
        } else {
            None
        };
        self.change_authorities(|set| {
            Ok(
                if set.activation().is_some_and(|activates| activates <= now) {
                    set.activate(now);
                    Some(Rotation::Activated)
                } else if set.retire(now) {
                    Some(Rotation::Retired)
                } else if let Some(root) = successor.clone().filter(|_| set.is_half_spent(now)) {
                    set.roots.push(root);
                    Some(Rotation::Prepared)
                } else {
                    None
                },
            )
        })
    }

    fn record_rotation(
        &self,
        step: Option<Rotation>,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<(), WorkloadError> {
        let Some(step) = step else { return Ok(()) };
        let set = self.authorities()?;
        let active = set.active().ok_or(WorkloadError::NoActiveRoot)?;
        self.record(Fact {
            class: EventClass::EntityManagement,
            activity: match step {
                Rotation::Prepared => "ca.prepare",
                Rotation::Activated => "ca.activate",
                Rotation::Retired => "ca.retire",
            },
            outcome: Outcome::Success,
            caller,
            target: self.trust_domain.to_string(),
            details: vec![
                ("bundle_version", set.version.into()),
                ("active_root_sha256", active.pin()?.into()),
                (
                    "activates",
                    set.activation().unwrap_or(now).to_string().into(),
                ),
            ],
        })?;
        Ok(())
    }
}

/// All roots in one record, so that every step of a rotation is atomic.
#[derive(Clone, Serialize, Deserialize)]
struct AuthoritySet {
    version: u64,
    roots: Vec<StoredRoot>,
}

/// Keys are here in the clear because the store seals every record.
#[derive(Clone, Serialize, Deserialize)]
struct StoredRoot {
    certificate: String,
    /// PKCS#8; gone when the root is retiring, so that it can sign nothing any more.
    key: Option<String>,
    stage: RootStage,
    since: Timestamp,
    not_after: Timestamp,
}

impl Record for AuthoritySet {
    const COLLECTION: &'static str = "workload.authorities";

    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

impl AuthoritySet {
    const KEY: &'static str = "fleet";

    fn active(&self) -> Option<&StoredRoot> {
        self.roots
            .iter()
            .find(|root| root.stage == RootStage::Active)
    }

    /// When the prepared root takes over, if there is one.
    fn activation(&self) -> Option<Timestamp> {
        let prepared = self
            .roots
            .iter()
            .find(|root| root.stage == RootStage::Prepared)?;
        Some(prepared.since + PUBLICATION)
    }

    fn activate(&mut self, now: Timestamp) {
        for root in &mut self.roots {
            match root.stage {
                RootStage::Active => {
                    (root.stage, root.since, root.key) = (RootStage::Retiring, now, None)
                }
                RootStage::Prepared => (root.stage, root.since) = (RootStage::Active, now),
                RootStage::Retiring | RootStage::Retired => {}
            }
        }
    }

    /// Retires what has no living certificates. Whether there was any.
    fn retire(&mut self, now: Timestamp) -> bool {
        let mut any = false;
        for root in &mut self.roots {
            if root.stage == RootStage::Retiring && root.since + RETIREMENT <= now {
                (root.stage, root.since, any) = (RootStage::Retired, now, true);
            }
        }
        self.order();
        let mut retired = 0;
        self.roots.retain(|root| {
            retired += usize::from(root.stage == RootStage::Retired);
            retired <= MAX_RETIRED
        });
        any
    }

    /// The active root first, the longest retired last.
    fn order(&mut self) {
        self.roots
            .sort_by_key(|root| (root.stage, Reverse(root.since)));
    }

    /// Whether the active root has less than half its life left and nobody prepared a successor.
    fn is_half_spent(&self, now: Timestamp) -> bool {
        self.activation().is_none()
            && self
                .active()
                .is_some_and(|root| root.not_after.since(now) < ROOT_LIFETIME / 2)
    }
}

impl StoredRoot {
    fn certificate(&self) -> Result<Vec<u8>, WorkloadError> {
        base64url::decode(&self.certificate).ok_or(WorkloadError::RootDamaged)
    }

    fn pin(&self) -> Result<String, WorkloadError> {
        Ok(hex::encode(&sha256(&self.certificate()?)))
    }

    fn read(&self) -> Result<Root, WorkloadError> {
        let certificate = self.certificate()?;
        Ok(Root {
            sha256: sha256(&certificate),
            certificate,
            stage: self.stage,
            since: self.since,
            not_after: self.not_after,
        })
    }
}
