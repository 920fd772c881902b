//! Seeding: what a fleet file declares about people and machines, put into the store again and again.
//!
//! What the file says about a name holds afterwards; what it does not say stays: passwords and secrets are set
//! when the record is made and never again, a user disabled by an administrator is not enabled by a file, and
//! what is no longer in the file is not deleted. All of it is one transaction.

use std::collections::{BTreeMap, BTreeSet};

use testudo_model::{
    ClientName, GroupName, Redacted, RoleName, Username, event::EventClass, snapshot::Revoked,
};
use testudo_store::{Expected, Versioned};

use crate::{
    Caller, Fault, Provider, RegistrationPolicy,
    admin::{
        AdminError, ClientProfile, NewPassword, NewSecret, Secrets, ServiceAccountProfile,
        UserProfile, check_count, check_nesting_of, stage_nesting, stage_new_client,
        stage_new_service_account, stage_new_user,
    },
    change::{Change, Report, until_settled},
    limits::{MAX_MEMBERSHIPS, MAX_SEED_RECORDS},
    records::{Client, Group, Holder, NameClaim, PasswordCredential, Role, ServiceAccount, User},
    second_factor::SecondFactors,
    signal::{Cause, Initiator, SignalEvent},
};

/// What to seed.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Groups and the groups they are in.
    pub groups: BTreeMap<GroupName, Vec<GroupName>>,
    /// Users.
    pub users: Vec<SeedUser>,
    /// Service accounts.
    pub service_accounts: Vec<SeedServiceAccount>,
    /// OAuth clients.
    pub clients: Vec<SeedClient>,
    /// What clients that register themselves may ask for; if nothing is said, none can.
    pub registration: Option<RegistrationPolicy>,
}

/// A user to seed.
#[derive(Debug, Clone)]
pub struct SeedUser {
    /// Login name.
    pub username: Username,
    /// What is said about them.
    pub profile: UserProfile,
    /// Disable them. `false` does not enable.
    pub disabled: bool,
    /// The password, if the user is new.
    pub password: NewPassword,
    /// The secret of their authenticator, if the user is new.
    pub totp: Option<Redacted<Vec<u8>>>,
}

/// A service account to seed.
#[derive(Debug, Clone)]
pub struct SeedServiceAccount {
    /// Name and client id.
    pub name: ClientName,
    /// What is said about it.
    pub profile: ServiceAccountProfile,
    /// Disable it. `false` does not enable.
    pub disabled: bool,
    /// The secret, if the account is new.
    pub secret: NewSecret,
}

/// A client to seed.
#[derive(Debug, Clone)]
pub struct SeedClient {
    /// Its `client_id`.
    pub client_id: ClientName,
    /// What is said about it.
    pub profile: ClientProfile,
    /// The secret, if the client is new.
    pub secret: NewSecret,
}

/// What seeding did.
#[derive(Debug, Default)]
pub struct SeedReport {
    /// Records made, as `kind name`.
    pub created: Vec<String>,
    /// Records changed, as `kind name`.
    pub updated: Vec<String>,
    /// Records that were there and were left as they are, as `kind name`, where they are to be.
    pub present: Vec<String>,
    /// Passwords and secrets made here. Show them now: they cannot be asked for again.
    pub generated: Vec<GeneratedCredential>,
}

/// A generated password or client secret.
#[derive(Debug)]
pub struct GeneratedCredential {
    /// `user`, `service account` or `client`.
    pub kind: &'static str,
    /// Login name or client id.
    pub name: String,
    /// The password or secret.
    pub secret: Redacted<String>,
}

/// Why nothing was seeded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A record is not acceptable.
    #[error("the {kind} `{name}` cannot be seeded")]
    Refused {
        /// Kind of record.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        why: AdminError,
    },
    /// More records than fit a transaction.
    #[error(
        "the seed has {count} records, {MAX_SEED_RECORDS} are allowed; create the others through the API"
    )]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Our fault.
    #[error("the seed could not be stored")]
    Unavailable(#[from] Fault),
}

