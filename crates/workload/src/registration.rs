//! Which SPIFFE ids exist. An id that is not declared gets no certificate, whoever asks.

use serde::{Deserialize, Serialize};
use testudo_model::{
    ServiceName, SpiffeId, Timestamp,
    event::{EventClass, Outcome},
    snapshot::Revoked,
};
use testudo_store::{Cursor, Record};

use crate::{
    Caller, WorkloadError, Workloads,
    record::{Amendment, amend},
    sink::Fact,
};

const PAGE: usize = 500;

/// What a workload is in the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadRole {
    /// A declared service's sidecar.
    Service(ServiceName),
    /// The gateway.
    Gateway,
    /// The control plane.
    Server,
}

/// An id the fleet knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The id.
    pub id: SpiffeId,
    /// What it is.
    pub role: WorkloadRole,
    /// Names it may have a web certificate for. Empty for services.
    pub web_names: Vec<String>,
    /// Since when it is known.
    pub created: Timestamp,
    /// Whether the fleet declares it now. One that was removed keeps its record, so that removing and adding
    /// a service does not lift a revocation.
    pub declared: bool,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// When it was last revoked or removed. That it was given back gives no life to certificates from before.
    pub taken_away: Option<Timestamp>,
}

impl Record for Registration {
    const COLLECTION: &'static str = "workload.registrations";

    fn key(&self) -> String {
        self.id.to_string()
    }
}

/// The workloads a fleet file declares.
#[derive(Debug, Clone, Default)]
pub struct FleetIdentities {
    /// Services.
    pub services: Vec<ServiceName>,
    /// DNS names and IP addresses the gateway answers for.
    pub web_names: Vec<String>,
}

/// What [`Workloads::declare`] changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Ids that now exist.
    pub added: Vec<SpiffeId>,
    /// Ids that no longer exist. Their certificates live a quarter of an hour more unless proxies are told.
    pub removed: Vec<SpiffeId>,
}

impl Workloads {
    /// Makes the registrations those of the fleet file.
    ///
    /// # Errors
    /// The store fails, or the change could not be recorded.
    pub fn declare(
        &self,
        fleet: &FleetIdentities,
        caller: &Caller,
    ) -> Result<Declared, WorkloadError> {
        let mut wanted = vec![
            (
                self.trust_domain.gateway(),
                WorkloadRole::Gateway,
                fleet.web_names.clone(),
            ),
            (self.trust_domain.server(), WorkloadRole::Server, Vec::new()),
        ];
        wanted.extend(fleet.services.iter().map(|name| {
            (
                self.trust_domain.service(name),
                WorkloadRole::Service(name.clone()),
                Vec::new(),
            )
        }));
        let now = self.clock.now();
        let mut declared = Declared::default();
        for known in self.registrations()? {
            if known.declared && !wanted.iter().any(|(id, ..)| *id == known.id) {
                self.amend_registration(&known.id, |registration| {
                    registration.declared = false;
                    registration.taken_away = Some(now);
                })?;
                declared.removed.push(known.id);
            }
        }
        for (id, role, web_names) in wanted {
            if self.register(&id, &role, &web_names)? {
                declared.added.push(id);
            }
        }
        self.record_declared(&declared, caller)?;
        Ok(declared)
    }

