//! Moving in: users, groups, roles and clients of another identity provider.
//!
//! Nobody who is here already is touched: of a name that is taken the import says so. Passwords come as hashes and are stored
//! as ours when their users log in first.

pub mod keycloak;

use std::collections::BTreeMap;

use serde::Serialize;
use testudo_model::{ClientName, GroupName, Redacted, RoleName, Username};

use crate::{
    Caller, ClientProfile, Provider, UserProfile,
    admin::{AdminError, NewPassword, NewSecret},
    limits::MAX_TOTP_SECRET_BYTES,
    records::{Group, NameClaim, Role},
    seed::{Seed, SeedClient, SeedError, SeedUser},
};

/// What was read of a realm.
#[derive(Debug, Default)]
pub struct ImportedRealm {
    /// Its name there.
    pub name: String,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Groups and the groups they are in.
    pub groups: BTreeMap<GroupName, Vec<GroupName>>,
    /// Users.
    pub users: Vec<ImportUser>,
    /// Clients.
    pub clients: Vec<ImportClient>,
    /// What has no counterpart here.
    pub left_out: Vec<LeftOut>,
}

/// Something that is not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What it is.
    pub kind: &'static str,
    /// Its name there.
    pub name: String,
    /// Why.
    pub why: String,
}

/// A user to import.
#[derive(Debug, Clone)]
pub struct ImportUser {
    /// Login name.
    pub username: Username,
    /// What is said about them.
    pub profile: UserProfile,
    /// They may not log in.
    pub disabled: bool,
    /// Their password in PHC form; without one they need a new one.
    pub password_hash: Option<Redacted<String>>,
    /// The secret of their authenticator (TOTP with SHA-1, six digits, 30 seconds).
    pub totp: Option<Redacted<Vec<u8>>>,
}

/// A client to import.
#[derive(Debug, Clone)]
pub struct ImportClient {
    /// Its `client_id`.
    pub client_id: ClientName,
    /// What is said about it.
    pub profile: ClientProfile,
    /// Its secret; a confidential client without one gets one.
    pub secret: Option<Redacted<String>>,
}

/// A part of an import, which is made whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct ImportBatch {
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Groups and the groups they are in.
    pub groups: BTreeMap<GroupName, Vec<GroupName>>,
    /// Users.
    pub users: Vec<ImportUser>,
    /// Clients.
    pub clients: Vec<ImportClient>,
}

/// What an import did, or would do.
#[derive(Debug, Default)]
pub struct ImportReport {
    /// Records made, as `kind name`.
    pub created: Vec<String>,
    /// Records whose names are taken, as `kind name`: they were left as they are.
    pub present: Vec<String>,
    /// Secrets made here, by client id. Show them now: they cannot be asked for again.
    pub generated: Vec<(String, Redacted<String>)>,
}

impl Provider {
    /// Imports what is not here yet. `dry_run` changes nothing.
    ///
    /// # Errors
    /// See [`SeedError`]; then nothing was changed.
    pub fn import(
        &self,
        batch: ImportBatch,
        dry_run: bool,
        caller: &Caller,
    ) -> Result<ImportReport, SeedError> {
        let mut report = ImportReport::default();
        let seed = self.missing(batch, &mut report)?;
        if dry_run {
            self.check_seed(&seed)?;
            let created = seed
                .roles
                .iter()
                .map(|role| format!("role {role}"))
                .chain(seed.groups.keys().map(|group| format!("group {group}")))
                .chain(
                    seed.users
                        .iter()
                        .map(|user| format!("user {}", user.username)),
                )
                .chain(
                    seed.clients
                        .iter()
                        .map(|client| format!("client {}", client.client_id)),
                );
            report.created = created.collect();
            return Ok(report);
        }
        let seeded = self.seed_from(&seed, "import", caller)?;
        report.created = seeded.created;
        let generated = seeded.generated.into_iter();
        report.generated = generated.map(|made| (made.name, made.secret)).collect();
        Ok(report)
    }

    /// What of `batch` is not here; the rest is in the report.
    fn missing(&self, batch: ImportBatch, report: &mut ImportReport) -> Result<Seed, SeedError> {
        let mut seed = Seed::default();
        for role in batch.roles {
            match self
                .tenant
                .get::<Role>(role.as_str())
                .map_err(crate::Fault::from)?
            {
                Some(_) => report.present.push(format!("role {role}")),
                None => seed.roles.push(role),
            }
        }
        for (group, parents) in batch.groups {
            match self
                .tenant
                .get::<Group>(group.as_str())
                .map_err(crate::Fault::from)?
            {
                Some(_) => report.present.push(format!("group {group}")),
                None => {
                    seed.groups.insert(group, parents);
                }
            }
        }
        for user in batch.users {
            if self.is_taken(&NameClaim::user_key(&user.username))? {
                report.present.push(format!("user {}", user.username));
                continue;
            }
            seed.users.push(user.seed()?);
        }
        for client in batch.clients {
            if self.is_taken(&NameClaim::client_key(&client.client_id))? {
                report.present.push(format!("client {}", client.client_id));
                continue;
            }
            seed.clients.push(client.seed());
        }
        Ok(seed)
    }

    fn is_taken(&self, key: &str) -> Result<bool, SeedError> {
        let claim = self
            .tenant
            .get::<NameClaim>(key)
            .map_err(crate::Fault::from)?;
        Ok(claim.is_some())
    }
}

impl ImportUser {
    fn seed(self) -> Result<SeedUser, SeedError> {
        if let Some(totp) = &self.totp
            && !(16..=MAX_TOTP_SECRET_BYTES).contains(&totp.expose().len())
        {
            return Err(SeedError::Refused {
                kind: "user",
                name: self.username.to_string(),
                why: AdminError::invalid("secret of the authenticator", "is too short or too long"),
            });
        }
        Ok(SeedUser {
            username: self.username,
            profile: self.profile,
            disabled: self.disabled,
            password: self
                .password_hash
                .map_or(NewPassword::None, NewPassword::Hash),
            totp: self.totp,
        })
    }
}

impl ImportClient {
    fn seed(self) -> SeedClient {
        let secret = match (self.profile.kind, self.secret) {
            (crate::ClientKind::Public, _) => NewSecret::None,
            (crate::ClientKind::Confidential, Some(secret)) => NewSecret::Given(secret),
            (crate::ClientKind::Confidential, None) => NewSecret::Generate,
        };
        SeedClient {
            client_id: self.client_id,
            profile: self.profile,
            secret,
        }
    }
}
