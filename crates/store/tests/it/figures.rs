//! How fast it is. `cargo test -p testudo-store -- --ignored --nocapture figures` prints; nothing is judged.

use std::{thread, time::Instant};

use testudo_store::{Expected, Store};

use crate::fixture::{Account, open_folder, tenant};

#[test]
#[ignore = "measures"]
fn figures() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).unwrap();
    let alone = puts_per_second(&store, 1, 300);
    let together = puts_per_second(&store, 64, 200);
    println!(
        "durable puts: 1 thread {alone:.0}/s, 64 threads {together:.0}/s, {:.1} times",
        together / alone
    );

    let records = tenant(&store);
    let mut micros: Vec<f64> = (0..20_000)
        .map(|number| {
            let name = format!("{} {}", number % 64, number % 200);
            let start = Instant::now();
            assert!(records.get::<Account>(&name).unwrap().is_some());
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    println!(
        "get: p50 {:.1} us, p99 {:.1} us",
        micros[10_000], micros[19_800]
    );
}

fn puts_per_second(store: &Store, threads: usize, each: usize) -> f64 {
    let start = Instant::now();
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
    (threads * each) as f64 / start.elapsed().as_secs_f64()
}
