//! Searching and following.

use std::time::Duration;

use testudo_audit::{Filter, LedgerError};
use testudo_model::{
    Clock, EventId,
    event::{Detail, Outcome},
};
use testudo_testkit::{FakeClock, SeededEntropy};

use crate::fixture::{World, domain};

fn filter(world: &World, text: &str) -> Filter {
    Filter::parse(text, world.clock.now()).unwrap()
}

fn paths(world: &World, text: &str) -> Vec<String> {
    let page = world
        .ledger
        .search(&filter(world, text), None, 100)
        .unwrap();
    assert_eq!(page.next, None);
    let decision = |entry: &testudo_audit::Entry| {
        entry
            .leaf
            .event()
            .and_then(|event| event.decision.clone())
            .unwrap()
            .path
    };
    page.entries.iter().map(decision).collect()
}

#[test]
fn decisions_are_found_and_shown_whole_wherever_what_they_say_stands() {
    let world = World::new();
    let mut all = Vec::new();
    for (service, policy) in [("orders", "reads-orders"), ("cart", "fills-cart")] {
        let mut proxy = world.proxy(service);
        let events = world.alike(proxy.id(), policy);
        let block = proxy.seal_events(&world, &events, 0);
        assert!(block.events[1].len() < block.events[0].len() / 3);
        world.ledger.intake(block, &world.roots).unwrap();
        all.extend(events);
    }
    for (service, policy) in [("orders", "reads-orders"), ("cart", "fills-cart")] {
        let reporter = domain().service(&service.parse().unwrap());
        assert_eq!(
            paths(&world, &format!("\"{policy}\"")),
            ["/second", "/first"]
        );
        assert_eq!(
            paths(&world, &format!("reporter={reporter} path=/second")),
            ["/second"]
        );
    }
    let whole = world.ledger.tail(0, 100).unwrap();
    let shown: Vec<_> = whole
        .iter()
        .filter_map(|entry| entry.leaf.event())
        .collect();
    assert_eq!(shown, all.iter().collect::<Vec<_>>());
    for event in &all {
        let by_id = world.ledger.event(&event.id).unwrap();
        let by_decision = &event.decision.as_ref().unwrap().id;
        assert_eq!(by_id, world.ledger.decision(by_decision).unwrap());
        assert_eq!(by_id[0].leaf.event(), Some(event));
    }
}

#[test]
fn search_finds_the_newest_first() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    for (path, outcome) in [
        ("/a", Outcome::Success),
        ("/b", Outcome::Denied),
        ("/c", Outcome::Denied),
    ] {
        let event = world.decision(proxy.id(), path, outcome);
        world
            .ledger
            .intake(proxy.seal_events(&world, &[event], 0), &world.roots)
            .unwrap();
        world.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(paths(&world, "class=authorize_session"), ["/c", "/b", "/a"]);
    assert_eq!(paths(&world, "outcome=denied"), ["/c", "/b"]);
    assert_eq!(paths(&world, "outcome=denied since=90s"), ["/c"]);
    assert_eq!(paths(&world, "until=150s"), ["/a"]);
    assert_eq!(paths(&world, "path=/b"), ["/b"]);
    assert_eq!(paths(&world, "service=orders \"/a\""), ["/a"]);
    assert_eq!(paths(&world, "service=cart"), [""; 0]);
}

#[test]
fn decisions_and_events_are_found_by_id_among_thousands() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    for _ in 0..3 {
        world
            .ledger
            .intake(proxy.seal(&world, 700), &world.roots)
            .unwrap();
    }
    for index in [1, 120, 121, 700, 702, 2_102] {
        let entry = world.ledger.entry(index).unwrap();
        let event = entry.leaf.event().unwrap().clone();
        let decision = event.decision.unwrap().id;
        let only = std::slice::from_ref(&entry);
        assert_eq!(world.ledger.event(&event.id).unwrap(), only);
        assert_eq!(world.ledger.decision(&decision).unwrap(), only);
        let found = world
            .ledger
            .search(&filter(&world, &format!("decision={decision}")), None, 10)
            .unwrap();
        assert_eq!((found.entries, found.scanned), (vec![entry], 1));
    }
    let unknown = filter(&world, "event=evt_00000000000000000000000000");
    assert_eq!(world.ledger.search(&unknown, None, 10).unwrap().entries, []);
}

