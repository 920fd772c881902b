//! How fast it is. `cargo test -p testudo-store --test it figures -- --ignored --nocapture` prints; nothing
//! is judged but that everything arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use testudo_store::{Backend, Expected, Sqlite, SqliteOptions, Store};
use testudo_testkit::FakeClock;
use testudo_trust::SystemEntropy;

use crate::fixture::{Account, root_key, tenant};

#[test]
#[ignore = "measures"]
fn figures() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        folder: folder.path().to_owned(),
        max_pages: None,
    };
    let sqlite = Arc::new(Sqlite::open(&options).unwrap());
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    sqlite.on_commit(Box::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed) < usize::MAX
    }));
    let store = Store::open_on(
        sqlite,
        root_key(),
        FakeClock::today(),
        Arc::new(SystemEntropy),
    )
    .unwrap();

    for (threads, each) in [(1, 300), (8, 300), (64, 300)] {
        let before = commits.load(Ordering::Relaxed);
        let start = Instant::now();
        put(&store, threads, each);
        let seconds = start.elapsed().as_secs_f64();
        let (puts, groups) = (threads * each, commits.load(Ordering::Relaxed) - before);
        println!(
            "{threads} threads: {:.0} durable puts/s, {:.1} puts in one commit",
            puts as f64 / seconds,
            puts as f64 / groups as f64
        );
    }
    let mut micros = get(&store, 20_000);
    micros.sort_by(f64::total_cmp);
    println!(
        "get: p50 {:.1} us, p99 {:.1} us",
        micros[10_000], micros[19_800]
    );
}

fn put(store: &Store, threads: usize, each: usize) {
    thread::scope(|scope| {
        for thread in 0..threads {
            let records = tenant(store);
            scope.spawn(move || {
                for number in 0..each {
                    let name = format!("{thread} {number}");
                    records.put(Expected::Any, &Account::named(&name)).unwrap();
                }
            });
        }
    });
}

/// Microseconds of each read.
fn get(store: &Store, times: usize) -> Vec<f64> {
    let records = tenant(store);
    let one = |number: usize| {
        let name = format!("{} {}", number % 64, number % 300);
        let start = Instant::now();
        assert!(records.get::<Account>(&name).unwrap().is_some());
        start.elapsed().as_secs_f64() * 1e6
    };
    (0..times).map(one).collect()
}
