//! Renewal after the end: what a certificate is still good for when the control plane was away for too long.
//!
//! A certificate that has ended gets its holder the next one for [`LATE_RENEWAL`], and nothing else, so that an
//! outage does not end with a new join token for every proxy. It must not make a stolen old key worth more than
//! it was. So the control plane remembers for each proxy which certificate is its newest: one that was replaced
//! is worth nothing once it has ended, and neither is one from before its identity was last taken away.

use serde::{Deserialize, Serialize};
use testudo_model::{Entropy, SpiffeId, Timestamp, limits::LATE_RENEWAL, random_bytes};
use testudo_store::{Expected, Record, StoreError, Versioned};
use testudo_trust::{X509Error, certificate_thumbprint, certificate_times, hex, spiffe_id_of};

use crate::{IssuedChain, Registration, WorkloadError, Workloads};

/// The certificate a workload showed on its connection, which verified its chain and that the workload holds its
/// key. Whether it has ended is for each use to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCertificate {
    /// Whose it is.
    pub id: SpiffeId,
    /// Begin of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    thumbprint: String,
}

impl ShownCertificate {
    /// Reads the leaf (DER) of a finished handshake.
    ///
    /// # Errors
    /// It is no X.509-SVID.
    pub fn read(leaf: &[u8]) -> Result<Self, X509Error> {
        let (not_before, not_after) = certificate_times(leaf)?;
        Ok(Self {
            id: spiffe_id_of(leaf)?,
            not_before,
            not_after,
            thumbprint: certificate_thumbprint(leaf),
        })
    }

    /// Whether it holds at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.not_after
    }
}

/// The newest certificates of one proxy, by thumbprint.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Lineage {
    /// Random; a proxy does not know it.
    name: String,
    newest: String,
    /// The one that was shown for the newest. It renews once more if the answer was lost on its way.
    shown: Option<String>,
    /// When the newest can no longer be renewed.
    forgotten: Timestamp,
}

impl Lineage {
    const CERTIFICATE: &'static str = "certificate";
}

impl Record for Lineage {
    const COLLECTION: &'static str = "workload.lineages";

    fn key(&self) -> String {
        self.name.clone()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let thumbprints = [Some(&self.newest), self.shown.as_ref()];
        let known = thumbprints.into_iter().flatten();
        known
            .map(|thumbprint| (Self::CERTIFICATE, thumbprint.clone()))
            .collect()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.forgotten)
    }
}

impl Workloads {
    /// Remembers the first certificate of a proxy.
    pub(crate) fn begin_lineage(&self, first: &IssuedChain) -> Result<(), WorkloadError> {
        let lineage = Lineage {
            name: new_name(&*self.entropy),
            newest: first.thumbprint(),
            shown: None,
            forgotten: first.not_after + LATE_RENEWAL,
        };
        self.tenant.put(Expected::Absent, &lineage)?;
        Ok(())
    }

    /// The lineage that `shown` may continue.
    pub(crate) fn lineage_of(
        &self,
        shown: &ShownCertificate,
    ) -> Result<Option<Versioned<Lineage>>, WorkloadError> {
        let found = self
            .tenant
            .find::<Lineage>(Lineage::CERTIFICATE, &shown.thumbprint)?;
        Ok(found.into_iter().next())
    }

    /// Whether `shown` may be renewed now although it may have ended.
    pub(crate) fn may_renew(
        &self,
        shown: &ShownCertificate,
        registration: &Registration,
        lineage: Option<&Versioned<Lineage>>,
    ) -> Result<(), WorkloadError> {
        let now = self.clock.now();
        if shown.holds(now) {
            return Ok(());
        }
        let taken_away = registration
            .taken_away
            .is_some_and(|at| shown.not_before <= at);
        let why = if now >= shown.not_after + LATE_RENEWAL {
            "too long ago"
        } else if taken_away {
            "its identity was revoked or removed since it was issued"
        } else if lineage.is_none() {
            "it is not the newest of its proxy"
        } else {
            return Ok(());
        };
        let at = shown.not_after;
        Err(WorkloadError::CertificateEnded { at, why })
    }

    /// Makes `next` the newest certificate. Of two that continue one lineage at the same time, one has to come
    /// again.
    pub(crate) fn continue_lineage(
        &self,
        lineage: Option<Versioned<Lineage>>,
        shown: &ShownCertificate,
        next: &IssuedChain,
    ) -> Result<(), WorkloadError> {
        let (name, expected) = match lineage {
            Some(known) => (known.record.name, Expected::Version(known.version)),
            None => (new_name(&*self.entropy), Expected::Absent),
        };
        let lineage = Lineage {
            name,
            newest: next.thumbprint(),
            shown: Some(shown.thumbprint.clone()),
            forgotten: next.not_after + LATE_RENEWAL,
        };
        match self.tenant.put(expected, &lineage) {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { collection, .. }) => {
                Err(WorkloadError::Contended { record: collection })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn new_name(entropy: &dyn Entropy) -> String {
    hex::encode(&random_bytes::<16>(entropy))
}
