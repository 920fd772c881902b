//! Who may administer: the built-in policies, a fleet's own, and what neither can permit.

use std::net::IpAddr;

use testudo_model::{TenantName, Timestamp, snapshot::PolicyFile};
use testudo_policy::{
    ADMIN_ROLE, AUDITOR_ROLE, Account, AdminAction, AdminActionGroup, AdminCall, AdminDecision,
    AdminObject, AdminRules,
};

const NOON: i64 = 1_767_268_800;

fn rules(text: &str) -> AdminRules {
    compiled(text).unwrap()
}

fn compiled(text: &str) -> Result<AdminRules, String> {
    let file = PolicyFile {
        name: "own.cedar".to_owned(),
        text: text.to_owned(),
    };
    AdminRules::compile(&[file]).map_err(|errors| format!("{errors:#}"))
}

fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

fn account(groups: &[&str], roles: &[&str]) -> Account {
    Account {
        id: "usr_1".to_owned(),
        tenant: TenantName::default_tenant(),
        groups: groups.iter().map(|name| name.parse().unwrap()).collect(),
        roles: roles.iter().map(|name| name.parse().unwrap()).collect(),
        is_service_account: false,
        provisions: false,
    }
}

fn in_tenant(name: &str, account: Account) -> Account {
    Account {
        tenant: tenant(name),
        ..account
    }
}

fn object() -> AdminObject {
    AdminObject {
        tenant: TenantName::default_tenant(),
        name: Some("alice".to_owned()),
        is_reserved: false,
    }
}

fn call() -> AdminCall {
    AdminCall {
        client: "cli".to_owned(),
        scopes: vec!["testudo:admin".to_owned()],
        assurance: 1,
        authenticated_at: Timestamp::from_unix_seconds(NOON),
        bound: false,
        actors: 0,
        source_ip: IpAddr::from([192, 0, 2, 1]),
        now: Timestamp::from_unix_seconds(NOON),
    }
}

fn ids(decision: &AdminDecision) -> Vec<&str> {
    let policies = decision.policies.iter();
    policies.map(|policy| policy.id.as_str()).collect()
}

#[test]
fn the_built_in_roles_may_what_they_always_could_and_nobody_else_anything() {
    let rules = rules("");
    let provisioner = Account {
        provisions: true,
        ..account(&[], &[])
    };
    for action in AdminAction::ALL {
        let may = |account: &Account| rules.decide(account, action, &object(), &call()).allowed;
        let is_read = action.group() == AdminActionGroup::Read;
        let is_provision = action.group() == AdminActionGroup::Provision;
        assert!(may(&account(&[], &[ADMIN_ROLE])), "{action}");
        assert_eq!(may(&account(&[], &[AUDITOR_ROLE])), is_read, "{action}");
        assert_eq!(may(&provisioner), is_provision, "{action}");
        assert!(!may(&account(&["testudo-admin"], &["admin"])), "{action}");
    }
}

