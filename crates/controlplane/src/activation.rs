//! The life of a change: what is declared and who there is become a snapshot, whole or not at all.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use testudo_identity::{Fault, Journal, Outbox};
use testudo_model::{
    Service, TenantName, TrustDomain,
    event::Event,
    snapshot::{
        Directory, GatewayRules, Issuer, KNOWN_FEATURES, PolicyFile, Snapshot, SnapshotVersion,
        TransferRules,
    },
};
use testudo_policy::{PolicyEngine, PolicyErrors};
use testudo_runtime::fleet::Fleet;
use testudo_store::{Expected, Record, StoreError, Tenant};

use crate::tenants::Tenants;

/// Attempts when others change the snapshot at the same time.
const MAX_ATTEMPTS: usize = 16;

/// The part of a snapshot that a fleet file declares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declaration {
    trust_domain: TrustDomain,
    services: Vec<Service>,
    policies: Vec<PolicyFile>,
    gateway: GatewayRules,
    transfer: TransferRules,
}

impl Declaration {
    /// The declaration as a snapshot, with what no file declares.
    pub fn snapshot(
        self,
        version: SnapshotVersion,
        tenant: TenantName,
        directory: Directory,
        issuers: Vec<Issuer>,
    ) -> Snapshot {
        Snapshot {
            version,
            requires: KNOWN_FEATURES
                .iter()
                .map(|&feature| feature.to_owned())
                .collect(),
            tenant,
            edges: vec![self.trust_domain.gateway()],
            trust_domain: self.trust_domain,
            services: self.services,
            directory,
            policies: self.policies,
            issuers,
            gateway: self.gateway,
            transfer: self.transfer,
        }
    }
}

impl From<&Fleet> for Declaration {
    fn from(fleet: &Fleet) -> Self {
        Self {
            trust_domain: fleet.trust_domain.clone(),
            services: fleet.services.clone(),
            policies: fleet.policies.clone(),
            gateway: fleet.gateway.clone(),
            transfer: fleet.transfer,
        }
    }
}

/// The snapshot in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct InForce {
    snapshot: Snapshot,
}

impl Record for InForce {
    const COLLECTION: &'static str = "controlplane.snapshot";

    fn key(&self) -> String {
        CURRENT.to_owned()
    }
}

const CURRENT: &str = "current";

