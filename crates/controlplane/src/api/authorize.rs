//! Who may administer: the owner of the data folder, and whom policies permit it (see `testudo_policy::AdminRules`).
//!
//! Being permitted is not enough for a user: every application they log in to gets a token of theirs for the same audience, and
//! its backend could use it here. So their token must say that they gave it for this ([`ADMIN_SCOPE`]). A service
//! account gives its tokens to nobody.

use std::{net::IpAddr, sync::Arc};

use axum::extract::Request;
use http::header;
use testudo_identity::{Fault, PresentedToken, Provider, Reserved};
use testudo_model::{
    AccessTokenClaims, ServiceAccountId, Timestamp,
    event::{Actor, Detail, EventClass, Outcome},
};
use testudo_policy::{
    ADMIN_ROLE, AUDITOR_ROLE, Account, AdminAction, AdminActionGroup, AdminCall, AdminDecision,
    AdminObject, AdminRules,
};

use super::reserved::{is_reserved, reserved_by};
use crate::{
    http::{Refusal, Remote, Workload},
    plane::{Note, Plane},
};

/// What a user's token must have been given for. The command line may ask for it; another client only if the fleet file
/// has it among that client's scopes.
pub const ADMIN_SCOPE: &str = "testudo:admin";

/// What the token of a service account must have been given for to provision people (SCIM). It may have it only if the
/// fleet file has it among the account's scopes.
pub const SCIM_SCOPE: &str = "testudo:scim";

/// A caller that may do what it asks.
#[derive(Debug, Clone)]
pub struct Administrator {
    /// For the record.
    pub actor: Actor,
    /// Where the call came from; `None` for the admin socket.
    pub source_ip: Option<IpAddr>,
    /// On what it was decided; `None` for the admin socket, which is asked nothing.
    pub(super) grounds: Option<Arc<Grounds>>,
}

/// What the caller is, kept for what a change turns out to need besides.
#[derive(Debug)]
pub(super) struct Grounds {
    account: Account,
    call: AdminCall,
    rules: Arc<AdminRules>,
    operation: String,
}

impl Administrator {
    /// The owner of the data folder, or the control plane itself.
    pub(crate) const fn local(actor: Actor) -> Self {
        Self {
            actor,
            source_ip: None,
            grounds: None,
        }
    }

    /// What only administrators may change; `None` for one of them.
    pub(super) fn reserved(&self, plane: &Plane) -> Option<Reserved> {
        let grounds = self.grounds.as_ref()?;
        let is_administrator = grounds.account.is_administrator();
        (!is_administrator).then(|| reserved_by(&grounds.rules, plane))
    }

    /// Whether the caller may do `action` as well, to what is called `name`; records a refusal. `rests_on` says whether rights
    /// to administer would rest on it.
    pub(super) fn must(
        &self,
        plane: &Plane,
        action: AdminAction,
        name: &str,
        rests_on: impl FnOnce(&Reserved) -> Result<bool, Fault>,
    ) -> Result<(), Refusal> {
        let Some(grounds) = &self.grounds else {
            return Ok(());
        };
        let reserved = reserved_by(&grounds.rules, plane);
        let is_reserved = rests_on(&reserved).map_err(|fault| Refusal::internal(&fault))?;
        let object = AdminObject {
            tenant: plane.tenant().clone(),
            name: Some(name.to_owned()),
            is_reserved,
        };
        let decision = grounds
            .rules
            .decide(&grounds.account, action, &object, &grounds.call);
        if decision.allowed {
            return Ok(());
        }
        let refused = Refused {
            actor: self.actor.clone(),
            source_ip: self.source_ip,
            operation: &grounds.operation,
            action,
        };
        refused.record(plane, &decision)?;
        Err(denied(action, &decision))
    }

    /// For the events of `identity`.
    pub fn identity_caller(&self) -> testudo_identity::Caller {
        testudo_identity::Caller {
            actor: self.actor.clone(),
            source_ip: self.source_ip,
            trace_id: None,
        }
    }

    /// For the events of `workload`.
    pub fn workload_caller(&self) -> testudo_workload::Caller {
        testudo_workload::Caller {
            actor: self.actor.clone(),
            source_ip: self.source_ip,
        }
    }
}

/// Who asks for what, as far as the request tells.
pub enum Question {
    /// On the admin socket.
    Local,
    /// Over the network.
    Network(Asked),
}

/// What is asked for over the network.
pub struct Asked {
    source_ip: IpAddr,
    workload: Option<Workload>,
    token: String,
    /// `METHOD /path`.
    operation: String,
    action: AdminAction,
    /// What is administered, if the path names it.
    name: Option<String>,
}

