//! The control plane's rooms, opened and tied together.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use testudo_audit::{Ledger, LedgerError, LedgerOptions};
use testudo_identity::{ExchangePolicy, Fault, Outbox, Peer, Provider, Settings};
use testudo_model::{
    Clock, Entropy, EventId, SpiffeId, TenantName, TrustDomain,
    event::{Actor, Detail, Event, EventClass, Outcome},
};
use testudo_runtime::fleet::{MailServer, OutboundRules};
use testudo_store::{Store, StoreError, StoreOptions};
use testudo_trust::RootKey;
use testudo_workload::{EventNotRecorded, EventSink, WorkloadError, WorkloadOptions, Workloads};
use tokio::sync::{Semaphore, watch};

use crate::{
    activation::Activation,
    administration::Administration,
    api::Administrator,
    directories::Directories,
    exchange::ExchangeRules,
    gatekeeper::{Gatekeeper, NotDone},
    http::{Refusal, Workload},
    pages::Site,
    proxies::{Distribution, RevocationLog},
    start_settings::StartSettings,
    tenants::{OpenTenant, TENANTS_PATH, TenantError, TenantRecord, Tenants},
    upstreams::Upstreams,
};

/// Store operations at the same time. SQLite has one writer; readers beyond this only wait elsewhere.
const MAX_BLOCKING: usize = 64;
/// Password hashes at the same time: each takes a core and 19 MiB. Fixed, so that logins never starve the rest.
const MAX_HASHING: usize = 2;
/// Requests that may wait for their turn at either; beyond it, 503.
const MAX_WAITING: usize = 1024;

/// Receivers of signals that may wait for the next one at the same time: each is a connection that does nothing.
const MAX_WAITING_POLLS: usize = 256;

/// Where the store is in a data folder.
pub fn store_folder(data: &Path) -> PathBuf {
    data.join("store")
}

