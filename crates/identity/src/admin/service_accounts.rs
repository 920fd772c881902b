//! Service accounts.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_model::{
    ClientName, GroupName, Redacted, RoleName, Scope, ServiceAccountId, SpiffeId, snapshot::Revoked,
};
use testudo_store::{Cursor, Expected, Page, Versioned};

use super::{
    AdminError, Created, Named, NewSecret, Secrets, check_clearance, check_count, check_keys,
    check_text,
};
use crate::{
    Caller, Fault, Provider,
    change::{Change, until_settled},
    limits::{
        MAX_EXTERNAL_CLAIMS, MAX_EXTERNAL_SUBJECT_BYTES, MAX_EXTERNAL_WORKLOADS, MAX_MEMBERSHIPS,
        MAX_SCOPES,
    },
    records::{ExternalWorkload, Holder, NameClaim, SecretCredential, ServiceAccount},
    signal::{SignalReceiver, SignalStream},
};

/// What an administrator says about a service account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceAccountProfile {
    /// Text for people.
    pub description: Option<String>,
    /// Clearance, 0 to 100.
    pub clearance: i64,
    /// Groups.
    pub groups: Vec<GroupName>,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Scopes it may ask for.
    pub scopes: Vec<Scope>,
    /// Workloads that may act as it without a secret.
    pub workloads: Vec<SpiffeId>,
    /// The JWK Set (RFC 7517) with the keys it signs assertions with, instead of a secret.
    pub jwks: Option<String>,
    /// Workloads outside the fleet that may act as it, by a token of an issuer that the fleet trusts.
    pub external: Vec<ExternalWorkload>,
    /// How it receives signals (SSF 1.0); if absent, it may not.
    pub signals: Option<SignalReceiver>,
}

impl ServiceAccountProfile {
    pub(crate) fn check(&self) -> Result<(), AdminError> {
        check_text("description", self.description.as_deref())?;
        check_count("list of scopes", self.scopes.len(), MAX_SCOPES)?;
        check_count("list of workloads", self.workloads.len(), MAX_MEMBERSHIPS)?;
        check_keys(self.jwks.as_deref())?;
        check_count(
            "list of external workloads",
            self.external.len(),
            MAX_EXTERNAL_WORKLOADS,
        )?;
        for workload in &self.external {
            check_external(workload)?;
        }
        let audience = self.signals.as_ref();
        let audience = audience.and_then(|signals| signals.audience.as_deref());
        check_text("audience of signals", audience)?;
        check_clearance(self.clearance)
    }

    /// `account` as this profile says.
    pub(crate) fn apply(self, account: ServiceAccount) -> ServiceAccount {
        let Self {
            description,
            clearance,
            groups,
            roles,
            scopes,
            workloads,
            jwks,
            external,
            signals,
        } = self;
        ServiceAccount {
            description,
            clearance,
            groups,
            roles,
            scopes,
            workloads,
            jwks,
            external,
            signals,
            ..account
        }
    }
}

/// A rule that names nobody would be for everybody of that issuer.
fn check_external(workload: &ExternalWorkload) -> Result<(), AdminError> {
    let what = "list of external workloads";
    if workload.subject.is_none() && workload.claims.is_empty() {
        return Err(AdminError::invalid(
            what,
            "names neither a subject nor claims",
        ));
    }
    check_count("list of claims", workload.claims.len(), MAX_EXTERNAL_CLAIMS)?;
    let texts = workload
        .claims
        .iter()
        .flat_map(|(name, value)| [name, value]);
    let is_long = |text: &String| text.len() > MAX_EXTERNAL_SUBJECT_BYTES;
    if texts.chain(&workload.subject).any(is_long) {
        return Err(AdminError::invalid(what, "has a text that is too long"));
    }
    Ok(())
}

const fn named(name: &str) -> Named<'_> {
    Named {
        kind: "service account",
        name,
    }
}

impl Provider {
    /// Creates a service account.
    ///
    /// # Errors
    /// The name is taken (clients and service accounts share names), or the profile or secret is not acceptable.
    pub fn create_service_account(
        &self,
        name: &ClientName,
        profile: ServiceAccountProfile,
        secret: &NewSecret,
        caller: &Caller,
    ) -> Result<Created<ServiceAccount>, AdminError> {
        profile.check()?;
        let now = self.clock.now();
        let mut secrets = Secrets::first(name, secret, now, &*self.entropy)?;
        let record = until_settled(|| {
            self.check_memberships(&profile.groups, &profile.roles)?;
            let key = NameClaim::client_key(name);
            if self.tenant.get::<NameClaim>(&key)?.is_some() {
                return Err(named(name.as_str()).taken());
            }
            let account = profile.clone().apply(self.blank_service_account(name));
            let report = self.service_account_report("service_account.create", &account);
            let change = self.stage_memberships(self.change(), &[], &account.groups)?;
            let change = stage_new_service_account(change, &account, &secrets);
            let done = change.report(report, caller).commit()?;
            Ok(done.then_some(account))
        })?;
        Ok(Created {
            record,
            generated: secrets.generated.take(),
        })
    }

