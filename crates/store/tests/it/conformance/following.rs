//! Changes, and those who follow them.

use std::{thread, time::Duration};

use testudo_store::{Change, Expected, Operation, StoreError, limits};

use crate::fixture::{Account, InMemory, Place, Setup, line, tenant};

on_every_backend! {
    every_change_is_told_in_order
    who_is_too_far_behind_or_ahead_is_told_to_load_again
    a_subscription_tells_of_the_commits_of_all_processes
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
