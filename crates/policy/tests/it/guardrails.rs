//! What holds whatever operators write.

use std::time::Duration;

use testudo_model::Exposure;
use testudo_policy::{Call, Decision, Peer, PolicyEngine, ReasonCode, StepUp, TokenFacts};

use crate::bookshop::{CARLA, CLIENT, DORA, NOW, OPEN, OTTO, call, engine, peer, snapshot, token};

#[track_caller]
fn denied_by(decision: &Decision, policy: &str) {
    assert!(!decision.allowed, "{decision:?}");
    let last = decision.legs.last().unwrap();
    let determining: Vec<_> = last
        .policies
        .iter()
        .map(|policy| policy.id.as_str())
        .collect();
    assert_eq!(determining, [policy]);
    assert_eq!(last.policies[0].file, "<guardrails>");
    assert!(last.policies[0].reason.is_some() && last.policies[0].line > 0);
}

#[test]
fn with_everything_open_an_ordinary_call_passes() {
    let snapshot = snapshot(&[OPEN]);
    let decision = engine(&[OPEN]).decide(&call(&snapshot, "gateway", Some(CARLA), "orders:list"));
    assert_eq!(
        (decision.allowed, decision.reason),
        (true, ReasonCode::Allowed)
    );
    assert_eq!(
        decision
            .legs
            .iter()
            .map(|leg| leg.leg.as_str())
            .collect::<Vec<_>>(),
        ["service", "user"]
    );
}

#[test]
fn an_unverified_or_foreign_peer_may_do_nothing() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    let base = call(&snapshot, "catalog", Some(CARLA), "orders:list");
    let unverified = Peer {
        verified: false,
        ..base.peer
    };
    let foreign = Peer {
        trust_domain: "evil.example",
        ..base.peer
    };
    denied_by(
        &engine.decide(&Call {
            peer: unverified,
            ..base
        }),
        "guardrail.unverified_peer",
    );
    denied_by(
        &engine.decide(&Call {
            peer: foreign,
            ..base
        }),
        "guardrail.foreign_peer",
    );
    denied_by(
        &engine.decide_connect(&unverified, base.service, CLIENT, NOW),
        "guardrail.unverified_peer",
    );
    denied_by(
        &engine.decide_connect(&foreign, base.service, CLIENT, NOW),
        "guardrail.foreign_peer",
    );
}

#[test]
fn a_disabled_user_and_a_user_of_another_tenant_may_do_nothing() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    let decide = |subject| engine.decide(&call(&snapshot, "gateway", Some(subject), "orders:list"));
    denied_by(&decide(DORA), "guardrail.disabled_user");
    denied_by(&decide(OTTO), "guardrail.tenant_isolation");
}

#[test]
fn a_quarantined_service_neither_calls_nor_is_called() {
    let mut snapshot = snapshot(&[OPEN]);
    snapshot.services[0].quarantined = true;
    let engine = PolicyEngine::compile(&snapshot).unwrap();
    let from = call(&snapshot, "catalog", Some(CARLA), "orders:list");
    let to = call(&snapshot, "orders", Some(CARLA), "catalog:list");
    denied_by(&engine.decide(&from), "guardrail.quarantined_caller");
    denied_by(&engine.decide(&to), "guardrail.quarantined_target");
    denied_by(
        &engine.decide_connect(&from.peer, from.service, CLIENT, NOW),
        "guardrail.quarantined_caller",
    );
    denied_by(
        &engine.decide_connect(&to.peer, to.service, CLIENT, NOW),
        "guardrail.quarantined_target",
    );
}

#[test]
fn a_call_of_high_risk_is_stopped() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    let base = call(&snapshot, "gateway", Some(CARLA), "orders:list");
    assert!(engine.decide(&Call { risk: 79, ..base }).allowed);
    denied_by(
        &engine.decide(&Call { risk: 80, ..base }),
        "guardrail.high_risk",
    );
}

#[test]
fn the_token_must_carry_all_scopes_of_the_route() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    let base = call(&snapshot, "gateway", Some(CARLA), "orders:create");
    let (wrong, right) = (
        ["orders:read".to_owned()],
        ["x".to_owned(), "orders:write".to_owned()],
    );
    denied_by(&engine.decide(&base), "guardrail.missing_scopes");
    denied_by(
        &engine.decide(&Call {
            token: None,
            ..base
        }),
        "guardrail.missing_scopes",
    );
    denied_by(
        &engine.decide(&Call {
            token: Some(token(&wrong)),
            ..base
        }),
        "guardrail.missing_scopes",
    );
    assert!(
        engine
            .decide(&Call {
                token: Some(token(&right)),
                ..base
            })
            .allowed
    );
}

