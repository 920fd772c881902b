//! Figures, printed: `cargo test --release -p testudo-audit -- --ignored --nocapture figures`.

use std::time::Instant;

use crate::fixture::World;

#[test]
#[ignore = "prints figures, proves nothing"]
fn figures() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let blocks: Vec<_> = (0..10).map(|_| proxy.seal(&world, 4_096)).collect();
    let start = Instant::now();
    for block in &blocks {
        world.ledger.intake(block.clone(), &world.roots).unwrap();
    }
    let leaves = world.ledger.size().unwrap();
    let per_second = leaves as f64 / start.elapsed().as_secs_f64();
    println!("intake: {leaves} leaves in full blocks, {per_second:.0} leaves/s");

    let start = Instant::now();
    let rounds = 50;
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    world.ledger.append(&world.own_events(1)).unwrap();
                }
            });
        }
    });
    let per_second = f64::from(32 * rounds) / start.elapsed().as_secs_f64();
    println!("append: 32 threads, one event a call, {per_second:.0} events/s");

    let start = Instant::now();
    let report = world.ledger.verify(Some(&world.roots), None).unwrap();
    assert!(report.is_intact());
    let per_second = report.leaves as f64 / start.elapsed().as_secs_f64();
    println!("verify in place: {per_second:.0} leaves/s");

    let start = Instant::now();
    for index in 0..1_000 {
        world.ledger.prove(index * 40).unwrap();
    }
    println!(
        "prove: {:.0} us each",
        start.elapsed().as_micros() as f64 / 1_000.0
    );

    let bytes: u64 = std::fs::read_dir(world.folder.path().join("data"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    println!(
        "disk: {} bytes a leaf",
        bytes / world.ledger.size().unwrap()
    );
}
