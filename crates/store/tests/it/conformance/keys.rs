//! Root keys and rotation.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use testudo_store::{Expected, StoreError};
use testudo_trust::RootKey;

use crate::fixture::{Account, Line, Place, Setup, line, root_key, tenant};

on_every_backend! {
    values_stay_readable_through_rotation_and_old_keys_are_destroyed
    two_processes_rotate_and_write_without_losing_anything
    readers_and_writers_do_not_notice_a_rotation
    a_wrong_root_key_says_so_and_changes_nothing
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
