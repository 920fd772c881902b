//! Whatever is done, the store answers like a map that never forgets or invents anything.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use testudo_model::{Clock, Timestamp};
use testudo_store::{Expected, Store, StoreError};

use crate::fixture::{Account, InMemory, Line, OnDisk, Place, Setup, line, tenant};

const NAMES: [&str; 4] = ["anna", "ben", "carl", "dora"];
const GROUPS: [&str; 3] = ["staff", "night", "day"];

#[derive(Debug, Clone)]
enum Step {
    Put {
        name: usize,
        groups: BTreeSet<usize>,
        lifetime: Option<u64>,
        expect: Expect,
    },
    Delete {
        name: usize,
        expect: Expect,
    },
    /// Puts all names and appends a line, in one transaction that may fail at its end.
    Together {
        group: usize,
        then_fail: bool,
    },
    Append(u8),
    Sequence,
    Rotate,
    Reseal(usize),
    Wait(u64),
    Sweep,
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum Expect {
    Any,
    Absent,
    TheTruth,
    SomethingOld,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let expect = || {
        prop_oneof![
            3 => Just(Expect::Any),
            1 => Just(Expect::Absent),
            3 => Just(Expect::TheTruth),
            1 => Just(Expect::SomethingOld),
        ]
    };
    let groups = prop::collection::btree_set(0..GROUPS.len(), 0..3);
    let put = (
        0..NAMES.len(),
        groups,
        prop::option::weighted(0.3, 1..20u64),
        expect(),
    )
        .prop_map(|(name, groups, lifetime, expect)| Step::Put {
            name,
            groups,
            lifetime,
            expect,
        });
    let step = prop_oneof![
        8 => put,
        3 => (0..NAMES.len(), expect()).prop_map(|(name, expect)| Step::Delete { name, expect }),
        2 => (0..GROUPS.len(), any::<bool>())
            .prop_map(|(group, then_fail)| Step::Together { group, then_fail }),
        2 => (0..4u8).prop_map(Step::Append),
        1 => Just(Step::Sequence),
        1 => Just(Step::Rotate),
        2 => (1..6usize).prop_map(Step::Reseal),
        2 => (1..15u64).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

/// What the store must answer: records in order of insertion, with their versions.
#[derive(Default)]
struct Truth {
    records: Vec<(Account, u64)>,
    lines: Vec<Line>,
    sequence: u64,
    newest: u64,
}

impl Truth {
    fn expire(&mut self, now: Timestamp) {
        self.records
            .retain(|(account, _)| account.expires.is_none_or(|at| at > now));
    }

    fn version(&self, name: &str) -> Option<u64> {
        self.records
            .iter()
            .find(|(account, _)| account.name == name)
            .map(|(_, version)| *version)
    }

    fn expected(&self, expect: Expect, name: &str) -> (Expected, bool) {
        let version = self.version(name);
        match expect {
            Expect::Any => (Expected::Any, true),
            Expect::Absent => (Expected::Absent, version.is_none()),
            Expect::TheTruth => (version.map_or(Expected::Absent, Expected::Version), true),
            Expect::SomethingOld => (Expected::Version(version.unwrap_or(1) - 1), false),
        }
    }

    fn put(&mut self, account: Account, version: u64) {
        assert!(version > self.newest, "versions grow");
        self.newest = version;
        match self
            .records
            .iter_mut()
            .find(|(known, _)| known.name == account.name)
        {
            Some(known) => *known = (account, version),
            None => self.records.push((account, version)),
        }
    }

    fn delete(&mut self, name: &str) -> bool {
        let before = self.records.len();
        self.records.retain(|(account, _)| account.name != name);
        self.records.len() < before
    }
}

fn take(step: &Step, setup: &Setup<impl Place>, store: &Store, truth: &mut Truth) {
    let records = tenant(store);
    match step {
        Step::Put {
            name,
            groups,
            lifetime,
            expect,
        } => {
            let groups: Vec<_> = groups.iter().map(|group| GROUPS[*group]).collect();
            let mut account = Account::named(NAMES[*name]).in_groups(&groups);
            account.expires =
                lifetime.map(|seconds| setup.clock.now() + Duration::from_secs(seconds));
            let (expected, allowed) = truth.expected(*expect, NAMES[*name]);
            match records.put(expected, &account) {
                Ok(version) if allowed => truth.put(account, version),
                Err(StoreError::Conflict { found, .. }) if !allowed => {
                    assert_eq!(found, truth.version(NAMES[*name]));
                }
                other => panic!("{other:?}"),
            }
        }
        Step::Delete { name, expect } => {
            let (expected, allowed) = truth.expected(*expect, NAMES[*name]);
            match records.delete::<Account>(expected, NAMES[*name]) {
                Ok(existed) if allowed => assert_eq!(existed, truth.delete(NAMES[*name])),
                Err(StoreError::Conflict { .. }) if !allowed => {}
                other => panic!("{other:?}"),
            }
        }
        Step::Together { group, then_fail } => together(GROUPS[*group], *then_fail, store, truth),
        Step::Append(count) => {
            let lines: Vec<_> = (0..*count)
                .map(|number| line(&number.to_string()))
                .collect();
            assert_eq!(records.append(&lines).unwrap(), truth.lines.len() as u64);
            truth.lines.extend(lines);
        }
        Step::Sequence => {
            truth.sequence += 1;
            assert_eq!(records.next_sequence("n").unwrap(), truth.sequence);
        }
        Step::Rotate => drop(store.rotate().unwrap()),
        Step::Reseal(max) => assert!(store.reseal_step(*max).unwrap() <= *max),
        Step::Wait(seconds) => setup.clock.advance(Duration::from_secs(*seconds)),
        Step::Sweep => drop(store.sweep_expired(setup.clock.now()).unwrap()),
        Step::Restart => {}
    }
}

fn together(group: &str, then_fail: bool, store: &Store, truth: &mut Truth) {
    let accounts = NAMES.map(|name| Account::named(name).in_groups(&[group]));
    let mut transaction = tenant(store).transaction();
    for account in &accounts {
        transaction = transaction.put(Expected::Any, account);
    }
    transaction = transaction.append(&line(group));
    if then_fail {
        transaction = transaction.put(Expected::Version(u64::MAX), &accounts[0]);
    }
    match transaction.commit() {
        Err(StoreError::Conflict { .. }) if then_fail => {}
        Ok(_) if !then_fail => {
            for account in accounts {
                let version = tenant(store)
                    .get::<Account>(&account.name)
                    .unwrap()
                    .unwrap()
                    .version;
                truth.put(account, version);
            }
            truth.lines.push(line(group));
        }
        other => panic!("{other:?}"),
    }
}

fn check(store: &Store, truth: &Truth) {
    let records = tenant(store);
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = records.list::<Account>(after, 3).unwrap();
        listed.extend(
            page.items
                .into_iter()
                .map(|item| (item.record, item.version)),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, truth.records);
    for name in NAMES {
        let got = records.get::<Account>(name).unwrap();
        assert_eq!(got.map(|got| got.version), truth.version(name));
    }
    for group in GROUPS {
        let found = records.find::<Account>("group", group).unwrap();
        let found: Vec<_> = found.into_iter().map(|found| found.record).collect();
        let members = truth
            .records
            .iter()
            .filter(|(account, _)| account.groups.iter().any(|g| g == group));
        assert_eq!(
            found,
            members
                .map(|(account, _)| account.clone())
                .collect::<Vec<_>>()
        );
    }
    let lines = records.read_log::<Line>(0, 1_000).unwrap();
    assert_eq!(
        lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>(),
        truth.lines
    );
    assert_eq!(records.log_len::<Line>().unwrap(), truth.lines.len() as u64);
}

fn follow_the_model<P: Place>(steps: &[Step]) {
    let setup = Setup::<P>::new();
    let mut store = setup.open();
    let mut truth = Truth::default();
    for step in steps {
        if matches!(step, Step::Restart) {
            drop(store);
            setup.place.restart();
            store = setup.open();
        }
        take(step, &setup, &store, &mut truth);
        truth.expire(setup.clock.now());
        check(&store, &truth);
    }
    let changes = store.changes_since(0, 10_000).unwrap();
    assert!(
        changes
            .last()
            .is_none_or(|last| last.sequence >= truth.newest)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_in_memory_answers_like_a_map(steps in steps()) {
        follow_the_model::<InMemory>(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_sqlite_answers_like_a_map(steps in steps()) {
        follow_the_model::<OnDisk>(&steps);
    }
}