/// One attempt at seeding.
struct Sowing<'a> {
    provider: &'a Provider,
    caller: &'a Caller,
    manner: Manner,
    report: SeedReport,
    /// Groups that somebody comes into or leaves.
    members_changed: BTreeSet<GroupName>,
    /// Groups that are new, or in other groups than before.
    written: BTreeSet<GroupName>,
}

/// How a seed is sown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Who says so, for the events.
    pub(crate) source: &'static str,
    /// Whether what is there is left as it is.
    pub(crate) keeps_present: bool,
    /// Whether it is only told what would be done.
    pub(crate) dry_run: bool,
}

impl Provider {
    /// Seeds. Doing it again with the same input changes nothing.
    ///
    /// # Errors
    /// See [`SeedError`]; then nothing was changed.
    pub fn seed(&self, seed: &Seed, caller: &Caller) -> Result<SeedReport, SeedError> {
        let manner = Manner {
            source: "fleet file",
            keeps_present: false,
            dry_run: false,
        };
        self.seed_in(manner, seed, caller)
    }

    /// The same in another manner.
    pub(crate) fn seed_in(
        &self,
        manner: Manner,
        seed: &Seed,
        caller: &Caller,
    ) -> Result<SeedReport, SeedError> {
        until_settled(|| {
            let nesting = self.nesting()?;
            self.check_seed(seed)?;
            let mut sowing = Sowing {
                provider: self,
                caller,
                manner,
                report: SeedReport::default(),
                members_changed: BTreeSet::new(),
                written: BTreeSet::new(),
            };
            let change = sowing.sow(seed)?;
            let change = match sowing.written.is_empty() {
                true => change,
                false => stage_nesting(change, nesting),
            };
            let report = sowing.report;
            let is_nothing = report.created.is_empty() && report.updated.is_empty();
            if !manner.dry_run {
                for client in &seed.clients {
                    self.prepare_to_sign(&client.profile.signing)?;
                }
            }
            let done = is_nothing || manner.dry_run || change.commit()?;
            Ok(done.then_some(report))
        })
    }

    /// Checks what can be checked of a seed before any of it is stored.
    ///
    /// # Errors
    /// See [`SeedError`].
    pub fn check_seed(&self, seed: &Seed) -> Result<(), SeedError> {
        let count = seed.roles.len()
            + seed.groups.len()
            + seed.users.len()
            + seed.service_accounts.len()
            + seed.clients.len();
        if count > MAX_SEED_RECORDS {
            return Err(SeedError::TooMany { count });
        }
        let stored = self.all::<Role>()?.into_iter().map(|role| role.name);
        let roles: BTreeSet<RoleName> = stored.chain(seed.roles.iter().cloned()).collect();
        let stored = self
            .all::<Group>()?
            .into_iter()
            .map(|group| (group.name, group.parents));
        let mut groups: BTreeMap<GroupName, Vec<GroupName>> = stored.collect();
        groups.extend(seed.groups.clone());
        let check = |member_of: &[GroupName], has: &[RoleName]| {
            check_memberships(&groups, &roles, member_of, has)
        };
        for (name, parents) in &seed.groups {
            check(parents, &[])
                .and_then(|()| check_nesting_of(&groups, name))
                .map_err(refused("group", name))?;
        }
        for SeedUser {
            username, profile, ..
        } in &seed.users
        {
            let checked = profile
                .check()
                .and_then(|()| check(&profile.groups, &profile.roles));
            checked.map_err(refused("user", username))?;
        }
        for SeedServiceAccount { name, profile, .. } in &seed.service_accounts {
            let checked = profile
                .check()
                .and_then(|()| check(&profile.groups, &profile.roles));
            checked.map_err(refused("service account", name))?;
        }
        for SeedClient {
            client_id,
            profile,
            secret,
        } in &seed.clients
        {
            let checked = profile.check(!matches!(secret, NewSecret::None));
            checked.map_err(refused("client", client_id))?;
        }
        Ok(())
    }
}

fn refused(kind: &'static str, name: &impl ToString) -> impl FnOnce(AdminError) -> SeedError {
    let name = name.to_string();
    move |why| match why {
        AdminError::Unavailable(fault) => SeedError::Unavailable(fault),
        why => SeedError::Refused { kind, name, why },
    }
}

