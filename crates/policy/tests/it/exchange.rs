//! Who may act for whom, and where.

use testudo_model::snapshot::{PolicyFile, Snapshot, Subject};
use testudo_policy::{Decision, Exchange, PolicyEngine, ReasonCode, run_tests};

use crate::bookshop::{CARLA, CLIENT, NOW, OPEN, snapshot};

const REPORTS: &str = "sva_01KAN3YH0000000000000000RR";
const REPORTS_FOR_CUSTOMERS: (&str, &str) = (
    "exchange.cedar",
    r#"
@id("reports-for-customers")
@reason("reports are made for customers, from what is in stock")
permit (principal, action == Fleet::Action::"exchange", resource == Fleet::Audience::"inventory")
when {
  principal.account.username == "reports" &&
  context.subject.username == "carla" &&
  context.scopes.containsAny(["stock:read"]) &&
  context.actors == 0
};
"#,
);

fn fleet(policies: &[(&str, &str)]) -> Snapshot {
    let mut fleet = snapshot(policies);
    fleet.directory.subjects.push(Subject {
        id: REPORTS.to_owned(),
        username: "reports".to_owned(),
        tenant: fleet.tenant.clone(),
        disabled: false,
        clearance: 0,
        groups: Vec::new(),
        roles: fleet.directory.roles.clone(),
    });
    fleet
}

/// What is asked for; the good case.
#[derive(Clone, Copy)]
struct Ask<'a> {
    actor: &'a str,
    subject: &'a str,
    service: &'a str,
    scope: &'a str,
    actors: usize,
}

const ASK: Ask<'_> = Ask {
    actor: REPORTS,
    subject: CARLA,
    service: "inventory",
    scope: "stock:read",
    actors: 0,
};

fn decide(fleet: &Snapshot, ask: Ask<'_>) -> Decision {
    let exchange = Exchange {
        actor: ask.actor,
        subject: ask.subject,
        service: &ask.service.parse().unwrap(),
        scopes: &[ask.scope.to_owned()],
        actors: ask.actors,
        source_ip: CLIENT,
        now: NOW,
    };
    PolicyEngine::compile(fleet)
        .unwrap()
        .decide_exchange(&exchange)
}

fn policies(decision: &Decision) -> Vec<&str> {
    let legs = decision.legs.iter();
    legs.flat_map(|leg| &leg.policies)
        .map(|policy| policy.id.as_str())
        .collect()
}

