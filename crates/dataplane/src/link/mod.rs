//! The link to the control plane: joining, the certificate, what to enforce, shipping events.
//!
//! The link is a luxury for the moment and a necessity in the long run: while the control plane is away the
//! proxy goes on with the snapshot, the endpoints and the revocations it has, its events wait in the spool,
//! and only the end of its certificate stops it, until the control plane is back.
//!
//! ```text
//! join ─► IdentitySource ─► Link::run ─┬─ renew at half-life ──► IdentitySource::swap
//!                                      ├─ watch ──► ProxyState (snapshot, endpoints, revocations), bundle
//!                                      └─ ship  ◄── Spool, until receipt
//! ```

mod backoff;
mod channel;
mod enrol;
mod folder;
mod leftovers;
mod renewal;
mod shipping;
mod watch;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use testudo_model::{Clock, Entropy, SpiffeId, limits::MAX_SNAPSHOT_BYTES, snapshot::Revocation};
use testudo_runtime::{DrainWatch, Gate, Readiness, causes, with_causes};
use testudo_trust::{
    ExpectedPeer, IdentitySource, SvidKey, X509Error, certificate_times, mesh_client_config, sha256,
};
use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::{
    spool::{Spool, SpoolError},
    state::ProxyState,
    wire::{RenewRequest, proxy_client::ProxyClient},
};
use backoff::Backoff;

pub use channel::ServerAddress;
pub use enrol::{Expected, Membership, join};
pub use folder::{StateFolder, StateFolderError};
pub use leftovers::Leftovers;

/// Largest message of the watch stream: a snapshot and its frame.
const MAX_SNAPSHOT_MESSAGE_BYTES: usize = MAX_SNAPSHOT_BYTES + 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Time for the goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why the link does not work.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not `host:port`.
    #[error("`{address}` is not the `host:port` of a control plane")]
    Address {
        /// What was given, cut.
        address: String,
    },
    /// No certificate and no token.
    #[error(
        "this proxy is not a member of the fleet: give it a token of `testudo join-token create`; with a state \
         key file it could have continued after a restart"
    )]
    TokenNeeded,
    /// Nobody says where the control plane is.
    #[error(
        "nothing says where the control plane is: name its proxy port with --control-plane HOST:PORT"
    )]
    ServerNeeded,
    /// The control plane could not be reached or said no.
    #[error("the control plane did not {action}: {}", status.message())]
    Refused {
        /// What was asked.
        action: &'static str,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// Whoever answered is not the control plane.
    #[error("the control plane's certificate was refused: {why}")]
    Untrusted {
        /// What is wrong with it.
        why: String,
    },
    /// The answer to the enrolment does not contain the pinned root.
    #[error(
        "the trust bundle does not hold the CA that the join token pins: the token is for another fleet"
    )]
    Unpinned,
    /// A join token or certificate for somebody else.
    #[error("{got} is not {expected}: use a token made for it with `testudo join-token create`")]
    WrongIdentity {
        /// Whom it names.
        got: SpiffeId,
        /// Whom it should name.
        expected: Expected,
    },
    /// A key, request or certificate is not usable.
    #[error("the certificate cannot be used")]
    Identity(#[source] X509Error),
    /// A message that is not what it should be.
    #[error("the control plane sent a malformed {what}")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// Nothing came for too long.
    #[error("the control plane went silent")]
    Silence,
    /// The spool.
    #[error("the event spool failed")]
    Spool(#[from] SpoolError),
    /// The state folder.
    #[error("the state folder failed")]
    Folder(#[from] StateFolderError),
}

impl LinkError {
    fn refused(action: &'static str) -> impl Fn(tonic::Status) -> Self {
        move |status| match certificate_problem(&status) {
            Some(why) => Self::Untrusted { why },
            None => Self::Refused {
                action,
                status: Box::new(status),
            },
        }
    }

    /// Whether nobody answered, so that the same may work later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == tonic::Code::Unavailable)
    }
}

/// What was wrong with the certificate of whoever answered, if that is why a call failed.
fn certificate_problem(status: &tonic::Status) -> Option<String> {
    let refused = causes(status).find_map(|cause| {
        let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
        inner.downcast_ref::<rustls::Error>()
    })?;
    Some(match refused {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(ours)) => {
            ours.0.to_string()
        }
        other => other.to_string(),
    })
}

