//! Tests of policies.

use testudo_policy::run_tests;

use crate::bookshop::{engine, files};

const RULES: (&str, &str) = (
    "rules.cedar",
    r#"
@id("clerks-read") permit (principal in Fleet::Group::"clerks", action == Fleet::Action::"read", resource);
@id("owners-write") permit (principal in Fleet::Role::"owner", action == Fleet::Action::"write", resource);
@id("catalog-uses-inventory")
permit (principal == Fleet::Service::"catalog", action in [Fleet::Action::"connect", Fleet::Action::"invoke"], resource in Fleet::Api::"inventory");
@id("no-nights") forbid (principal is Fleet::User, action, resource) when { context.now.toTime() < duration("5h") };
"#,
);

#[test]
fn cases_pass_and_untested_policies_are_named() {
    let tests = r#"
[[case]]
name = "a clerk lists orders"
user = "carla"
operation = "orders:list"
expect = "allow"
because = "clerks-read"

[[case]]
name = "not at night"
user = "carla"
operation = "orders:list"
time = 2026-01-02T04:59:59+01:00
expect = "deny"
because = "no-nights"

[[case]]
name = "nobody is not a clerk"
operation = "orders:list"
expect = "deny"
because = "policy.user_required"

[[case]]
name = "the catalog reaches the inventory"
caller = "catalog"
connect = "inventory"
expect = "allow"
because = "catalog-uses-inventory"

[[case]]
name = "an unverified catalog does not"
caller = "catalog"
connect = "inventory"
verified = false
expect = "deny"
because = "guardrail.unverified_peer"

[[case]]
name = "without the scope nothing is created"
user = "root"
operation = "orders:create"
scopes = []
expect = "deny"
because = "guardrail.missing_scopes"
"#;
    let report = run_tests(&engine(&[RULES]), &files(&[("shop.toml", tests)])).unwrap();
    assert!(report.passed(), "{report}");
    insta::assert_snapshot!(report, @r#"
    ok    a clerk lists orders
    ok    not at night
    ok    nobody is not a clerk
    ok    the catalog reaches the inventory
    ok    an unverified catalog does not
    ok    without the scope nothing is created
    6 passed, 0 failed
    untested: `owners-write` (rules.cedar:3) determined no case
    "#);
}

#[test]
fn a_case_that_turns_out_otherwise_fails_with_the_explanation() {
    let tests = r#"
[[case]]
name = "a clerk creates orders"
user = "carla"
operation = "orders:create"
expect = "allow"

[[case]]
name = "a clerk reads because she is an owner"
user = "carla"
operation = "orders:list"
expect = "allow"
because = "owners-write"
"#;
    let report = run_tests(&engine(&[RULES]), &files(&[("shop.toml", tests)])).unwrap();
    assert!(!report.passed());
    assert_eq!(report.failures().count(), 2);
    insta::assert_snapshot!(report, @r#"
    FAIL  a clerk creates orders (shop.toml:2:1)
          was denied (policy.user_leg_denied)
          service leg allowed: Fleet::Service::"gateway" invoke Fleet::Route::"orders:create"
            permitted by `fleet.exposure` (<guardrails>:6): the gateway reaches the services that are declared external
          user leg denied: Fleet::User::"usr_carla" write Fleet::Route::"orders:create"
            no rule allowed it; what came close:
              `owners-write` (rules.cedar:3) needs `principal in Fleet::Role::"owner"`
    FAIL  a clerk reads because she is an owner (shop.toml:8:1)
          was allowed as expected, but not because of `owners-write`
          service leg allowed: Fleet::Service::"gateway" invoke Fleet::Route::"orders:list"
            permitted by `fleet.exposure` (<guardrails>:6): the gateway reaches the services that are declared external
          user leg allowed: Fleet::User::"usr_carla" read Fleet::Route::"orders:list"
            permitted by `clerks-read` (rules.cedar:2)
    0 passed, 2 failed
    untested: `owners-write` (rules.cedar:3) determined no case
    untested: `catalog-uses-inventory` (rules.cedar:4) determined no case
    untested: `no-nights` (rules.cedar:6) determined no case
    "#);
}

#[test]
fn broken_test_files_say_where() {
    let problems = |text: &str| {
        run_tests(&engine(&[RULES]), &files(&[("shop.toml", text)]))
            .unwrap_err()
            .to_string()
    };
    insta::assert_snapshot!(problems("[[case]]\nname = \"x\"\noperatoin = \"orders:list\"\nexpect = \"deny\"\n"), @"shop.toml:3:1: error[policy.test_syntax]: unknown field `operatoin`, expected one of `name`, `caller`, `user`, `operation`, `connect`, `exchange`, `actor`, `actors`, `ip`, `scopes`, `assurance`, `time`, `authenticated`, `issuer`, `bound`, `path`, `risk`, `verified`, `trust_domain`, `expect`, `because`");
    insta::assert_snapshot!(
        problems(
            r#"
[[case]]
name = "who"
user = "karla"
operation = "orders:list"
expect = "deny"
[[case]]
name = "what"
operation = "orders"
expect = "deny"
[[case]]
name = "why"
operation = "orders:list"
expect = "deny"
because = "nothing"
[[case]]
name = "when"
user = "carla"
operation = "orders:list"
expect = "deny"
time = 2026-01-01
[[case]]
name = "nothing"
expect = "deny"
"#
        ),
        @r#"
        shop.toml:2:1: error[policy.test_reference]: case `who`: there is no user `karla`; did you mean `carla`?
        shop.toml:7:1: error[policy.test_reference]: case `what`: there is no operation `orders`; operations are `<service>:<operation>`
        shop.toml:11:1: error[policy.test_reference]: case `why`: there is no policy `nothing`
        shop.toml:16:1: error[policy.test_reference]: case `when`: `2026-01-01` is not a moment; write date, time and offset: 2026-01-01T12:00:00Z
        shop.toml:22:1: error[policy.test_reference]: case `nothing`: name one of: an `operation` (`<service>:<operation>`), a service to `connect` to, a service to `exchange` a token for
        "#
    );
}