#[test]
fn nobody_acts_for_anybody_unless_a_rule_says_so() {
    let everything_itself = (
        "roles.cedar",
        "@id(\"all\") permit (principal is Fleet::User, action, resource);
         @id(\"owners\") permit (principal in Fleet::Role::\"owner\", action, resource);
         @id(\"services\") permit (principal is Fleet::Service, action, resource);",
    );
    for rules in [vec![], vec![everything_itself]] {
        let decision = decide(&fleet(&rules), ASK);
        assert_eq!(
            (decision.allowed, decision.reason),
            (false, ReasonCode::UserLegDenied)
        );
    }
    assert!(decide(&fleet(&[OPEN]), ASK).allowed);
}

#[test]
fn a_rule_names_who_acts_for_whom_where_and_with_what() {
    let fleet = fleet(&[REPORTS_FOR_CUSTOMERS]);
    let decision = decide(&fleet, ASK);
    assert!(decision.allowed, "{decision:?}");
    assert_eq!(policies(&decision), ["reports-for-customers"]);
    let by_rule = ReasonCode::UserLegDenied;
    let unknown = ReasonCode::UnknownSubject;
    for (ask, reason) in [
        (
            Ask {
                service: "orders",
                ..ASK
            },
            by_rule,
        ),
        (
            Ask {
                subject: REPORTS,
                ..ASK
            },
            by_rule,
        ),
        (
            Ask {
                scope: "orders:read",
                ..ASK
            },
            by_rule,
        ),
        (Ask { actors: 1, ..ASK }, by_rule),
        (
            Ask {
                service: "nowhere",
                ..ASK
            },
            ReasonCode::UnknownResource,
        ),
        (
            Ask {
                subject: "usr_nobody",
                ..ASK
            },
            unknown,
        ),
        (
            Ask {
                actor: "sva_nobody",
                ..ASK
            },
            unknown,
        ),
        // Users act for nobody.
        (
            Ask {
                actor: CARLA,
                ..ASK
            },
            unknown,
        ),
    ] {
        let decision = decide(&fleet, ask);
        assert_eq!((decision.allowed, decision.reason), (false, reason));
    }
}

#[test]
fn who_is_disabled_or_of_another_tenant_neither_acts_nor_is_acted_for() {
    let forbidden = |change: &dyn Fn(&mut Subject), id: &str| {
        let mut fleet = fleet(&[OPEN]);
        let subjects = fleet.directory.subjects.iter_mut();
        subjects.filter(|subject| subject.id == id).for_each(change);
        let decision = decide(&fleet, ASK);
        assert!(!decision.allowed);
        policies(&decision)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for id in [REPORTS, CARLA] {
        let disabled = forbidden(&|subject| subject.disabled = true, id);
        assert_eq!(disabled, ["guardrail.foreign_actor"], "{id}");
        let foreign = forbidden(&|subject| subject.tenant = "other".parse().unwrap(), id);
        assert_eq!(foreign, ["guardrail.foreign_actor"], "{id}");
    }
}

#[test]
fn a_quarantined_service_is_for_nobody() {
    let mut fleet = fleet(&[OPEN]);
    for service in &mut fleet.services {
        service.quarantined = service.name.as_str() == "inventory";
    }
    let decision = decide(&fleet, ASK);
    assert_eq!(policies(&decision), ["guardrail.quarantined_target"]);
}

#[test]
fn a_decision_can_be_explained_from_its_record() {
    let fleet = fleet(&[REPORTS_FOR_CUSTOMERS]);
    let engine = PolicyEngine::compile(&fleet).unwrap();
    let decision = decide(&fleet, Ask { actors: 1, ..ASK });
    let leg = &decision.legs[0];
    assert_eq!(
        (leg.leg.as_str(), leg.action.as_str()),
        ("exchange", "exchange")
    );
    let text = engine.explain(leg, decision.context.as_deref());
    assert!(text.contains("reports-for-customers"), "{text}");
}

#[test]
fn a_case_of_a_test_file_asks_for_an_exchange() {
    let engine = PolicyEngine::compile(&fleet(&[REPORTS_FOR_CUSTOMERS])).unwrap();
    let file = |cases: &str| PolicyFile {
        name: "exchange.test.toml".to_owned(),
        text: cases.to_owned(),
    };
    let good = "name = \"n\"\nuser = \"carla\"\nactor = \"reports\"\nexchange = \"inventory\"\n";
    let cases = format!(
        "[[case]]\n{good}scopes = [\"stock:read\"]\nexpect = \"allow\"\nbecause = \"reports-for-customers\"\n\
         [[case]]\n{good}expect = \"deny\"\n\
         [[case]]\n{good}scopes = [\"stock:read\"]\nactors = 1\nexpect = \"deny\"\n"
    );
    let report = run_tests(&engine, &[file(&cases)]).unwrap();
    assert!(report.passed(), "{report}");
    assert!(report.never_determining.is_empty(), "{report}");
    for (broken, said) in [
        (good.replace("inventory", "nowhere"), "there is no service"),
        (
            good.replace("\"reports\"", "\"nobody\""),
            "there is no user",
        ),
        (good.replace("actor = \"reports\"", ""), "needs an `actor`"),
        (good.replace("user = \"carla\"", ""), "needs a `user`"),
        (format!("{good}connect = \"orders\""), "name one of"),
    ] {
        let cases = format!("[[case]]\n{broken}\nexpect = \"deny\"\n");
        let errors = run_tests(&engine, &[file(&cases)]).unwrap_err();
        assert!(format!("{errors:?}").contains(said), "{broken}: {errors:?}");
    }
}
