//! Moving in from another identity provider.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testudo_identity::{
    ClientProfile, SeedError, UserProfile,
    import::{ImportBatch, ImportClient, ImportUser, ImportedRealm},
};
use testudo_model::{ClientName, GroupName, Redacted, RoleName, Username};
use testudo_runtime::with_causes;
use testudo_trust::base64url;

use super::{Administrator, Answer, extract::Body};
use crate::{http::Refusal, plane::Plane};

/// Users in one part of an import.
const USERS_AT_ONCE: usize = 200;

/// A part of an import; see [`ImportBatch`].
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Groups and the groups they are in.
    pub groups: BTreeMap<GroupName, Vec<GroupName>>,
    /// Users.
    pub users: Vec<BatchUser>,
    /// Clients.
    pub clients: Vec<BatchClient>,
}

/// A user.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchUser {
    /// Login name.
    pub username: Username,
    /// What is said about them.
    #[serde(default)]
    pub profile: UserProfile,
    /// They may not log in.
    #[serde(default)]
    pub disabled: bool,
    /// Password hash in PHC form.
    #[serde(default)]
    pub password_hash: Option<String>,
    /// Secret of their authenticator, base64url.
    #[serde(default)]
    pub totp: Option<String>,
}

/// A client.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchClient {
    /// Its id.
    pub client_id: ClientName,
    /// What is said about it.
    pub profile: ClientProfile,
    /// Its secret.
    #[serde(default)]
    pub secret: Option<String>,
}

impl BatchUser {
    /// `user` on the wire.
    pub fn of(user: &ImportUser) -> Self {
        Self {
            username: user.username.clone(),
            profile: user.profile.clone(),
            disabled: user.disabled,
            password_hash: user
                .password_hash
                .as_ref()
                .map(|hash| hash.expose().clone()),
            totp: user
                .totp
                .as_ref()
                .map(|secret| base64url::encode(secret.expose())),
        }
    }

    fn read(self) -> Result<ImportUser, Refusal> {
        let totp = self.totp.map(|secret| {
            let decoded = base64url::decode(&secret).map(Redacted::new);
            let what = || format!("`totp` of `{}` is not base64url", self.username);
            decoded.ok_or_else(|| Refusal::bad_request(what()))
        });
        Ok(ImportUser {
            username: self.username,
            profile: self.profile,
            disabled: self.disabled,
            password_hash: self.password_hash.map(Redacted::new),
            totp: totp.transpose()?,
        })
    }
}

impl BatchClient {
    /// `client` on the wire.
    pub fn of(client: &ImportClient) -> Self {
        Self {
            client_id: client.client_id.clone(),
            profile: client.profile.clone(),
            secret: client.secret.as_ref().map(|secret| secret.expose().clone()),
        }
    }

    fn read(self) -> ImportClient {
        ImportClient {
            client_id: self.client_id,
            profile: self.profile,
            secret: self.secret.map(Redacted::new),
        }
    }
}

impl Batch {
    /// What was read of a realm, in parts. Each has the roles and groups, without which there are no users: what is there
    /// already is not made again.
    pub fn all_of(realm: &ImportedRealm, dry_run: bool) -> Vec<Self> {
        let part = || Self {
            dry_run,
            roles: realm.roles.clone(),
            groups: realm.groups.clone(),
            ..Self::default()
        };
        let first = Self {
            clients: realm.clients.iter().map(BatchClient::of).collect(),
            ..part()
        };
        let users = realm.users.chunks(USERS_AT_ONCE).map(|users| Self {
            users: users.iter().map(BatchUser::of).collect(),
            ..part()
        });
        std::iter::once(first).chain(users).collect()
    }
}

/// `POST /api/v1/import`.
pub async fn import(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(batch): Body<Batch>,
) -> Answer {
    let dry_run = batch.dry_run;
    let users: Result<_, _> = batch.users.into_iter().map(BatchUser::read).collect();
    let batch = ImportBatch {
        roles: batch.roles,
        groups: batch.groups,
        users: users?,
        clients: batch.clients.into_iter().map(BatchClient::read).collect(),
    };
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let report = plane.provider.import(batch, dry_run, &caller);
            let report = report.map_err(|error| refusal(&error))?;
            let generated = report.generated.iter();
            // One that is only told of is no secret of anybody.
            let generated: Vec<Value> = generated
                .filter(|_| !dry_run)
                .map(|made| json!({ "client": made.name, "secret": made.secret.expose() }))
                .collect();
            Ok(Json(json!({
                "dry_run": dry_run,
                "created": report.created,
                "present": report.present,
                "generated": generated,
            })))
        })
        .await?
}

fn refusal(error: &SeedError) -> Refusal {
    match error {
        SeedError::Unavailable(fault) => Refusal::internal(fault),
        SeedError::Refused { .. } | SeedError::TooMany { .. } => {
            Refusal::bad_request(with_causes(error))
        }
    }
}