    /// A new enabled service account of which nothing is known but the name.
    pub(crate) fn blank_service_account(&self, name: &ClientName) -> ServiceAccount {
        let now = self.clock.now();
        ServiceAccount {
            id: ServiceAccountId::generate(&*self.clock, &*self.entropy),
            name: name.clone(),
            description: None,
            disabled: false,
            clearance: 0,
            groups: Vec::new(),
            roles: Vec::new(),
            scopes: Vec::new(),
            workloads: Vec::new(),
            jwks: None,
            external: Vec::new(),
            signals: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// A service account by id.
    ///
    /// # Errors
    /// There is none.
    pub fn service_account(
        &self,
        id: &ServiceAccountId,
    ) -> Result<Versioned<ServiceAccount>, AdminError> {
        self.load(named(id.as_str()), id.as_str())
    }

    /// A service account by name.
    ///
    /// # Errors
    /// There is none.
    pub fn service_account_by_name(
        &self,
        name: &ClientName,
    ) -> Result<Versioned<ServiceAccount>, AdminError> {
        let claim = self.tenant.get::<NameClaim>(&NameClaim::client_key(name))?;
        match claim.map(|claim| claim.record.holder) {
            Some(Holder::ServiceAccount(id)) => self.service_account(&id),
            _ => Err(named(name.as_str()).not_found()),
        }
    }

    /// A page of service accounts, in order of creation.
    ///
    /// # Errors
    /// The store fails.
    pub fn service_accounts(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<ServiceAccount>, AdminError> {
        self.page(after, limit)
    }

    /// Replaces what is said about a service account.
    ///
    /// # Errors
    /// The version is not the present one, or the profile is not acceptable.
    pub fn update_service_account(
        &self,
        id: &ServiceAccountId,
        version: u64,
        profile: ServiceAccountProfile,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        profile.check()?;
        until_settled(|| {
            self.check_memberships(&profile.groups, &profile.roles)?;
            let named = named(id.as_str());
            let stored = self.load_at::<ServiceAccount>(named, id.as_str(), version)?;
            let before = stored.record.groups.clone();
            let account = ServiceAccount {
                updated_at: self.clock.now(),
                ..profile.clone().apply(stored.record)
            };
            let report = self.service_account_report("service_account.update", &account);
            let change = self
                .stage_memberships(self.change(), &before, &account.groups)?
                .put(Expected::Version(version), &account)
                .report(report, caller);
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Disables a service account, and takes its tokens and API keys back, or enables it again.
    ///
    /// # Errors
    /// There is none.
    pub fn set_service_account_disabled(
        &self,
        id: &ServiceAccountId,
        disabled: bool,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        until_settled(|| {
            let stored = self.service_account(id)?;
            let account = ServiceAccount {
                disabled,
                updated_at: self.clock.now(),
                ..stored.record
            };
            let activity = if disabled {
                "service_account.disable"
            } else {
                "service_account.enable"
            };
            let report = self.service_account_report(activity, &account);
            let change = self
                .change()
                .put(Expected::Version(stored.version), &account);
            let change = if disabled {
                self.stage_end_of_api_keys(change, id)?
                    .revoke(Revoked::Subject(id.to_string()))
            } else {
                change
            };
            Ok(change.report(report, caller).commit()?.then_some(()))
        })
    }

    /// Deletes a service account and takes its tokens and API keys back.
    ///
    /// # Errors
    /// The version is not the present one.
    pub fn delete_service_account(
        &self,
        id: &ServiceAccountId,
        version: u64,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        until_settled(|| {
            let named = named(id.as_str());
            let account = self
                .load_at::<ServiceAccount>(named, id.as_str(), version)?
                .record;
            let name = account.name.as_str();
            let streams = self.tenant.find::<SignalStream>("receiver", id.as_str());
            let streams = streams.map_err(Fault::from)?;
            let change = streams.iter().fold(self.change(), |change, stream| {
                let version = Expected::Version(stream.version);
                change.delete::<SignalStream>(version, stream.record.id.as_str())
            });
            let change = self.stage_memberships(change, &account.groups, &[])?;
            let change = self
                .stage_end_of_api_keys(change, id)?
                .delete::<ServiceAccount>(Expected::Version(version), id.as_str())
                .delete::<NameClaim>(Expected::Any, &NameClaim::client_key(&account.name))
                .delete::<SecretCredential>(Expected::Any, name)
                .revoke(Revoked::Subject(id.to_string()))
                .report(
                    self.service_account_report("service_account.delete", &account),
                    caller,
                );
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Gives a client or service account a new secret, told once. The one before stays valid for `overlap`.
    ///
    /// # Errors
    /// It has no secret: it is public, or authenticates with a certificate.
    pub fn rotate_client_secret(
        &self,
        holder: &ClientName,
        overlap: Duration,
        caller: &Caller,
    ) -> Result<Redacted<String>, AdminError> {
        let named = Named {
            kind: "client secret of",
            name: holder.as_str(),
        };
        until_settled(|| {
            let stored = self.load::<SecretCredential>(named, holder.as_str())?;
            let now = self.clock.now();
            let (credential, secret) =
                Secrets::rotated(stored.record, overlap, now, &*self.entropy);
            let report = self.account_report("client_secret.rotate", holder.as_str());
            let change = self
                .change()
                .put(Expected::Version(stored.version), &credential);
            Ok(change.report(report, caller).commit()?.then_some(secret))
        })
    }
}

/// The records of a new service account.
pub(crate) fn stage_new_service_account<'p>(
    change: Change<'p>,
    account: &ServiceAccount,
    secrets: &Secrets,
) -> Change<'p> {
    let change = change
        .put(
            Expected::Absent,
            &NameClaim::of_service_account(&account.name, &account.id),
        )
        .put(Expected::Absent, account);
    match &secrets.credential {
        Some(credential) => change.put(Expected::Absent, credential),
        None => change,
    }
}
