//! Small values for unit tests.

use testudo_model::{
    ActionClass, ConnectionRules, Exposure, IpLists, Priority, Route, Service, ServiceProtocol,
    UserRequirement, limits::DEFAULT_MAX_BODY_BYTES, own_tenant,
};

/// An external service without routes.
pub(crate) fn service(name: &str) -> Service {
    Service {
        name: name.parse().unwrap(),
        spiffe_id: format!("spiffe://fleet.example/svc/{name}")
            .parse()
            .unwrap(),
        exposure: Exposure::External,
        hosts: vec![],
        upstream: "127.0.0.1:1".parse().unwrap(),
        protocol: ServiceProtocol::Http1,
        connections: ConnectionRules::default(),
        routes: vec![],
        tenants: own_tenant(),
        groups: vec![],
        environment: "production".to_owned(),
        ip: IpLists::default(),
        limits: vec![],
        api_keys: false,
        quarantined: false,
    }
}

/// A route that needs a user and nothing else.
pub(crate) fn route(operation: &str, methods: &[&str], path: &str) -> Route {
    Route {
        operation: operation.parse().unwrap(),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        path: path.parse().unwrap(),
        action: ActionClass::Read,
        user: UserRequirement::Required,
        scopes: vec![],
        sensitivity: 0,
        step_up: false,
        limits: vec![],
        max_body_bytes: DEFAULT_MAX_BODY_BYTES,
        timeout_millis: 30_000,
        priority: Priority::Default,
        websocket: false,
    }
}
