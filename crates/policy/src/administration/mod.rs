//! Who may administer: policies of their own, in the namespace `Testudo`.
//!
//! They are decided where something is administered, in the control plane, and not by proxies. A rule belongs to them if
//! its head names a `Testudo::Action`. A rule for calls says nothing about administration, however much it permits: who
//! writes `permit (principal, action, resource)` opens routes and makes nobody an administrator.
//!
//! Rules name accounts by group and role, or by their id. They cannot go by a login name: whoever may make users would
//! choose their own rights.

mod action;
mod rules;

use std::net::IpAddr;

use cedar_policy::{ActionConstraint, EntityUid, Policy};
use serde_json::json;
use testudo_model::{
    GroupName, PolicyGroup, PolicyRole, RoleName, TenantName, Timestamp, event::DeterminingPolicy,
};

pub(crate) use self::rules::schema;
pub use self::{
    action::{AdminAction, AdminActionGroup},
    rules::AdminRules,
};

/// May do everything.
pub const ADMIN_ROLE: &str = "testudo-admin";
/// May see everything.
pub const AUDITOR_ROLE: &str = "testudo-auditor";

/// The Cedar schema of administration, beside [`SCHEMA`](crate::SCHEMA).
pub const ADMIN_SCHEMA: &str = include_str!("testudo.cedarschema");

/// The built-in policies of administration.
pub const ADMIN_POLICIES: &str = include_str!("built_in.cedar");

/// File name under which they appear.
pub const ADMIN_POLICIES_FILE: &str = "<administration>";

/// Whether a policy is about administration: its head names an action of it.
pub(crate) fn is_about_administration(policy: &Policy) -> bool {
    actions_of(policy).iter().any(is_of_administration)
}

/// Whether it is about calls as well, which nobody would enforce.
pub(crate) fn is_about_both(policy: &Policy) -> bool {
    let actions = actions_of(policy);
    actions.iter().any(is_of_administration) && !actions.iter().all(is_of_administration)
}

fn actions_of(policy: &Policy) -> Vec<EntityUid> {
    match policy.action_constraint() {
        ActionConstraint::Any => Vec::new(),
        ActionConstraint::Eq(action) => vec![action],
        ActionConstraint::In(actions) => actions,
    }
}

fn is_of_administration(action: &EntityUid) -> bool {
    action.type_name().to_string() == "Testudo::Action"
}

/// A user or service account that wants to administer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its `sub`.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantName,
    /// All groups it is in, with those that groups are in.
    pub groups: Vec<GroupName>,
    /// All roles it has, with those that groups give.
    pub roles: Vec<RoleName>,
    /// Whether it is a machine's.
    pub is_service_account: bool,
    /// Whether it may provision people because of the scopes of its token.
    pub provisions: bool,
}

impl Account {
    /// Whether it may do everything in its own tenant, unless a policy forbids it.
    pub fn is_administrator(&self) -> bool {
        self.has(ADMIN_ROLE)
    }

    /// Whether it has a role in its own tenant.
    fn has(&self, role: &str) -> bool {
        self.roles.iter().any(|granted| granted.as_str() == role)
    }

    fn standings(&self) -> impl Iterator<Item = &'static str> {
        let standings = [
            (self.is_administrator(), "administrator"),
            (self.has(AUDITOR_ROLE), "auditor"),
            (self.provisions, "provisioner"),
        ];
        let standings = standings.into_iter().filter(|(has, _)| *has);
        standings.map(|(_, name)| name)
    }

    fn policy_groups(&self) -> impl Iterator<Item = PolicyGroup> {
        let groups = self.groups.iter();
        groups.map(|group| PolicyGroup::of(&self.tenant, group))
    }

    fn policy_roles(&self) -> impl Iterator<Item = PolicyRole> {
        let roles = self.roles.iter();
        roles.map(|role| PolicyRole::of(&self.tenant, role))
    }
}

/// What is administered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminObject {
    /// In whose tenant.
    pub tenant: TenantName,
    /// Its name in the path of the operation.
    pub name: Option<String>,
    /// Whether rights to administer rest on it, so that only an administrator may change it.
    pub is_reserved: bool,
}

/// What an account knows of itself when it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCall {
    /// OAuth client that got the token.
    pub client: String,
    /// Scopes of the token.
    pub scopes: Vec<String>,
    /// 1 one factor, 2 two factors, 3 phishing-resistant.
    pub assurance: i64,
    /// When the user logged in, or the machine got its token.
    pub authenticated_at: Timestamp,
    /// Whether the token is bound to a key.
    pub bound: bool,
    /// How many act for the account (RFC 8693).
    pub actors: usize,
    /// Where it asks from.
    pub source_ip: IpAddr,
    /// When.
    pub now: Timestamp,
}

impl AdminCall {
    /// The context as JSON in Cedar's own form.
    fn context(&self) -> String {
        let extension = |function: &str, argument: String| json!({ "__extn": { "fn": function, "arg": argument } });
        json!({
            "token": {
                "client": self.client,
                "scopes": self.scopes,
                "assurance": self.assurance,
                "authenticatedAt": extension("datetime", self.authenticated_at.to_string()),
                "bound": self.bound,
                "actors": self.actors,
            },
            "sourceIp": extension("ip", self.source_ip.to_canonical().to_string()),
            "now": extension("datetime", self.now.to_string()),
        })
        .to_string()
    }
}

/// The answer, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminDecision {
    /// Whether it may be done.
    pub allowed: bool,
    /// Policies that determined it: those that permit, or those that forbid. None if nothing permits.
    pub policies: Vec<DeterminingPolicy>,
    /// Evaluation errors; any means deny.
    pub errors: Vec<String>,
}
