//! Applying a fleet: everything is checked before anything changes.

use serde_json::{Value, json};
use testudo_identity::{
    BreachedListError, GeneratedCredential, KnownIssuer, OutboxEntry, SeedError,
};
use testudo_model::{
    event::{Actor, Detail, EventClass, Outcome},
    snapshot::Snapshot,
};
use testudo_runtime::fleet::Fleet;
use testudo_trust::{JoseError, X509Error};
use testudo_workload::{Caller, FleetIdentities, WorkloadError};

use crate::{
    activation::{Activated, ActivationError, Declaration},
    api::Administrator,
    plane::{Note, Plane},
    proxies::PublishError,
    seed::{
        attestation_policy, directory_of, identity_providers, password_rules, seed_of,
        trusted_issuers, user_directories,
    },
    start_settings::StartSettings,
    tenants::TenantError,
};

/// Why a fleet was not applied. Up to [`ApplyError::Seed`] nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Another fleet's file.
    #[error(
        "the file is of trust domain `{given}`, this control plane is of `{known}`; a fleet keeps its domain"
    )]
    OtherDomain {
        /// In the file.
        given: String,
        /// Of this control plane.
        known: String,
    },
    /// It cannot be in force.
    #[error("the fleet cannot be put in force")]
    Activation(#[from] ActivationError),
    /// Nobody can be trusted by these certificates.
    #[error("`passkeys.roots_file` cannot be used")]
    PasskeyRoots(#[from] X509Error),
    /// Nobody can be told whether a password was stolen.
    #[error("`passwords.breached_file` cannot be used")]
    BreachedList(#[from] BreachedListError),
    /// Its people and clients cannot be stored.
    #[error("users, groups or clients cannot be stored")]
    Seed(#[from] SeedError),
    /// The keys it gives of an issuer outside cannot be used.
    #[error("the keys of the trusted issuer `{name}` cannot be used")]
    TrustedIssuer {
        /// The issuer.
        name: String,
        /// Why.
        #[source]
        source: JoseError,
    },
    /// Its tenants cannot be made.
    #[error("the tenants cannot be made")]
    Tenants(#[from] TenantError),
    /// Its services cannot be registered.
    #[error("the services cannot be registered")]
    Workloads(#[from] WorkloadError),
    /// It is too large for proxies.
    #[error("the snapshot cannot be published")]
    Publish(#[from] PublishError),
    /// The change could not be recorded.
    #[error("the change could not be recorded in the ledger")]
    Ledger(#[from] testudo_audit::LedgerError),
}

/// What was applied.
pub struct Applied {
    /// What is in force now, and what was before.
    pub activated: Activated,
    /// Credentials made for accounts that had none: shown once.
    pub generated: Vec<GeneratedCredential>,
    /// Settings that are not in force before the process starts again.
    pub at_next_start: Vec<&'static str>,
}

impl Applied {
    /// For the command line and the API.
    pub fn summary(&self) -> Value {
        json!({
            "snapshot": self.activated.snapshot.version,
            "changed": self.activated.changed,
            "changes": changes(&self.activated),
            "at_next_start": self.at_next_start,
        })
    }
}

/// Says what `fleet` would change; changes nothing.
pub fn rehearse(plane: &Plane, fleet: &Fleet) -> Result<Value, ApplyError> {
    let activated = rehearsal(plane, fleet)?;
    Ok(json!({
        "dry_run": true,
        "changed": activated.changed,
        "changes": changes(&activated),
        "at_next_start": at_next_start(plane, fleet),
    }))
}

/// Puts `fleet` in force.
pub fn apply(plane: &Plane, fleet: &Fleet, actor: &Actor) -> Result<Applied, ApplyError> {
    rehearsal(plane, fleet)?;
    let before = plane.activation.current()?;
    let caller = testudo_identity::Caller {
        actor: actor.clone(),
        ..Default::default()
    };
    let attestation = attestation_policy(&fleet.passkeys)?;
    let passwords = password_rules(&fleet.passwords)?;
    // Also of those in the file.
    plane.provider.demand_of_passwords(passwords.clone());
    let seeded = plane.provider.seed(&seed_of(fleet), &caller)?;
    let identities = FleetIdentities {
        services: fleet
            .services
            .iter()
            .map(|service| service.name.clone())
            .collect(),
        web_names: fleet.public_names.clone(),
    };
    plane.workloads.declare(
        &identities,
        &Caller {
            actor: actor.clone(),
            source_ip: None,
        },
    )?;
    declare_tenants(plane, fleet, actor)?;
    let report = |activated: &Activated| plane.event(note_of(activated, actor));
    let activated = plane
        .activation
        .declare(&Declaration::from(fleet), before.as_ref(), report)?;
    plane.ledger.take::<OutboxEntry>()?;
    plane.distribution.publish(&activated.snapshot)?;
    plane.outbound_rules.send_replace(fleet.outbound.clone());
    plane.mail_server.send_replace(fleet.mail.clone());
    plane.provider.trust_issuers(known_issuers(fleet)?);
    let elsewhere = identity_providers(fleet);
    plane.provider.trust_identity_providers(elsewhere);
    plane.provider.trust_directories(user_directories(fleet));
    plane.directories.declare(&fleet.directories);
    for provider in plane.tenants.providers() {
        provider.demand_of_authenticators(attestation.clone());
        provider.demand_of_passwords(passwords.clone());
        provider.carry_mail(fleet.mail.is_some());
    }
    Ok(Applied {
        activated,
        generated: seeded.generated,
        at_next_start: at_next_start(plane, fleet),
    })
}

fn note_of(activated: &Activated, actor: &Actor) -> Note {
    Note {
        class: EventClass::EntityManagement,
        activity: "fleet.apply",
        outcome: Outcome::Success,
        actor: actor.clone(),
        source_ip: None,
        target: Some(format!("snapshot {}", activated.snapshot.version)),
        details: vec![("changes", Detail::from(changes(activated).join("; ")))],
    }
}

fn at_next_start(plane: &Plane, fleet: &Fleet) -> Vec<&'static str> {
    let now = StartSettings::of(fleet);
    let started = plane.started_with.get_or_init(|| now.clone());
    started.waiting(&now)
}

fn known_issuers(fleet: &Fleet) -> Result<Vec<KnownIssuer>, ApplyError> {
    let issuers = trusted_issuers(fleet).into_iter().map(|issuer| {
        let name = issuer.name.clone();
        KnownIssuer::new(issuer).map_err(|source| ApplyError::TrustedIssuer { name, source })
    });
    issuers.collect()
}

/// Makes the tenants that are new, and gives all what the fleet gives them. One that is gone from the file stays: who is in
/// it is not in the file either.
fn declare_tenants(plane: &Plane, fleet: &Fleet, actor: &Actor) -> Result<(), TenantError> {
    let by = Administrator::local(actor.clone());
    for (name, declared) in &fleet.tenants {
        let stored = match plane.tenants.get(name) {
            Ok(stored) => stored,
            Err(TenantError::Unknown(_)) => {
                let event = plane.tenant_event("tenant.create", name, &by);
                plane.tenants.create(name, &declared.display_name, &event)?;
                plane.tenants.get(name)?
            }
            Err(error) => return Err(error),
        };
        let disabled = stored.record.disabled || declared.disabled;
        if stored.record.display_name != declared.display_name || stored.record.disabled != disabled
        {
            let event = plane.tenant_event("tenant.update", name, &by);
            let name = &declared.display_name;
            plane.tenants.change(stored, name, disabled, &event)?;
        }
    }
    let others = plane.tenants.others();
    plane.tenants.furnish(&others, &by.identity_caller())
}

fn rehearsal(plane: &Plane, fleet: &Fleet) -> Result<Activated, ApplyError> {
    let known = plane.workloads.trust_domain();
    if *known != fleet.trust_domain {
        let (given, known) = (fleet.trust_domain.to_string(), known.to_string());
        return Err(ApplyError::OtherDomain { given, known });
    }
    attestation_policy(&fleet.passkeys)?;
    password_rules(&fleet.passwords)?;
    plane.provider.check_seed(&seed_of(fleet))?;
    known_issuers(fleet)?;
    Ok(plane
        .activation
        .rehearse(&Declaration::from(fleet), &directory_of(fleet))?)
}

/// What differs between two snapshots, in words.
fn changes(activated: &Activated) -> Vec<String> {
    if !activated.changed {
        return Vec::new();
    }
    let after = &activated.snapshot;
    let Some(before) = &activated.before else {
        return vec![format!("first snapshot: {} services", after.services.len())];
    };
    let mut changes = service_changes(before, after);
    for policy in &after.policies {
        match before
            .policies
            .iter()
            .find(|known| known.name == policy.name)
        {
            None => changes.push(format!("policy file {} added", policy.name)),
            Some(known) if known.text != policy.text => {
                changes.push(format!("policy file {} changed", policy.name));
            }
            Some(_) => {}
        }
    }
    let gone = before
        .policies
        .iter()
        .filter(|known| !after.policies.iter().any(|p| p.name == known.name));
    changes.extend(gone.map(|known| format!("policy file {} removed", known.name)));
    if before.gateway != after.gateway {
        changes.push("gateway rules changed".to_owned());
    }
    if before.directory != after.directory {
        changes.push("users, groups or roles changed".to_owned());
    }
    if before.issuers != after.issuers {
        changes.push("signing keys changed".to_owned());
    }
    changes
}

fn service_changes(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut changes = Vec::new();
    for service in &after.services {
        match before
            .services
            .iter()
            .find(|known| known.name == service.name)
        {
            None => changes.push(format!("service {} added", service.name)),
            Some(known) if known != service => {
                changes.push(format!("service {} changed", service.name))
            }
            Some(_) => {}
        }
    }
    let gone = before
        .services
        .iter()
        .filter(|known| !after.services.iter().any(|s| s.name == known.name));
    changes.extend(gone.map(|known| format!("service {} removed", known.name)));
    changes
}

#[cfg(test)]
mod tests {
    use testudo_runtime::fleet::Bundle;

    use super::*;
    use crate::fixtures;

    fn fleet(services: &str) -> Fleet {
        let bundle = Bundle {
            name: "fleet.toml".to_owned(),
            text: format!("trust_domain = \"bookshop.example\"\n[services]\n{services}"),
            files: Default::default(),
            environment: Default::default(),
            overrides: Vec::new(),
        };
        bundle.load().unwrap().fleet
    }

    /// The control plane dies as soon as the change is in the store.
    #[test]
    fn what_is_in_force_has_its_event_whoever_dies_next() {
        let folder = tempfile::tempdir().unwrap();
        let plane = fixtures::plane(folder.path());
        let actor = Actor::default();
        let before = plane.activation.current().unwrap();
        let report = |plane: &Plane, activated: &Activated| plane.event(note_of(activated, &actor));
        let declaration = Declaration::from(&fleet(""));
        plane
            .activation
            .declare(&declaration, before.as_ref(), |activated| {
                report(&plane, activated)
            })
            .unwrap();
        let recorded = |plane: &Plane| {
            let entries = plane.ledger.tail(0, 100).unwrap();
            let events = entries.iter().filter_map(|entry| entry.leaf.event());
            events
                .filter(|event| event.activity == "fleet.apply")
                .count()
        };
        assert_eq!(recorded(&plane), 0);
        drop(plane);

        let plane = fixtures::plane(folder.path());
        assert!(plane.activation.current().unwrap().is_some());
        plane.ledger.take::<OutboxEntry>().unwrap();
        assert_eq!(recorded(&plane), 1);
        // Nothing changes any more, so nothing more is told.
        let now = plane.activation.current().unwrap();
        plane
            .activation
            .declare(&declaration, now.as_ref(), |activated| {
                report(&plane, activated)
            })
            .unwrap();
        plane.ledger.take::<OutboxEntry>().unwrap();
        assert_eq!(recorded(&plane), 1);
    }
}
