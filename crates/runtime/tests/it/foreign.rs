//! Text from anywhere: nothing panics, and what is accepted keeps its promises.

use proptest::prelude::*;
use testudo_model::limits;

use crate::support::{bundle, flag, load};

/// Pieces that make plausible and implausible fleet files.
fn fragment() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("upstream"),
        Just("routes"),
        Just("operation"),
        Just("match"),
        Just("services"),
        Just("listen"),
        Just("users"),
        Just("groups"),
        Just("password"),
        Just("limit"),
        Just("ip"),
        Just("x"),
        Just("\"é.\""),
    ];
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("\"127.0.0.1:7000\"".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("true".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("inf".to_owned()),
        Just("\"GET /{a}\"".to_owned()),
        Just("{ file = \"a\" }".to_owned()),
        Just("[{ per = \"ip\", rate = \"5/s\" }]".to_owned()),
        "\"\\PC{0,10}\"",
        "-?[0-9]{1,25}",
    ];
    let path = prop::collection::vec(key, 1..4).prop_map(|keys| keys.join("."));
    prop_oneof![
        path.clone().prop_map(|path| format!("[{path}]\n")),
        path.clone().prop_map(|path| format!("[[{path}]]\n")),
        (path, value).prop_map(|(path, value)| format!("{path} = {value}\n")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_a_fleet_or_a_list_of_problems(text in "\\PC{0,200}") {
        if let Err(errors) = load(&text) {
            prop_assert!(!errors.problems.is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn any_toml_is_a_fleet_or_a_list_of_problems(fragments in prop::collection::vec(fragment(), 0..12)) {
        match load(&fragments.concat()) {
            Ok(loaded) => for service in &loaded.fleet.services {
                prop_assert!(loaded.fleet.sidecars.contains_key(&service.name));
                prop_assert!(service.upstream.ip().is_loopback());
            },
            Err(errors) => {
                prop_assert!(!errors.problems.is_empty());
                prop_assert!(errors.problems.len() <= 100);
                prop_assert!(!errors.to_string().is_empty());
            }
        }
    }

    #[test]
    fn any_variable_and_flag_is_a_setting_or_a_problem(
        name in "(LISTEN|SERVICES|USERS|é|_){1,3}(__[A-Z_]{0,8}){0,3}", value in "\\PC{0,30}",
        key in "[a-z.\"' =\\[\\]]{0,20}", other in "\\PC{0,30}",
    ) {
        let mut bundle = bundle("trust_domain = \"b.example\"\n", &[], &[(&format!("TESTUDO__{name}"), &value)]);
        bundle.overrides = vec![flag(&key, &other)];
        let _ = bundle.load().map_err(|errors| errors.to_string());
    }
}

#[test]
fn nesting_without_end_is_refused() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let deep = format!("x = {}1{}\n", open.repeat(100_000), close.repeat(100_000));
        assert!(load(&deep).is_err());
    }
    assert!(load(&format!("{}x = 1\n", "a.".repeat(100_000))).is_err());
}

#[test]
fn a_bundle_is_held_to_the_same_limits_as_files() {
    let text = "trust_domain = \"b.example\"\n";
    let large = " ".repeat(limits::MAX_POLICY_FILE_BYTES + 1);
    let errors = bundle(text, &[("policies/a.cedar", &large)], &[])
        .load()
        .unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("it is larger than 1048576 bytes"),
        "{errors}"
    );
    let errors = bundle(&" ".repeat(limits::MAX_FLEET_FILE_BYTES + 1), &[], &[])
        .load()
        .unwrap_err();
    assert!(errors.to_string().contains("4194304 bytes"), "{errors}");
}

#[test]
fn a_bundle_reads_nothing_from_the_machine_it_is_loaded_on() {
    let text = "trust_domain = \"b.example\"\n[users.a]\npassword = { file = \"/etc/hostname\" }\n";
    assert!(bundle(text, &[], &[]).load().is_err());
    let text = "trust_domain = \"b.example\"\n[users.a]\npassword = { env = \"PATH\" }\n";
    assert!(bundle(text, &[], &[]).load().is_err());
}