    /// All ids the fleet knows or knew, in order of first registration.
    ///
    /// # Errors
    /// The store fails.
    pub fn registrations(&self) -> Result<Vec<Registration>, WorkloadError> {
        let mut all = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = self.tenant.list::<Registration>(after, PAGE)?;
            all.extend(page.items.into_iter().map(|item| item.record));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// The registration of `id`, if the fleet declares it and nobody revoked it.
    ///
    /// # Errors
    /// It is not registered or revoked, or the store fails.
    pub fn registration(&self, id: &SpiffeId) -> Result<Registration, WorkloadError> {
        let known = self
            .tenant
            .get::<Registration>(id.as_str())?
            .map(|found| found.record);
        match known {
            Some(Registration {
                revoked: Some(at), ..
            }) => Err(WorkloadError::Revoked { id: id.clone(), at }),
            Some(registration) if registration.declared => Ok(registration),
            _ => Err(WorkloadError::NotRegistered { id: id.clone() }),
        }
    }

    /// Takes an identity away: it gets no certificate any more, its join tokens are void, and proxies that are
    /// told the returned revocation close its connections.
    ///
    /// # Errors
    /// The id was never registered, the store fails, or the event could not be recorded.
    pub fn revoke(&self, id: &SpiffeId, caller: &Caller) -> Result<Revoked, WorkloadError> {
        let now = self.clock.now();
        self.amend_registration(id, |registration| {
            registration.revoked.get_or_insert(now);
            registration.taken_away = Some(now);
        })?;
        self.record_account("workload.revoke", id, caller)?;
        Ok(Revoked::Workload(id.clone()))
    }

    /// Gives a revoked identity back.
    ///
    /// # Errors
    /// The id was never registered, the store fails, or the event could not be recorded.
    pub fn reinstate(&self, id: &SpiffeId, caller: &Caller) -> Result<(), WorkloadError> {
        if self.tenant.get::<Registration>(id.as_str())?.is_none() {
            return Err(WorkloadError::NotRegistered { id: id.clone() });
        }
        // Recorded first: an unrecorded reinstatement must not take effect.
        self.record_account("workload.reinstate", id, caller)?;
        self.amend_registration(id, |registration| registration.revoked = None)
    }

    /// The control plane and the gateway exist in every fleet.
    pub(crate) fn register_own(&self) -> Result<(), WorkloadError> {
        for (id, role) in [
            (self.trust_domain.server(), WorkloadRole::Server),
            (self.trust_domain.gateway(), WorkloadRole::Gateway),
        ] {
            if self.tenant.get::<Registration>(id.as_str())?.is_none() {
                self.register(&id, &role, &[])?;
            }
        }
        Ok(())
    }

    /// Whether `id` is new or back.
    fn register(
        &self,
        id: &SpiffeId,
        role: &WorkloadRole,
        web_names: &[String],
    ) -> Result<bool, WorkloadError> {
        let now = self.clock.now();
        amend(&self.tenant, id.as_str(), |known: Option<Registration>| {
            let wanted = Registration {
                id: id.clone(),
                role: role.clone(),
                web_names: web_names.to_vec(),
                created: known.as_ref().map_or(now, |known| known.created),
                declared: true,
                revoked: known.as_ref().and_then(|known| known.revoked),
                taken_away: known.as_ref().and_then(|known| known.taken_away),
            };
            let is_new = !known.as_ref().is_some_and(|known| known.declared);
            Ok(if known.as_ref() == Some(&wanted) {
                Amendment::Keep(false)
            } else {
                Amendment::Write(wanted, is_new)
            })
        })
    }

    fn amend_registration(
        &self,
        id: &SpiffeId,
        change: impl Fn(&mut Registration),
    ) -> Result<(), WorkloadError> {
        amend(&self.tenant, id.as_str(), |known: Option<Registration>| {
            let mut registration =
                known.ok_or_else(|| WorkloadError::NotRegistered { id: id.clone() })?;
            change(&mut registration);
            Ok(Amendment::Write(registration, ()))
        })
    }

    fn record_declared(&self, declared: &Declared, caller: &Caller) -> Result<(), WorkloadError> {
        let changes = [
            ("workload.declare", &declared.added),
            ("workload.remove", &declared.removed),
        ];
        for (activity, ids) in changes {
            for id in ids {
                self.record_account(activity, id, caller)?;
            }
        }
        Ok(())
    }

    fn record_account(
        &self,
        activity: &'static str,
        id: &SpiffeId,
        caller: &Caller,
    ) -> Result<(), WorkloadError> {
        self.record(Fact {
            class: EventClass::AccountChange,
            activity,
            outcome: Outcome::Success,
            caller,
            target: id.to_string(),
            details: Vec::new(),
        })?;
        Ok(())
    }
}