/// What a link needs.
pub struct LinkOptions {
    /// Where the control plane is.
    pub server: ServerAddress,
    /// The membership's identity.
    pub identity: IdentitySource,
    /// What is enforced.
    pub state: Arc<ProxyState>,
    /// Events to ship.
    pub spool: Arc<Spool>,
    /// Where state is kept, if there is a state key.
    pub folder: Option<Arc<StateFolder>>,
    /// Where other sidecars reach this proxy; `None` for a gateway.
    pub inbound: Option<SocketAddr>,
    /// Version of the binary.
    pub version: &'static str,
    /// Gates for identity, snapshot and spool are put here, each with the proxy's name.
    pub readiness: Readiness,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

struct Gates {
    identity: Gate,
    snapshot: Gate,
    spool: Gate,
}

/// A proxy's link to its control plane.
pub struct Link {
    server: ServerAddress,
    identity: IdentitySource,
    state: Arc<ProxyState>,
    spool: Arc<Spool>,
    folder: Option<Arc<StateFolder>>,
    inbound: Option<SocketAddr>,
    version: &'static str,
    gates: Gates,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    channel: ArcSwap<Channel>,
    /// Told when the channel was replaced: the watch moves to the new one.
    moved: Notify,
    renew_now: Notify,
    drain: tokio::sync::watch::Sender<bool>,
    shipping: tokio::sync::Mutex<()>,
    last_contact: Mutex<Option<u64>>,
    revocations: Mutex<Vec<Revocation>>,
    /// SHA-256 of the snapshot in force, as it came.
    snapshot_digest: Mutex<Option<[u8; 32]>>,
}

/// A certificate for a gateway's public listener.
pub struct WebIdentity {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Its key.
    pub key: SvidKey,
    /// It was kept from an earlier run, since the control plane is away.
    pub is_kept: bool,
}

impl Link {
    /// A link, not yet connected. Puts into force what the state folder kept from the last run.
    ///
    /// # Errors
    /// What was kept does not open; what was kept and cannot be enforced is skipped with a warning.
    pub fn new(options: LinkOptions) -> Result<Arc<Self>, LinkError> {
        // Several proxies may share a process and its readiness.
        let whose = options.identity.current();
        let gate = |name: &str| {
            options
                .readiness
                .gate(format!("{name} of {}", whose.id().path()))
        };
        let link = Self {
            channel: ArcSwap::from_pointee(mesh_channel(
                &options.server,
                &options.identity,
                &options.clock,
            )?),
            gates: Gates {
                identity: gate("identity"),
                snapshot: gate("snapshot"),
                spool: gate("spool"),
            },
            server: options.server,
            identity: options.identity,
            state: options.state,
            spool: options.spool,
            folder: options.folder,
            inbound: options.inbound,
            version: options.version,
            clock: options.clock,
            entropy: options.entropy,
            moved: Notify::new(),
            renew_now: Notify::new(),
            drain: tokio::sync::watch::Sender::new(false),
            shipping: tokio::sync::Mutex::new(()),
            last_contact: Mutex::new(None),
            revocations: Mutex::new(Vec::new()),
            snapshot_digest: Mutex::new(None),
        };
        link.gates.identity.ready();
        link.gates
            .snapshot
            .not_ready("no snapshot yet: everything is refused");
        link.restore()?;
        Ok(Arc::new(link))
    }

    /// Works until `drain` starts, then says goodbye. Events are shipped until the future is dropped or
    /// [`Link::ship_rest`] has shipped the last ones.
    pub async fn run(self: Arc<Self>, mut drain: DrainWatch) {
        let for_ever = async {
            tokio::join!(
                self.keep_renewing(),
                self.keep_shipping(),
                self.keep_looking()
            )
        };
        let goodbye = async {
            drain.drained().await;
            self.drain.send_replace(true);
            // Who does not hear the goodbye in time lets the lease run out.
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            () = self.keep_watching() => {}
            _ = for_ever => {}
            () = goodbye => {}
        }
    }

    /// How long ago the control plane was last heard; `None` if it never was.
    pub fn since_contact(&self) -> Option<Duration> {
        let now = self.clock.monotonic_nanos();
        self.last_contact()
            .map(|last| Duration::from_nanos(now.saturating_sub(last)))
    }