fn check_memberships(
    groups: &BTreeMap<GroupName, Vec<GroupName>>,
    roles: &BTreeSet<RoleName>,
    member_of: &[GroupName],
    has: &[RoleName],
) -> Result<(), AdminError> {
    check_count("list of groups", member_of.len(), MAX_MEMBERSHIPS)?;
    check_count("list of roles", has.len(), MAX_MEMBERSHIPS)?;
    let not_found = |kind, name: String| AdminError::NotFound { kind, name };
    if let Some(group) = member_of.iter().find(|group| !groups.contains_key(*group)) {
        return Err(not_found("group", group.to_string()));
    }
    if let Some(role) = has.iter().find(|role| !roles.contains(*role)) {
        return Err(not_found("role", role.to_string()));
    }
    Ok(())
}

impl<'a> Sowing<'a> {
    fn sow(&mut self, seed: &Seed) -> Result<Change<'a>, SeedError> {
        let mut change = self.provider.change();
        for role in &seed.roles {
            change = self.role(change, role)?;
        }
        for (name, parents) in &seed.groups {
            change = self.group(change, name, parents)?;
        }
        for user in &seed.users {
            change = self
                .user(change, user)
                .map_err(refused("user", &user.username))?;
        }
        for account in &seed.service_accounts {
            change = self
                .account(change, account)
                .map_err(refused("service account", &account.name))?;
        }
        for client in &seed.clients {
            change = self
                .client(change, client)
                .map_err(refused("client", &client.client_id))?;
        }
        let change = self.registration(change, seed.registration.as_ref())?;
        self.groups_with_other_members(change)
    }

    /// Their versions say who is in them.
    fn groups_with_other_members(
        &mut self,
        mut change: Change<'a>,
    ) -> Result<Change<'a>, SeedError> {
        for name in self.members_changed.difference(&self.written) {
            let stored = self.provider.tenant.get::<Group>(name.as_str());
            if let Some(stored) = stored.map_err(Fault::from)? {
                change = self.provider.touch(change, stored);
            }
        }
        Ok(change)
    }

    fn members_change(&mut self, before: &[GroupName], after: &[GroupName]) {
        let before: BTreeSet<&GroupName> = before.iter().collect();
        let after: BTreeSet<&GroupName> = after.iter().collect();
        let changed = before.symmetric_difference(&after);
        self.members_changed
            .extend(changed.map(|&name| name.clone()));
    }

    fn role(&mut self, change: Change<'a>, name: &RoleName) -> Result<Change<'a>, Fault> {
        if self.provider.tenant.get::<Role>(name.as_str())?.is_some() {
            self.keeps("role", name.as_str());
            return Ok(change);
        }
        let now = self.provider.clock.now();
        let role = Role {
            name: name.clone(),
            description: None,
            created_at: now,
            updated_at: now,
        };
        let change = change.put(Expected::Absent, &role);
        Ok(self.created(change, "role", "role.create", name.as_str()))
    }

    fn group(
        &mut self,
        change: Change<'a>,
        name: &GroupName,
        parents: &[GroupName],
    ) -> Result<Change<'a>, Fault> {
        let now = self.provider.clock.now();
        let Some(stored) = self.provider.tenant.get::<Group>(name.as_str())? else {
            let group = Group {
                parents: parents.to_vec(),
                ..self.provider.blank_group(name)
            };
            self.members_change(&[], parents);
            self.written.insert(name.clone());
            let change = change.put(Expected::Absent, &group);
            return Ok(self.created(change, "group", "group.create", name.as_str()));
        };
        if self.keeps("group", name.as_str()) || stored.record.parents == parents {
            return Ok(change);
        }
        self.members_change(&stored.record.parents, parents);
        self.written.insert(name.clone());
        let group = Group {
            parents: parents.to_vec(),
            updated_at: now,
            ..stored.record
        };
        let change = change.put(Expected::Version(stored.version), &group);
        Ok(self.updated(change, "group", "group.update", name.as_str()))
    }

    fn user(&mut self, change: Change<'a>, seed: &SeedUser) -> Result<Change<'a>, AdminError> {
        let name = seed.username.as_str();
        let stored = match self.provider.user_by_name(&seed.username) {
            Ok(_) if self.keeps("user", name) => return Ok(change),
            Ok(stored) => stored,
            Err(AdminError::NotFound { .. }) => {
                let change = self.new_user(change, seed)?;
                return Ok(self.created(change, "user", "user.create", name));
            }
            Err(error) => return Err(error),
        };
        let Versioned {
            record: before,
            version,
        } = stored;
        let disabled = before.disabled || seed.disabled;
        let after = User {
            disabled,
            ..seed.profile.clone().apply(before.clone())
        };
        if after == before {
            return Ok(change);
        }
        let after = User {
            updated_at: self.provider.clock.now(),
            ..after
        };
        self.members_change(&before.groups, &after.groups);
        let mut change = change.put(Expected::Version(version), &after);
        if after.disabled && !before.disabled {
            change = self.provider.exclude_logins(change, &after.id)?;
            let user = after.id.clone();
            change = change.signal(&SignalEvent::AccountDisabled { user })?;
            let cause = Cause::new(Initiator::Admin, "the account was disabled");
            change = self.provider.stage_end_of_all(change, &after.id, cause)?;
        }
        Ok(self.updated(change, "user", "user.update", name))
    }

    fn new_user(&mut self, change: Change<'a>, seed: &SeedUser) -> Result<Change<'a>, AdminError> {
        let owner = seed.profile.owner(&seed.username);
        let (hash, generated) = seed.password.realise(self.provider, owner)?;
        let blank = self.provider.blank_user(&seed.username);
        let user = User {
            disabled: seed.disabled,
            ..seed.profile.clone().apply(blank)
        };
        self.members_change(&[], &user.groups);
        let credential = PasswordCredential {
            user: user.id.clone(),
            hash,
            changed_at: user.created_at,
            last_login_at: None,
        };
        self.tell("user", seed.username.as_str(), generated);
        let change = stage_new_user(change, &user, &credential);
        Ok(match &seed.totp {
            Some(secret) => {
                let factors = SecondFactors::imported(&user.id, secret, user.created_at);
                change.put(Expected::Absent, &factors)
            }
            None => change,
        })
    }

    fn account(
        &mut self,
        change: Change<'a>,
        seed: &SeedServiceAccount,
    ) -> Result<Change<'a>, AdminError> {
        let name = seed.name.as_str();
        let stored = match self.claim(&seed.name)? {
            None => {
                let blank = self.provider.blank_service_account(&seed.name);
                let account = ServiceAccount {
                    disabled: seed.disabled,
                    ..seed.profile.clone().apply(blank)
                };
                self.members_change(&[], &account.groups);
                let entropy = &*self.provider.entropy;
                let mut secrets =
                    Secrets::first(&seed.name, &seed.secret, account.created_at, entropy)?;
                self.tell("service account", name, secrets.generated.take());
                let change = stage_new_service_account(change, &account, &secrets);
                return Ok(self.created(change, "service account", "service_account.create", name));
            }
            Some(_) if self.keeps("service account", name) => return Ok(change),
            Some(Holder::ServiceAccount(id)) => self.provider.service_account(&id)?,
            Some(_) => {
                return Err(AdminError::Taken {
                    kind: "service account",
                    name: name.to_owned(),
                });
            }
        };
        let Versioned {
            record: before,
            version,
        } = stored;
        let disabled = before.disabled || seed.disabled;
        let after = ServiceAccount {
            disabled,
            ..seed.profile.clone().apply(before.clone())
        };
        if after == before {
            return Ok(change);
        }
        let after = ServiceAccount {
            updated_at: self.provider.clock.now(),
            ..after
        };
        self.members_change(&before.groups, &after.groups);
        let mut change = change.put(Expected::Version(version), &after);
        if after.disabled && !before.disabled {
            change = self.provider.stage_end_of_api_keys(change, &after.id)?;
            change = change.revoke(Revoked::Subject(after.id.to_string()));
        }
        Ok(self.updated(change, "service account", "service_account.update", name))
    }

    fn client(&mut self, change: Change<'a>, seed: &SeedClient) -> Result<Change<'a>, AdminError> {
        let name = seed.client_id.as_str();
        let stored = match self.claim(&seed.client_id)? {
            None => {
                let client = seed
                    .profile
                    .clone()
                    .apply(self.provider.blank_client(&seed.client_id));
                let entropy = &*self.provider.entropy;
                let mut secrets =
                    Secrets::first(&seed.client_id, &seed.secret, client.created_at, entropy)?;
                self.tell("client", name, secrets.generated.take());
                let change = stage_new_client(change, &client, &secrets);
                return Ok(self.created(change, "client", "client.create", name));
            }
            Some(_) if self.keeps("client", name) => return Ok(change),
            Some(Holder::Client) => self.provider.client(&seed.client_id)?,
            Some(_) => {
                return Err(AdminError::Taken {
                    kind: "client",
                    name: name.to_owned(),
                });
            }
        };
        let Versioned {
            record: before,
            version,
        } = stored;
        // What the file says, the client itself could change.
        if before.registered.is_some() {
            return Err(AdminError::Taken {
                kind: "client",
                name: name.to_owned(),
            });
        }
        let after = seed.profile.clone().apply(before.clone());
        if after == before {
            return Ok(change);
        }
        let after = Client {
            updated_at: self.provider.clock.now(),
            ..after
        };
        let change = change.put(Expected::Version(version), &after);
        Ok(self.updated(change, "client", "client.update", name))
    }

    fn registration(
        &mut self,
        change: Change<'a>,
        wanted: Option<&RegistrationPolicy>,
    ) -> Result<Change<'a>, Fault> {
        // An import says nothing about it.
        if self.manner.keeps_present {
            return Ok(change);
        }
        let key = RegistrationPolicy::KEY;
        let stored = self.provider.tenant.get::<RegistrationPolicy>(key)?;
        let expected = stored
            .as_ref()
            .map_or(Expected::Absent, |stored| Expected::Version(stored.version));
        let change = match (stored.as_ref().map(|stored| &stored.record), wanted) {
            (before, after) if before == after => return Ok(change),
            (_, Some(after)) => change.put(expected, after),
            (_, None) => change.delete::<RegistrationPolicy>(expected, key),
        };
        let state = if wanted.is_some() { "on" } else { "off" };
        self.report.updated.push(format!("registration {state}"));
        let report = Report::new(EventClass::EntityManagement, "registration.policy")
            .target(state)
            .detail("source", "fleet file");
        Ok(change.report(report, self.caller))
    }

    fn claim(&self, name: &ClientName) -> Result<Option<Holder>, Fault> {
        let claim = self
            .provider
            .tenant
            .get::<NameClaim>(&NameClaim::client_key(name))?;
        Ok(claim.map(|claim| claim.record.holder))
    }

    /// Whether a record that is there is left as it is.
    fn keeps(&mut self, kind: &str, name: &str) -> bool {
        if self.manner.keeps_present {
            self.report.present.push(format!("{kind} {name}"));
        }
        self.manner.keeps_present
    }

    fn created(
        &mut self,
        change: Change<'a>,
        kind: &str,
        activity: &str,
        name: &str,
    ) -> Change<'a> {
        self.report.created.push(format!("{kind} {name}"));
        self.say(change, activity, name)
    }

    fn updated(
        &mut self,
        change: Change<'a>,
        kind: &str,
        activity: &str,
        name: &str,
    ) -> Change<'a> {
        self.report.updated.push(format!("{kind} {name}"));
        self.say(change, activity, name)
    }

    fn say(&self, change: Change<'a>, activity: &str, name: &str) -> Change<'a> {
        let report = self
            .provider
            .account_report(activity, name)
            .detail("source", self.manner.source);
        change.report(report, self.caller)
    }

    fn tell(&mut self, kind: &'static str, name: &str, generated: Option<Redacted<String>>) {
        let credential = generated.map(|secret| GeneratedCredential {
            kind,
            name: name.to_owned(),
            secret,
        });
        self.report.generated.extend(credential);
    }
}
