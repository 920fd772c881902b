//! Machines that act for themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use testudo_model::{
    ClientName, GroupName, RoleName, Scope, ServiceAccountId, SpiffeId, Timestamp,
};
use testudo_store::Record;

use crate::signal::SignalReceiver;

/// A workload, or several, as a trusted issuer describes it. Everything named must fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalWorkload {
    /// Name of the issuer in the fleet.
    pub issuer: String,
    /// Its `sub`, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Further claims of its tokens, exactly.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

/// A non-human subject. Its name is its OAuth client id, and client credentials are its only grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// The `sub` of its tokens.
    pub id: ServiceAccountId,
    /// Its name and client id.
    pub name: ClientName,
    /// Text for people.
    pub description: Option<String>,
    /// Gets no tokens, and nothing accepts those it has.
    pub disabled: bool,
    /// Clearance, 0 to 100: an attribute for policies.
    pub clearance: i64,
    /// Groups it is in.
    pub groups: Vec<GroupName>,
    /// Roles it has itself.
    pub roles: Vec<RoleName>,
    /// Scopes it may ask for.
    pub scopes: Vec<Scope>,
    /// Workloads that may act as it, by the certificate of their connection, without a secret.
    pub workloads: Vec<SpiffeId>,
    /// The JWK Set with the keys it signs assertions with (`private_key_jwt`), instead of a secret.
    pub jwks: Option<String>,
    /// Workloads outside the fleet that may act as it, by a token of an issuer that the fleet trusts.
    #[serde(default)]
    pub external: Vec<ExternalWorkload>,
    /// How it receives signals; if absent, it may not.
    #[serde(default)]
    pub signals: Option<SignalReceiver>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl ServiceAccount {
    /// Finds those that receive signals.
    pub(crate) const SIGNALS_INDEX: &'static str = "signals";
}

impl Record for ServiceAccount {
    const COLLECTION: &'static str = "identity.service_account";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let groups = self.groups.iter().map(|group| ("group", group.to_string()));
        let roles = self.roles.iter().map(|role| ("role", role.to_string()));
        let workloads = self.workloads.iter().map(|id| ("workload", id.to_string()));
        let signals = self.signals.iter();
        let signals = signals.map(|_| (Self::SIGNALS_INDEX, "receiver".to_owned()));
        groups
            .chain(roles)
            .chain(workloads)
            .chain(signals)
            .collect()
    }
}
