//! Records, logs and sequences.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use testudo_model::TenantName;
use testudo_store::{Effect, Expected, Operation, Store, StoreError, limits};

use crate::fixture::{Account, Counter, Line, Place, Setup, line, tenant};

on_every_backend! {
    a_record_is_read_back_as_written
    a_write_in_an_unexpected_state_conflicts_and_leaves_nothing_behind
    a_version_is_never_used_twice
    a_transaction_happens_as_a_whole_or_not_at_all
    a_write_sees_those_before_it_in_its_transaction
    an_index_finds_what_records_name_now
    pages_keep_the_order_of_first_insertion_whatever_is_written_between
    tenants_and_collections_are_worlds_apart
    a_log_is_dense_under_concurrent_appends
    a_long_append_reads_back_from_anywhere
    a_sequence_gives_no_number_twice
    optimistic_writers_lose_no_update
    whoever_asks_after_an_answer_sees_what_was_written
    an_expired_record_is_absent_everywhere
    sweeping_removes_what_expired_and_says_so
    everything_is_there_after_a_restart
    what_is_beyond_a_limit_is_refused
}

fn a_record_is_read_back_as_written(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let anna = Account::named("anna").in_groups(&["staff"]);
    assert_eq!(records.get::<Account>("anna").unwrap(), None);
    let version = records.put(Expected::Absent, &anna).unwrap();
    let found = records.get::<Account>("anna").unwrap().unwrap();
    assert_eq!((found.record, found.version), (anna, version));
    assert!(
        records
            .delete::<Account>(Expected::Version(version), "anna")
            .unwrap()
    );
    assert_eq!(records.get::<Account>("anna").unwrap(), None);
    assert!(!records.delete::<Account>(Expected::Any, "anna").unwrap());
}

fn a_write_in_an_unexpected_state_conflicts_and_leaves_nothing_behind(setup: &Setup<impl Place>) {
    let store = setup.open();
    let records = tenant(&store);
    let first = records
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap();
    let second = records
        .put(
            Expected::Version(first),
            &Account::named("anna").with_mail("a@b"),
        )
        .unwrap();
    let changes = store.changes_since(0, 100).unwrap();

    let evil = Account::named("anna")
        .with_mail("evil@example.org")
        .in_groups(&["admin"]);
    for expected in [
        Expected::Absent,
        Expected::Version(first),
        Expected::Version(second + 1),
    ] {
        let conflict = records.put(expected, &evil).unwrap_err();
        let StoreError::Conflict {
            collection,
            expected: wanted,
            found,
        } = conflict
        else {
            panic!("{conflict:?}")
        };
        assert_eq!(
            (collection, wanted, found),
            ("test.account", expected, Some(second))
        );
        assert!(matches!(
            records.delete::<Account>(expected, "anna"),
            Err(StoreError::Conflict { .. })
        ));
    }
    let absent = records
        .put(Expected::Version(first), &Account::named("ben"))
        .unwrap_err();
    assert!(matches!(absent, StoreError::Conflict { found: None, .. }));

    assert_eq!(
        records.get::<Account>("anna").unwrap().unwrap().record.mail,
        "a@b"
    );
    assert!(
        records
            .find::<Account>("group", "admin")
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.changes_since(0, 100).unwrap(), changes);
}

fn a_version_is_never_used_twice(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        assert!(
            seen.insert(
                records
                    .put(Expected::Absent, &Account::named("anna"))
                    .unwrap()
            )
        );
        assert!(seen.insert(records.put(Expected::Any, &Account::named("anna")).unwrap()));
        assert!(records.delete::<Account>(Expected::Any, "anna").unwrap());
    }
    let stale = *seen.last().unwrap();
    records
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap();
    let conflict = records.put(Expected::Version(stale), &Account::named("anna"));
    assert!(matches!(conflict, Err(StoreError::Conflict { .. })));
}

