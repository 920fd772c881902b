//! Text of any kind is refused or accepted, never a panic.

use proptest::{prelude::*, sample::select};
use testudo_model::snapshot::PolicyFile;
use testudo_policy::{check, run_tests};

use crate::bookshop::{OPEN, engine, files, snapshot};

const FRAGMENTS: &[&str] = &[
    "permit",
    "forbid",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ";",
    ",",
    ".",
    "::",
    "@id(\"x\")",
    "@reason",
    "principal",
    "action",
    "resource",
    "context",
    "==",
    "in",
    "is",
    "has",
    "like",
    "when",
    "unless",
    "if",
    "then",
    "else",
    "true",
    "&&",
    "||",
    "!",
    "-",
    "+",
    "*",
    "9223372036854775808",
    "\"",
    "\"\\\"",
    "\\",
    "//",
    "\n",
    "\r",
    " ",
    "é",
    "\u{202e}",
    "\0",
    "Fleet::User::\"x\"",
    "Fleet::Action::\"read\"",
    "ip(\"10.0.0.0/8\")",
    "?principal",
    "token",
    "\"\\u{110000}\"",
    "permit (principal, action, resource)",
    "permit (principal, action, resource) when { ",
];

fn soup() -> impl Strategy<Value = String> {
    prop::collection::vec(select(FRAGMENTS), 0..60).prop_map(|fragments| fragments.join(" "))
}

fn mutated() -> impl Strategy<Value = String> {
    (any::<prop::sample::Index>(), any::<char>(), any::<bool>()).prop_map(|(at, new, replace)| {
        let mut characters: Vec<char> = testudo_policy::GUARDRAILS.chars().collect();
        let at = at.index(characters.len());
        if replace {
            characters[at] = new;
        } else {
            characters.insert(at, new);
        }
        characters.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn checking_any_text_never_panics_and_places_are_in_the_text(
        text in prop_oneof![any::<String>(), soup(), soup().prop_map(|text| text.replace(' ', "")), mutated()],
    ) {
        let lines = text.lines().count().max(1) + 1;
        for problem in check(&[PolicyFile { name: "x.cedar".to_owned(), text }], &snapshot(&[])) {
            let place = problem.place.unwrap();
            prop_assert!(place.line >= 1 && place.line as usize <= lines, "{place}");
            prop_assert!(!problem.message.is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn running_any_test_file_never_panics(text in any::<String>(), value in "[ -~]{0,30}") {
        let engine = engine(&[OPEN]);
        let _ = run_tests(&engine, &files(&[("x.toml", &text)]));
        let case = format!("[[case]]\nname = \"x\"\noperation = '{value}'\nexpect = \"deny\"\n");
        let _ = run_tests(&engine, &files(&[("x.toml", &case)]));
    }
}