#[test]
fn a_rule_about_calls_says_nothing_about_administration() {
    let rules = rules(
        "@id(\"all\") permit (principal, action, resource);
         @id(\"some\") permit (principal is Fleet::User, action in [Fleet::Action::\"admin\"], resource);",
    );
    for action in AdminAction::ALL {
        let decision = rules.decide(&account(&["staff"], &["boss"]), action, &object(), &call());
        assert!(
            !decision.allowed && decision.policies.is_empty(),
            "{action}"
        );
    }
}

#[test]
fn own_rules_permit_and_forbid_and_say_why() {
    let rules = rules(
        r#"
        @id("desk") @reason("the helpdesk")
        permit (principal in Fleet::Group::"helpdesk", action == Testudo::Action::"credential:write", resource);
        @id("strong") @reason("two factors")
        forbid (principal in Fleet::Group::"helpdesk", action in Testudo::Action::"write", resource)
        unless { context.token.assurance >= 2 };
        @id("office")
        forbid (principal, action == Testudo::Action::"key:rotate", resource)
        unless { context.sourceIp.isInRange(ip("198.51.100.0/24")) };
        "#,
    );
    let desk = account(&["helpdesk"], &[]);
    let ask = |account: &Account, action, call: &AdminCall| {
        rules.decide(account, action, &object(), call)
    };
    let weak = ask(&desk, AdminAction::CredentialWrite, &call());
    assert!(!weak.allowed);
    assert_eq!(ids(&weak), ["strong"]);
    let strong = AdminCall {
        assurance: 2,
        ..call()
    };
    let permitted = ask(&desk, AdminAction::CredentialWrite, &strong);
    assert!(permitted.allowed);
    assert_eq!(ids(&permitted), ["desk"]);
    assert!(!ask(&desk, AdminAction::UserWrite, &strong).allowed);
    // A forbid binds administrators too.
    let root = account(&[], &[ADMIN_ROLE]);
    assert_eq!(
        ids(&ask(&root, AdminAction::KeyRotate, &call())),
        ["office"]
    );
    let there = AdminCall {
        source_ip: IpAddr::from([198, 51, 100, 7]),
        ..call()
    };
    assert!(ask(&root, AdminAction::KeyRotate, &there).allowed);
}

#[test]
fn no_rule_reaches_over_what_the_guardrails_forbid() {
    let rules = rules(
        "@id(\"everything\") permit (principal, action in Testudo::Action::\"administer\", resource);",
    );
    let somebody = account(&["staff"], &[]);
    let root = account(&[], &[ADMIN_ROLE]);
    let acme = AdminObject {
        tenant: tenant("acme"),
        ..object()
    };
    let reserved = AdminObject {
        is_reserved: true,
        ..object()
    };
    let exchanged = AdminCall {
        actors: 1,
        ..call()
    };
    for action in AdminAction::ALL {
        let forbidden = |account: &Account, object: &AdminObject, call: &AdminCall| {
            let decision = rules.decide(account, action, object, call);
            assert!(!decision.allowed, "{action}");
            ids(&decision).join(" ")
        };
        let may = |account: &Account, object: &AdminObject| {
            rules.decide(account, action, object, &call()).allowed
        };
        assert!(
            may(&somebody, &object()) && may(&somebody, &acme),
            "{action}"
        );
        // Tenants among themselves, and upwards; whatever role they have there.
        for who in [&somebody, &root] {
            let isolated = "guardrail.administration_tenant";
            let anna = in_tenant("globex", who.clone());
            assert_eq!(forbidden(&anna, &acme, &call()), isolated);
            assert_eq!(forbidden(&anna, &object(), &call()), isolated);
            assert!(may(&in_tenant("acme", who.clone()), &acme));
        }
        let is_reserved = "guardrail.administration_reserved";
        assert_eq!(forbidden(&somebody, &reserved, &call()), is_reserved);
        assert!(may(&root, &reserved), "{action}");
        let is_exchanged = "guardrail.administration_actor";
        assert_eq!(forbidden(&root, &object(), &exchanged), is_exchanged);
    }
}

#[test]
fn a_group_of_a_tenant_is_not_that_of_the_fleet() {
    let rules = rules(
        r#"
        permit (principal in Fleet::Group::"helpdesk", action == Testudo::Action::"user:read", resource);
        permit (principal in Fleet::Group::"acme/clerks", action == Testudo::Action::"user:read", resource);
        "#,
    );
    let acme = AdminObject {
        tenant: tenant("acme"),
        ..object()
    };
    let may = |group: &str| {
        let anna = in_tenant("acme", account(&[group], &[]));
        rules
            .decide(&anna, AdminAction::UserRead, &acme, &call())
            .allowed
    };
    assert!(may("clerks"));
    assert!(!may("helpdesk"));
    let named = |name: &str| rules.groups_named(&tenant(name));
    assert_eq!(named("acme"), ["clerks".parse().unwrap()]);
    assert_eq!(named("default"), ["helpdesk".parse().unwrap()]);
    assert!(named("globex").is_empty());
}

#[test]
fn what_cannot_be_evaluated_is_denied() {
    let rules = rules(
        r#"
        @id("overflows")
        forbid (principal, action == Testudo::Action::"user:read", resource)
        when { context.token.assurance + 9223372036854775807 > 0 };
        "#,
    );
    let root = account(&[], &[ADMIN_ROLE]);
    let decision = rules.decide(&root, AdminAction::UserRead, &object(), &call());
    assert!(!decision.allowed && !decision.errors.is_empty());
    assert!(
        rules
            .decide(&root, AdminAction::UserWrite, &object(), &call())
            .allowed
    );
}

#[test]
fn what_is_wrong_with_a_rule_is_found_before_it_is_in_force() {
    let refused = |text: &str, code: &str| {
        let errors = compiled(text).err().unwrap_or_else(|| panic!("{text}"));
        assert!(errors.contains(code), "{text}: {errors}");
    };
    refused(
        "permit (principal, action == Testudo::Action::\"user:raed\", resource);",
        "policy.unknown_action",
    );
    // A login name can be chosen; a `sub` cannot.
    refused(
        "permit (principal, action == Testudo::Action::\"user:read\", resource) when { principal.username == \"root\" };",
        "policy.unknown_attribute",
    );
    refused(
        "forbid (principal, action in [Testudo::Action::\"user:read\", Fleet::Action::\"read\"], resource);",
        "policy.mixed_actions",
    );
    refused(
        "@id(\"testudo.administrators\") forbid (principal, action == Testudo::Action::\"user:read\", resource);",
        "policy.reserved_id",
    );
    refused(
        "forbid (principal is Fleet::User, action in Testudo::Action::\"administer\", resource);",
        "policy.never_applies",
    );
}