impl Question {
    /// Reads it off a request for `action` on what is called `name`.
    pub fn of(
        request: &Request,
        action: AdminAction,
        name: Option<String>,
    ) -> Result<Self, Refusal> {
        match request.extensions().get::<Remote>() {
            Some(Remote::Local) => Ok(Self::Local),
            Some(Remote::Network { address, workload }) => Ok(Self::Network(Asked {
                source_ip: *address,
                workload: workload.clone(),
                token: bearer_token(request)?,
                operation: format!("{} {}", request.method(), request.uri().path()),
                action,
                name,
            })),
            None => Err(unauthenticated("the connection is not known")),
        }
    }
}

/// Decides, and records a refusal.
pub async fn authorize(plane: &Arc<Plane>, question: Question) -> Result<Administrator, Refusal> {
    let Question::Network(asked) = question else {
        let actor = Actor {
            client: Some("admin.sock".to_owned()),
            ..Actor::default()
        };
        return Ok(Administrator::local(actor));
    };
    plane.blocking(move |plane| decide(plane, &asked)).await?
}

fn decide(plane: &Plane, asked: &Asked) -> Result<Administrator, Refusal> {
    let (claims, account) = identify(plane, asked)?;
    let actor = Actor {
        subject: Some(claims.sub.clone()),
        client: Some(claims.client_id.clone()),
        session: claims.sid.clone(),
        workload: None,
    };
    let grounds = grounds_of(plane, asked, &claims, account);
    let decision = match &grounds {
        Some(grounds) => first_decision(plane, asked, grounds)?,
        None => nobody(),
    };
    let refusal = if !decision.allowed {
        Some(denied(asked.action, &decision))
    } else if !is_for_administration(&claims) {
        Some(scope_needed())
    } else {
        None
    };
    let source_ip = Some(asked.source_ip);
    if let Some(refusal) = refusal {
        let refused = Refused {
            actor,
            source_ip,
            operation: &asked.operation,
            action: asked.action,
        };
        refused.record(plane, &decision)?;
        return Err(refusal);
    }
    Ok(Administrator {
        actor,
        source_ip,
        grounds: grounds.map(Arc::new),
    })
}

fn grounds_of(
    plane: &Plane,
    asked: &Asked,
    claims: &AccessTokenClaims,
    account: Option<Account>,
) -> Option<Grounds> {
    Some(Grounds {
        account: account?,
        call: call_of(plane, asked, claims),
        rules: plane.administration.rules()?,
        operation: asked.operation.clone(),
    })
}

fn first_decision(
    plane: &Plane,
    asked: &Asked,
    grounds: &Grounds,
) -> Result<AdminDecision, Refusal> {
    let reserved = reserved_by(&grounds.rules, plane);
    let name = asked.name.as_deref().unwrap_or_default();
    let is_reserved = is_reserved(plane, &reserved, asked.action, name);
    let object = AdminObject {
        tenant: plane.tenant().clone(),
        name: asked.name.clone(),
        is_reserved: is_reserved.map_err(|fault| Refusal::internal(&fault))?,
    };
    let Grounds {
        account,
        call,
        rules,
        ..
    } = grounds;
    Ok(rules.decide(account, asked.action, &object, call))
}

/// Whose token it is, and what they are; no account for who is disabled or gone.
fn identify(plane: &Plane, asked: &Asked) -> Result<(AccessTokenClaims, Option<Account>), Refusal> {
    let peer = plane.standing(asked.workload.as_ref());
    let token = || PresentedToken::bearer(&asked.token, peer.as_ref());
    let own = plane.provider.access_token(token());
    // Who administers the fleet administers its tenants. The other way round it is not.
    let (provider, checked) = match own {
        Err(_) if !plane.tenant().is_default() => {
            let fleet = plane.tenants.own();
            (fleet, fleet.access_token(token()))
        }
        own => (&plane.provider, own),
    };
    let claims =
        checked.map_err(|_| unauthenticated("the access token is not valid; log in again"))?;
    let account = account_of(plane, provider, &claims);
    let account = account.map_err(|fault| Refusal::internal(&fault))?;
    Ok((claims, account))
}

fn account_of(
    plane: &Plane,
    provider: &Provider,
    claims: &AccessTokenClaims,
) -> Result<Option<Account>, Fault> {
    let standing = provider.standing_of_subject(&claims.sub)?;
    Ok(standing.map(|standing| Account {
        id: claims.sub.clone(),
        tenant: provider.settings().tenant.clone(),
        groups: standing.groups,
        roles: standing.roles,
        is_service_account: is_of_service_account(claims),
        // Of the tenant that is administered alone: the fleet's provision nobody elsewhere.
        provisions: may_provision(&plane.provider, claims),
    }))
}

