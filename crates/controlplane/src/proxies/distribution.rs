//! What all proxies get: the newest snapshot, endpoints, revocations and trust bundle, encoded once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prometheus_client::metrics::histogram::Histogram;
use testudo_model::{
    InstanceId, SpiffeId, Timestamp,
    limits::MAX_SNAPSHOT_BYTES,
    snapshot::{Endpoints, Revocation, Revoked, Snapshot, SnapshotVersion},
};
use testudo_store::StoreError;
use testudo_trust::{TrustBundle, sha256};
use tokio::sync::watch;

use super::revocation_log::RevocationLog;

/// Why a snapshot was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Proxies would refuse it.
    #[error("the snapshot has {bytes} bytes, {MAX_SNAPSHOT_BYTES} are allowed: split the fleet")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It cannot be written as JSON.
    #[error("the snapshot cannot be encoded")]
    Encode(#[from] serde_json::Error),
}

/// Something encoded, with the number that orders it.
#[derive(Debug, Clone, Default)]
pub(super) struct Published {
    pub(super) version: u64,
    pub(super) json: Bytes,
    pub(super) digest: [u8; 32],
}

impl Published {
    fn new(version: u64, json: Bytes) -> Self {
        let digest = sha256(&json);
        Self {
            version,
            json,
            digest,
        }
    }
}

/// A proxy with an open watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Which.
    pub instance: InstanceId,
    /// Its verified identity.
    pub id: SpiffeId,
    /// Since when.
    pub since: Timestamp,
    /// The snapshot it enforces.
    pub enforces: Option<SnapshotVersion>,
    /// The newer snapshot it refused, and why.
    pub refused: Option<(SnapshotVersion, String)>,
    /// The newest revocation it enforces.
    pub revocation: u64,
}

/// How far the fleet is with the newest snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    /// The newest snapshot.
    pub newest: SnapshotVersion,
    /// Connected proxies that enforce it.
    pub enforcing: usize,
    /// Connected proxies that enforce an older one, and may be about to change.
    pub behind: usize,
    /// Connected proxies that refused it.
    pub refused: usize,
    /// Revocations that the connected proxy which is furthest behind does not enforce yet.
    pub revocations_behind: u64,
}

/// Upper bounds, in seconds, of the times in which revocations reach proxies: half a second is what they shall take.
const DELIVERY_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The fan-out to all watch streams. Publishing never waits for a proxy; a slow proxy skips to the newest.
pub struct Distribution {
    pub(super) snapshot: watch::Sender<Published>,
    pub(super) endpoints: watch::Sender<Published>,
    pub(super) bundle: watch::Sender<Published>,
    pub(super) newest_revocation: watch::Sender<u64>,
    revocations: RevocationLog,
    connected: Mutex<BTreeMap<u64, Connected>>,
    /// Seconds from a revocation until a connected proxy enforces it.
    pub(crate) delivery: Histogram,
}

impl Distribution {
    /// Nothing published yet but the revocations of the log.
    pub fn new(revocations: RevocationLog) -> Arc<Self> {
        Arc::new(Self {
            snapshot: watch::Sender::default(),
            endpoints: watch::Sender::default(),
            bundle: watch::Sender::default(),
            newest_revocation: watch::Sender::new(revocations.newest()),
            revocations,
            connected: Mutex::default(),
            delivery: Histogram::new(DELIVERY_SECONDS),
        })
    }

    /// Sends `snapshot` to all proxies, unless a newer one was published.
    ///
    /// # Errors
    /// It is too large for a proxy; the one before stays.
    pub fn publish(&self, snapshot: &Snapshot) -> Result<(), PublishError> {
        let json = Bytes::from(serde_json::to_vec(snapshot)?);
        if json.len() > MAX_SNAPSHOT_BYTES {
            return Err(PublishError::TooLarge { bytes: json.len() });
        }
        publish_newer(&self.snapshot, Published::new(snapshot.version.0, json));
        Ok(())
    }

    /// Sends the addresses of the live sidecars to all proxies, unless newer ones were published.
    ///
    /// # Errors
    /// They cannot be encoded.
    pub fn publish_endpoints(&self, endpoints: &Endpoints) -> Result<(), PublishError> {
        let json = Bytes::from(serde_json::to_vec(endpoints)?);
        publish_newer(&self.endpoints, Published::new(endpoints.version, json));
        Ok(())
    }