#[test]
fn a_step_up_route_needs_a_fresh_login_with_two_factors() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    let decide = |token| {
        engine.decide(&Call {
            token,
            ..call(&snapshot, "gateway", Some(CARLA), "orders:refund")
        })
    };
    let strong = TokenFacts {
        assurance: 2,
        ..token(&[])
    };
    let edge = TokenFacts {
        authenticated_at: NOW - Duration::from_secs(15 * 60),
        ..strong
    };
    let stale = TokenFacts {
        authenticated_at: NOW - Duration::from_millis(15 * 60 * 1000 + 1),
        ..strong
    };
    assert!(decide(Some(strong)).allowed);
    assert!(decide(Some(edge)).allowed);
    denied_by(&decide(Some(stale)), "guardrail.step_up");
    denied_by(&decide(Some(token(&[]))), "guardrail.step_up");
    denied_by(&decide(None), "guardrail.step_up");
}

#[test]
fn the_weakest_login_that_would_do_is_found_and_none_where_no_login_would() {
    let snapshot = snapshot(&[OPEN]);
    let open = engine(&[OPEN]);
    let step_up = |engine: &PolicyEngine, operation: &str, token| {
        engine.step_up(&Call {
            token,
            ..call(&snapshot, "gateway", Some(CARLA), operation)
        })
    };
    let old = |seconds| TokenFacts {
        authenticated_at: NOW - Duration::from_secs(seconds),
        ..token(&[])
    };
    let found = |assurance, max_age| Some(StepUp { assurance, max_age });
    let refund = "orders:refund";
    assert_eq!(step_up(&open, refund, Some(old(60))), found(Some(2), None));
    assert_eq!(
        step_up(&open, refund, Some(old(901))),
        found(Some(2), Some(900))
    );
    let strong = TokenFacts {
        assurance: 2,
        ..old(901)
    };
    assert_eq!(step_up(&open, refund, Some(strong)), found(None, Some(900)));
    assert_eq!(
        step_up(&open, refund, None),
        None,
        "there is no login at all"
    );
    assert_eq!(
        step_up(&open, "orders:create", Some(old(901))),
        None,
        "it is a scope that is missing"
    );

    let forbidden = format!(
        "{} forbid (principal, action, resource);",
        "@id(\"closed\") @reason(\"x\")"
    );
    let closed = engine(&[OPEN, ("closed.cedar", &forbidden)]);
    assert_eq!(step_up(&closed, refund, Some(old(60))), None);

    let passkeys = r#"@id("passkeys") @reason("x") forbid (principal is Fleet::User, action, resource)
        unless { context has token && context.token.assurance >= 3 };"#;
    let passkeys = engine(&[OPEN, ("passkeys.cedar", passkeys)]);
    assert_eq!(
        step_up(&passkeys, "orders:list", Some(old(901))),
        found(Some(3), None)
    );
}

#[test]
fn the_gateway_reaches_external_services_and_no_others_without_any_policy() {
    let mut snapshot = snapshot(&[]);
    let engine = PolicyEngine::compile(&snapshot).unwrap();
    let connects = |engine: &PolicyEngine, service: usize| {
        engine
            .decide_connect(
                &peer("gateway"),
                &snapshot.services[service].name,
                CLIENT,
                NOW,
            )
            .allowed
    };
    assert_eq!(
        [0, 1, 2].map(|service| connects(&engine, service)),
        [true, false, true]
    );
    assert!(
        engine
            .decide(&call(&snapshot, "gateway", None, "orders:health"))
            .allowed
    );
    assert!(
        !engine
            .decide(&call(&snapshot, "gateway", None, "inventory:stock"))
            .allowed
    );
    assert!(
        !engine
            .decide(&call(&snapshot, "catalog", None, "orders:health"))
            .allowed
    );

    snapshot.services[2].exposure = Exposure::Internal;
    let engine = PolicyEngine::compile(&snapshot).unwrap();
    assert!(
        !engine
            .decide(&call(&snapshot, "gateway", None, "orders:health"))
            .allowed
    );
}

#[test]
fn reserved_ids_and_names_cannot_be_taken() {
    let shadow = "@id(\"guardrail.step_up\") permit (principal, action, resource);";
    let errors = PolicyEngine::compile(&snapshot(&[("x.cedar", shadow)])).unwrap_err();
    assert_eq!(errors.problems()[0].code, "policy.reserved_id");
    let errors = PolicyEngine::compile(&snapshot(&[(
        "fleet.x",
        OPEN.1.trim_start_matches("@id(\"open\")"),
    )]))
    .unwrap_err();
    assert_eq!(errors.problems()[0].code, "policy.reserved_id");

    let mut snapshot = snapshot(&[OPEN]);
    snapshot.services[0].name = "gateway".parse().unwrap();
    let errors = PolicyEngine::compile(&snapshot).unwrap_err();
    assert!(
        errors
            .problems()
            .iter()
            .any(|problem| problem.code == "policy.reserved_service"),
        "{errors}"
    );
}
