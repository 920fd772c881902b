//! Figures, printed: `cargo test --release -p testudo-audit -- --ignored --nocapture figures`.

use std::{hint::black_box, time::Instant};

use testudo_model::{
    SessionId, TransactionId,
    event::{Event, EventLines, Outcome},
};
use testudo_trust::merkle::{Frontier, leaf_hash};

use crate::fixture::{Proxy, World};

/// Blocks of calls, and events in each.
const BLOCKS: usize = 10;
const EVENTS: usize = 4_096;

#[test]
#[ignore = "prints figures, proves nothing"]
fn figures() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let calls: Vec<_> = (0..BLOCKS).map(|_| calls(&world, &proxy)).collect();
    let copies = calls.clone();
    let start = Instant::now();
    let bytes: usize = copies.into_iter().map(spooled).sum();
    println!(
        "spool: {:.2} us and {} bytes an event",
        start.elapsed().as_micros() as f64 / (BLOCKS * EVENTS) as f64,
        bytes / (BLOCKS * EVENTS)
    );

    let blocks: Vec<_> = calls
        .iter()
        .map(|calls| proxy.seal_events(&world, calls, 0))
        .collect();
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

/// Calls that four users make, as a gateway records them.
fn calls(world: &World, proxy: &Proxy) -> Vec<Event> {
    let sessions: Vec<_> = (0..4)
        .map(|_| {
            let session = SessionId::generate(&*world.clock, &*world.entropy);
            (session, world.alike(proxy.id(), "reads-orders"))
        })
        .collect();
    let call = |at: usize| {
        let (session, [decided, _]) = &sessions[at % 4];
        let mut event = decided.clone();
        let new = world.decision(proxy.id(), &format!("/orders/{at}"), Outcome::Success);
        let (decision, own) = (event.decision.as_mut().unwrap(), new.decision.unwrap());
        decision.id = new.id.ulid().into();
        decision.path = own.path;
        decision.operation = Some("orders.read".to_owned());
        event.id = new.id;
        event.activity = "decision.gateway".to_owned();
        event.actor.subject = Some("usr_01M81B5H80SDAD64P4084BPXV2".to_owned());
        event.actor.workload = Some(proxy.id().clone());
        event.actor.client = Some("shop-web".to_owned());
        event.actor.session = Some(session.clone());
        event.target = Some("orders:orders.read".to_owned());
        event.source_ip = Some([192, 0, 2, 7].into());
        event.trace_id = Some(format!("{at:032x}"));
        event.transaction = Some(TransactionId::generate(&*world.clock, &*world.entropy));
        event
    };
    (0..EVENTS).map(call).collect()
}

/// What the writer of a spool does with the events of a block. Answers their bytes.
#[inline(never)]
fn spooled(events: Vec<Event>) -> usize {
    let (mut lines, mut tree) = (EventLines::default(), Frontier::new());
    for event in events {
        let Ok(line) = lines.push(Box::new(event)) else {
            panic!("the event is too long");
        };
        tree.append(leaf_hash(line));
    }
    black_box(tree.root());
    lines.encode("", "", &[]).len()
}
