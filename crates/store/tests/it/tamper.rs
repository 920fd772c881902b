//! Somebody with access to the files changes them: the store says so and never answers a wrong value.

use std::{fs, path::Path, time::Duration};

use rusqlite::{Connection, Params};
use testudo_model::{Clock, random_below};
use testudo_store::{Expected, Store, StoreError, StoreOptions};
use testudo_testkit::{FakeClock, SeededEntropy};

use crate::fixture::{Account, Line, line, open_folder, root_key, tenant};

/// A store in use, and the attacker's own connection to its database.
struct Scene {
    folder: tempfile::TempDir,
    store: Store,
    attacker: Connection,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open_folder(folder.path()).unwrap();
        let records = tenant(&store);
        for name in ["anna", "ben"] {
            records
                .put(
                    Expected::Absent,
                    &Account::named(name).in_groups(&["staff"]),
                )
                .unwrap();
        }
        for text in ["one", "two", "three"] {
            records.append(&[line(text)]).unwrap();
        }
        records.next_sequence("n").unwrap();
        let attacker = attack(folder.path());
        Self {
            folder,
            store,
            attacker,
        }
    }

    fn change(&self, sql: &str, params: impl Params) {
        assert!(
            self.attacker.execute(sql, params).unwrap() > 0,
            "{sql} changed nothing"
        );
    }

    fn sealed(&self, position: u64) -> Vec<u8> {
        let sql = "SELECT sealed FROM record WHERE position = ?1";
        self.attacker
            .query_row(sql, [position], |row| row.get(0))
            .unwrap()
    }

    fn get(&self, name: &str) -> Result<Option<String>, StoreError> {
        let found = tenant(&self.store).get::<Account>(name)?;
        Ok(found.map(|found| found.record.name))
    }

    fn find(&self, mail: &str) -> Result<Vec<String>, StoreError> {
        let found = tenant(&self.store).find::<Account>("mail", mail)?;
        Ok(found.into_iter().map(|found| found.record.name).collect())
    }
}

fn attack(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("store.db")).unwrap();
    connection
        .pragma_update(None, "synchronous", "OFF")
        .unwrap();
    connection
}

fn assert_corrupt<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(
        matches!(answer, Err(StoreError::Corrupt { .. })),
        "{answer:?}"
    );
}

#[test]
fn a_flipped_bit_anywhere_in_a_value_is_noticed() {
    let scene = Scene::new();
    let sealed = scene.sealed(1);
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1 << (at % 8);
        scene.change(
            "UPDATE record SET sealed = ?1 WHERE position = 1",
            [&changed],
        );
        assert_corrupt(scene.get("anna"));
        assert_eq!(scene.get("ben").unwrap().unwrap(), "ben");
    }
    assert_corrupt(tenant(&scene.store).list::<Account>(None, 10));
    assert_corrupt(scene.find("anna@example.org"));
    for cut in [0, 4, 20, sealed.len() - 1] {
        scene.change(
            "UPDATE record SET sealed = ?1 WHERE position = 1",
            [&sealed[..cut]],
        );
        assert_corrupt(scene.get("anna"));
    }
    scene.change(
        "UPDATE record SET sealed = ?1 WHERE position = 1",
        [&sealed],
    );
    assert_eq!(scene.get("anna").unwrap().unwrap(), "anna");
}

#[test]
fn a_value_in_another_row_is_noticed() {
    let scene = Scene::new();
    let [anna, ben] = [1, 2].map(|position| scene.sealed(position));
    scene.change("UPDATE record SET sealed = ?1 WHERE position = 2", [&anna]);
    scene.change("UPDATE record SET sealed = ?1 WHERE position = 1", [&ben]);
    assert_corrupt(scene.get("anna"));
    assert_corrupt(scene.get("ben"));
}

#[test]
fn a_row_under_another_key_is_noticed() {
    let scene = Scene::new();
    let ben: Vec<u8> = scene
        .attacker
        .query_row("SELECT key FROM record WHERE position = 2", [], |row| {
            row.get(0)
        })
        .unwrap();
    scene.change("DELETE FROM record WHERE position = 2", []);
    scene.change("UPDATE record SET key = ?1 WHERE position = 1", [&ben]);
    assert_corrupt(scene.get("ben"));
}

