//! What is wrong with policies is said with place and help, all of it at once.

use testudo_policy::{PolicyEngine, check};

use crate::bookshop::{OPEN, files, snapshot};

fn problems(text: &str) -> String {
    let problems = check(&files(&[("shop.cedar", text)]), &snapshot(&[]));
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_problem_is_listed_with_place_and_help() {
    insta::assert_snapshot!(
        problems(
            r#"// The shop's rules.
@id("typo")
permit (principal is Fleet::User, action, resource)
when { principal.usernam == "carla" };

permit (principal in Fleet::Service::"catlog", action == Fleet::Action::"invok", resource);

@id("optional")
permit (principal, action == Fleet::Action::"read", resource)
when { context.token.assurance > 1 };

@id("typo")
forbid (principal, action, resource);

@id("who") permit (principal == Fleet::User::"carla", action, resource in Fleet::Api::"order");

permit (principal, action, resource) when { principal. };
permit (principal == ?principal, action, resource);
permit (principal, action, resource in [Fleet::Api::"orders"]);
"#
        ),
        @r#"
        shop.cedar:4:8: error[policy.unknown_attribute]: attribute `usernam` on entity type `Fleet::User` not found
          help: did you mean `username`?
        shop.cedar:6:38: error[policy.unknown_entity]: no such entity: `Fleet::Service::"catlog"`
          help: did you mean `Fleet::Service::"catalog"`?
        shop.cedar:6:58: error[policy.unknown_action]: unrecognized action `Fleet::Action::"invok"`
          help: did you mean `Fleet::Action::"invoke"`?
        shop.cedar:10:8: error[policy.optional_attribute]: unable to guarantee safety of access to optional attribute `token` in context for Fleet::Action::"read"
          help: try testing for the attribute's presence with `context has token && ..`
        shop.cedar:12:1: error[policy.duplicate_id]: the policy id `typo` is already used at shop.cedar:2:1
          help: an id names one policy of the fleet: in decisions, tests and the ledger
        shop.cedar:15:46: warning[policy.unknown_entity]: no such entity: `Fleet::User::"carla"`
          help: users are named by the `sub` of their tokens; write `when { principal.username == "carla" }`, or use a group or role
        shop.cedar:15:87: error[policy.unknown_entity]: no such entity: `Fleet::Api::"order"`
          help: did you mean `Fleet::Api::"orders"`?
        shop.cedar:17:56: error[policy.syntax]: unexpected token `}`
        shop.cedar:18:22: error[policy.syntax]: expected a static policy, got a template containing the slot ?principal
          help: try removing the template slot(s) from this policy
        shop.cedar:19:40: error[policy.syntax]: expected single entity uid or template slot, found set of entity uids
          help: a scope names one entity, only `action in` takes a list; write `resource in Fleet::Api::"…"`, or `when { resource in […] }`, or one policy for each
        "#
    );
}

#[test]
fn a_forbid_that_can_never_apply_is_an_error_and_a_permit_a_warning() {
    insta::assert_snapshot!(
        problems(
            r#"
forbid (principal is Fleet::User, action == Fleet::Action::"connect", resource);
permit (principal is Fleet::User, action == Fleet::Action::"connect", resource);
"#
        ),
        @r#"
        shop.cedar:2:1: error[policy.never_applies]: unable to find an applicable action given the policy scope constraints
        shop.cedar:3:1: warning[policy.never_applies]: unable to find an applicable action given the policy scope constraints
        "#
    );
}

#[test]
fn groups_and_users_that_do_not_exist_are_warnings_since_they_come_and_go() {
    let text = "@id(\"w\") permit (principal in Fleet::Group::\"clerk\", action, resource);";
    insta::assert_snapshot!(problems(text), @r#"
    shop.cedar:1:45: warning[policy.unknown_entity]: no such entity: `Fleet::Group::"clerk"`
      help: did you mean `Fleet::Group::"clerks"`?
    "#);
    let engine = PolicyEngine::compile(&snapshot(&[("w.cedar", text)])).unwrap();
    assert_eq!(engine.warnings().len(), 1);
}

#[test]
fn policies_may_follow_references_two_steps() {
    assert_eq!(
        problems(
            "permit (principal is Fleet::Service, action, resource is Fleet::Route) when { resource.service.external };"
        ),
        ""
    );
}

#[test]
fn text_that_reads_differently_than_it_is_is_refused() {
    let text = "@id(\"t\") permit (principal is Fleet::User, action, resource) when { principal.username == \"a\u{202e}b\" };";
    let problems = check(&files(&[("t.cedar", text)]), &snapshot(&[]));
    assert_eq!(problems[0].code, "policy.bidirectional_text");
    assert!(problems[0].is_error());
}

#[test]
fn groups_that_contain_each_other_are_refused_with_the_path() {
    let mut snapshot = snapshot(&[OPEN]);
    snapshot
        .directory
        .groups
        .insert("staff".parse().unwrap(), vec!["clerks".parse().unwrap()]);
    insta::assert_snapshot!(PolicyEngine::compile(&snapshot).unwrap_err(), @r#"
    error[policy.group_cycle]: groups contain each other: `clerks` is in `staff` is in `clerks`
      help: take one of them out of the next
    "#);
}

#[test]
fn an_id_names_one_policy_and_the_default_counts_statements() {
    let text = "permit (principal, action, resource); permit (principal, action, resource);";
    assert_eq!(problems(text), "");
    let clash = "@id(\"shop.cedar#2\") permit (principal, action, resource); permit (principal, action, resource);";
    assert!(
        problems(clash).contains("already used at shop.cedar:1:1"),
        "{}",
        problems(clash)
    );
    assert!(
        problems("@id(\"a b\") permit (principal, action, resource);").contains("policy.bad_id")
    );
}

#[test]
fn one_wrong_file_keeps_the_whole_set_from_compiling() {
    let errors = PolicyEngine::compile(&snapshot(&[OPEN, ("b.cedar", "permit (")])).unwrap_err();
    assert_eq!(errors.problems().len(), 1);
    assert_eq!(errors.problems()[0].place.as_ref().unwrap().file, "b.cedar");
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_before_cedar_sees_it() {
    let long = format!(
        "permit (principal, action, resource); // {}",
        "x".repeat(1024 * 1024)
    );
    assert!(problems(&long).contains("policy.file_too_large"));
    let wide = format!(
        "permit (principal, action, resource) when {{ [{}].contains(1) }};",
        "1, ".repeat(40_000)
    );
    assert!(problems(&wide).contains("policy.too_large"));
    for deep in [
        format!(
            "permit (principal, action, resource) when {{ {}true{} }};",
            "(".repeat(10_000),
            ")".repeat(10_000)
        ),
        format!(
            "permit (principal, action, resource) when {{ true{} }};",
            " && true".repeat(7_000)
        ),
        format!(
            "permit (principal, action, resource) when {{ principal{} }};",
            ".a".repeat(20_000)
        ),
        format!(
            "permit (principal, action, resource) when {{ {} true }};",
            "if true then true else ".repeat(2_000)
        ),
        format!(
            "permit (principal, action, resource) when {{ {}1{} > 1 }};",
            "{a: ".repeat(5_000),
            "}".repeat(5_000)
        ),
    ] {
        assert!(
            problems(&deep).contains("policy.too_deep"),
            "{}",
            deep.get(..80).unwrap()
        );
    }
}

/// Cedar's validator gives up silently when its stack runs low, and takes the policy for valid.
#[test]
fn a_mistake_at_the_bottom_of_the_deepest_policy_is_found_even_from_a_small_stack() {
    let deep = |before: &str, times: usize, after: &str| {
        format!(
            "permit (principal is Fleet::User, action, resource) when {{ {}principal.nmae == 1{} }};",
            before.repeat(times),
            after.repeat(times)
        )
    };
    let texts = [
        deep("(", 30, ")"),
        deep("true && (", 24, ")"),
        deep("[", 24, "].contains(true)"),
        deep("{a: ", 24, "}.a"),
        deep("if principal.disabled then true else ", 60, ""),
        deep("1 + 1 == 2 && ", 60, ""),
        deep("", 120, " || false"),
    ];
    let check_all = move || {
        for text in &texts {
            let problems = problems(text);
            assert!(
                problems.contains("policy.unknown_attribute"),
                "{problems}\n{}",
                text.get(..120).unwrap()
            );
        }
    };
    std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(check_all)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_problem_shows_the_line_it_is_about() {
    let rules = "@id(\"typo\")\npermit (principal is Fleet::User, action, resource)\nwhen {\tprincipal.usernam == \"carla\" };\n";
    let found = check(&files(&[("shop.cedar", rules)]), &snapshot(&[]));
    insta::assert_snapshot!(format!("{:#}", found[0]), @r#"
    error[policy.unknown_attribute]: attribute `usernam` on entity type `Fleet::User` not found
     --> shop.cedar:3:8
      |
    3 | when { principal.usernam == "carla" };
      |        ^
      = help: did you mean `username`?
    "#);

    // Of a long line the part that matters, and the caret below it.
    let rules = format!(
        "permit (principal, action, resource) when {{ {} }};",
        vec!["principal.usernam == \"carla\""; 20].join(" || ")
    );
    let found = check(&files(&[("shop.cedar", &rules)]), &snapshot(&[]));
    for problem in &found {
        let excerpt = problem.excerpt.as_ref().unwrap();
        assert!(excerpt.text.chars().count() <= 160, "{excerpt:?}");
        let pointed: String = excerpt.text.chars().skip(excerpt.indent).collect();
        assert!(pointed.starts_with("principal"), "{problem:#}");
    }
    assert!(found.len() > 1, "{found:?}");
}
