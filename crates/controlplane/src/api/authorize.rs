//! Who may administer: the owner of the data folder, and who has a role for it.
//!
//! A role is not enough for a user: every application they log in to gets a token of theirs for the same audience, and
//! its backend could use it here. So their token must say that they gave it for this ([`ADMIN_SCOPE`]). A service
//! account gives its tokens to nobody.

use std::{net::IpAddr, sync::Arc};

use axum::extract::Request;
use http::header;
use testudo_identity::{Fault, PresentedToken, Provider};
use testudo_model::{
    AccessTokenClaims, ServiceAccountId,
    event::{Actor, Detail, EventClass, Outcome},
};

use super::Right;
use crate::{
    http::{Refusal, Remote, Workload},
    plane::{Note, Plane},
};

/// May do everything.
pub const ADMIN_ROLE: &str = "testudo-admin";
/// May see everything.
pub const AUDITOR_ROLE: &str = "testudo-auditor";
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
    /// It may provision people because of its scope, and is no administrator.
    pub is_provisioner: bool,
}

impl Administrator {
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
    Network {
        source_ip: IpAddr,
        workload: Option<Workload>,
        token: String,
        /// `METHOD /path`.
        operation: String,
    },
}

impl Question {
    /// Reads it off a request.
    pub fn of(request: &Request) -> Result<Self, Refusal> {
        match request.extensions().get::<Remote>() {
            Some(Remote::Local) => Ok(Self::Local),
            Some(Remote::Network { address, workload }) => Ok(Self::Network {
                source_ip: *address,
                workload: workload.clone(),
                token: bearer_token(request)?,
                operation: format!("{} {}", request.method(), request.uri().path()),
            }),
            None => Err(unauthenticated("the connection is not known")),
        }
    }
}

/// Decides, and records a refusal.
pub async fn authorize(
    plane: &Arc<Plane>,
    right: Right,
    question: Question,
) -> Result<Administrator, Refusal> {
    let Question::Network {
        source_ip,
        workload,
        token,
        operation,
    } = question
    else {
        let actor = Actor {
            client: Some("admin.sock".to_owned()),
            ..Actor::default()
        };
        return Ok(Administrator {
            actor,
            source_ip: None,
            is_provisioner: false,
        });
    };
    let (checked, known) = plane
        .blocking(move |plane| {
            let peer = plane.standing(workload.as_ref());
            let token = || PresentedToken::bearer(&token, peer.as_ref());
            let own = plane.provider.access_token(token());
            // Who administers the fleet administers its tenants. The other way round it is not.
            let (provider, checked) = match own {
                Err(_) if !plane.tenant().is_default() => {
                    let fleet = plane.tenants.own();
                    (fleet, fleet.access_token(token()))
                }
                own => (&plane.provider, own),
            };
            let known = checked.as_ref().ok().map(|claims| {
                let roles = provider.roles_of(&claims.sub)?;
                Ok::<_, Fault>((roles, may_provision(&plane.provider, claims)))
            });
            (checked, known)
        })
        .await?;
    let claims =
        checked.map_err(|_| unauthenticated("the access token is not valid; log in again"))?;
    let (roles, provisions) = known
        .transpose()
        .map_err(|fault| Refusal::internal(&fault))?
        .unwrap_or_default();
    let has = |role: &str| roles.iter().any(|granted| granted.as_str() == role);
    let is_administrator = has(ADMIN_ROLE) && is_for_administration(&claims);
    let is_provisioner = right == Right::Provision && provisions && !is_administrator;
    let refusal = if is_provisioner {
        None
    } else if !(has(ADMIN_ROLE) || (right == Right::Read && has(AUDITOR_ROLE))) {
        Some(role_needed(right))
    } else if !is_for_administration(&claims) {
        Some(scope_needed())
    } else {
        None
    };
    let actor = Actor {
        subject: Some(claims.sub),
        client: Some(claims.client_id),
        session: claims.sid,
        workload: None,
    };
    match refusal {
        None => Ok(Administrator {
            actor,
            source_ip: Some(source_ip),
            is_provisioner,
        }),
        Some(refusal) => {
            record_refusal(plane, actor, source_ip, operation).await?;
            Err(refusal)
        }
    }
}

/// Whether the token was given to administer with.
fn is_for_administration(claims: &AccessTokenClaims) -> bool {
    let of_service_account = claims.sub.parse::<ServiceAccountId>().is_ok();
    of_service_account || claims.scope.split(' ').any(|scope| scope == ADMIN_SCOPE)
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

fn role_needed(right: Right) -> Refusal {
    let needed = match right {
        Right::Read => format!("the role `{AUDITOR_ROLE}` or `{ADMIN_ROLE}`"),
        Right::Change => format!("the role `{ADMIN_ROLE}`"),
        Right::Provision => {
            format!("a service account with the scope `{SCIM_SCOPE}`, or the role `{ADMIN_ROLE}`")
        }
    };
    Refusal::new(403, "api.denied", "not allowed").detail(format!("this needs {needed}"))
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

async fn record_refusal(
    plane: &Arc<Plane>,
    actor: Actor,
    source_ip: IpAddr,
    operation: String,
) -> Result<(), Refusal> {
    let note = Note {
        class: EventClass::ApiActivity,
        activity: "api.call",
        outcome: Outcome::Denied,
        actor,
        source_ip: Some(source_ip),
        target: None,
        details: vec![("operation", Detail::from(operation))],
    };
    plane
        .blocking(move |plane| plane.note(note))
        .await?
        .map_err(|error| Refusal::internal(&error))
}