#[test]
fn a_value_from_before_is_noticed() {
    let scene = Scene::new();
    let old = scene.sealed(1);
    let records = tenant(&scene.store);
    records
        .put(
            Expected::Any,
            &Account::named("anna").with_mail("new@example.org"),
        )
        .unwrap();
    scene.change("UPDATE record SET sealed = ?1 WHERE position = 1", [&old]);
    assert_corrupt(scene.get("anna"));
    // A write over it heals it: the new value is sealed for its own version.
    records.put(Expected::Any, &Account::named("anna")).unwrap();
    assert_eq!(scene.get("anna").unwrap().unwrap(), "anna");
}

#[test]
fn changed_numbers_of_a_row_are_noticed() {
    for sql in [
        "UPDATE record SET version = version + 1 WHERE position = 1",
        "UPDATE record SET expires = 9999999999999 WHERE position = 1",
        "UPDATE record SET expires = 1 WHERE position = 1",
        "UPDATE record SET position = 77 WHERE position = 1",
    ] {
        let scene = Scene::new();
        scene.change(sql, []);
        assert_corrupt(scene.get("anna"));
        assert_eq!(scene.get("ben").unwrap().unwrap(), "ben");
    }
    let scene = Scene::new();
    scene.change("UPDATE record SET expires = 1 WHERE position = 1", []);
    assert_corrupt(
        scene
            .store
            .sweep_expired(testudo_model::Timestamp::from_unix_millis(2)),
    );
    assert_corrupt(tenant(&scene.store).put(Expected::Absent, &Account::named("anna")));
}

#[test]
fn a_session_cannot_be_prolonged() {
    let scene = Scene::new();
    let end = FakeClock::today().now() + Duration::from_secs(60);
    let session = Account::named("session").until(end);
    tenant(&scene.store)
        .put(Expected::Absent, &session)
        .unwrap();
    scene.change(
        "UPDATE record SET expires = expires + 1 WHERE expires > 0",
        [],
    );
    assert_corrupt(scene.get("session"));
    scene.change("UPDATE record SET expires = NULL WHERE expires > 0", []);
    assert_corrupt(scene.get("session"));
}

#[test]
fn what_was_read_before_is_not_changed_behind_the_store() {
    let scene = Scene::new();
    assert_eq!(scene.get("anna").unwrap().unwrap(), "anna");
    scene.change("UPDATE record SET sealed = x'00' WHERE position = 1", []);
    // The answer is right, remembered or not; a listing reads the disk.
    assert!(matches!(
        scene.get("anna"),
        Ok(Some(_)) | Err(StoreError::Corrupt { .. })
    ));
    assert_corrupt(tenant(&scene.store).list::<Account>(None, 10));
    // And from then on nothing is believed unread.
    assert_corrupt(scene.get("anna"));
}

#[test]
fn an_index_that_leads_elsewhere_is_noticed() {
    let scene = Scene::new();
    assert_eq!(scene.find("anna@example.org").unwrap(), ["anna"]);
    // Who asks for Anna's address shall get Ben.
    scene.change(
        "UPDATE index_value SET position = 2
         WHERE position = 1 AND value NOT IN (SELECT value FROM index_value WHERE position = 2)",
        [],
    );
    assert_corrupt(scene.find("anna@example.org"));
    assert_eq!(scene.find("ben@example.org").unwrap(), ["ben"]);
}

#[test]
fn a_log_with_a_swapped_or_missing_entry_is_noticed() {
    let scene = Scene::new();
    let read = || tenant(&scene.store).read_log::<Line>(0, 10);
    assert_eq!(read().unwrap().len(), 3);
    scene.change("UPDATE run SET first = 9 WHERE first = 0", []);
    scene.change("UPDATE run SET first = 0 WHERE first = 1", []);
    scene.change("UPDATE run SET first = 1 WHERE first = 9", []);
    assert_corrupt(read());
    let scene = Scene::new();
    scene.change("DELETE FROM run WHERE first = 1", []);
    assert_corrupt(tenant(&scene.store).read_log::<Line>(0, 10));
    assert_corrupt(tenant(&scene.store).read_log::<Line>(1, 10));
    assert_eq!(
        tenant(&scene.store).read_log::<Line>(2, 10).unwrap().len(),
        1
    );
}

