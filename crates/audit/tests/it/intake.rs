//! What proxies send: taken once, in any order, and only if it is theirs.

use std::time::Duration;

use testudo_audit::{IntakeError, Leaf};
use testudo_model::{
    Clock,
    event::{Block, BlockHead},
};
use testudo_trust::{CertificateAuthority, TrustBundle};

use crate::fixture::{World, domain, lines};

fn refusal(world: &World, block: &Block) -> IntakeError {
    let size = world.ledger.size().unwrap();
    let error = world
        .ledger
        .intake(block.clone(), &world.roots)
        .unwrap_err();
    assert_eq!(
        world.ledger.size().unwrap(),
        size,
        "a refused block leaves no leaf: {error}"
    );
    error
}

#[test]
fn a_block_and_its_events_are_leaves_when_the_receipt_says_so() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let block = proxy.seal(&world, 3);
    let receipt = world.ledger.intake(block.clone(), &world.roots).unwrap();
    assert_eq!(
        (receipt.block, receipt.first_leaf, receipt.tree_size),
        (0, 0, 4)
    );
    assert_eq!(receipt.head_hash, proxy.previous);
    let entries = world.ledger.tail(0, 10).unwrap();
    let Leaf::Block(evidence) = &entries[0].leaf else {
        panic!("no block leaf")
    };
    assert_eq!(evidence.head, block.head);
    let texts: Vec<_> = entries[1..]
        .iter()
        .map(|entry| entry.text.clone())
        .collect();
    assert_eq!(texts, block.events, "byte by byte");
    let report = world.ledger.verify(Some(&world.roots), None).unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((report.leaves, report.events, report.blocks), (4, 3, 1));
}

#[test]
fn the_same_block_again_gets_the_same_receipt_and_no_leaf() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let block = proxy.seal(&world, 3);
    let first = world.ledger.intake(block.clone(), &world.roots).unwrap();
    world.ledger.append(&world.own_events(2)).unwrap();
    assert_eq!(
        world.ledger.intake(block.clone(), &world.roots).unwrap(),
        first
    );
    let world = world.reopen();
    assert_eq!(
        world.ledger.intake(block.clone(), &world.roots).unwrap(),
        first
    );
    assert_eq!(world.ledger.size().unwrap(), 6);
}

#[test]
fn certificates_are_stored_once_while_they_last() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let mut chains = Vec::new();
    for round in 0..4 {
        if round == 2 {
            proxy.svid = world.svid(&proxy.id().clone());
        }
        let block = proxy.seal(&world, 0);
        let at = world
            .ledger
            .intake(block.clone(), &world.roots)
            .unwrap()
            .first_leaf;
        let Leaf::Block(evidence) = world.ledger.entry(at).unwrap().leaf else {
            panic!()
        };
        chains.push(!evidence.chain.is_empty());
    }
    assert_eq!(chains, [true, false, true, false]);
    assert!(
        world
            .ledger
            .verify(Some(&world.roots), None)
            .unwrap()
            .is_intact()
    );
}

#[test]
fn a_gap_is_an_event_and_so_is_its_end() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let blocks: Vec<_> = (0..4).map(|_| proxy.seal(&world, 1)).collect();
    for at in [0, 3, 1, 2] {
        world
            .ledger
            .intake(blocks[at].clone(), &world.roots)
            .unwrap();
    }
    let one = ["BLOCK", "decision.enforce"];
    let expected = [
        &one[..],
        &["audit.gap"],
        &one,
        &one,
        &["audit.gap_closed"],
        &one,
    ]
    .concat();
    assert_eq!(world.activities(), expected);
    let gap = world.ledger.entry(2).unwrap();
    let Leaf::Event(gap) = gap.leaf else { panic!() };
    assert_eq!(gap.target.as_deref(), Some(proxy.instance.as_str()));
    insta::assert_snapshot!(
        serde_json::to_string(&gap.details).unwrap(),
        @r#"{"events":2,"first_block":1,"last_block":2}"#
    );
    assert_eq!(world.ledger.verify(None, None).unwrap().missing_blocks, 0);
}

#[test]
fn lost_events_are_told() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let block = proxy.seal_events(&world, &[], 7);
    world.ledger.intake(block.clone(), &world.roots).unwrap();
    assert_eq!(world.activities(), ["audit.lost", "BLOCK"]);
    assert_eq!(world.ledger.verify(None, None).unwrap().lost_events, 7);
}