fn a_transaction_happens_as_a_whole_or_not_at_all(setup: &Setup<impl Place>) {
    let store = setup.open();
    let records = tenant(&store);
    records
        .put(Expected::Absent, &Account::named("carl"))
        .unwrap();
    let before = store.changes_since(0, 100).unwrap();
    let refused = records
        .transaction()
        .put(
            Expected::Absent,
            &Account::named("anna").in_groups(&["staff"]),
        )
        .delete::<Account>(Expected::Any, "carl")
        .append(&line("anna came, carl went"))
        .put(Expected::Version(99), &Account::named("ben"))
        .commit();
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    assert_eq!(records.get::<Account>("anna").unwrap(), None);
    assert!(records.get::<Account>("carl").unwrap().is_some());
    assert!(
        records
            .find::<Account>("group", "staff")
            .unwrap()
            .is_empty()
    );
    assert_eq!(records.log_len::<Line>().unwrap(), 0);
    assert_eq!(store.changes_since(0, 100).unwrap(), before);

    let done = records
        .transaction()
        .put(Expected::Absent, &Account::named("anna"))
        .delete::<Account>(Expected::Any, "carl")
        .append_all(&[line("anna came"), line("carl went")])
        .commit()
        .unwrap();
    let version = records.get::<Account>("anna").unwrap().unwrap().version;
    assert_eq!(
        done.effects,
        [
            Effect::Put { version },
            Effect::Deleted { existed: true },
            Effect::Appended { first: 0 }
        ]
    );
    assert_eq!(
        store
            .changes_since(0, 100)
            .unwrap()
            .last()
            .unwrap()
            .sequence,
        done.sequence
    );
}

fn a_write_sees_those_before_it_in_its_transaction(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let done = records
        .transaction()
        .put(Expected::Absent, &Account::named("anna"))
        .put(
            Expected::Any,
            &Account::named("anna").with_mail("new@example.org"),
        )
        .append(&line("one"))
        .append(&line("two"))
        .delete::<Account>(Expected::Any, "anna")
        .put(
            Expected::Absent,
            &Account::named("anna").with_mail("newest@example.org"),
        )
        .commit()
        .unwrap();
    assert_eq!(done.effects[3], Effect::Appended { first: 1 });
    assert_eq!(
        records.get::<Account>("anna").unwrap().unwrap().record.mail,
        "newest@example.org"
    );
    assert!(
        records
            .find::<Account>("mail", "new@example.org")
            .unwrap()
            .is_empty()
    );
}

fn an_index_finds_what_records_name_now(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let names = |index: &'static str, value: &str| -> Vec<String> {
        let found = records.find::<Account>(index, value).unwrap();
        found.into_iter().map(|found| found.record.name).collect()
    };
    records
        .put(
            Expected::Any,
            &Account::named("ben").in_groups(&["staff", "night", "staff"]),
        )
        .unwrap();
    records
        .put(Expected::Any, &Account::named("anna").in_groups(&["staff"]))
        .unwrap();
    assert_eq!(names("group", "staff"), ["ben", "anna"]);
    assert_eq!(names("group", "night"), ["ben"]);
    assert_eq!(names("mail", "staff"), [""; 0]);
    records
        .put(Expected::Any, &Account::named("ben").in_groups(&["day"]))
        .unwrap();
    assert_eq!(names("group", "staff"), ["anna"]);
    assert_eq!(names("group", "day"), ["ben"]);
    assert_eq!(names("mail", "ben@example.org"), ["ben"]);
    records.delete::<Account>(Expected::Any, "ben").unwrap();
    assert_eq!(names("group", "day"), [""; 0]);
    assert_eq!(names("mail", "ben@example.org"), [""; 0]);
}

