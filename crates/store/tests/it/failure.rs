//! When the machine fails: nothing half-written, a clear answer, no pretence.

#![allow(
    clippy::disallowed_methods,
    reason = "a child process is told its folder by its environment"
)]

use std::{fs, path::Path, process::Command, sync::Arc, thread};

use testudo_model::TenantName;
use testudo_store::{Backend, Expected, Sqlite, SqliteOptions, Store, StoreError};
use testudo_testkit::{FakeClock, SeededEntropy};

use crate::{
    fixture::{Account, Line, line, open_folder, root_key, tenant},
    memory::Memory,
};

fn open_on(backend: Arc<dyn Backend>) -> Store {
    Store::open_on(
        backend,
        root_key(),
        FakeClock::today(),
        SeededEntropy::new(1),
    )
    .unwrap()
}

#[test]
fn a_folder_in_use_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).unwrap();
    let refused = open_folder(folder.path()).err().unwrap();
    assert!(matches!(refused, StoreError::InUse { .. }));
    assert!(
        refused
            .to_string()
            .contains("is in use by another process; stop that one first")
    );
    let still_used = tenant(&store);
    drop(store);
    assert!(matches!(
        open_folder(folder.path()),
        Err(StoreError::InUse { .. })
    ));
    drop(still_used);
    assert!(open_folder(folder.path()).is_ok());
}

#[test]
fn a_file_that_is_no_database_or_a_newer_one_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let text = "this is a text of more than one hundred bytes ".repeat(100);
    fs::write(&file, &text).unwrap();
    assert!(matches!(
        open_folder(folder.path()),
        Err(StoreError::Corrupt { .. })
    ));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);

    fs::remove_file(&file).unwrap();
    drop(open_folder(folder.path()).unwrap());
    rusqlite::Connection::open(&file)
        .unwrap()
        .pragma_update(None, "user_version", 2)
        .unwrap();
    let refused = open_folder(folder.path()).err().unwrap();
    assert!(matches!(
        refused,
        StoreError::UnknownFormat { found: 2, known: 1 }
    ));
}

#[test]
fn a_full_database_says_so_keeps_what_it_has_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        folder: folder.path().to_owned(),
        max_pages: Some(100),
    };
    let records = tenant(&open_on(Arc::new(Sqlite::open(&options).unwrap())));
    let fat = |number: usize| Account::named(&format!("{number}")).with_mail(&"x".repeat(10_000));
    let mut written = 0;
    let refused = loop {
        match records
            .transaction()
            .put(Expected::Absent, &fat(written))
            .append(&line("one"))
            .commit()
        {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    assert!(
        refused
            .to_string()
            .starts_with("no room left for the database")
    );
    assert!(written > 10);
    assert_eq!(
        records.list::<Account>(None, 100).unwrap().items.len(),
        written
    );
    assert_eq!(records.log_len::<Line>().unwrap(), written as u64);
    assert_eq!(records.get::<Account>(&written.to_string()).unwrap(), None);

    for number in 0..3 {
        records
            .delete::<Account>(Expected::Any, &number.to_string())
            .unwrap();
    }
    records.put(Expected::Absent, &fat(written)).unwrap();
}

#[test]
fn one_who_finds_no_room_does_not_spoil_it_for_the_others_of_its_group() {
    let backend = Arc::new(Memory::default());
    let store = open_on(backend.clone());
    backend.limit_room(Some(100_000));
    thread::scope(|scope| {
        for number in 0..8 {
            let records = tenant(&store);
            scope.spawn(move || {
                for round in 0..20 {
                    let name = format!("{number} {round}");
                    let fat = Account::named("fat").with_mail(&"x".repeat(200_000));
                    assert!(matches!(
                        records.put(Expected::Any, &fat),
                        Err(StoreError::Full(_))
                    ));
                    records
                        .put(Expected::Absent, &Account::named(&name))
                        .unwrap();
                }
            });
        }
    });
    backend.limit_room(None);
    assert_eq!(
        tenant(&store)
            .list::<Account>(None, 1_000)
            .unwrap()
            .items
            .len(),
        160
    );
}

#[test]
fn after_a_failed_commit_nothing_is_visible_and_nothing_more_is_written() {
    let backend = Arc::new(Memory::default());
    let store = open_on(backend.clone());
    let records = tenant(&store);
    records
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap();
    backend.fail_next_commit();
    let failed = records
        .put(Expected::Absent, &Account::named("ben"))
        .unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed:?}");
    assert_eq!(
        std::error::Error::source(&failed).unwrap().to_string(),
        "the disk is gone"
    );
    for _ in 0..2 {
        let stopped = records
            .put(Expected::Absent, &Account::named("carl"))
            .unwrap_err();
        assert!(matches!(stopped, StoreError::Stopped), "{stopped:?}");
    }
    assert!(records.get::<Account>("anna").unwrap().is_some());
    assert_eq!(records.get::<Account>("ben").unwrap(), None);
    drop((records, store));

    let records = tenant(&open_on(backend));
    assert_eq!(records.list::<Account>(None, 10).unwrap().items.len(), 1);
    records
        .put(Expected::Absent, &Account::named("ben"))
        .unwrap();
}

#[test]
fn a_foreign_lock_is_named_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let records = tenant(&open_folder(folder.path()).unwrap());
    let foreign = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let busy = records
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap_err();
    assert!(matches!(busy, StoreError::Busy(_)), "{busy:?}");
    foreign.execute_batch("ROLLBACK").unwrap();
    records
        .put(Expected::Absent, &Account::named("anna"))
        .unwrap();
}

const FOLDER: &str = "STORE_LIMITED_FOLDER";

/// The kernel refuses to let the files grow: a write fails in the middle of a commit.
#[cfg(target_os = "linux")]
#[test]
fn a_write_that_the_system_refuses_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 4000; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "failure::the_writer_whose_files_may_not_grow",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let acknowledged = said.lines().filter(|line| line.starts_with("ack ")).count();
    assert!(acknowledged > 5, "{said}");

    let records = tenant(&open_folder(folder.path()).unwrap());
    let lines = records.read_log::<Line>(0, 10_000).unwrap();
    let accounts = records.list::<Account>(None, 10_000).unwrap().items;
    assert!(
        lines.len() >= acknowledged,
        "{} of {acknowledged} are there",
        lines.len()
    );
    assert_eq!(lines.len(), accounts.len());
    records
        .put(Expected::Absent, &Account::named("after"))
        .unwrap();
}

/// The child: writes until it may not, and checks how it is told.
#[test]
#[ignore = "run by the test above, in a process of its own"]
fn the_writer_whose_files_may_not_grow() {
    use std::io::Write;
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let store = open_folder(Path::new(&folder)).unwrap();
    let records = store.tenant(&TenantName::default_tenant());
    let fat = |number: usize| Account::named(&format!("{number}")).with_mail(&"x".repeat(10_000));
    for number in 0.. {
        match records
            .transaction()
            .put(Expected::Absent, &fat(number))
            .append(&line("one"))
            .commit()
        {
            Ok(_) => {
                let said = format!("ack {number}\n");
                std::io::stdout().lock().write_all(said.as_bytes()).unwrap();
            }
            Err(error) => {
                assert!(
                    matches!(error, StoreError::Io { .. } | StoreError::Full(_)),
                    "{error:?}"
                );
                assert_eq!(records.log_len::<Line>().unwrap(), number as u64);
                assert_eq!(records.get::<Account>(&number.to_string()).unwrap(), None);
                return;
            }
        }
    }
}
