//! Random policy sets and calls over the bookshop.

use std::{net::IpAddr, time::Duration};

use proptest::{prelude::*, sample::select};
use testudo_model::{Timestamp, snapshot::Snapshot};
use testudo_policy::{Call, Peer, PolicyEngine, TokenFacts};

use crate::bookshop::{self, CARLA, DORA, NOW, OTTO, ROOT};

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal is Fleet::User",
    "principal is Fleet::Service",
    "principal == Fleet::User::\"usr_carla\"",
    "principal in Fleet::User::\"usr_carla\"",
    "principal in Fleet::Group::\"clerks\"",
    "principal in Fleet::Group::\"staff\"",
    "principal is Fleet::User in Fleet::Role::\"owner\"",
    "principal == Fleet::Service::\"gateway\"",
    "principal == Fleet::Service::\"catalog\"",
    "principal in Fleet::Service::\"orders\"",
    "principal in Fleet::ServiceGroup::\"frontend\"",
    "principal is Fleet::Service in Fleet::Api::\"orders\"",
    "principal in Fleet::Trait::\"external\"",
];

const ACTIONS: &[&str] = &[
    "action",
    "action == Fleet::Action::\"connect\"",
    "action == Fleet::Action::\"invoke\"",
    "action in Fleet::Action::\"read\"",
    "action == Fleet::Action::\"write\"",
    "action in [Fleet::Action::\"connect\", Fleet::Action::\"invoke\"]",
    "action in [Fleet::Action::\"read\", Fleet::Action::\"write\", Fleet::Action::\"admin\"]",
];

const RESOURCES: &[&str] = &[
    "resource",
    "resource is Fleet::Route",
    "resource is Fleet::Service",
    "resource == Fleet::Route::\"orders:list\"",
    "resource in Fleet::Route::\"orders:create\"",
    "resource == Fleet::Service::\"inventory\"",
    "resource in Fleet::Api::\"orders\"",
    "resource in Fleet::Api::\"inventory\"",
    "resource in Fleet::ServiceGroup::\"backend\"",
    "resource is Fleet::Route in Fleet::Api::\"orders\"",
    "resource in Fleet::Trait::\"scoped\"",
];

const CONDITIONS: &[&str] = &[
    "",
    "",
    "",
    "when { context.risk > 30 }",
    "unless { context.risk > 30 && context.peer.verified }",
    "when { context has token && context.token.scopes.contains(\"orders:write\") }",
    "when { context has token && context.token.assurance >= 2 }",
    "when { context has token && context.token has issuer && context.token.boundToPeer }",
    "unless { context has token }",
    "when { context has token && context.token == context.token }",
    "when { context has peer && context has now }",
    "when { context has token.issuer && context.token.issuer like \"https://*\" }",
    "when { context.sourceIp.isInRange(ip(\"10.0.0.0/8\")) }",
    "when { context.now.toTime() < duration(\"12h\") }",
    "when { context.path like \"/admin/*\" }",
    "when { context.peer.service == Fleet::Service::\"catalog\" }",
    "when { context.peer.service.environment == \"production\" }",
    "when { context.peer.certificateExpires > context.now }",
    "when { context.peer.trustDomain == \"bookshop.example\" }",
    "when { principal.username == \"carla\" }",
    "when { principal.clearance >= resource.sensitivity }",
    "when { resource.service.external }",
    "when { (if context.risk > 5 then context.path else \"/admin/x\") like \"/admin/*\" }",
    // Overflows for every risk above 0: the policy cannot be evaluated.
    "when { context.risk + 9223372036854775807 > 0 }",
];