#[test]
fn a_fork_is_refused_and_kept_once_as_evidence() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    world
        .ledger
        .intake(proxy.seal(&world, 1), &world.roots)
        .unwrap();
    let mut restored = proxy.clone();
    world
        .ledger
        .intake(proxy.seal(&world, 1), &world.roots)
        .unwrap();
    let before = world.ledger.size().unwrap();
    let other = restored.seal(&world, 2);
    for _ in 0..3 {
        let error = world
            .ledger
            .intake(other.clone(), &world.roots)
            .unwrap_err();
        assert!(matches!(error, IntakeError::Forked { block: 1, .. }) && error.is_permanent());
    }
    assert_eq!(world.activities()[4..], ["audit.fork", "FORK"]);
    assert_eq!(world.ledger.size().unwrap(), before + 2);
    let next = world
        .ledger
        .intake(restored.seal(&world, 1), &world.roots)
        .unwrap_err();
    assert!(
        matches!(next, IntakeError::Forked { block: 2, .. }),
        "its past is another"
    );
    world
        .ledger
        .intake(proxy.seal(&world, 1), &world.roots)
        .unwrap();
    let report = world.ledger.verify(Some(&world.roots), None).unwrap();
    assert!(report.is_intact() && report.forks == 2, "{report:?}");
}

#[test]
fn a_fork_signed_with_a_renewed_certificate_leaves_the_ledger_verifiable() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let intake = |block| world.ledger.intake(block, &world.roots);
    intake(proxy.seal(&world, 1)).unwrap();
    let mut cloned = proxy.clone();
    cloned.svid = world.svid(proxy.id());
    intake(proxy.seal(&world, 1)).unwrap();
    intake(cloned.seal(&world, 2)).unwrap_err();
    intake(proxy.seal(&world, 1)).unwrap();
    let report = world.ledger.verify(Some(&world.roots), None).unwrap();
    assert!(report.is_intact() && report.forks == 1, "{report:?}");
}

#[test]
fn gaps_beyond_all_numbers_leave_the_ledger_verifiable() {
    let world = World::new();
    for service in ["orders", "inventory", "catalog"] {
        let mut proxy = world.proxy(service);
        proxy.block = u64::MAX - 7;
        world
            .ledger
            .intake(proxy.seal(&world, 1), &world.roots)
            .unwrap();
    }
    let report = world.ledger.verify(None, None).unwrap();
    assert!(report.is_intact() && report.missing_blocks == u64::MAX);
}

#[test]
fn forks_cannot_fill_the_ledger() {
    let world = World::new();
    let proxy = world.proxy("orders");
    world
        .ledger
        .intake(proxy.clone().seal(&world, 1), &world.roots)
        .unwrap();
    for _ in 0..20 {
        world
            .ledger
            .intake(proxy.clone().seal(&world, 1), &world.roots)
            .unwrap_err();
    }
    assert_eq!(world.ledger.size().unwrap(), 2 + 2 * 8);
}

#[test]
fn a_block_whose_certificate_has_expired_since_is_taken() {
    let world = World::new();
    let block = world.proxy("orders").seal(&world, 1);
    world.clock.advance(Duration::from_secs(12 * 3600));
    world.ledger.intake(block.clone(), &world.roots).unwrap();
}

#[test]
fn a_block_is_taken_only_from_its_certified_reporter() {
    let world = World::new();
    let (orders, cart) = (world.proxy("orders"), world.proxy("cart"));
    let good = orders.clone().seal(&world, 2);
    let head: BlockHead = serde_json::from_str(&good.head).unwrap();
    let with = |change: &dyn Fn(&mut Block)| {
        let mut block = good.clone();
        change(&mut block);
        refusal(&world, &block)
    };

    let by_another = cart.sign(&head, good.events.clone());
    assert!(matches!(
        refusal(&world, &by_another),
        IntakeError::Reporter { .. }
    ));
    let signature = |block: &mut Block| block.signature = by_another.signature.clone();
    assert!(matches!(with(&signature), IntakeError::Signature));
    let chain = |block: &mut Block| block.chain = Vec::new();
    assert!(matches!(with(&chain), IntakeError::Malformed { .. }));
    let long = |block: &mut Block| block.chain = vec!["AAAA".repeat(10_000); 2];
    assert!(matches!(with(&long), IntakeError::Malformed { .. }));
    let head_changed =
        |block: &mut Block| block.head = block.head.replace("\"lost\":0", "\"lost\":1");
    assert!(matches!(with(&head_changed), IntakeError::Signature));

    let stranger =
        CertificateAuthority::generate(&domain(), world.clock.now(), Duration::from_secs(86_400));
    let foreign = TrustBundle::new(domain(), vec![stranger.unwrap().cert_der().to_vec()]).unwrap();
    let error = world.ledger.intake(good.clone(), &foreign).unwrap_err();
    assert!(matches!(error, IntakeError::Chain { .. }));
    world.ledger.intake(good.clone(), &world.roots).unwrap();
}