#[test]
fn ids_are_found_whenever_they_claim_to_be_made_and_all_that_share_one_are_told() {
    let world = World::new();
    let (mut orders, mut cart) = (world.proxy("orders"), world.proxy("cart"));
    let mut events = Vec::new();
    for day in 0..200 {
        // A spool that was long away, or a reporter that makes times up: each id of another day.
        let mut event = world.decision(orders.id(), "/late", Outcome::Success);
        let made = FakeClock::at(day * 86_400_000);
        event.id = EventId::generate(&*made, &*SeededEntropy::new(day as u64));
        events.push(event);
    }
    let block = orders.seal_events(&world, &events, 0);
    world.ledger.intake(block, &world.roots).unwrap();
    for event in &events {
        let found = world.ledger.event(&event.id).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].leaf.event(), Some(event));
    }
    let mut copied = world.decision(cart.id(), "/forged", Outcome::Denied);
    copied.id = events[0].id.clone();
    let block = cart.seal_events(&world, &[copied], 0);
    world.ledger.intake(block, &world.roots).unwrap();
    let reporters: Vec<_> = world
        .ledger
        .event(&events[0].id)
        .unwrap()
        .iter()
        .map(|entry| entry.leaf.event().unwrap().reporter.to_string())
        .collect();
    assert_eq!(reporters, [orders.id().as_str(), cart.id().as_str()]);
}

#[test]
fn pages_follow_each_other_without_gap_or_repetition() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    world
        .ledger
        .intake(proxy.seal(&world, 1_500), &world.roots)
        .unwrap();
    let filter = filter(&world, "class=authorize_session");
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = world.ledger.search(&filter, before, 400).unwrap();
        seen.extend(page.entries.iter().map(|entry| entry.index));
        match page.next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, (1..=1_500).rev().collect::<Vec<u64>>());
}

#[test]
fn a_search_since_does_not_read_what_is_older() {
    let world = World::new();
    world.ledger.append(&world.own_events(1_000)).unwrap();
    world.clock.advance(Duration::from_secs(3_600));
    world.ledger.append(&world.own_events(3)).unwrap();
    let page = world
        .ledger
        .search(&filter(&world, "since=5m"), None, 100)
        .unwrap();
    assert_eq!((page.entries.len(), page.scanned, page.next), (3, 3, None));
    // A clock set back must not hide what came before.
    world
        .clock
        .jump_to(world.clock.now().unix_millis() - 1_800_000);
    world.ledger.append(&world.own_events(1)).unwrap();
    let page = world
        .ledger
        .search(&filter(&world, "since=0s"), None, 100)
        .unwrap();
    assert_eq!(page.entries.len(), 4);
}

#[test]
fn following_sees_each_leaf_once() {
    let world = World::new();
    world.ledger.append(&world.own_events(3)).unwrap();
    let first = world.ledger.tail(0, 2).unwrap();
    world.ledger.append(&world.own_events(2)).unwrap();
    let rest = world.ledger.tail(2, 100).unwrap();
    let indexes: Vec<_> = first.iter().chain(&rest).map(|entry| entry.index).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4]);
    assert_eq!(world.ledger.tail(5, 100).unwrap(), []);
    assert!(matches!(
        world.ledger.entry(5),
        Err(LedgerError::NoSuchLeaf { index: 5, size: 5 })
    ));
}

#[test]
fn the_fleets_ledger_has_what_its_own_rooms_say_of_all_tenants() {
    let world = World::new();
    let mut event = world.event(&domain().server(), "tenant.create");
    event.tenant = "acme".parse().unwrap();
    world.ledger.append(&[event]).unwrap();
    assert_eq!(world.ledger.size().unwrap(), 1);
}

#[test]
fn an_event_that_cannot_be_a_leaf_is_refused_and_nothing_else_appended() {
    let world = World::new();
    let mut events = world.own_events(2);
    for at in 0..200 {
        events[1]
            .details
            .insert(format!("detail-{at}"), Detail::from("x".repeat(512)));
    }
    assert!(matches!(
        world.ledger.append(&events),
        Err(LedgerError::EventTooLarge { index: 1, .. })
    ));
    let many = vec![world.event(&domain().server(), "a.b"); 5_000];
    assert!(matches!(
        world.ledger.append(&many),
        Err(LedgerError::TooManyEvents { .. })
    ));
    assert_eq!(world.ledger.size().unwrap(), 0);
}
