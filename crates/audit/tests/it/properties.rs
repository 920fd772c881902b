//! Whatever the network does to blocks, the ledger neither loses nor doubles an acknowledged event.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use proptest::prelude::*;
use testudo_audit::{IntakeError, Leaf};
use testudo_model::event::Block;

use crate::fixture::{Proxy, World};

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A proxy seals a block and tries to send it.
    Seal {
        proxy: usize,
        events: usize,
        arrives: bool,
    },
    /// An old block comes (again), perhaps for the first time.
    Resend {
        proxy: usize,
        block: prop::sample::Index,
    },
    /// A restored copy of the proxy's spool reports something else under an old number.
    Fork {
        proxy: usize,
        block: prop::sample::Index,
    },
    /// The control plane reports.
    Local { events: usize },
    /// The control plane dies and comes back.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..3usize, 0..4usize, any::<bool>())
            .prop_map(|(proxy, events, arrives)| Step::Seal { proxy, events, arrives }),
        4 => (0..3usize, index()).prop_map(|(proxy, block)| Step::Resend { proxy, block }),
        1 => (0..3usize, index()).prop_map(|(proxy, block)| Step::Fork { proxy, block }),
        2 => (1..4usize).prop_map(|events| Step::Local { events }),
        1 => Just(Step::Restart),
    ]
}

/// A proxy, its blocks so far, and its spool before each of them.
struct Sender {
    proxy: Proxy,
    blocks: Vec<(Proxy, Block)>,
}

fn events_in_ledger(world: &World) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for entry in world.ledger.tail(0, 1_000).unwrap() {
        if let Leaf::Event(event) = entry.leaf
            && !event.activity.starts_with("audit.")
        {
            *seen.entry(entry.text).or_default() += 1;
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_events_are_in_the_ledger_exactly_once(
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let mut world = World::new();
        let mut senders: Vec<Sender> = ["orders", "cart", "books"]
            .map(|name| Sender { proxy: world.proxy(name), blocks: Vec::new() })
            .into();
        let mut acknowledged = BTreeSet::new();
        for step in steps {
            let block = match step {
                Step::Seal { proxy, events, arrives } => {
                    let sender = &mut senders[proxy];
                    let before = sender.proxy.clone();
                    let block = sender.proxy.seal(&world, events);
                    sender.blocks.push((before, block.clone()));
                    arrives.then_some(block)
                }
                Step::Resend { proxy, block } => {
                    let blocks = &senders[proxy].blocks;
                    (!blocks.is_empty()).then(|| block.get(blocks).1.clone())
                }
                Step::Fork { proxy, block } => {
                    let blocks = &senders[proxy].blocks;
                    if !blocks.is_empty() {
                        let (mut before, original) = block.get(blocks).clone();
                        let forged = before.seal(&world, 2);
                        // It is refused wherever the original or a neighbour is known.
                        let number = before.block - 1;
                        let known = acknowledged_block(&world, original.clone());
                        if known {
                            let refused = world.ledger.intake(forged.clone(), &world.roots);
                            let forked = matches!(
                                refused,
                                Err(IntakeError::Forked { block, .. }) if block == number
                            );
                            prop_assert!(forked);
                        }
                    }
                    None
                }
                Step::Local { events } => {
                    let events = world.own_events(events);
                    world.ledger.append(&events).unwrap();
                    acknowledged.extend(events.iter().map(|e| serde_json::to_string(e).unwrap()));
                    None
                }
                Step::Restart => {
                    world = world.reopen();
                    None
                }
            };
            if let Some(block) = block {
                let receipt = world.ledger.intake(block.clone(), &world.roots).unwrap();
                prop_assert!(receipt.tree_size <= world.ledger.size().unwrap());
                acknowledged.extend(block.events.iter().cloned());
            }
        }
        let seen = events_in_ledger(&world);
        prop_assert!(seen.values().all(|times| *times == 1));
        prop_assert_eq!(seen.keys().cloned().collect::<BTreeSet<_>>(), acknowledged);
        let report = world.ledger.verify(Some(&world.roots), None).unwrap();
        prop_assert!(report.is_intact(), "{:?}", report);
        for sender in &senders {
            for (_, block) in &sender.blocks {
                world.ledger.intake(block.clone(), &world.roots).unwrap();
            }
        }
        prop_assert_eq!(world.ledger.verify(None, None).unwrap().missing_blocks, 0);
    }
}

/// Whether the block has its receipt already: asking for it again appends nothing.
fn acknowledged_block(world: &World, block: Block) -> bool {
    let texts: BTreeSet<_> = world
        .ledger
        .tail(0, 1_000)
        .unwrap()
        .into_iter()
        .map(|entry| entry.text)
        .collect();
    let head = serde_json::to_string(&block.head).unwrap();
    texts.iter().any(|text| text.contains(&head))
}

#[test]
fn many_threads_and_two_control_planes_append_side_by_side() {
    let world = World::new();
    let second = world.second_ledger();
    let proxies: Vec<_> = (0..4)
        .map(|at| world.proxy(&format!("service-{at}")))
        .collect();
    thread::scope(|scope| {
        for (at, proxy) in proxies.into_iter().enumerate() {
            let ledger = if at % 2 == 0 { &world.ledger } else { &second };
            let world = &world;
            scope.spawn(move || {
                let mut proxy = proxy;
                for _ in 0..10 {
                    let block = proxy.seal(world, 5);
                    let receipt = ledger.intake(block.clone(), &world.roots).unwrap();
                    let first = ledger.entry(receipt.first_leaf + 1).unwrap();
                    assert_eq!(first.text, block.events[0]);
                }
            });
            scope.spawn(move || {
                for _ in 0..10 {
                    let events = world.own_events(2);
                    let appended = ledger.append(&events).unwrap();
                    let entry = ledger.entry(appended.first_leaf + 1).unwrap();
                    assert_eq!(entry.leaf.event(), Some(&events[1]));
                }
            });
        }
    });
    assert_eq!(world.ledger.size().unwrap(), 4 * 10 * 6 + 4 * 10 * 2);
    let report = world.ledger.verify(Some(&world.roots), None).unwrap();
    assert!(report.is_intact(), "{report:?}");
}
