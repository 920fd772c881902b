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
    seed::{Manner, Seed, SeedClient, SeedError, SeedReport, SeedUser},
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

impl Provider {
    /// Imports what is not here yet. `dry_run` says what would be done, and does nothing.
    ///
    /// # Errors
    /// See [`SeedError`]; then nothing was changed.
    pub fn import(
        &self,
        batch: ImportBatch,
        dry_run: bool,
        caller: &Caller,
    ) -> Result<SeedReport, SeedError> {
        let users = batch.users.into_iter().map(ImportUser::seed);
        let seed = Seed {
            roles: batch.roles,
            groups: batch.groups,
            users: users.collect::<Result<_, _>>()?,
            service_accounts: Vec::new(),
            clients: batch.clients.into_iter().map(ImportClient::seed).collect(),
            registration: None,
        };
        let manner = Manner {
            source: "import",
            keeps_present: true,
            dry_run,
        };
        self.seed_in(manner, &seed, caller)
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