fn pages_keep_the_order_of_first_insertion_whatever_is_written_between(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    for name in ["e", "d", "c", "b", "a"] {
        records
            .put(Expected::Absent, &Account::named(name))
            .unwrap();
    }
    let names = |page: &testudo_store::Page<Account>| -> Vec<String> {
        page.items
            .iter()
            .map(|item| item.record.name.clone())
            .collect()
    };
    let first = records.list::<Account>(None, 2).unwrap();
    assert_eq!(names(&first), ["e", "d"]);
    records
        .put(
            Expected::Any,
            &Account::named("e").with_mail("later@example.org"),
        )
        .unwrap();
    records
        .put(
            Expected::Any,
            &Account::named("c").with_mail("later@example.org"),
        )
        .unwrap();
    records.delete::<Account>(Expected::Any, "d").unwrap();
    records.delete::<Account>(Expected::Any, "b").unwrap();
    records.put(Expected::Absent, &Account::named("b")).unwrap();
    let cursor = first.next.unwrap().to_string().parse().unwrap();
    let second = records.list::<Account>(Some(cursor), 2).unwrap();
    assert_eq!(names(&second), ["c", "a"]);
    let third = records.list::<Account>(second.next, 2).unwrap();
    assert_eq!((names(&third), third.next), (vec!["b".to_owned()], None));
    assert_eq!(
        names(&records.list::<Account>(None, 4).unwrap()),
        ["e", "c", "a", "b"]
    );
    assert_eq!(records.list::<Account>(None, 4).unwrap().next, None);
}

fn tenants_and_collections_are_worlds_apart(setup: &Setup<impl Place>) {
    let store = setup.open();
    let ours = tenant(&store);
    let theirs = store.tenant(&"acme".parse::<TenantName>().unwrap());
    let anna = Account::named("anna").in_groups(&["staff"]);
    ours.put(Expected::Absent, &anna).unwrap();
    ours.append(&[line("ours")]).unwrap();
    assert_eq!(ours.next_sequence("number").unwrap(), 1);

    assert_eq!(theirs.get::<Account>("anna").unwrap(), None);
    assert!(theirs.find::<Account>("group", "staff").unwrap().is_empty());
    assert!(theirs.list::<Account>(None, 10).unwrap().items.is_empty());
    assert_eq!(theirs.log_len::<Line>().unwrap(), 0);
    assert_eq!(theirs.next_sequence("number").unwrap(), 1);
    assert!(!theirs.delete::<Account>(Expected::Any, "anna").unwrap());
    assert_eq!(ours.get::<Counter>("anna").unwrap(), None);
    theirs
        .put(
            Expected::Absent,
            &anna.clone().with_mail("theirs@example.org"),
        )
        .unwrap();
    assert_eq!(ours.get::<Account>("anna").unwrap().unwrap().record, anna);
}

fn a_log_is_dense_under_concurrent_appends(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    thread::scope(|scope| {
        for writer in 0..4 {
            let records = &records;
            scope.spawn(move || {
                for round in 0..10 {
                    let pair = [
                        line(&format!("{writer} {round} a")),
                        line(&format!("{writer} {round} b")),
                    ];
                    let first = records.append(&pair).unwrap();
                    let read = records.read_log::<Line>(first, 2).unwrap();
                    assert_eq!(read, (first..).zip(pair).collect::<Vec<_>>());
                }
            });
        }
    });
    assert_eq!(records.log_len::<Line>().unwrap(), 80);
    let all = records.read_log::<Line>(0, 1_000).unwrap();
    assert_eq!(
        all.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        (0..80).collect::<Vec<_>>()
    );
    assert_eq!(
        all.iter()
            .map(|(_, line)| &line.0)
            .collect::<BTreeSet<_>>()
            .len(),
        80
    );
    assert!(records.read_log::<Line>(80, 10).unwrap().is_empty());
    assert!(records.read_log::<Line>(u64::MAX, 10).unwrap().is_empty());
    assert_eq!(records.append::<Line>(&[]).unwrap(), 80);
}

fn a_long_append_reads_back_from_anywhere(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    records.append(&[line("before")]).unwrap();
    // Some rows full, and one entry larger than a row.
    let mut long: Vec<_> = (0..700)
        .map(|i| line(&format!("{i} {}", "x".repeat(400))))
        .collect();
    long.insert(300, line(&"y".repeat(200_000)));
    assert_eq!(records.append(&long).unwrap(), 1);
    assert_eq!(records.append(&[line("after")]).unwrap(), 702);
    assert_eq!(records.log_len::<Line>().unwrap(), 703);
    let whole: Vec<_> = [vec![line("before")], long, vec![line("after")]].concat();
    for (from, limit) in [
        (0, 703),
        (0, 1),
        (1, 1),
        (150, 20),
        (299, 5),
        (301, 1),
        (690, 100),
    ] {
        let read = records.read_log::<Line>(from, limit).unwrap();
        let wanted = (0..).zip(&whole).skip(from as usize).take(limit);
        assert!(
            read.iter().map(|(i, l)| (*i, l)).eq(wanted),
            "{from} {limit}"
        );
    }
}

