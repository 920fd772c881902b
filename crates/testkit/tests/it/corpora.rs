//! Every fuzz target on its committed corpus, with stable Rust.

#[path = "../../../../fuzz/src/parsers.rs"]
mod parsers;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use testudo_model::Entropy;
use testudo_testkit::SeededEntropy;
use toml::Table;

use crate::sources::{read, root};

/// Damaged copies tried for each seed.
const DAMAGED: usize = 25;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = root().join("fuzz/corpus").join(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// A copy with some bytes cut off, changed or doubled.
fn damage(seed: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    let mut copy = seed.to_vec();
    let mut random = [0; 12];
    entropy.fill(&mut random);
    let at = |high: usize, low: usize, end: usize| {
        (usize::from(random[high]) << 8 | usize::from(random[low])) % end.max(1)
    };
    let (one, other) = (at(0, 1, copy.len()), at(2, 3, copy.len()));
    match random[4] % 5 {
        0 => copy.truncate(one),
        1 => drop(copy.drain(one.min(other)..one.max(other))),
        2 => copy.extend_from_within(one.min(other)..one.max(other)),
        3 => copy.insert(one, random[5]),
        _ => {
            for (at, byte) in [(one, random[6]), (other, random[7])] {
                if let Some(slot) = copy.get_mut(at) {
                    *slot = byte;
                }
            }
        }
    }
    copy
}

#[test]
fn every_parser_takes_its_corpus_and_damaged_copies_of_it() {
    for (target, parse) in parsers::ALL {
        let seeds = seeds(target);
        assert!(seeds.len() >= 3, "{target} has {} seeds", seeds.len());
        for (number, (name, seed)) in seeds.iter().enumerate() {
            let entropy = SeededEntropy::new(u64::try_from(number).unwrap());
            let damaged = (0..DAMAGED).map(|_| damage(seed, &*entropy));
            for input in std::iter::once(seed.clone()).chain(damaged) {
                let run = catch_unwind(AssertUnwindSafe(|| parse(&input)));
                assert!(
                    run.is_ok(),
                    "{target}, from seed {name}: {}",
                    input.escape_ascii()
                );
            }
        }
    }
    parsers::clean_up();
}

#[test]
fn seeds_get_past_the_first_check() {
    // The corpora are worth something only if the parsers accept part of them.
    let accepted = |target: &str, accepts: &dyn Fn(&str) -> bool| {
        let text = |seed: &[u8]| String::from_utf8_lossy(seed).into_owned();
        let accepted = seeds(target)
            .iter()
            .filter(|(_, seed)| accepts(&text(seed)))
            .count();
        assert!(accepted > 0, "no seed of {target} is accepted");
    };
    let after_key = |text: &str| {
        text.split_once('\n')
            .map(|(key, rest)| (key.to_owned(), rest.to_owned()))
    };
    accepted("jwt_verification", &|text| {
        let (keys, token) = after_key(text).unwrap_or_default();
        testudo_trust::JwkSet::parse(&keys).is_ok_and(|keys| {
            testudo_trust::verify_jwt::<serde_json::Value>(token.trim_end(), "at+jwt", &keys)
                .is_ok()
        })
    });
    accepted("jwt_verification", &|text| {
        let (keys, token) = after_key(text).unwrap_or_default();
        testudo_trust::ForeignKeySet::parse(&keys).is_ok_and(|keys| {
            testudo_trust::verify_foreign_jwt::<serde_json::Value>(token.trim_end(), &keys).is_ok()
        })
    });
    accepted("signed_note", &|text| {
        let (key, note) = after_key(text).unwrap_or_default();
        testudo_trust::NoteVerifier::parse(&key).is_ok_and(|verifier| verifier.open(&note).is_ok())
    });
    accepted("tlog_proof", &|text| {
        let (key, proof) = after_key(text).unwrap_or_default();
        testudo_audit::verify_proof_file(&proof, &key).is_ok()
    });
    accepted("api_key", &|text| {
        testudo_trust::ApiKeyText::parse(text).is_some()
    });
    accepted("join_token", &|text| {
        testudo_model::JoinToken::parse(text).is_ok()
    });
    accepted("scim_filter", &|text| testudo_identity::scim_fuzz(text));
    accepted("snapshot_json", &|text| {
        serde_json::from_str(text)
            .is_ok_and(|snapshot| testudo_dataplane::state::Enforced::compile(&snapshot).is_ok())
    });
    let certificates = seeds("x509_spiffe_id");
    let has_identity = |der: &[u8]| testudo_trust::peer_identity(&[der.into()]).is_some();
    assert!(certificates.iter().any(|(_, der)| has_identity(der)));
}

#[test]
fn every_target_has_its_file_its_binary_and_its_seeds_and_nothing_is_left_over() {
    let targets: BTreeSet<String> = parsers::ALL
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(targets.len(), parsers::ALL.len());
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect()
    };
    assert_eq!(names("fuzz/fuzz_targets"), targets);
    assert_eq!(names("fuzz/corpus"), targets);
    let manifest: Table = read("fuzz/Cargo.toml").parse().unwrap();
    let binaries = manifest["bin"].as_array().unwrap().iter();
    let binaries: BTreeSet<String> = binaries
        .map(|bin| bin["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(binaries, targets);
    for target in &targets {
        let text = read(&format!("fuzz/fuzz_targets/{target}.rs"));
        assert!(
            text.contains(&format!("parsers::{target}(data)")),
            "{target} runs something else"
        );
    }
}