#[test]
fn a_block_has_exactly_the_events_it_was_signed_over() {
    let world = World::new();
    let good = world.proxy("orders").seal(&world, 3);
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut block = good.clone();
        change(&mut block.events);
        refusal(&world, &block)
    };
    assert!(matches!(
        with(&|events| events.swap(0, 1)),
        IntakeError::Root
    ));
    assert!(matches!(
        with(&|events| {
            events.pop();
        }),
        IntakeError::Malformed { .. }
    ));
    assert!(matches!(
        with(&|events| events.push("x".into())),
        IntakeError::Malformed { .. }
    ));
    assert!(matches!(
        with(&|events| events[0] = events[0].replace("GET", "PUT")),
        IntakeError::Root
    ));
    assert!(matches!(
        with(&|events| events[2] = events[2].replace("\"as\":2", "\"as\":1")),
        IntakeError::Root
    ));
}

#[test]
fn signed_nonsense_is_still_nonsense() {
    let world = World::new();
    let refused = |text: String| {
        let block = world.proxy("orders").seal_texts(&world, vec![text], 0);
        refusal(&world, &block)
    };
    let cart = world.proxy("cart").id().clone();
    let foreign = serde_json::to_string(&world.event(&cart, "a.b")).unwrap();
    let mut tenant = world.event(world.proxy("orders").id(), "a.b");
    tenant.tenant = "other".parse().unwrap();
    for text in [
        String::new(),
        "{}".to_owned(),
        r#"{"block":{"head":"","signature":"","signer":""}}"#.to_owned(),
        "x".repeat(20_000),
        foreign,
        serde_json::to_string(&tenant).unwrap(),
    ] {
        assert!(matches!(refused(text), IntakeError::Event { index: 0, .. }));
    }
}

#[test]
fn an_event_is_like_a_whole_decision_before_it_in_its_own_block() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let [first, second] = lines(&world.alike(proxy.id(), "reads")).try_into().unwrap();
    assert!(second.contains("\"as\":1"), "{second}");
    let back = |number: usize| second.replace("\"as\":1", &format!("\"as\":{number}"));
    let undecided = serde_json::to_string(&world.event(proxy.id(), "a.b")).unwrap();
    for (lines, wrong) in [
        (vec![second.clone()], 0),
        (vec![second.clone(), first.clone()], 0),
        (vec![undecided, second.clone()], 1),
        (vec![first.clone(), back(2)], 1),
        (vec![first.clone(), back(0)], 1),
        (vec![first.clone(), back(u32::MAX as usize)], 1),
        (vec![first.clone(), second.clone(), second.clone()], 2),
    ] {
        let block = proxy.clone().seal_texts(&world, lines, 0);
        let refused = refusal(&world, &block);
        assert!(matches!(refused, IntakeError::Event { index, .. } if index == wrong));
    }
    let block = proxy.seal_texts(&world, vec![first, second.clone(), back(2)], 0);
    world.ledger.intake(block, &world.roots).unwrap();
    let later = proxy.seal_texts(&world, vec![second], 0);
    assert!(matches!(
        refusal(&world, &later),
        IntakeError::Event { index: 0, .. }
    ));
}

#[test]
fn a_block_from_the_future_waits() {
    let world = World::new();
    let block = world.proxy("orders").seal(&world, 1);
    world
        .clock
        .jump_to(world.clock.now().unix_millis() - 60_000);
    let error = refusal(&world, &block);
    assert!(matches!(error, IntakeError::Future { .. }) && !error.is_permanent());
}

#[test]
fn a_spool_has_one_owner() {
    let world = World::new();
    let (mut orders, mut cart) = (world.proxy("orders"), world.proxy("cart"));
    cart.instance = orders.instance.clone();
    world
        .ledger
        .intake(orders.seal(&world, 1), &world.roots)
        .unwrap();
    assert!(matches!(
        refusal(&world, &cart.seal(&world, 1)),
        IntakeError::ForeignSpool { .. }
    ));
}

#[test]
fn missing_numbers_inside_a_chain_are_a_fork() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    world
        .ledger
        .intake(proxy.seal(&world, 2), &world.roots)
        .unwrap();
    proxy.sequence += 1;
    let error = world
        .ledger
        .intake(proxy.seal(&world, 2), &world.roots)
        .unwrap_err();
    assert!(matches!(error, IntakeError::Forked { .. }));
}