/// A set of policies that compiles, with its snapshot: what validation refuses is left out.
pub fn compiled() -> impl Strategy<Value = (Snapshot, PolicyEngine)> {
    let effect = select(vec!["permit", "permit", "forbid"]);
    let policy = (
        effect,
        select(PRINCIPALS),
        select(ACTIONS),
        select(RESOURCES),
        select(CONDITIONS),
    );
    let services = (any::<bool>(), any::<bool>());
    (prop::collection::vec(policy, 0..24), services).prop_map(|(policies, (catalog, orders))| {
        let mut snapshot = bookshop::snapshot(&[]);
        snapshot.services[0].quarantined = catalog && orders;
        snapshot.services[2].quarantined = orders && !catalog;
        for (number, (effect, principal, action, resource, condition)) in
            policies.iter().enumerate()
        {
            let text = format!(
                "@id(\"p{number}\") {effect} ({principal}, {action}, {resource}) {condition};"
            );
            snapshot
                .policies
                .extend(bookshop::files(&[(&format!("p{number}.cedar"), &text)]));
        }
        match PolicyEngine::compile(&snapshot) {
            Ok(engine) => (snapshot, engine),
            Err(errors) => {
                let wrong: Vec<_> = errors
                    .problems()
                    .iter()
                    .filter(|problem| problem.is_error())
                    .map(|problem| problem.place.clone().unwrap().file)
                    .collect();
                snapshot.policies.retain(|file| !wrong.contains(&file.name));
                let engine = PolicyEngine::compile(&snapshot).unwrap();
                (snapshot, engine)
            }
        }
    })
}

/// Owned facts of a call.
#[derive(Debug, Clone)]
pub struct Facts {
    pub caller: &'static str,
    pub verified: bool,
    pub trust_domain: &'static str,
    pub expires: Timestamp,
    pub subject: Option<&'static str>,
    pub with_token: bool,
    pub scopes: Vec<String>,
    pub issuer: &'static str,
    pub assurance: i64,
    pub authenticated_at: Timestamp,
    pub bound: bool,
    pub operation: &'static str,
    pub ip: IpAddr,
    pub now: Timestamp,
    pub path: &'static str,
    pub risk: i64,
}

const OPERATIONS: &[&str] = &[
    "catalog:list",
    "inventory:stock",
    "inventory:reserve",
    "orders:list",
    "orders:create",
    "orders:refund",
    "orders:search",
    "orders:health",
];

fn moment() -> impl Strategy<Value = Timestamp> {
    select(vec![
        NOW,
        NOW - Duration::from_secs(1200),
        NOW + Duration::from_secs(5 * 3600),
    ])
}

pub fn facts() -> impl Strategy<Value = Facts> {
    let peer = (
        select(vec!["gateway", "gateway", "catalog", "inventory", "orders"]),
        prop::bool::weighted(0.9),
        select(vec![
            "bookshop.example",
            "bookshop.example",
            "bookshop.example",
            "evil.example",
        ]),
        moment(),
    );
    let subject = select(vec![
        None,
        Some(CARLA),
        Some(CARLA),
        Some(ROOT),
        Some(ROOT),
        Some(DORA),
        Some(OTTO),
    ]);
    let scopes = select(vec![
        vec![],
        vec!["orders:write"],
        vec!["a"],
        vec!["orders:write", "a"],
    ]);
    let token = (
        prop::bool::weighted(0.8),
        scopes.prop_map(|scopes| scopes.into_iter().map(str::to_owned).collect()),
        select(vec!["https://id.bookshop.example", "urn:other"]),
        1..=3_i64,
        moment(),
        any::<bool>(),
    );
    let rest = (
        select(OPERATIONS),
        select(vec!["10.1.2.3", "198.51.100.7", "2001:db8::1"]),
        moment(),
        select(vec!["/admin/users", "/orders"]),
        select(vec![0, 0, 10, 40, 90]),
    );
    (peer, subject, token, rest).prop_map(|(peer, subject, token, rest)| Facts {
        caller: peer.0,
        verified: peer.1,
        trust_domain: peer.2,
        expires: peer.3,
        subject,
        with_token: token.0,
        scopes: token.1,
        issuer: token.2,
        assurance: token.3,
        authenticated_at: token.4,
        bound: token.5,
        operation: rest.0,
        ip: rest.1.parse().unwrap(),
        now: rest.2,
        path: rest.3,
        risk: rest.4,
    })
}

impl Facts {
    pub fn call<'a>(&'a self, snapshot: &'a Snapshot) -> Call<'a> {
        let (service, route) = bookshop::find(snapshot, self.operation);
        Call {
            peer: Peer {
                service: self.caller,
                verified: self.verified,
                trust_domain: self.trust_domain,
                certificate_expires: self.expires,
            },
            subject: self.subject,
            token: self.with_token.then_some(TokenFacts {
                issuer: self.issuer,
                scopes: &self.scopes,
                assurance: self.assurance,
                authenticated_at: self.authenticated_at,
                bound: self.bound,
            }),
            service: &service.name,
            route,
            source_ip: self.ip,
            now: self.now,
            path: self.path,
            risk: self.risk,
        }
    }
}
