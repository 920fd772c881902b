//! What was acknowledged is there, whenever the process dies and wherever the write-ahead log breaks off.

#![allow(
    clippy::disallowed_methods,
    reason = "a child process is told its folder by its environment"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use testudo_model::random_below;
use testudo_store::{Expected, Store};
use testudo_testkit::SeededEntropy;

use crate::fixture::{Account, Counter, Line, line, open_folder, tenant};

const FOLDER: &str = "STORE_CRASH_FOLDER";
const THREADS: u64 = 4;

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let random = SeededEntropy::new(20);
    let mut acknowledged = BTreeMap::new();
    for round in 0..25 {
        let mut child = start_writer(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = random_below(&*random, 60);
        let mut heard = 0;
        while heard < wanted {
            heard += u64::from(hear(&lines.next().unwrap().unwrap(), &mut acknowledged));
        }
        thread::sleep(Duration::from_micros(random_below(&*random, 10_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts.
        for line in lines {
            hear(&line.unwrap(), &mut acknowledged);
        }
        let store = open_folder(folder.path()).unwrap();
        let present = check_whole(&store);
        for (writer, number) in &acknowledged {
            assert!(
                present.get(writer) >= Some(number),
                "round {round}: {writer} {number} is lost"
            );
        }
    }
    assert!(
        acknowledged.values().sum::<u64>() > 200,
        "the writers wrote: {acknowledged:?}"
    );
}

#[test]
fn a_torn_write_ahead_log_loses_only_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).unwrap();
    for number in 1..=20 {
        write(&store, 0, number);
    }
    let database = fs::read(folder.path().join("store.db")).unwrap();
    let log = fs::read(folder.path().join("store.db-wal")).unwrap();
    let random = SeededEntropy::new(21);
    let mut lengths = Vec::new();
    for round in 0..60 {
        let mut torn = log.clone();
        let at = usize::try_from(random_below(&*random, log.len() as u64)).unwrap();
        if round % 2 == 0 {
            torn.truncate(at);
        } else {
            torn[at] ^= 0x10;
        }
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join("store.db"), &database).unwrap();
        fs::write(copy.path().join("store.db-wal"), &torn).unwrap();
        let store = open_folder(copy.path()).unwrap();
        lengths.push(check_whole(&store).get(&0).copied().unwrap_or(0));
        write(&store, 1, 1);
    }
    assert!(lengths.iter().any(|length| *length < 20) && lengths.iter().any(|length| *length > 5));
}

/// The child: writes until it is killed.
#[test]
#[ignore = "run by the test above, in a process of its own"]
fn the_writer_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let store = open_folder(Path::new(&folder)).unwrap();
    let last = check_whole(&store);
    thread::scope(|scope| {
        for writer in 0..THREADS {
            let (store, first) = (&store, last.get(&writer).copied().unwrap_or(0) + 1);
            scope.spawn(move || {
                for number in first.. {
                    write(store, writer, number);
                    let said = format!("ack {writer} {number}\n");
                    std::io::stdout().lock().write_all(said.as_bytes()).unwrap();
                }
            });
        }
    });
}

fn start_writer(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::the_writer_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Notes an acknowledgement. The test harness says other things too.
fn hear(said: &str, acknowledged: &mut BTreeMap<u64, u64>) -> bool {
    let words: Vec<_> = said.split(' ').collect();
    let ["ack", writer, number] = words[..] else {
        return false;
    };
    acknowledged.insert(writer.parse().unwrap(), number.parse().unwrap());
    true
}

/// One transaction: a record, a counter, a log entry.
fn write(store: &Store, writer: u64, number: u64) {
    let name = format!("{writer} {number}");
    let group = writer.to_string();
    tenant(store)
        .transaction()
        .put(
            Expected::Absent,
            &Account::named(&name).in_groups(&[&group]),
        )
        .put(
            Expected::Any,
            &Counter {
                name: group,
                value: number,
            },
        )
        .append(&line(&name))
        .commit()
        .unwrap();
}

/// Checks that each transaction is there as a whole or not at all. Answers the last of each writer.
fn check_whole(store: &Store) -> BTreeMap<u64, u64> {
    let records = tenant(store);
    let mut last = BTreeMap::new();
    let mut from = 0;
    loop {
        let lines = records.read_log::<Line>(from, 1_000).unwrap();
        if lines.is_empty() {
            break;
        }
        from += lines.len() as u64;
        for (_, Line(name)) in lines {
            let (writer, number) = name.split_once(' ').unwrap();
            let (writer, number): (u64, u64) = (writer.parse().unwrap(), number.parse().unwrap());
            let before = last.insert(writer, number).unwrap_or(0);
            assert_eq!(
                number,
                before + 1,
                "a transaction of writer {writer} is missing"
            );
            assert!(records.get::<Account>(&name).unwrap().is_some());
        }
    }
    for writer in 0..THREADS {
        let group = writer.to_string();
        let last = last.get(&writer).copied();
        assert_eq!(
            records.find::<Account>("group", &group).unwrap().len() as u64,
            last.unwrap_or(0)
        );
        assert_eq!(
            records
                .get::<Counter>(&group)
                .unwrap()
                .map(|counter| counter.record.value),
            last
        );
    }
    last
}