/// What [`Plane::open`] needs.
pub struct PlaneOptions {
    /// Data folder; the store is in `store/`.
    pub data: PathBuf,
    /// Opens the store.
    pub root_key: RootKey,
    /// The fleet's trust domain.
    pub trust_domain: TrustDomain,
    /// The identity provider's `iss`.
    pub issuer: String,
    /// `host:port` of the gRPC listener as proxies reach it; printed into join tokens.
    pub grpc_address: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// All rooms, as one tenant has them: the fleet itself, or another. Handlers get it behind an `Arc` and use it on blocking
/// threads.
#[derive(Clone)]
pub struct Plane {
    /// The sealed store.
    pub store: Store,
    /// The tenant's identity provider.
    pub provider: Arc<Provider>,
    /// The other tenants.
    pub tenants: Arc<Tenants>,
    /// Workload identities.
    pub workloads: Arc<Workloads>,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// Who may administer.
    pub administration: Arc<Administration>,
    /// Makes snapshots.
    pub activation: Arc<Activation>,
    /// Hands them out.
    pub distribution: Arc<Distribution>,
    /// `host:port` for proxies.
    pub grpc_address: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The settings this process started with.
    pub started_with: Arc<OnceLock<StartSettings>>,
    /// Identity providers elsewhere, once requests outside can be made.
    pub upstreams: Arc<OnceLock<Upstreams>>,
    /// Directories whose people may log in.
    pub directories: Arc<Directories>,
    /// Where requests outside may go, as applied last.
    pub outbound_rules: watch::Sender<OutboundRules>,
    /// The server that takes mail, as applied last.
    pub mail_server: watch::Sender<Option<MailServer>>,
    /// Who this control plane is in its events.
    pub reporter: SpiffeId,
    tenant: TenantName,
    display_name: String,
    base: String,
    /// Places for receivers of signals that wait for one, of all tenants.
    pub waiting_polls: Arc<Semaphore>,
    blocking: Arc<Gatekeeper>,
    hashing: Arc<Gatekeeper>,
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store.
    #[error("the sealed store in {} cannot be opened", folder.display())]
    Store {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The ledger.
    #[error("the ledger cannot be opened")]
    Ledger(#[from] LedgerError),
    /// The identity provider.
    #[error("the identity provider cannot be opened")]
    Identity(#[from] Fault),
    /// A tenant.
    #[error("the tenants cannot be opened")]
    Tenants(#[from] TenantError),
    /// The workload identities.
    #[error("the workload identities cannot be opened")]
    Workloads(#[from] WorkloadError),
}

/// What the control plane itself has to report.
pub struct Note {
    /// OCSF class.
    pub class: EventClass,
    /// `noun.verb`.
    pub activity: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// Who did it.
    pub actor: Actor,
    /// From where.
    pub source_ip: Option<IpAddr>,
    /// To what.
    pub target: Option<String>,
    /// Further facts.
    pub details: Vec<(&'static str, Detail)>,
}

impl Plane {
    /// Opens the store and the rooms over it. Slow: call it on a blocking thread.
    pub fn open(options: PlaneOptions) -> Result<Self, OpenError> {
        let PlaneOptions {
            data,
            root_key,
            trust_domain,
            issuer,
            grpc_address,
            clock,
            entropy,
        } = options;
        let folder = store_folder(&data);
        let store_options = StoreOptions {
            path: folder.clone(),
            root_key,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        };
        let store =
            Store::open(store_options).map_err(|source| OpenError::Store { folder, source })?;
        let tenant = TenantName::default_tenant();
        let reporter = trust_domain.server();
        let ledger = Arc::new(Ledger::open(LedgerOptions {
            store: store.clone(),
            tenant: tenant.clone(),
            trust_domain: trust_domain.clone(),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        })?);
        let workloads = Arc::new(Workloads::open(WorkloadOptions {
            store: store.clone(),
            tenant: tenant.clone(),
            trust_domain: trust_domain.clone(),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            sink: Arc::new(LedgerSink(Arc::clone(&ledger))),
        })?);
        let settings = Settings {
            issuer,
            audience: format!("https://{trust_domain}"),
            tenant: tenant.clone(),
            reporter: reporter.clone(),
        };
        let revocations =
            RevocationLog::open(store.tenant(&tenant), Arc::clone(&clock)).map_err(|source| {
                OpenError::Store {
                    folder: store_folder(&data),
                    source,
                }
            })?;
        let distribution = Distribution::new(revocations);
        let rules = Arc::new(ExchangeRules::new(
            Arc::clone(&distribution),
            Arc::clone(&clock),
        ));
        let provider = Provider::open(
            &store,
            settings,
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Arc::new(Outbox),
        )?;
        let rules: Arc<dyn ExchangePolicy> = rules;
        let provider = Arc::new(provider.exchanging(Arc::clone(&rules)));
        let tenants = Arc::new(Tenants::open(
            &store,
            Arc::clone(&provider),
            rules,
            Arc::clone(&clock),
            Arc::clone(&entropy),
        )?);
        let activation = Activation::new(store.tenant(&tenant), Arc::clone(&tenants));
        Ok(Self {
            activation: Arc::new(activation),
            administration: Arc::new(Administration::new(Arc::clone(&distribution))),
            display_name: trust_domain.to_string(),
            base: String::new(),
            distribution,
            store,
            provider,
            tenants,
            workloads,
            ledger,
            grpc_address,
            clock,
            entropy,
            started_with: Arc::default(),
            upstreams: Arc::default(),
            directories: Arc::default(),
            outbound_rules: watch::Sender::default(),
            mail_server: watch::Sender::default(),
            tenant,
            reporter,
            waiting_polls: Arc::new(Semaphore::new(MAX_WAITING_POLLS)),
            blocking: Arc::new(Gatekeeper::new(MAX_BLOCKING, MAX_WAITING)),
            hashing: Arc::new(Gatekeeper::new(MAX_HASHING, MAX_WAITING)),
        })
    }

    /// The same as another tenant has it.
    pub fn of_tenant(&self, name: &TenantName, tenant: &OpenTenant) -> Self {
        Self {
            provider: Arc::clone(&tenant.provider),
            tenant: name.clone(),
            display_name: tenant.display_name.clone(),
            base: format!("{TENANTS_PATH}{name}"),
            ..self.clone()
        }
    }

    /// How the tenant's pages call it, and where they are.
    pub fn site(&self) -> Site<'_> {
        Site {
            name: &self.display_name,
            base: &self.base,
        }
    }

    /// Makes a tenant, with what every tenant has.
    ///
    /// # Errors
    /// See [`TenantError`].
    pub fn create_tenant(
        &self,
        name: &TenantName,
        display_name: &str,
        by: &Administrator,
    ) -> Result<TenantRecord, TenantError> {
        let event = self.tenant_event("tenant.create", name, by);
        let made = self.tenants.create(name, display_name, &event)?;
        let provider = self.tenants.of(name).map(|open| Arc::clone(&open.provider));
        let provider: Vec<_> = provider.into_iter().collect();
        self.tenants.furnish(&provider, &by.identity_caller())?;
        Ok(made)
    }

    /// The event of a change to a tenant.
    pub fn tenant_event(
        &self,
        activity: &'static str,
        name: &TenantName,
        by: &Administrator,
    ) -> Event {
        self.event(Note {
            class: EventClass::EntityManagement,
            activity,
            outcome: Outcome::Success,
            actor: by.actor.clone(),
            source_ip: by.source_ip,
            target: Some(name.to_string()),
            details: Vec::new(),
        })
    }

    /// Whose the provider is.
    pub const fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// The workload of a connection, if its certificate still holds and its identity was not taken away since the
    /// handshake. If not, the connection is worth as much as one without a certificate.
    pub fn standing(&self, workload: Option<&Workload>) -> Option<Peer> {
        let workload = workload.filter(|workload| self.clock.now() < workload.until)?;
        match self.workloads.registration(&workload.peer.spiffe_id) {
            Ok(_) => Some(workload.peer.clone()),
            Err(error) => {
                tracing::info!(peer = %workload.peer.spiffe_id, %error, "a certificate is not accepted");
                None
            }
        }
    }

    /// Appends an event of the control plane to the ledger; durable when it returns.
    pub fn note(&self, note: Note) -> Result<(), LedgerError> {
        self.ledger.append(&[self.event(note)]).map(|_| ())
    }

    /// An event of the control plane.
    pub fn event(&self, note: Note) -> Event {
        Event {
            id: EventId::generate(&*self.clock, &*self.entropy),
            time: self.clock.now(),
            tenant: self.tenant.clone(),
            class: note.class,
            activity: note.activity.to_owned(),
            outcome: note.outcome,
            actor: note.actor,
            target: note.target,
            reporter: self.reporter.clone(),
            source_ip: note.source_ip,
            trace_id: None,
            transaction: None,
            decision: None,
            details: note
                .details
                .into_iter()
                .map(|(name, detail)| (name.to_owned(), detail))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    /// Runs `work` on a blocking thread.
    pub async fn blocking<T, F>(self: &Arc<Self>, work: F) -> Result<T, Refusal>
    where
        F: FnOnce(&Self) -> T + Send + 'static,
        T: Send + 'static,
    {
        self.run(&self.blocking, work).await
    }

    /// Runs `work` that may hash a password; at most [`MAX_HASHING`] at the same time.
    pub async fn hashing<T, F>(self: &Arc<Self>, work: F) -> Result<T, Refusal>
    where
        F: FnOnce(&Self) -> T + Send + 'static,
        T: Send + 'static,
    {
        self.run(&self.hashing, work).await
    }

    async fn run<T, F>(self: &Arc<Self>, gatekeeper: &Gatekeeper, work: F) -> Result<T, Refusal>
    where
        F: FnOnce(&Self) -> T + Send + 'static,
        T: Send + 'static,
    {
        let plane = Arc::clone(self);
        match gatekeeper.run(move || work(&plane)).await {
            Ok(done) => Ok(done),
            Err(NotDone::Busy) => Err(busy()),
            Err(ended) => Err(Refusal::internal(&ended)),
        }
    }
}

fn busy() -> Refusal {
    Refusal::new(503, "api.busy", "the control plane is busy").detail("try again in a few seconds")
}

/// The ledger as the place where workload events go.
struct LedgerSink(Arc<Ledger>);

impl EventSink for LedgerSink {
    fn record(&self, event: Event) -> Result<(), EventNotRecorded> {
        match self.0.append(&[event]) {
            Ok(_) => Ok(()),
            Err(error) => Err(EventNotRecorded(error.into())),
        }
    }
}