fn a_sequence_gives_no_number_twice(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let mut given: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..10)
                        .map(|_| records.next_sequence("n").unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    given.sort_unstable();
    assert_eq!(given, (1..=40).collect::<Vec<_>>());
    assert_eq!(records.next_sequence("other").unwrap(), 1);
}

fn optimistic_writers_lose_no_update(setup: &Setup<impl Place>) {
    let (one, other) = (setup.open(), setup.open());
    tenant(&one)
        .put(
            Expected::Absent,
            &Counter {
                name: "c".into(),
                value: 0,
            },
        )
        .unwrap();
    let count = |store: &Store| {
        let records = tenant(store);
        for _ in 0..10 {
            loop {
                let mut counter = records.get::<Counter>("c").unwrap().unwrap();
                counter.record.value += 1;
                match records.put(Expected::Version(counter.version), &counter.record) {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    thread::scope(|scope| {
        for store in [&one, &one, &other, &other] {
            scope.spawn(move || count(store));
        }
    });
    assert_eq!(
        tenant(&other)
            .get::<Counter>("c")
            .unwrap()
            .unwrap()
            .record
            .value,
        40
    );
}

fn whoever_asks_after_an_answer_sees_what_was_written(setup: &Setup<impl Place>) {
    let (one, other) = (setup.open(), setup.open());
    let counter = |value| Counter {
        name: "c".into(),
        value,
    };
    let records = tenant(&one);
    records.put(Expected::Absent, &counter(0)).unwrap();
    let acknowledged = AtomicU64::new(0);
    let is_done = AtomicBool::new(false);
    let ask = |store: &Store| {
        let records = tenant(store);
        let mut last = 0;
        while !is_done.load(Ordering::SeqCst) {
            let least = acknowledged.load(Ordering::SeqCst).max(last);
            let found = records.get::<Counter>("c").unwrap();
            last = found.map_or(0, |found| found.record.value);
            // In between it is deleted.
            assert!(last == 0 || last >= least, "{last} after {least}");
            let said: Vec<_> = records.read_log::<Line>(least, 1).unwrap();
            let next = said.first().map_or(least, |(index, _)| *index);
            assert_eq!(
                next, least,
                "what follows is the next one, or not there yet"
            );
            last = last.max(least);
        }
    };
    thread::scope(|scope| {
        for store in [&one, &one, &other, &other] {
            scope.spawn(move || ask(store));
        }
        for value in 1..=100 {
            let change = records.transaction();
            let change = match value % 10 {
                0 => change.delete::<Counter>(Expected::Any, "c"),
                _ => change.put(Expected::Any, &counter(value)),
            };
            change.append(&line("one more")).commit().unwrap();
            acknowledged.store(value, Ordering::SeqCst);
            let found = tenant(&other).get::<Counter>("c").unwrap();
            assert_eq!(found.is_none(), value % 10 == 0, "{value}");
            let length = tenant(&other).log_len::<Line>().unwrap();
            assert_eq!(length, value);
            let line = tenant(&other).read_log::<Line>(value - 1, 5).unwrap();
            assert_eq!(line.len(), 1, "{value}");
        }
        is_done.store(true, Ordering::SeqCst);
    });
}

fn an_expired_record_is_absent_everywhere(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let end = setup.clock_now() + Duration::from_secs(60);
    let session = Account::named("session").in_groups(&["staff"]).until(end);
    let old = records.put(Expected::Absent, &session).unwrap();
    records
        .put(Expected::Absent, &Account::named("later"))
        .unwrap();
    setup.clock.advance(Duration::from_millis(59_999));
    assert!(records.get::<Account>("session").unwrap().is_some());
    setup.clock.advance(Duration::from_millis(1));

    assert_eq!(records.get::<Account>("session").unwrap(), None);
    assert!(
        records
            .find::<Account>("group", "staff")
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        records.list::<Account>(None, 1).unwrap().items[0]
            .record
            .name,
        "later"
    );
    assert!(!records.delete::<Account>(Expected::Any, "session").unwrap());
    let conflict = records.put(Expected::Version(old), &session).unwrap_err();
    assert!(matches!(conflict, StoreError::Conflict { found: None, .. }));

    records
        .put(
            Expected::Absent,
            &Account::named("session").with_mail("new@example.org"),
        )
        .unwrap();
    assert!(
        records
            .find::<Account>("group", "staff")
            .unwrap()
            .is_empty()
    );
    let names: Vec<_> = records.list::<Account>(None, 9).unwrap().items;
    assert_eq!(
        names
            .iter()
            .map(|item| item.record.name.as_str())
            .collect::<Vec<_>>(),
        ["later", "session"]
    );
}

fn sweeping_removes_what_expired_and_says_so(setup: &Setup<impl Place>) {
    let store = setup.open();
    let records = tenant(&store);
    let now = setup.clock_now();
    let mut transaction = records.transaction();
    for seconds in 1..=1_200 {
        let account = Account::named(&format!("a{seconds}")).in_groups(&["all"]);
        transaction = transaction.put(
            Expected::Absent,
            &account.until(now + Duration::from_secs(seconds)),
        );
    }
    let newest = transaction.commit().unwrap().sequence;
    records
        .put(Expected::Absent, &Account::named("for ever"))
        .unwrap();
    assert_eq!(store.sweep_expired(now).unwrap(), 0);
    setup.clock.advance(Duration::from_secs(1_100));
    assert_eq!(store.sweep_expired(setup.clock_now()).unwrap(), 1_100);
    assert_eq!(store.sweep_expired(setup.clock_now()).unwrap(), 0);
    assert_eq!(records.find::<Account>("group", "all").unwrap().len(), 100);

    let swept = store.changes_since(newest + 1, 10_000).unwrap();
    assert_eq!(swept.len(), 1_100);
    assert_eq!(
        swept[0].operation,
        Operation::Delete {
            key: "a1".to_owned()
        }
    );
    assert_eq!(
        (swept[0].tenant.as_str(), swept[0].collection.as_str()),
        ("default", "test.account")
    );
}

fn everything_is_there_after_a_restart(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let version = records
        .put(
            Expected::Absent,
            &Account::named("anna").in_groups(&["staff"]),
        )
        .unwrap();
    records.append(&[line("one")]).unwrap();
    records.next_sequence("n").unwrap();
    drop(records);
    setup.place.restart();

    let store = setup.open();
    let records = tenant(&store);
    assert_eq!(store.subscribe().told(), 3);
    assert_eq!(
        records.find::<Account>("group", "staff").unwrap()[0].version,
        version
    );
    assert_eq!(records.read_log::<Line>(0, 9).unwrap(), [(0, line("one"))]);
    assert_eq!(records.next_sequence("n").unwrap(), 2);
    assert_eq!(
        records
            .put(Expected::Version(version), &Account::named("anna"))
            .unwrap(),
        5
    );
}

fn what_is_beyond_a_limit_is_refused(setup: &Setup<impl Place>) {
    let records = tenant(&setup.open());
    let too_large = |outcome: Result<u64, StoreError>| {
        assert!(
            matches!(outcome, Err(StoreError::TooLarge { .. })),
            "{outcome:?}"
        );
    };
    let long = "x".repeat(limits::MAX_NAME_BYTES + 1);
    too_large(records.put(Expected::Any, &Account::named(&long)));
    assert!(matches!(
        records.get::<Account>(&long),
        Err(StoreError::TooLarge { .. })
    ));
    let group = ["g"; limits::MAX_INDEX_VALUES];
    too_large(records.put(Expected::Any, &Account::named("anna").in_groups(&group)));
    too_large(records.append(&vec![line(""); limits::MAX_OPERATIONS + 1]));
    let fat = Account::named("anna").with_mail(&"x".repeat(limits::MAX_VALUE_BYTES));
    let refused = records
        .transaction()
        .append(&line("a"))
        .put(Expected::Any, &fat)
        .commit();
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert_eq!(records.log_len::<Line>().unwrap(), 0);
}