fn call_of(plane: &Plane, asked: &Asked, claims: &AccessTokenClaims) -> AdminCall {
    let scopes = claims.scope.split(' ').filter(|scope| !scope.is_empty());
    let acting = std::iter::successors(claims.act.as_ref(), |actor| actor.act.as_deref());
    AdminCall {
        client: claims.client_id.clone(),
        scopes: scopes.map(str::to_owned).collect(),
        assurance: claims.assurance(),
        authenticated_at: Timestamp::from_unix_seconds(claims.auth_time.unwrap_or(claims.iat)),
        bound: claims.cnf.is_some(),
        actors: acting.count(),
        source_ip: asked.source_ip,
        now: plane.clock.now(),
    }
}

/// What is decided about nobody.
fn nobody() -> AdminDecision {
    AdminDecision {
        allowed: false,
        policies: Vec::new(),
        errors: Vec::new(),
    }
}

/// Whether the token was given to administer with.
fn is_for_administration(claims: &AccessTokenClaims) -> bool {
    is_of_service_account(claims) || claims.scope.split(' ').any(|scope| scope == ADMIN_SCOPE)
}

fn is_of_service_account(claims: &AccessTokenClaims) -> bool {
    claims.sub.parse::<ServiceAccountId>().is_ok()
}

/// Whether the token is that of a service account, was given to provision people with, and would be again.
fn may_provision(provider: &Provider, claims: &AccessTokenClaims) -> bool {
    let is_in_token = claims.scope.split(' ').any(|scope| scope == SCIM_SCOPE);
    let account = claims.sub.parse::<ServiceAccountId>().ok();
    let account = account.filter(|_| is_in_token);
    let stored = account.and_then(|id| provider.service_account(&id).ok());
    stored.is_some_and(|stored| {
        let scopes = &stored.record.scopes;
        !stored.record.disabled && scopes.iter().any(|scope| scope.as_str() == SCIM_SCOPE)
    })
}

fn denied(action: AdminAction, decision: &AdminDecision) -> Refusal {
    let refusal = Refusal::new(403, "api.denied", "not allowed");
    if let Some(policy) = decision.policies.iter().find(|_| !decision.allowed) {
        let reason = policy.reason.as_deref().unwrap_or("it forbids this");
        let id = &policy.id;
        return refusal.detail(format!(
            "`{action}` is forbidden by the policy `{id}`: {reason}"
        ));
    }
    let needed = match action.group() {
        AdminActionGroup::Read => format!("the role `{AUDITOR_ROLE}` or `{ADMIN_ROLE}`"),
        AdminActionGroup::Write => format!("the role `{ADMIN_ROLE}`"),
        AdminActionGroup::Provision => {
            format!("a service account with the scope `{SCIM_SCOPE}`, or the role `{ADMIN_ROLE}`")
        }
    };
    refusal.detail(format!("`{action}` needs {needed}"))
}

fn scope_needed() -> Refusal {
    Refusal::new(403, "api.scope", "this login is not for administration").detail(format!(
        "this needs a token with the scope `{ADMIN_SCOPE}`: log in with `testudo login`"
    ))
}

/// The one bearer token (RFC 6750 section 2.1).
fn bearer_token(request: &Request) -> Result<String, Refusal> {
    let mut fields = request.headers().get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err(unauthenticated(
            "send one `Authorization: Bearer` field with an access token",
        ));
    };
    let token = field
        .to_str()
        .ok()
        .and_then(|field| field.strip_prefix("Bearer "));
    token
        .map(str::to_owned)
        .ok_or_else(|| unauthenticated("the Authorization field has no bearer token"))
}

fn unauthenticated(detail: &str) -> Refusal {
    Refusal::new(401, "api.unauthenticated", "not logged in").detail(detail)
}

/// What was not allowed to whom.
struct Refused<'a> {
    actor: Actor,
    source_ip: Option<IpAddr>,
    operation: &'a str,
    action: AdminAction,
}

impl Refused<'_> {
    fn record(self, plane: &Plane, decision: &AdminDecision) -> Result<(), Refusal> {
        let policies = decision.policies.iter().map(|policy| policy.id.as_str());
        let policies: Vec<_> = policies.collect();
        let note = Note {
            class: EventClass::ApiActivity,
            activity: "api.call",
            outcome: Outcome::Denied,
            actor: self.actor,
            source_ip: self.source_ip,
            target: None,
            details: vec![
                ("operation", Detail::from(self.operation.to_owned())),
                ("action", Detail::from(self.action.name())),
                ("policies", Detail::from(policies.join(" "))),
            ],
        };
        plane.note(note).map_err(|error| Refusal::internal(&error))
    }
}
