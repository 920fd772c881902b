//! What holds on every backend. Each test is written once and runs on all of them.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use testudo_model::TenantName;
use testudo_store::{Change, Effect, Expected, Operation, Store, StoreError, limits};
use testudo_trust::RootKey;

use crate::fixture::{
    Account, Counter, InMemory, Line, OnDisk, Place, Setup, line, root_key, tenant,
};

macro_rules! on_every_backend {
    ($($name:ident)*) => {
        mod in_memory {
            $(#[test] fn $name() { super::$name(&super::Setup::<super::InMemory>::new()); })*
        }
        mod on_sqlite {
            $(#[test] fn $name() { super::$name(&super::Setup::<super::OnDisk>::new()); })*
        }
    };
}

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
    a_sequence_gives_no_number_twice
    optimistic_writers_lose_no_update
    an_expired_record_is_absent_everywhere
    sweeping_removes_what_expired_and_says_so
    every_change_is_told_in_order
    who_is_too_far_behind_or_ahead_is_told_to_load_again
    a_subscription_tells_of_the_commits_of_all_processes
    values_stay_readable_through_rotation_and_old_keys_are_destroyed
    two_processes_rotate_and_write_without_losing_anything
    readers_and_writers_do_not_notice_a_rotation
    everything_is_there_after_a_restart
    a_wrong_root_key_says_so_and_changes_nothing
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
        .append(&line("anna came, carl went"))
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

fn every_change_is_told_in_order(setup: &Setup<impl Place>) {
    let store = setup.open();
    let records = tenant(&store);
    assert!(store.changes_since(0, 10).unwrap().is_empty());
    let version = records
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap();
    records.append(&[line("one"), line("two")]).unwrap();
    records.delete::<Account>(Expected::Any, "anna").unwrap();
    let change = |sequence, collection: &str, operation| Change {
        sequence,
        tenant: "default".to_owned(),
        collection: collection.to_owned(),
        operation,
    };
    let all = store.changes_since(0, 10).unwrap();
    assert_eq!(
        all,
        [
            change(
                version,
                "test.account",
                Operation::Put {
                    key: "anna".to_owned()
                }
            ),
            change(
                version + 1,
                "test.lines",
                Operation::Append { first: 0, count: 2 }
            ),
            change(
                version + 2,
                "test.account",
                Operation::Delete {
                    key: "anna".to_owned()
                }
            ),
        ]
    );
    assert_eq!(store.changes_since(1, 1).unwrap(), all[1..2]);
    assert!(store.changes_since(3, 10).unwrap().is_empty());
}

fn who_is_too_far_behind_or_ahead_is_told_to_load_again(setup: &Setup<impl Place>) {
    let store = setup.open();
    let records = tenant(&store);
    for number in 0..10 {
        records.append(&[line(&number.to_string())]).unwrap();
    }
    let backend = setup.place.backend();
    let mut writes = backend.begin().unwrap();
    writes.forget_changes(6).unwrap();
    writes.commit().unwrap();
    assert!(matches!(
        store.changes_since(0, 10),
        Err(StoreError::Forgotten { oldest: 6 })
    ));
    assert!(matches!(
        store.changes_since(4, 10),
        Err(StoreError::Forgotten { oldest: 6 })
    ));
    assert_eq!(store.changes_since(5, 10).unwrap().len(), 5);
    assert!(matches!(
        store.changes_since(11, 10),
        Err(StoreError::Forgotten { .. })
    ));
}

fn a_subscription_tells_of_the_commits_of_all_processes(setup: &Setup<impl Place>) {
    let (one, other) = (setup.open(), setup.open());
    tenant(&one)
        .put(Expected::Absent, &Account::named("before"))
        .unwrap();
    let mut subscription = other.subscribe();
    assert_eq!(subscription.told(), 1);
    assert_eq!(subscription.wait(Duration::from_millis(1)), None);

    for name in ["anna", "ben", "carl"] {
        tenant(&one)
            .put(Expected::Absent, &Account::named(name))
            .unwrap();
    }
    assert_eq!(subscription.wait(Duration::from_secs(10)), Some(4));
    assert_eq!(subscription.wait(Duration::from_millis(1)), None);

    thread::scope(|scope| {
        let waiting = scope.spawn(|| subscription.wait(Duration::from_secs(60)));
        thread::sleep(Duration::from_millis(20));
        tenant(&one)
            .put(Expected::Absent, &Account::named("dora"))
            .unwrap();
        assert_eq!(waiting.join().unwrap(), Some(5));
    });
}

fn values_stay_readable_through_rotation_and_old_keys_are_destroyed(setup: &Setup<impl Place>) {
    let store = setup.open();
    let records = tenant(&store);
    for name in ["anna", "ben", "carl"] {
        records
            .put(Expected::Absent, &Account::named(name))
            .unwrap();
        records.append(&[line(name)]).unwrap();
    }
    let changes = store.changes_since(0, 100).unwrap();
    assert_eq!(store.reseal_step(100).unwrap(), 0);
    let kept = || {
        setup
            .place
            .backend()
            .reader()
            .unwrap()
            .keyring()
            .unwrap()
            .unwrap()
    };
    let (one_term, version) = (kept().wrapped.len(), kept().version);
    assert_eq!(store.rotate().unwrap(), 2);
    assert!(kept().wrapped.len() > one_term);
    records
        .put(
            Expected::Any,
            &Account::named("ben").with_mail("new@example.org"),
        )
        .unwrap();

    let mut resealed = 0;
    loop {
        match store.reseal_step(3).unwrap() {
            0 => break,
            some => resealed += some,
        }
        assert!(records.get::<Account>("anna").unwrap().is_some());
    }
    // Three records less the one written since, three entries, six changes.
    assert_eq!(resealed, 2 + 3 + 6);
    assert_eq!(kept().wrapped.len(), one_term, "the old key is gone");
    assert_eq!(kept().version, version + 2);
    assert_eq!(store.reseal_step(3).unwrap(), 0);
    assert_eq!(
        kept().version,
        version + 2,
        "nothing to retire, nothing written"
    );

    drop((records, store));
    setup.place.restart();
    let store = setup.open();
    let records = tenant(&store);
    assert_eq!(records.list::<Account>(None, 10).unwrap().items.len(), 3);
    assert_eq!(
        records
            .find::<Account>("mail", "new@example.org")
            .unwrap()
            .len(),
        1
    );
    assert_eq!(records.read_log::<Line>(0, 10).unwrap()[1].1, line("ben"));
    assert_eq!(store.changes_since(0, 6).unwrap(), changes);
}

fn two_processes_rotate_and_write_without_losing_anything(setup: &Setup<impl Place>) {
    let (one, other) = (setup.open(), setup.open());
    tenant(&one)
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap();
    for round in 0..3 {
        let name = format!("round {round}");
        one.rotate().unwrap();
        while one.reseal_step(2).unwrap() > 0 {}
        // The other has only the destroyed key in memory: it must neither seal under it nor give up.
        tenant(&other)
            .put(Expected::Absent, &Account::named(&name))
            .unwrap();
        assert!(tenant(&one).get::<Account>(&name).unwrap().is_some());
        assert!(tenant(&other).get::<Account>("anna").unwrap().is_some());
    }
    one.rotate().unwrap();
    while one.reseal_step(100).unwrap() > 0 {}
    assert_eq!(
        tenant(&other)
            .list::<Account>(None, 10)
            .unwrap()
            .items
            .len(),
        4
    );
    assert_eq!(other.changes_since(0, 100).unwrap().len(), 4);
}

fn readers_and_writers_do_not_notice_a_rotation(setup: &Setup<impl Place>) {
    let store = setup.open();
    let names: Vec<String> = (0..10).map(|number| format!("account {number}")).collect();
    for name in &names {
        tenant(&store)
            .put(Expected::Absent, &Account::named(name))
            .unwrap();
    }
    let rotated = AtomicBool::new(false);
    thread::scope(|scope| {
        let (store, names, rotated) = (&store, &names, &rotated);
        scope.spawn(|| {
            for _ in 0..5 {
                store.rotate().unwrap();
                while store.reseal_step(7).unwrap() > 0 {}
            }
            rotated.store(true, Ordering::Relaxed);
        });
        for number in 0..3 {
            scope.spawn(move || {
                let records = tenant(store);
                while !rotated.load(Ordering::Relaxed) {
                    for name in names {
                        assert!(records.get::<Account>(name).unwrap().is_some());
                    }
                    assert_eq!(records.list::<Account>(None, 100).unwrap().items.len(), 10);
                    records
                        .put(Expected::Any, &Account::named(&names[number]))
                        .unwrap();
                }
            });
        }
    });
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

fn a_wrong_root_key_says_so_and_changes_nothing(setup: &Setup<impl Place>) {
    tenant(&setup.open())
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap();
    let refused = setup.open_with(RootKey::from_bytes([8; 32])).err().unwrap();
    assert!(matches!(refused, StoreError::WrongRootKey));
    assert!(
        refused
            .to_string()
            .contains("the root key is not the one this store was made with")
    );
    let again = setup.open_with(root_key()).unwrap();
    assert!(tenant(&again).get::<Account>("anna").unwrap().is_some());
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
    too_large(records.put(Expected::Any, &fat));
    let refused = records
        .transaction()
        .append(&line("a"))
        .put(Expected::Any, &fat)
        .commit();
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert_eq!(records.log_len::<Line>().unwrap(), 0);
}

/// On one backend only, for its length.
#[test]
fn changes_are_forgotten_in_the_end() {
    let setup = Setup::<InMemory>::new();
    let store = setup.open();
    let records = tenant(&store);
    let mut written = 0;
    while written < limits::CHANGES_KEPT + 4_096 {
        let mut transaction = records.transaction();
        for _ in 0..limits::MAX_OPERATIONS {
            transaction = transaction.append(&line(""));
        }
        written = transaction.commit().unwrap().sequence;
    }
    let Err(StoreError::Forgotten { oldest }) = store.changes_since(0, 1) else {
        panic!()
    };
    let kept = written - oldest + 1;
    assert!(
        (limits::CHANGES_KEPT..limits::CHANGES_KEPT + 2_048).contains(&kept),
        "{kept}"
    );
}