    /// Sends the trust bundle to all proxies, unless a newer one was published.
    pub fn publish_bundle(&self, version: u64, bundle: &TrustBundle) {
        publish_newer(
            &self.bundle,
            Published::new(version, Bytes::from(bundle.to_json())),
        );
    }

    /// Revokes: durable first, then sent. Blocks on the store. Answers the sequence number.
    ///
    /// # Errors
    /// The store fails; nothing is revoked.
    pub fn revoke(&self, what: Revoked) -> Result<u64, StoreError> {
        let sequence = self.revocations.append(what)?;
        self.announce_revocations(self.revocations.newest());
        Ok(sequence)
    }

    /// Takes in what other control planes revoked. Blocks on the store.
    ///
    /// # Errors
    /// The store fails.
    pub fn follow_revocations(&self) -> Result<(), StoreError> {
        let newest = self.revocations.follow()?;
        self.announce_revocations(newest);
        Ok(())
    }

    /// Revocations after `sequence`, in order.
    pub fn revocations_since(&self, sequence: u64) -> Vec<Revocation> {
        self.revocations.since(sequence)
    }

    /// How far a proxy is in the log whose newest entry is `known`; 0 if the log has another entry there or none any more.
    pub(super) fn place_of(&self, known: &Revocation) -> u64 {
        self.revocations.place_of(known)
    }

    /// The newest snapshot with its version; none before the first.
    pub fn snapshot(&self) -> (u64, Option<Snapshot>) {
        let (version, json) = {
            let published = self.snapshot.borrow();
            (published.version, published.json.clone())
        };
        (version, serde_json::from_slice(&json).ok())
    }

    /// Version of the newest snapshot; 0 before the first.
    pub fn newest_snapshot(&self) -> SnapshotVersion {
        SnapshotVersion(self.snapshot.borrow().version)
    }

    /// The proxies with an open watch stream. A proxy that is reconnecting may be in it twice.
    pub fn connected(&self) -> Vec<Connected> {
        self.lock().values().cloned().collect()
    }

    /// How far the connected proxies are with the newest snapshot.
    pub fn rollout(&self) -> Rollout {
        let newest = self.newest_snapshot();
        let mut rollout = Rollout {
            newest,
            ..Rollout::default()
        };
        let newest_revocation = *self.newest_revocation.borrow();
        for proxy in self.lock().values() {
            let behind = newest_revocation.saturating_sub(proxy.revocation);
            rollout.revocations_behind = rollout.revocations_behind.max(behind);
            if proxy.enforces == Some(newest) {
                rollout.enforcing += 1;
            } else if proxy
                .refused
                .as_ref()
                .is_some_and(|(version, _)| *version == newest)
            {
                rollout.refused += 1;
            } else {
                rollout.behind += 1;
            }
        }
        rollout
    }

    /// How many revocations the proxy of an instance does not enforce yet; `None` if it is not connected.
    pub fn revocations_behind(&self, instance: &InstanceId) -> Option<u64> {
        let newest = *self.newest_revocation.borrow();
        let connected = self.lock();
        let mut streams = connected.values();
        let of = streams.rfind(|proxy| proxy.instance == *instance)?;
        Some(newest.saturating_sub(of.revocation))
    }

    /// Notes that `proxy` enforces the revocations up to `newest`: how long it took, if it was connected all the time.
    pub(super) fn note_delivery(&self, proxy: &Connected, newest: u64, now: Timestamp) {
        let entries = self.revocations_since(proxy.revocation).into_iter();
        for entry in entries.filter(|entry| entry.sequence <= newest && entry.at >= proxy.since) {
            self.delivery.observe(now.since(entry.at).as_secs_f64());
        }
    }

    /// Notes how a stream's proxy is.
    pub(super) fn note(&self, stream: u64, proxy: Connected) {
        self.lock().insert(stream, proxy);
    }

    /// The stream ended.
    pub(super) fn forget(&self, stream: u64) {
        self.lock().remove(&stream);
    }

    fn announce_revocations(&self, newest: u64) {
        self.newest_revocation.send_if_modified(|known| {
            let is_news = newest > *known;
            *known = newest.max(*known);
            is_news
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Connected>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn publish_newer(channel: &watch::Sender<Published>, next: Published) {
    channel.send_if_modified(|current| {
        let is_news = current.json.is_empty() || next.version > current.version;
        if is_news {
            *current = next;
        }
        is_news
    });
}
