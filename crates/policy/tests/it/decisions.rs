//! Two legs, both must allow.

use testudo_policy::{Call, Decision, PolicyEngine, ReasonCode};

use crate::bookshop::{CARLA, CLIENT, NOW, OPEN, ROOT, call, engine, peer, snapshot};

const GRAPH: (&str, &str) = (
    "graph.cedar",
    r#"
    @id("catalog-uses-inventory")
    permit (
      principal == Fleet::Service::"catalog",
      action in [Fleet::Action::"connect", Fleet::Action::"invoke"],
      resource in Fleet::Api::"inventory"
    );
    "#,
);

const USERS: (&str, &str) = (
    "users.cedar",
    r#"
    @id("clerks-read")
    permit (principal in Fleet::Group::"staff", action == Fleet::Action::"read", resource);
    @id("owners-do-all")
    permit (principal in Fleet::Role::"owner", action, resource);
    @id("carla-reserves")
    permit (principal, action == Fleet::Action::"write", resource == Fleet::Route::"inventory:reserve")
    when { principal is Fleet::User && principal.username == "carla" && context.peer.service == Fleet::Service::"catalog" };
    "#,
);

fn decide(engine: &PolicyEngine, caller: &str, subject: Option<&str>, operation: &str) -> Decision {
    let snapshot = snapshot(&[]);
    engine.decide(&call(&snapshot, caller, subject, operation))
}

#[test]
fn one_rule_opens_connect_and_invoke_and_nothing_else() {
    let snapshot = snapshot(&[]);
    let engine = engine(&[GRAPH, USERS]);
    let connect = |from, to: usize| {
        engine
            .decide_connect(&peer(from), &snapshot.services[to].name, CLIENT, NOW)
            .allowed
    };
    assert!(connect("catalog", 1));
    assert!(
        !connect("orders", 1)
            && !connect("gateway", 1)
            && !connect("catalog", 2)
            && !connect("inventory", 0)
    );
    assert!(decide(&engine, "catalog", Some(CARLA), "inventory:stock").allowed);
}

#[test]
fn the_right_user_through_the_wrong_service_is_denied() {
    let engine = engine(&[GRAPH, USERS]);
    let decision = decide(&engine, "orders", Some(ROOT), "inventory:stock");
    assert_eq!(decision.reason, ReasonCode::ServiceLegDenied);
    assert_eq!(decision.legs.len(), 1);
    assert_eq!(decision.legs[0].principal, "Fleet::Service::\"orders\"");
    assert_eq!(decision.legs[0].action, "invoke");
}

#[test]
fn the_wrong_user_through_the_right_service_is_denied() {
    let engine = engine(&[GRAPH, USERS]);
    let decision = decide(&engine, "catalog", Some(ROOT), "inventory:reserve");
    assert_eq!(decision.reason, ReasonCode::Allowed);
    assert_eq!(decision.legs[1].policies[0].id, "owners-do-all");
    let decision = decide(&engine, "gateway", Some(CARLA), "orders:create");
    assert_eq!(decision.reason, ReasonCode::UserLegDenied);
    assert!(decision.legs[0].allowed && !decision.legs[1].allowed);
    assert!(decide(&engine, "catalog", Some(CARLA), "inventory:reserve").allowed);
}

#[test]
fn whether_a_user_is_needed_is_the_routes_to_say() {
    let engine = engine(&[]);
    assert_eq!(
        decide(&engine, "gateway", None, "orders:list").reason,
        ReasonCode::UserRequired
    );
    assert_eq!(
        decide(&engine, "gateway", None, "orders:search").reason,
        ReasonCode::Allowed
    );
    // With a user the optional route is decided with the user.
    assert_eq!(
        decide(&engine, "gateway", Some(CARLA), "orders:search").reason,
        ReasonCode::UserLegDenied
    );
    let machine_only = decide(&engine, "gateway", Some(CARLA), "orders:health");
    assert_eq!(
        (machine_only.reason, machine_only.legs.len()),
        (ReasonCode::Allowed, 1)
    );
}

#[test]
fn strangers_are_denied_by_name() {
    let engine = engine(&[OPEN]);
    let mut snapshot = snapshot(&[]);
    assert_eq!(
        decide(&engine, "gateway", Some("usr_gone"), "orders:list").reason,
        ReasonCode::UnknownSubject
    );
    assert_eq!(
        decide(&engine, "stranger", Some(CARLA), "orders:list").reason,
        ReasonCode::UnknownPeer
    );
    snapshot.services[2].routes[0].operation = "new".parse().unwrap();
    let decision = engine.decide(&call(&snapshot, "gateway", Some(CARLA), "orders:new"));
    assert_eq!(decision.reason, ReasonCode::UnknownResource);
    assert_eq!(
        engine
            .decide_connect(&peer("gateway"), &"new".parse().unwrap(), CLIENT, NOW)
            .reason,
        ReasonCode::UnknownResource
    );
}

#[test]
fn the_engine_decides_by_its_own_snapshot_and_not_by_the_route_it_is_shown() {
    let engine = engine(&[OPEN]);
    let mut other = snapshot(&[]);
    other.services[2].routes[0].user = testudo_model::UserRequirement::None;
    assert_eq!(
        engine
            .decide(&call(&other, "gateway", None, "orders:list"))
            .reason,
        ReasonCode::UserRequired
    );
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies_although_another_permits() {
    let broken = (
        "broken.cedar",
        "@id(\"overflow\") forbid (principal is Fleet::User, action, resource) when { context.risk + 9223372036854775807 > 0 };",
    );
    let engine = engine(&[OPEN, broken]);
    let snapshot = snapshot(&[]);
    let base = call(&snapshot, "gateway", Some(CARLA), "orders:list");
    let decision = engine.decide(&Call { risk: 1, ..base });
    assert_eq!(
        (decision.allowed, decision.reason),
        (false, ReasonCode::EvaluationError)
    );
    assert!(
        decision.legs[1].errors[0].contains("overflow"),
        "{:?}",
        decision.legs[1].errors
    );
    assert_eq!(engine.decide(&base).reason, ReasonCode::UserLegDenied);
}

#[test]
fn a_time_that_cedar_cannot_express_denies() {
    let snapshot = snapshot(&[OPEN]);
    let far = testudo_model::Timestamp::from_unix_millis(i64::MAX);
    let decision = engine(&[OPEN]).decide(&Call {
        now: far,
        ..call(&snapshot, "gateway", Some(CARLA), "orders:refund")
    });
    assert_eq!(
        (decision.allowed, decision.reason),
        (false, ReasonCode::EvaluationError)
    );
}

#[test]
fn a_decision_records_the_facts_its_policies_could_read() {
    let snapshot = snapshot(&[OPEN]);
    let decision = engine(&[OPEN]).decide(&call(&snapshot, "gateway", Some(CARLA), "orders:list"));
    insta::assert_snapshot!(
        decision.context.as_deref().unwrap(),
        @r#"{"peer":{"verified":true,"trustDomain":"bookshop.example"},"risk":0}"#
    );
    let decision =
        engine(&[OPEN]).decide(&call(&snapshot, "gateway", Some(CARLA), "orders:refund"));
    insta::assert_snapshot!(
        decision.context.as_deref().unwrap(),
        @r#"{"peer":{"verified":true,"trustDomain":"bookshop.example"},"token":{"assurance":1,"authenticatedAt":{"__extn":{"fn":"datetime","arg":"2026-11-22T10:00:00.000Z"}}},"now":{"__extn":{"fn":"datetime","arg":"2026-11-22T10:00:00.000Z"}},"risk":0}"#
    );
}
