//! Decisions in words.

use testudo_policy::{Call, PolicyEngine};

use crate::bookshop::{CARLA, NOW, call, engine, snapshot, token};

const RULES: (&str, &str) = (
    "rules.cedar",
    r#"@id("owners-do-all")
@reason("owners answer for the shop")
permit (principal in Fleet::Role::"owner", action, resource);

@id("clerks-read-in-office")
permit (principal in Fleet::Group::"clerks", action == Fleet::Action::"read", resource in Fleet::Api::"orders")
when { context.sourceIp.isInRange(ip("10.0.0.0/8")) && context.risk < 10 };

@id("no-search")
@reason("search is being rebuilt")
forbid (principal, action, resource == Fleet::Route::"orders:search")
unless { principal is Fleet::User && principal.clearance > 90 };
"#,
);

fn explain(engine: &PolicyEngine, call: &Call<'_>) -> String {
    let decision = engine.decide(call);
    decision
        .legs
        .iter()
        .map(|leg| engine.explain(leg, decision.context.as_deref()))
        .collect()
}

#[test]
fn a_default_deny_names_the_rules_that_came_close_and_what_they_lacked() {
    let snapshot = snapshot(&[]);
    insta::assert_snapshot!(
        explain(&engine(&[RULES]), &call(&snapshot, "gateway", Some(CARLA), "orders:list")),
        @r#"
        service leg allowed: Fleet::Service::"gateway" invoke Fleet::Route::"orders:list"
          permitted by `fleet.exposure` (<guardrails>:6): the gateway reaches the services that are declared external
        user leg denied: Fleet::User::"usr_carla" read Fleet::Route::"orders:list"
          no rule allowed it; what came close:
            `clerks-read-in-office` (rules.cedar:5) needs `context.sourceIp.isInRange(ip("10.0.0.0/8"))`
            `owners-do-all` (rules.cedar:1) needs `principal in Fleet::Role::"owner"`
        "#
    );
}

#[test]
fn a_guardrail_says_what_is_missing() {
    let snapshot = snapshot(&[]);
    let strong = testudo_policy::TokenFacts {
        assurance: 2,
        authenticated_at: NOW - std::time::Duration::from_secs(3600),
        ..token(&[])
    };
    let call = Call {
        token: Some(strong),
        ..call(&snapshot, "gateway", Some("usr_root"), "orders:refund")
    };
    insta::assert_snapshot!(explain(&engine(&[RULES]), &call), @r#"
    service leg allowed: Fleet::Service::"gateway" invoke Fleet::Route::"orders:refund"
      permitted by `fleet.exposure` (<guardrails>:6): the gateway reaches the services that are declared external
    user leg denied: Fleet::User::"usr_root" admin Fleet::Route::"orders:refund"
      forbidden by `guardrail.step_up` (<guardrails>:62): the route needs a login with two factors in the last 15 minutes
        what is missing: `context.now.durationSince(context.token.authenticatedAt) <= duration("15m")`
    "#);
}

#[test]
fn an_operators_forbid_is_named_with_its_reason() {
    let snapshot = snapshot(&[]);
    insta::assert_snapshot!(
        explain(&engine(&[RULES]), &call(&snapshot, "gateway", Some("usr_root"), "orders:search")),
        @r#"
        service leg denied: Fleet::Service::"gateway" invoke Fleet::Route::"orders:search"
          forbidden by `no-search` (rules.cedar:9): search is being rebuilt
            what is missing: `principal is Fleet::User`
        "#
    );
}

#[test]
fn where_no_rule_exists_one_is_proposed() {
    let snapshot = snapshot(&[]);
    let text = explain(
        &engine(&[]),
        &call(&snapshot, "catalog", Some(CARLA), "inventory:stock"),
    );
    insta::assert_snapshot!(text, @r#"
    service leg denied: Fleet::Service::"catalog" invoke Fleet::Route::"inventory:stock"
      no rule allows anybody to invoke this; one that would:
        permit (principal == Fleet::Service::"catalog", action == Fleet::Action::"invoke", resource == Fleet::Route::"inventory:stock");
    "#);
}

#[test]
fn a_record_of_another_snapshot_is_not_guessed_about() {
    let snapshot = snapshot(&[]);
    let engine = engine(&[RULES]);
    let decision = engine.decide(&call(&snapshot, "catalog", Some(CARLA), "inventory:stock"));
    let (mut leg, context) = (decision.legs[0].clone(), decision.context.as_deref());
    assert!(!engine.explain(&leg, context).contains("cannot be replayed"));
    assert!(
        engine
            .explain(&leg, Some("not json"))
            .contains("cannot be replayed")
    );
    leg.resource = "not an entity".to_owned();
    assert!(engine.explain(&leg, context).contains("cannot be replayed"));
}