#[test]
fn a_row_of_log_entries_that_claims_more_or_fewer_is_noticed() {
    for count in [0, 2, i64::MAX] {
        let scene = Scene::new();
        scene.change("UPDATE run SET count = ?1 WHERE first = 1", [count]);
        assert_corrupt(tenant(&scene.store).read_log::<Line>(0, 10));
    }
}

#[test]
fn a_list_of_changes_with_a_swapped_or_missing_one_is_noticed() {
    let scene = Scene::new();
    scene.change("DELETE FROM change WHERE sequence = 2", []);
    assert_corrupt(scene.store.changes_since(0, 10));
    let scene = Scene::new();
    scene.change("UPDATE change SET sequence = -1 WHERE sequence = 1", []);
    scene.change("UPDATE change SET sequence = 1 WHERE sequence = 2", []);
    scene.change("UPDATE change SET sequence = 2 WHERE sequence = -1", []);
    assert_corrupt(scene.store.changes_since(0, 10));
}

#[test]
fn a_changed_sequence_gives_no_number() {
    let scene = Scene::new();
    let old = scene.sealed(6);
    assert_eq!(tenant(&scene.store).next_sequence("n").unwrap(), 2);
    scene.change("UPDATE record SET sealed = ?1 WHERE position = 6", [&old]);
    assert_corrupt(tenant(&scene.store).next_sequence("n"));
}

#[test]
fn a_changed_keyring_opens_nothing() {
    let Scene {
        folder,
        store,
        attacker,
    } = Scene::new();
    drop(store);
    let wrapped: Vec<u8> = attacker
        .query_row("SELECT wrapped FROM keyring", [], |row| row.get(0))
        .unwrap();
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 0x20;
        attacker
            .execute("UPDATE keyring SET wrapped = ?1", [&changed])
            .unwrap();
        assert_corrupt(open_folder(folder.path()).map(|_| ()));
    }
    attacker.execute("DELETE FROM keyring", []).unwrap();
    assert_corrupt(open_folder(folder.path()).map(|_| ()));
}

#[test]
fn damage_anywhere_in_the_file_never_yields_a_wrong_value() {
    let Scene {
        folder,
        store,
        attacker,
    } = Scene::new();
    drop((store, attacker));
    let whole = fs::read(folder.path().join("store.db")).unwrap();
    assert!(
        !folder.path().join("store.db-wal").exists(),
        "all is in one file"
    );
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let random = SeededEntropy::new(30);
    let mut noticed = 0;
    for _ in 0..300 {
        let mut damaged = whole.clone();
        let at = used[usize::try_from(random_below(&*random, used.len() as u64)).unwrap()];
        damaged[at] ^= 1 << random_below(&*random, 8);
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join("store.db"), &damaged).unwrap();
        noticed += usize::from(reads_right_or_fails(copy.path()));
    }
    assert!(noticed > 30, "of 300 flips only {noticed} were noticed");
}

/// Whether something failed. What did not must be right.
fn reads_right_or_fails(folder: &Path) -> bool {
    let Ok(store) = Store::open(StoreOptions {
        path: folder.to_owned(),
        root_key: root_key(),
        clock: FakeClock::today(),
        entropy: SeededEntropy::new(1),
    }) else {
        return true;
    };
    let records = tenant(&store);
    let mut failed = false;
    for name in ["anna", "ben"] {
        let expected = Account::named(name).in_groups(&["staff"]);
        match records.get::<Account>(name) {
            Ok(found) => assert!(found.is_none_or(|found| found.record == expected)),
            Err(_) => failed = true,
        }
        match records.find::<Account>("mail", &format!("{name}@example.org")) {
            Ok(found) => assert!(found.into_iter().all(|found| found.record == expected)),
            Err(_) => failed = true,
        }
    }
    let lines = ["one", "two", "three"].map(line);
    match records.read_log::<Line>(0, 10) {
        Ok(read) => assert!(
            read.iter()
                .all(|(index, line)| lines[*index as usize] == *line)
        ),
        Err(_) => failed = true,
    }
    failed
}