    /// A certificate for the public names of the fleet, with a new key; the one kept from the last run while
    /// the control plane is away. Gateways only.
    ///
    /// # Errors
    /// The control plane refuses, or is away and nothing was kept that still holds.
    pub async fn web_identity(&self) -> Result<WebIdentity, LinkError> {
        match self.issue_web_identity().await {
            Ok(issued) => {
                let kept = folder::StoredKeyPair::new(&issued.chain, &issued.key);
                self.keep("web certificate", move |folder| folder.keep_web(&kept))
                    .await;
                Ok(issued)
            }
            Err(error) if error.is_unreachable() => self.kept_web_identity()?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    fn kept_web_identity(&self) -> Result<Option<WebIdentity>, LinkError> {
        let kept = self
            .folder
            .as_ref()
            .map(|folder| folder.web())
            .transpose()?;
        let Some((chain, key)) = kept.flatten() else {
            return Ok(None);
        };
        let holds = chain
            .first()
            .and_then(|leaf| certificate_times(leaf).ok())
            .is_some_and(|(_, ends)| self.clock.now() < ends);
        Ok(holds.then_some(WebIdentity {
            chain,
            key,
            is_kept: true,
        }))
    }

    async fn issue_web_identity(&self) -> Result<WebIdentity, LinkError> {
        let key = SvidKey::generate();
        let id = self.identity.current().id().clone();
        let certificate_request = key.csr_der(&id).map_err(LinkError::Identity)?.into();
        let reply = ProxyClient::new(self.channel())
            .issue_web_certificate(RenewRequest {
                certificate_request,
            })
            .await
            .map_err(LinkError::refused("issue a web certificate"))?
            .into_inner();
        Ok(WebIdentity {
            chain: reply.chain.iter().map(|der| der.to_vec()).collect(),
            key,
            is_kept: false,
        })
    }

    async fn keep_watching(&self) {
        let mut backoff = Backoff::new(Arc::clone(&self.entropy), FIRST_PAUSE, LONGEST_PAUSE);
        while !*self.drain.borrow() {
            let heard_before = self.last_contact();
            let ended = tokio::select! {
                ended = self.watch() => ended,
                () = self.moved.notified() => continue,
            };
            if let Err(error) = ended {
                tracing::warn!(
                    error = with_causes(&error),
                    "the control plane is away; what is in force stays"
                );
            }
            if self.last_contact() != heard_before {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = self.moved.notified() => {}
                () = self.draining() => {}
            }
        }
    }

    /// Shows the spool's and the certificate's state at the readiness gates.
    async fn keep_looking(&self) {
        loop {
            match self.spool.status().fault {
                Some(fault) => self.gates.spool.not_ready(fault),
                None => self.gates.spool.ready(),
            }
            let ends = self.identity.current().not_after();
            if self.clock.now() >= ends {
                self.gates
                    .identity
                    .not_ready(format!("the certificate expired at {ends}"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn restore(&self) -> Result<(), LinkError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        // Revocations first: the snapshot must never be in force without them.
        if let Some(revocations) = folder.revocations()? {
            if let Err(error) = self.state.apply_revocations(&revocations) {
                tracing::error!(%error, "revocations do not fit");
            }
            self.remember_revocations(revocations);
        }
        if let Some(endpoints) = folder.endpoints()? {
            self.state.set_endpoints(endpoints);
        }
        if let Some(snapshot) = folder.snapshot()? {
            let digest = serde_json::to_vec(&snapshot).ok().map(|json| sha256(&json));
            match self.state.activate(snapshot) {
                Ok(version) => {
                    self.note_snapshot(digest);
                    tracing::info!(%version, "enforcing the snapshot kept from the last run");
                    self.gates.snapshot.ready();
                }
                Err(refusal) => tracing::warn!(
                    refused = with_causes(&refusal),
                    "the snapshot kept from the last run is not used"
                ),
            }
        }
        Ok(())
    }

    /// Adds `entries` to those kept for a restart and answers what is to be kept: what is still in force, and
    /// the newest, since it says how far we are. Those of a log that began again are in no order with the older ones.
    fn remember_revocations(&self, entries: Vec<Revocation>) -> Vec<Revocation> {
        let now = self.clock.now();
        let place = |entry: &Revocation| (entry.sequence, entry.at);
        let repeated: BTreeSet<_> = entries.iter().map(place).collect();
        let mut known = self
            .revocations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.retain(|entry| now < entry.expires && !repeated.contains(&place(entry)));
        let newest = entries.last().map(place);
        let kept = entries
            .into_iter()
            .filter(|entry| now < entry.expires || Some(place(entry)) == newest);
        known.extend(kept);
        known.clone()
    }

    /// The newest revocation known, as it came.
    fn newest_revocation(&self) -> Option<Revocation> {
        let known = self
            .revocations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.last().cloned()
    }

    fn note_snapshot(&self, digest: Option<[u8; 32]>) {
        *self.lock_snapshot() = digest;
    }

    fn lock_snapshot(&self) -> MutexGuard<'_, Option<[u8; 32]>> {
        self.snapshot_digest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps something for a restart. That this fails is no reason to stop.
    async fn keep(
        &self,
        what: &'static str,
        write: impl FnOnce(&StateFolder) -> Result<(), StateFolderError> + Send + 'static,
    ) {
        let Some(folder) = self.folder.clone() else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || write(&folder)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(
                what,
                error = with_causes(&error),
                "could not be kept for a restart"
            );
        }
    }

    fn channel(&self) -> Channel {
        Channel::clone(&self.channel.load())
    }

    /// A connection is authenticated once: a new certificate needs a new one.
    fn reconnect(&self) -> Result<(), LinkError> {
        self.channel.store(Arc::new(mesh_channel(
            &self.server,
            &self.identity,
            &self.clock,
        )?));
        self.moved.notify_one();
        Ok(())
    }

    fn last_contact(&self) -> Option<u64> {
        *self
            .last_contact
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note_contact(&self) {
        *self
            .last_contact
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(self.clock.monotonic_nanos());
    }

    async fn draining(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.drain.subscribe().wait_for(|draining| *draining).await;
    }
}

fn mesh_channel(
    server: &ServerAddress,
    identity: &IdentitySource,
    clock: &Arc<dyn Clock>,
) -> Result<Channel, LinkError> {
    let control_plane = identity.current().id().trust_domain().server();
    let tls = mesh_client_config(
        identity,
        ExpectedPeer::Id(control_plane),
        Arc::clone(clock),
        &["h2"],
    );
    channel::channel(server, tls)
}
