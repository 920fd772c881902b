//! What a decision costs as policies grow. Figures only mean something in a release build:
//! `cargo test --release -p testudo-policy --test it -- --ignored --nocapture cost`.

use std::{hint::black_box, time::Instant};

use testudo_model::{ActionClass, Exposure, event::LegRecord, snapshot::Subject};
use testudo_policy::{Call, PolicyEngine};

use crate::bookshop::{CARLA, call, files, route, service, snapshot, token};

/// A fleet with about `policies` rules, four for each service.
fn fleet(policies: usize) -> testudo_model::snapshot::Snapshot {
    let mut snapshot = snapshot(&[]);
    let services = policies.div_ceil(4);
    let domain = snapshot.trust_domain.clone();
    for number in 0..services {
        let (name, next) = (
            format!("s{number}"),
            format!("s{}", (number + 1) % services),
        );
        let routes = vec![
            route("list", ActionClass::Read),
            route("change", ActionClass::Write),
        ];
        snapshot
            .services
            .push(service(&domain, &name, Exposure::External, &[], routes));
        let text = format!(
            r#"@id("{name}-to-{next}") permit (principal == Fleet::Service::"{name}", action in [Fleet::Action::"connect", Fleet::Action::"invoke"], resource in Fleet::Api::"{next}");
@id("{name}-read") permit (principal in Fleet::Group::"staff", action == Fleet::Action::"read", resource in Fleet::Api::"{name}") when {{ context has token && context.token.assurance >= 1 }};
@id("{name}-write") permit (principal in Fleet::Role::"owner", action == Fleet::Action::"write", resource in Fleet::Api::"{name}");
@id("{name}-office") forbid (principal is Fleet::User, action == Fleet::Action::"write", resource in Fleet::Api::"{name}") unless {{ context.sourceIp.isInRange(ip("10.0.0.0/8")) }};"#
        );
        snapshot
            .policies
            .extend(files(&[(&format!("{name}.cedar"), &text)]));
    }
    for number in 0..1000 {
        let template: Subject = snapshot.directory.subjects[0].clone();
        snapshot.directory.subjects.push(Subject {
            id: format!("usr_{number}"),
            username: format!("u{number}"),
            ..template
        });
    }
    snapshot
}

/// Median over short batches: what is interrupted in between falls out.
fn nanos_each(mut work: impl FnMut()) -> u128 {
    const BATCH: u32 = 10;
    let mut batches: Vec<_> = (0..2_000)
        .map(|_| {
            let start = Instant::now();
            (0..BATCH).for_each(|_| work());
            start.elapsed().as_nanos() / u128::from(BATCH)
        })
        .collect();
    batches.sort_unstable();
    batches[batches.len() / 2]
}

#[test]
#[ignore = "prints figures; run it in a release build"]
fn cost_of_a_decision_by_number_of_policies() {
    println!("policies  compile ms  decide ns  key ns  connect ns");
    for policies in [10, 100, 1_000, 10_000] {
        let snapshot = fleet(policies);
        let start = Instant::now();
        let engine = PolicyEngine::compile(&snapshot).unwrap();
        let compiled = start.elapsed().as_millis();
        let scopes = ["orders:read".to_owned()];
        let call = Call {
            token: Some(token(&scopes)),
            ..call(&snapshot, "gateway", Some(CARLA), "s0:list")
        };
        let decision = engine.decide(&call);
        assert!(
            decision.allowed,
            "{}",
            decision
                .legs
                .iter()
                .map(|leg: &LegRecord| engine.explain(leg, decision.context.as_deref()))
                .collect::<String>()
        );
        let decide = nanos_each(|| {
            black_box(engine.decide(black_box(&call)));
        });
        let key = nanos_each(|| {
            black_box(engine.cacheable(black_box(&call)));
        });
        let connect = nanos_each(|| {
            black_box(engine.decide_connect(&call.peer, call.service, call.source_ip, call.now));
        });
        println!("{policies:>8}  {compiled:>10}  {decide:>9}  {key:>6}  {connect:>10}");
    }
}
