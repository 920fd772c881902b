//! The fleet the tests are about.

use std::net::{IpAddr, Ipv4Addr};

use testudo_model::{
    ActionClass, ConnectionRules, Exposure, IpLists, Route, Service, ServiceName, ServiceProtocol,
    Timestamp, TrustDomain, UserRequirement, own_tenant,
    snapshot::{
        Directory, GatewayRules, PolicyFile, Snapshot, SnapshotVersion, Subject, TransferRules,
    },
};
use testudo_policy::{Call, Peer, PolicyEngine, TokenFacts};

/// 2026-11-22T10:00:00Z.
pub const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_341_600);
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

/// Usernames with their `sub`.
pub const CARLA: &str = "usr_carla";
pub const ROOT: &str = "usr_root";
pub const DORA: &str = "usr_dora";
pub const OTTO: &str = "usr_otto";

pub fn snapshot(policies: &[(&str, &str)]) -> Snapshot {
    let trust_domain: TrustDomain = "bookshop.example".parse().unwrap();
    Snapshot {
        version: SnapshotVersion(7),
        requires: Vec::new(),
        tenant: "default".parse().unwrap(),
        services: vec![
            service(
                &trust_domain,
                "catalog",
                Exposure::External,
                &["frontend"],
                vec![route("list", ActionClass::Read)],
            ),
            service(
                &trust_domain,
                "inventory",
                Exposure::Internal,
                &["backend"],
                vec![
                    route("stock", ActionClass::Read),
                    route("reserve", ActionClass::Write),
                ],
            ),
            service(
                &trust_domain,
                "orders",
                Exposure::External,
                &["backend"],
                orders_routes(),
            ),
        ],
        directory: directory(),
        policies: files(policies),
        issuers: Vec::new(),
        edges: vec![trust_domain.gateway()],
        gateway: GatewayRules::default(),
        transfer: TransferRules::default(),
        trust_domain,
    }
}

pub fn files(policies: &[(&str, &str)]) -> Vec<PolicyFile> {
    policies
        .iter()
        .map(|(name, text)| PolicyFile {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
        })
        .collect()
}

fn orders_routes() -> Vec<Route> {
    vec![
        route("list", ActionClass::Read),
        Route {
            scopes: vec!["orders:write".parse().unwrap()],
            ..route("create", ActionClass::Write)
        },
        Route {
            step_up: true,
            sensitivity: 80,
            ..route("refund", ActionClass::Admin)
        },
        Route {
            user: UserRequirement::Optional,
            ..route("search", ActionClass::Read)
        },
        Route {
            user: UserRequirement::None,
            ..route("health", ActionClass::Read)
        },
    ]
}

pub fn service(
    domain: &TrustDomain,
    name: &str,
    exposure: Exposure,
    groups: &[&str],
    routes: Vec<Route>,
) -> Service {
    let name: ServiceName = name.parse().unwrap();
    Service {
        spiffe_id: domain.service(&name),
        name,
        exposure,
        hosts: Vec::new(),
        upstream: "127.0.0.1:8000".parse().unwrap(),
        protocol: ServiceProtocol::Http1,
        connections: ConnectionRules::default(),
        routes,
        tenants: own_tenant(),
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        environment: "production".to_owned(),
        ip: IpLists::default(),
        limits: Vec::new(),
        api_keys: false,
        quarantined: false,
    }
}

pub fn route(operation: &str, action: ActionClass) -> Route {
    Route {
        operation: operation.parse().unwrap(),
        methods: vec!["GET".to_owned()],
        path: format!("/{operation}").parse().unwrap(),
        action,
        user: UserRequirement::Required,
        scopes: Vec::new(),
        sensitivity: 10,
        step_up: false,
        limits: Vec::new(),
        max_body_bytes: 0,
        timeout_millis: 1000,
        priority: testudo_model::Priority::Default,
        websocket: false,
    }
}

fn directory() -> Directory {
    let subject = |id: &str, tenant: &str, groups: &[&str], roles: &[&str]| Subject {
        id: id.to_owned(),
        username: id.trim_start_matches("usr_").to_owned(),
        tenant: tenant.parse().unwrap(),
        disabled: id == DORA,
        clearance: 50,
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
    };
    Directory {
        subjects: vec![
            subject(CARLA, "default", &["clerks"], &[]),
            subject(ROOT, "default", &[], &["owner"]),
            subject(DORA, "default", &["clerks"], &["owner"]),
            subject(OTTO, "other", &["clerks"], &["owner"]),
        ],
        groups: [("clerks", vec!["staff"]), ("staff", vec![])]
            .into_iter()
            .map(|(group, parents)| {
                (
                    group.parse().unwrap(),
                    parents
                        .into_iter()
                        .map(|parent| parent.parse().unwrap())
                        .collect(),
                )
            })
            .collect(),
        api_keys: Vec::new(),
        roles: vec!["owner".parse().unwrap()],
    }
}

/// Opens everything, so that what still denies is what a test is about.
pub const OPEN: (&str, &str) = (
    "open.cedar",
    "@id(\"open\") permit (principal, action, resource);",
);

pub fn engine(policies: &[(&str, &str)]) -> PolicyEngine {
    PolicyEngine::compile(&snapshot(policies)).unwrap()
}

pub fn peer(service: &str) -> Peer<'_> {
    Peer {
        service,
        verified: true,
        trust_domain: "bookshop.example",
        certificate_expires: NOW,
    }
}

pub fn token(scopes: &[String]) -> TokenFacts<'_> {
    TokenFacts {
        issuer: "https://id.bookshop.example",
        scopes,
        assurance: 1,
        authenticated_at: NOW,
        bound: false,
    }
}

/// A call of `operation` (`<service>:<operation>`) by `caller` for `subject`.
pub fn call<'a>(
    snapshot: &'a Snapshot,
    caller: &'a str,
    subject: Option<&'a str>,
    operation: &str,
) -> Call<'a> {
    let (service, route) = find(snapshot, operation);
    Call {
        peer: peer(caller),
        subject,
        token: subject.map(|_| token(&[])),
        service: &service.name,
        route,
        source_ip: CLIENT,
        now: NOW,
        path: "/some/path",
        risk: 0,
    }
}

pub fn find<'a>(snapshot: &'a Snapshot, operation: &str) -> (&'a Service, &'a Route) {
    let (service, operation) = operation.split_once(':').unwrap();
    let service = snapshot
        .services
        .iter()
        .find(|known| known.name.as_str() == service)
        .unwrap();
    let route = service
        .routes
        .iter()
        .find(|known| known.operation.as_str() == operation)
        .unwrap();
    (service, route)
}