/// Why a change is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The policies do not fit the fleet.
    #[error("the policies are not valid")]
    Policy(#[source] PolicyErrors),
    /// The directory or the provider's keys could not be read.
    #[error("the users and groups could not be read")]
    Identity(#[from] Fault),
    /// The store failed.
    #[error("the snapshot could not be stored")]
    Store(#[from] StoreError),
    /// Others kept changing it.
    #[error("too many changes at the same time; try again")]
    Contended,
    /// Nothing was ever declared.
    #[error("no fleet has been applied yet")]
    NothingDeclared,
}

/// What an activation did.
#[derive(Debug, Clone)]
pub struct Activated {
    /// The snapshot now in force.
    pub snapshot: Arc<Snapshot>,
    /// The one before it, if there was one.
    pub before: Option<Arc<Snapshot>>,
    /// Whether anything changed.
    pub changed: bool,
}

impl Activated {
    /// The same as seen from `earlier`.
    fn since(self, earlier: Option<Arc<Snapshot>>) -> Self {
        let version = |snapshot: &Arc<Snapshot>| snapshot.version;
        Self {
            changed: earlier.as_ref().map(version) != Some(self.snapshot.version),
            before: earlier,
            snapshot: self.snapshot,
        }
    }
}

/// Makes snapshots.
pub struct Activation {
    tenant: Tenant,
    tenants: Arc<Tenants>,
}

impl Activation {
    /// Of the people of all `tenants`; `tenant` is where snapshots are kept.
    pub const fn new(tenant: Tenant, tenants: Arc<Tenants>) -> Self {
        Self { tenant, tenants }
    }

    /// Everybody, of all tenants.
    fn directory(&self) -> Result<Directory, Fault> {
        let mut all = Directory::default();
        for provider in self.tenants.providers() {
            let Directory {
                subjects,
                groups,
                roles,
                api_keys,
            } = provider.directory()?;
            all.subjects.extend(subjects);
            all.groups.extend(groups);
            all.roles.extend(roles);
            all.api_keys.extend(api_keys);
        }
        all.subjects.sort_by(|a, b| a.id.cmp(&b.id));
        all.roles.sort();
        all.api_keys.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// The snapshot in force, if a fleet was ever applied.
    pub fn current(&self) -> Result<Option<Arc<Snapshot>>, ActivationError> {
        let stored = self.tenant.get::<InForce>(CURRENT)?;
        Ok(stored.map(|stored| Arc::new(stored.record.snapshot)))
    }

    /// What `declaration` would put in force, without doing it. `newcomers` are the groups and roles that come
    /// with it.
    pub fn rehearse(
        &self,
        declaration: &Declaration,
        newcomers: &Directory,
    ) -> Result<Activated, ActivationError> {
        let stored = self.tenant.get::<InForce>(CURRENT)?;
        let mut directory = self.directory()?;
        directory.groups.extend(newcomers.groups.clone());
        directory.roles.extend(newcomers.roles.clone());
        directory.roles.sort();
        directory.roles.dedup();
        self.next(
            declaration,
            directory,
            stored.as_ref().map(|stored| &stored.record.snapshot),
        )
    }

    /// Puts `declaration` in force, and with it, or not at all, the event that `report` makes of what changed since
    /// `earlier`. New people may have come into force since then, by whoever follows the directory: they are part of
    /// the change. The event waits in the outbox.
    pub fn declare(
        &self,
        declaration: &Declaration,
        earlier: Option<&Arc<Snapshot>>,
        report: impl Fn(&Activated) -> Event,
    ) -> Result<Activated, ActivationError> {
        self.activate(Some(declaration), |activated| {
            let activated = activated.since(earlier.cloned());
            let event = activated.changed.then(|| report(&activated));
            (activated, event)
        })
    }

    /// Makes the snapshot anew after users, groups, roles or keys changed.
    pub fn refresh(&self) -> Result<Activated, ActivationError> {
        // Who changed them has said so.
        self.activate(None, |activated| (activated, None))
    }

    fn activate(
        &self,
        declaration: Option<&Declaration>,
        told: impl Fn(Activated) -> (Activated, Option<Event>),
    ) -> Result<Activated, ActivationError> {
        for _ in 0..MAX_ATTEMPTS {
            let stored = self.tenant.get::<InForce>(CURRENT)?;
            let before = stored.as_ref().map(|stored| &stored.record.snapshot);
            let directory = self.directory()?;
            let activated = match (declaration, before) {
                (Some(declaration), _) => self.next(declaration, directory, before)?,
                (None, Some(before)) => {
                    self.next(&declaration_of(before), directory, Some(before))?
                }
                (None, None) => return Err(ActivationError::NothingDeclared),
            };
            let is_new = activated.changed;
            let (activated, event) = told(activated);
            let mut transaction = self.tenant.transaction();
            if is_new {
                let expected = stored
                    .as_ref()
                    .map_or(Expected::Absent, |stored| Expected::Version(stored.version));
                let snapshot = (*activated.snapshot).clone();
                transaction = transaction.put(expected, &InForce { snapshot });
            }
            transaction = match event {
                Some(event) => Outbox.record(transaction, &event),
                None if is_new => transaction,
                None => return Ok(activated),
            };
            match transaction.commit() {
                Ok(_) => return Ok(activated),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ActivationError::Contended)
    }

    /// The snapshot after `before`; it compiles, or there is none.
    fn next(
        &self,
        declaration: &Declaration,
        directory: Directory,
        before: Option<&Snapshot>,
    ) -> Result<Activated, ActivationError> {
        let version = before.map_or(SnapshotVersion(0), |before| before.version);
        let tenant = TenantName::default_tenant();
        let providers = self.tenants.providers();
        let issuers = providers.iter().map(|provider| provider.issuer());
        let issuers = issuers.collect::<Result<_, _>>()?;
        let mut snapshot = declaration
            .clone()
            .snapshot(version, tenant, directory, issuers);
        let changed = before != Some(&snapshot);
        if changed {
            snapshot.version = SnapshotVersion(version.0.saturating_add(1));
            PolicyEngine::compile(&snapshot).map_err(ActivationError::Policy)?;
        }
        let before = before
            .filter(|_| changed)
            .map(|before| Arc::new(before.clone()));
        Ok(Activated {
            snapshot: Arc::new(snapshot),
            before,
            changed,
        })
    }
}

fn declaration_of(snapshot: &Snapshot) -> Declaration {
    Declaration {
        trust_domain: snapshot.trust_domain.clone(),
        services: snapshot.services.clone(),
        policies: snapshot.policies.clone(),
        gateway: snapshot.gateway.clone(),
        transfer: snapshot.transfer,
    }
}
