//! Whether anybody could apply the next fleet file over the network, if this one were in force.

use std::net::{IpAddr, Ipv4Addr};

use testudo_identity::Fault;
use testudo_model::{ServiceAccountId, snapshot::PolicyFile};
use testudo_policy::{Account, AdminAction, AdminCall, AdminObject, AdminRules};

use crate::{api::ADMIN_SCOPE, client::CLI_CLIENT, plane::Plane};

/// What a login can be at best: 3 is phishing-resistant.
const STRONGEST: i64 = 3;

/// Why policies are not put in force.
#[derive(Debug, thiserror::Error)]
pub enum Lockout {
    /// Somebody can apply today.
    #[error(
        "with these policies nobody could apply another fleet file: no account may `fleet:apply`, with the best login, now, \
         from where this one comes. Permit it, or say `--allow-lockout`: the owner of the data folder can always apply"
    )]
    Nobody,
    /// Who has which role cannot be read.
    #[error("the directory cannot be read")]
    Directory(#[from] Fault),
}

/// Refuses `policies` if somebody can apply a fleet file today and nobody could with them. Accounts are asked for as they
/// are today, with the strongest login of this moment, from `source_ip` and from this machine.
///
/// # Errors
/// See [`Lockout`].
pub fn check(
    plane: &Plane,
    policies: &[PolicyFile],
    source_ip: Option<IpAddr>,
) -> Result<(), Lockout> {
    // What is not valid is refused anyway, and said with its line.
    let Ok(after) = AdminRules::compile(policies) else {
        return Ok(());
    };
    let accounts = candidates(plane)?;
    let from = [Some(Ipv4Addr::LOCALHOST.into()), source_ip];
    let calls: Vec<_> = from
        .into_iter()
        .flatten()
        .map(|ip| best(plane, ip))
        .collect();
    let object = AdminObject {
        tenant: plane.tenant().clone(),
        name: None,
        is_reserved: false,
    };
    let somebody_may = |rules: &AdminRules| {
        accounts.iter().any(|account| {
            let mut calls = calls.iter();
            calls.any(|call| {
                let decision = rules.decide(account, AdminAction::FleetApply, &object, call);
                decision.allowed
            })
        })
    };
    let before = plane.administration.rules();
    if before.is_some_and(|before| somebody_may(&before)) && !somebody_may(&after) {
        return Err(Lockout::Nobody);
    }
    Ok(())
}

/// Those whom a role or a group may give rights.
fn candidates(plane: &Plane) -> Result<Vec<Account>, Fault> {
    let mut accounts = Vec::new();
    for subject in plane.provider.directory()?.subjects {
        if subject.roles.is_empty() && subject.groups.is_empty() {
            continue;
        }
        let Some(standing) = plane.provider.standing_of_subject(&subject.id)? else {
            continue;
        };
        accounts.push(Account {
            is_service_account: subject.id.parse::<ServiceAccountId>().is_ok(),
            id: subject.id,
            tenant: plane.tenant().clone(),
            groups: standing.groups,
            roles: standing.roles,
            provisions: false,
        });
    }
    Ok(accounts)
}

fn best(plane: &Plane, source_ip: IpAddr) -> AdminCall {
    let now = plane.clock.now();
    AdminCall {
        client: CLI_CLIENT.to_owned(),
        scopes: vec![ADMIN_SCOPE.to_owned()],
        assurance: STRONGEST,
        authenticated_at: now,
        bound: true,
        actors: 0,
        source_ip,
        now,
    }
}
