//! The index changes nothing but the cost.

use proptest::prelude::*;
use testudo_model::{UserRequirement, event::LegRecord};
use testudo_policy::{Decision, ReasonCode};

use crate::{
    oracle::{Oracle, Verdict},
    random,
};

fn verdict(leg: &LegRecord) -> Verdict {
    let mut determining: Vec<_> = leg
        .policies
        .iter()
        .map(|policy| policy.id.clone())
        .collect();
    determining.sort();
    Verdict {
        allowed: leg.allowed,
        failed: !leg.errors.is_empty(),
        determining,
    }
}

/// Compares a leg with Cedar's verdict over all policies. Of a leg that failed only the failure counts: Cedar
/// names what it found beside the skipped policy.
fn compare(leg: &LegRecord, expected: &Verdict) -> Result<(), TestCaseError> {
    let actual = verdict(leg);
    prop_assert_eq!(actual.allowed, expected.allowed);
    prop_assert_eq!(actual.failed, expected.failed);
    if !expected.failed {
        prop_assert_eq!(actual.determining, expected.determining.clone());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_indexed_decision_is_cedars_decision_over_all_policies(
        (snapshot, engine) in random::compiled(),
        calls in prop::collection::vec(random::facts(), 24),
    ) {
        let oracle = Oracle::new(&snapshot);
        for facts in &calls {
            let call = facts.call(&snapshot);
            let decision = engine.decide(&call);
            let service_leg = oracle.service_leg(&call);
            compare(&decision.legs[0], &service_leg)?;
            if !service_leg.allowed {
                let code = if service_leg.failed { ReasonCode::EvaluationError } else { ReasonCode::ServiceLegDenied };
                prop_assert_eq!((decision.allowed, decision.reason, decision.legs.len()), (false, code, 1));
            } else if call.subject.is_some() && call.route.user != UserRequirement::None {
                let user_leg = oracle.user_leg(&call);
                compare(&decision.legs[1], &user_leg)?;
                let code = match (user_leg.allowed, user_leg.failed) {
                    (true, _) => ReasonCode::Allowed,
                    (false, true) => ReasonCode::EvaluationError,
                    (false, false) => ReasonCode::UserLegDenied,
                };
                prop_assert_eq!((decision.allowed, decision.reason), (user_leg.allowed, code));
            } else {
                let needed = call.route.user == UserRequirement::Required;
                prop_assert_eq!(decision.allowed, !needed);
                prop_assert_eq!(decision.reason == ReasonCode::UserRequired, needed);
            }

            let connect: Decision = engine.decide_connect(&call.peer, call.service, call.source_ip, call.now);
            compare(&connect.legs[0], &oracle.connect(&call.peer, call.service.as_str(), &call))?;
        }
    }
}
