//! The spool as a whole: what survives, what is refused, what is on disk.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use base64::Engine as _;
use testudo_model::{
    DecisionId, TrustDomain,
    event::{
        Actor, Block, BlockHead, DecisionRecord, Detail, EventClass, EventLine, Grounds, LegRecord,
        Outcome,
    },
    limits::MAX_EVENT_BYTES,
    random_below,
};
use testudo_runtime::SystemClock;
use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::{
    CertificateAuthority, Svid, SvidKey, SystemEntropy, TrustBundle, base64url, merkle, sha256,
    verify_signature,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn identity_of(service: &str, clock: &dyn Clock, life: Duration) -> IdentitySource {
    let domain: TrustDomain = "fleet.example".parse().unwrap();
    let ca =
        CertificateAuthority::generate(&domain, clock.now(), Duration::from_secs(86_400)).unwrap();
    let id = domain.service(&service.parse().unwrap());
    let key = SvidKey::generate();
    let csr = key.csr_der(&id).unwrap();
    let leaf = ca
        .issue(&csr, &id, &[], clock.now(), life, &SystemEntropy)
        .unwrap();
    let root = ca.cert_der().to_vec();
    let svid = Svid::new(vec![leaf, root.clone()], key).unwrap();
    IdentitySource::new(svid, TrustBundle::new(domain, vec![root]).unwrap())
}

/// One key for all runs of a test, as a state key file would give.
fn keyring(seed: u64) -> Arc<Keyring> {
    Arc::new(Keyring::new(&*SeededEntropy::new(seed)))
}

fn options(folder: &Path, clock: &Arc<dyn Clock>) -> SpoolOptions {
    SpoolOptions {
        folder: folder.to_owned(),
        keyring: keyring(7),
        identity: identity_of("orders", &**clock, Duration::from_secs(3600)),
        tenant: TenantName::default_tenant(),
        max_bytes: DEFAULT_MAX_BYTES,
        ring: 1024,
        clock: Arc::clone(clock),
        entropy: Arc::new(SystemEntropy),
    }
}

fn fake_clock() -> Arc<dyn Clock> {
    FakeClock::today()
}

fn event(number: u64) -> Event {
    let details = [("number".to_owned(), Detail::from(number))].into();
    Event {
        id: testudo_model::EventId::generate(&*FakeClock::today(), &SystemEntropy),
        time: FakeClock::today().now(),
        tenant: TenantName::default_tenant(),
        class: EventClass::HttpActivity,
        activity: "request.limit".to_owned(),
        outcome: Outcome::Denied,
        actor: Actor {
            subject: Some("usr_of_the_test".to_owned()),
            ..Actor::default()
        },
        target: None,
        reporter: "spiffe://fleet.example/svc/orders".parse().unwrap(),
        source_ip: None,
        trace_id: None,
        transaction: None,
        decision: None,
        details,
    }
}

/// Ships everything: the blocks in order, each acknowledged.
fn ship_all(spool: &Spool) -> Vec<Block> {
    let mut shipped = Vec::new();
    while let Some(unshipped) = spool.oldest().unwrap() {
        shipped.push(acknowledge(spool, &unshipped));
    }
    shipped
}

/// The block, for which there is a receipt now.
fn acknowledge(spool: &Spool, unshipped: &Unshipped) -> Block {
    let block = Block::decode(&unshipped.encoded).unwrap();
    let receipt = receipt(spool, unshipped.number, &block);
    spool.acknowledge(&receipt).unwrap();
    block
}

fn receipt(spool: &Spool, number: u64, block: &Block) -> Receipt {
    Receipt {
        instance: spool.instance().clone(),
        block: number,
        head_hash: hex::encode(&sha256(block.head.as_bytes())),
        first_leaf: 0,
        tree_size: 1,
    }
}

fn events_of(blocks: &[Block]) -> Vec<Event> {
    blocks.iter().flat_map(whole_events).collect()
}

/// The events of a block, as the ledger shows them.
fn whole_events(block: &Block) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for line in &block.events {
        let event = match EventLine::parse(line).unwrap() {
            EventLine::Whole(event) => *event,
            EventLine::Alike(alike) => {
                let template = &events[events.len() - alike.back()];
                alike.restore(template).unwrap()
            }
        };
        events.push(event);
    }
    events
}

fn numbers(events: &[Event]) -> Vec<i64> {
    let number = |event: &Event| match event.details.get("number") {
        Some(Detail::Number(number)) => Some(*number),
        _ => None,
    };
    events.iter().filter_map(number).collect()
}

/// What the ledger will check: no gap, chain, root, signature.
fn assert_chained(blocks: &[Block]) {
    let mut expected: Option<(u64, u64, String)> = None;
    for block in blocks {
        let head: BlockHead = serde_json::from_str(&block.head).unwrap();
        if let Some((number, sequence, previous)) = &expected {
            assert_eq!(
                (head.block, head.first_sequence, &head.previous),
                (*number, *sequence, previous)
            );
        }
        let leaves: Vec<_> = block
            .events
            .iter()
            .map(|event| merkle::leaf_hash(event.as_bytes()))
            .collect();
        assert_eq!(head.root, hex::encode(&merkle::root(&leaves)));
        assert_eq!(usize::try_from(head.count).unwrap(), block.events.len());
        let leaf = base64::engine::general_purpose::STANDARD
            .decode(&block.chain[0])
            .unwrap();
        let signature = base64url::decode(&block.signature).unwrap();
        assert!(verify_signature(&leaf, block.head.as_bytes(), &signature));
        expected = Some((
            head.block + 1,
            head.first_sequence + u64::from(head.count),
            hex::encode(&sha256(block.head.as_bytes())),
        ));
    }
}

#[test]
fn events_leave_as_chained_signed_blocks_in_the_order_they_came() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    for number in 0..30 {
        sink.record(event(number)).unwrap();
        if number % 10 == 9 {
            assert!(spool.sync(PATIENCE));
        }
    }
    let blocks = ship_all(&spool);
    assert_eq!(blocks.len(), 3);
    assert_chained(&blocks);
    assert_eq!(numbers(&events_of(&blocks)), (0..30).collect::<Vec<i64>>());
    assert_eq!(spool.status().unshipped_blocks, 0);
}

#[test]
fn a_restart_continues_the_chain_and_keeps_what_was_not_shipped() {
    let folder = tempfile::tempdir().unwrap();
    let clock = fake_clock();
    let (spool, sink) = Spool::open(options(folder.path(), &clock)).unwrap();
    let instance = spool.instance().clone();
    sink.record(event(0)).unwrap();
    assert!(spool.sync(PATIENCE));
    let mut blocks = ship_all(&spool);
    sink.record(event(1)).unwrap();
    assert!(spool.close(PATIENCE));
    assert!(
        sink.record(event(2)).is_err(),
        "a closed spool takes nothing"
    );
    drop((spool, sink));

    let (spool, sink) = Spool::open(options(folder.path(), &clock)).unwrap();
    assert_eq!(spool.instance(), &instance);
    sink.record(event(3)).unwrap();
    assert!(spool.sync(PATIENCE));
    // Block 0 has its receipt and lies in the newest file: it is shipped again, which the ledger allows.
    let again = ship_all(&spool);
    assert_eq!(again[0], blocks.remove(0));
    assert_chained(&again);
    assert_eq!(numbers(&events_of(&again)), [0, 1, 3]);
    let activities: Vec<String> = events_of(&again)
        .into_iter()
        .map(|event| event.activity)
        .collect();
    assert!(!activities.contains(&"spool.unclean_stop".to_owned()));
}

#[test]
fn a_receipt_for_another_block_deletes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    sink.record(event(0)).unwrap();
    assert!(spool.sync(PATIENCE));
    let unshipped = spool.oldest().unwrap().unwrap();
    let block = Block::decode(&unshipped.encoded).unwrap();
    let good = receipt(&spool, unshipped.number, &block);
    let wrong_hash = Receipt {
        head_hash: hex::encode(&[0; 32]),
        ..good.clone()
    };
    let wrong_block = Receipt {
        block: 1,
        ..good.clone()
    };
    for wrong in [wrong_hash, wrong_block] {
        assert_eq!(spool.acknowledge(&wrong), Err(ReceiptMismatch));
    }
    assert_eq!(spool.status().unshipped_blocks, 1);
    spool.acknowledge(&good).unwrap();
}

#[test]
fn a_full_ring_refuses_and_the_loss_is_reported_in_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(SpoolOptions {
        ring: 4,
        ..options(folder.path(), &fake_clock())
    })
    .unwrap();
    let refused = (0..100_000)
        .filter(|number| sink.record(event(*number)).is_err())
        .count();
    assert!(refused > 0);
    assert!(spool.sync(PATIENCE));
    sink.record(event(0)).unwrap();
    assert!(spool.sync(PATIENCE));
    let blocks = ship_all(&spool);
    assert_chained(&blocks);
    let lost: u64 = blocks
        .iter()
        .map(|block| serde_json::from_str::<BlockHead>(&block.head).unwrap().lost)
        .sum();
    assert_eq!(lost, u64::try_from(refused).unwrap());
}

#[test]
fn a_spool_at_its_limit_refuses_events_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(SpoolOptions {
        max_bytes: 20_000,
        ..options(folder.path(), &fake_clock())
    })
    .unwrap();
    let full = Instant::now();
    let mut recorded = 0;
    while spool.status().fault.is_none() {
        assert!(full.elapsed() < PATIENCE);
        recorded += u64::from(sink.record(event(recorded)).is_ok());
        spool.sync(Duration::from_millis(200));
    }
    let fault = spool.status().fault.unwrap();
    assert!(fault.contains("20000 bytes"), "{fault}");
    assert!(sink.record(event(0)).is_err());
    let mut blocks = ship_all(&spool);
    assert!(spool.sync(PATIENCE), "the block that waited is written");
    assert_eq!(spool.status().fault, None);
    sink.record(event(recorded)).unwrap();
    assert!(spool.sync(PATIENCE));
    blocks.extend(ship_all(&spool));
    assert_chained(&blocks);
    let expected: Vec<i64> = (0..=i64::try_from(recorded).unwrap()).collect();
    assert_eq!(
        numbers(&events_of(&blocks)),
        expected,
        "what was taken was kept, through the fault"
    );
}

#[test]
fn a_segment_removed_while_in_use_makes_the_spool_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    sink.record(event(0)).unwrap();
    assert!(spool.sync(PATIENCE));
    let (_, segment) = segment::list(folder.path()).unwrap().remove(0);
    fs::remove_file(&segment).unwrap();
    sink.record(event(1)).unwrap();
    assert!(
        !spool.sync(Duration::from_millis(500)),
        "what is written into a removed file is not durable"
    );
    assert!(fault_of(&spool).contains("was removed or replaced"));
    assert!(sink.record(event(2)).is_err());
}

/// The fault, as soon as the writer has noticed it.
fn fault_of(spool: &Spool) -> String {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(fault) = spool.status().fault {
            return fault;
        }
        assert!(
            std::time::Instant::now() < until,
            "the writer notices no fault"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_folder_that_cannot_be_written_refuses_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    // The first segment has this name: as a folder it stands in the way, whoever runs the test.
    let obstacle = folder.path().join(format!("{:020}.segment", 0));
    fs::create_dir(&obstacle).unwrap();
    sink.record(event(0)).unwrap();
    assert!(!spool.sync(Duration::from_millis(300)));
    assert!(fault_of(&spool).contains("cannot write the event spool"));
    assert!(sink.record(event(1)).is_err());
    fs::remove_dir(&obstacle).unwrap();
    assert!(spool.sync(PATIENCE));
    assert_eq!(numbers(&events_of(&ship_all(&spool))), [0]);
    sink.record(event(1)).unwrap();
}

#[test]
fn without_a_valid_identity_nothing_is_taken_and_with_a_new_one_everything_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::today();
    let dyn_clock: Arc<dyn Clock> = clock.clone();
    let identity = identity_of("orders", &*clock, Duration::from_secs(60));
    let (spool, sink) = Spool::open(SpoolOptions {
        identity: identity.clone(),
        ..options(folder.path(), &dyn_clock)
    })
    .unwrap();
    clock.advance(Duration::from_secs(61));
    sink.record(event(0)).unwrap();
    assert!(!spool.sync(Duration::from_millis(300)));
    assert!(sink.record(event(1)).is_err());
    assert!(spool.status().fault.unwrap().contains("ended at"));
    let renewed = identity_of("orders", &*clock, Duration::from_secs(60));
    identity.swap(Svid::clone(&renewed.current()));
    assert!(spool.sync(PATIENCE));
    let blocks = ship_all(&spool);
    assert_chained(&blocks);
    assert_eq!(numbers(&events_of(&blocks)), [0]);
}

#[test]
fn nothing_on_disk_is_readable() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    sink.record(event(0)).unwrap();
    assert!(spool.close(PATIENCE));
    for entry in fs::read_dir(folder.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for secret in ["usr_of_the_test", "request.limit"] {
            assert!(
                !bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes())
            );
        }
    }
}

#[test]
fn another_key_another_workload_and_a_changed_block_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let clock = fake_clock();
    let (spool, sink) = Spool::open(options(folder.path(), &clock)).unwrap();
    assert!(matches!(
        Spool::open(options(folder.path(), &clock)),
        Err(SpoolError::Locked { .. })
    ));
    sink.record(event(0)).unwrap();
    assert!(spool.sync(PATIENCE));
    sink.record(event(1)).unwrap();
    assert!(spool.close(PATIENCE));
    drop((spool, sink));

    let other_key = SpoolOptions {
        keyring: keyring(8),
        ..options(folder.path(), &clock)
    };
    assert!(matches!(
        Spool::open(other_key),
        Err(SpoolError::Key { .. })
    ));
    let identity = identity_of("stock", &*clock, Duration::from_secs(60));
    let other_workload = SpoolOptions {
        identity,
        ..options(folder.path(), &clock)
    };
    assert!(matches!(
        Spool::open(other_workload),
        Err(SpoolError::Foreign { .. })
    ));

    // The first frame removed, checksums intact: the second no longer opens in the first one's place.
    let (_, path) = segment::list(folder.path()).unwrap().remove(0);
    let frames = segment::scan(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut forged = segment::SegmentWriter::create(folder.path(), 0).unwrap();
    forged.append(&frames[1].1).unwrap();
    assert!(matches!(
        Spool::open(options(folder.path(), &clock)),
        Err(SpoolError::Damaged { .. })
    ));
}

#[test]
fn a_block_that_memory_did_not_keep_is_read_back_and_must_be_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    for number in 0..750 {
        let large = Event {
            target: Some("x".repeat(15_000)),
            ..event(number)
        };
        sink.record(large).unwrap();
    }
    assert!(spool.sync(PATIENCE));
    assert!(spool.status().unshipped_bytes > 10 * 1024 * 1024);
    let (_, newest) = segment::list(folder.path()).unwrap().pop().unwrap();
    let written = fs::read(&newest).unwrap();
    let (frame, _) = segment::scan(&newest).unwrap().swap_remove(0);
    let mut changed = written.clone();
    changed[usize::try_from(frame.offset).unwrap()] ^= 1;
    fs::write(&newest, changed).unwrap();

    let mut blocks = Vec::new();
    let refusal = loop {
        match spool.oldest() {
            Ok(unshipped) => {
                let unshipped = unshipped.expect("the changed block is not shipped");
                blocks.push(acknowledge(&spool, &unshipped));
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, SpoolError::Damaged { .. }), "{refusal}");
    assert!(
        blocks.len() >= 8,
        "memory has what it kept, whatever the disk"
    );
    fs::write(&newest, written).unwrap();
    blocks.extend(ship_all(&spool));
    assert_chained(&blocks);
    assert_eq!(numbers(&events_of(&blocks)), (0..750).collect::<Vec<i64>>());
}

#[test]
fn an_event_that_is_too_long_loses_the_context_of_its_decision_and_only_then_its_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    let decided = |path: usize, context: usize| Event {
        decision: Some(DecisionRecord {
            id: DecisionId::generate(&*FakeClock::today(), &SystemEntropy),
            snapshot: 1,
            service: "orders".parse().unwrap(),
            operation: None,
            method: "GET".to_owned(),
            path: "p".repeat(path),
            reason: "allowed".to_owned(),
            grounds: Grounds {
                legs: Arc::default(),
                context: Some("c".repeat(context).into()),
            },
            status: 0,
        }),
        ..event(0)
    };
    for (path, context) in [(10, 10), (10, MAX_EVENT_BYTES), (MAX_EVENT_BYTES, 10)] {
        sink.record(decided(path, context)).unwrap();
    }
    assert!(spool.sync(PATIENCE));
    let blocks = ship_all(&spool);
    assert_chained(&blocks);
    let contexts: Vec<_> = events_of(&blocks)
        .into_iter()
        .map(|event| {
            let grounds = event.decision.unwrap().grounds;
            let context = grounds.context.map(|context| context.len());
            let left_out = event.details.into_keys().filter(|key| key != "number");
            (context, left_out.collect::<Vec<_>>())
        })
        .collect();
    let omitted = |how: &str| (None, vec![how.to_owned()]);
    assert_eq!(
        contexts,
        [
            (Some(10), vec![]),
            omitted("context_omitted"),
            omitted("cut")
        ]
    );
    let head: BlockHead = serde_json::from_str(&blocks[0].head).unwrap();
    assert_eq!(head.lost, 0);
}

#[test]
fn a_decision_is_recorded_however_much_everybody_has_to_say() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    // Quotes are written with two bytes, control characters with six.
    let long = || "\"\u{1}\u{10ffff}".repeat(MAX_EVENT_BYTES);
    let leg = LegRecord {
        leg: long(),
        principal: long(),
        action: long(),
        resource: long(),
        allowed: true,
        policies: vec![],
        errors: vec![long()],
    };
    let mut verbose = event(0);
    verbose.actor = Actor {
        subject: Some(long()),
        workload: Some(verbose.reporter.clone()),
        client: Some(long()),
        session: None,
    };
    (verbose.target, verbose.trace_id) = (Some(long()), Some(long()));
    verbose.activity = long();
    verbose.details = (0..100)
        .map(|number| (format!("{number}{}", long()), Detail::from(long())))
        .collect();
    verbose.decision = Some(DecisionRecord {
        id: DecisionId::generate(&*FakeClock::today(), &SystemEntropy),
        snapshot: u64::MAX,
        service: "orders".parse().unwrap(),
        operation: Some(long()),
        method: long(),
        path: long(),
        reason: long(),
        grounds: Grounds {
            legs: vec![leg; 9].into(),
            context: Some(long().into()),
        },
        status: 0,
    });
    let id = verbose.id.clone();
    sink.record(verbose).unwrap();
    assert!(spool.sync(PATIENCE));
    let events = events_of(&ship_all(&spool));
    let [recorded] = events.as_slice() else {
        panic!("one event, and no loss: {events:?}");
    };
    assert_eq!(recorded.id, id);
    let legs = &recorded.decision.as_ref().unwrap().grounds.legs;
    assert!(legs.iter().all(|leg| leg.allowed));
}

#[test]
fn a_refused_block_is_put_aside_and_does_not_stop_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, sink) = Spool::open(options(folder.path(), &fake_clock())).unwrap();
    for number in 0..2 {
        sink.record(event(number)).unwrap();
        assert!(spool.sync(PATIENCE));
    }
    spool.set_aside().unwrap();
    assert_eq!(numbers(&events_of(&ship_all(&spool))), [1]);
    assert_eq!(
        fs::read_dir(folder.path().join(REFUSED_FOLDER))
            .unwrap()
            .count(),
        1
    );
}

/// Not a test of its own: the process that the next test kills.
#[test]
#[ignore = "run by `a_process_killed_at_any_moment_loses_no_event_that_was_on_disk`"]
#[allow(clippy::disallowed_methods, reason = "how the parent speaks to it")]
fn child() {
    let folder = PathBuf::from(std::env::var("TESTUDO_SPOOL_FOLDER").unwrap());
    let first: u64 = std::env::var("TESTUDO_SPOOL_FIRST")
        .unwrap()
        .parse()
        .unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (spool, sink) = Spool::open(options(&folder, &clock)).unwrap();
    for number in first.. {
        while sink.record(event(number)).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        if number % 50 == 0 {
            assert!(spool.sync(PATIENCE));
            println!("on disk {number}");
        }
    }
}

#[test]
fn a_process_killed_at_any_moment_loses_no_event_that_was_on_disk() {
    const ROUND: u64 = 1_000_000;
    let folder = tempfile::tempdir().unwrap();
    let mut on_disk = BTreeSet::new();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["spool::tests::child", "--exact", "--ignored", "--nocapture"])
            .env("TESTUDO_SPOOL_FOLDER", folder.path())
            .env("TESTUDO_SPOOL_FIRST", (round * ROUND).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = None;
        let enough = 1 + random_below(&SystemEntropy, 8);
        let mut seen = 0;
        while seen < enough {
            let line = lines.next().expect("the child says how far it is").unwrap();
            if let Some(number) = line.strip_prefix("on disk ") {
                last = Some(number.parse::<u64>().unwrap());
                seen += 1;
            }
        }
        thread::sleep(Duration::from_micros(random_below(&SystemEntropy, 20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        on_disk.extend(round * ROUND..=last.unwrap());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (spool, _sink) = Spool::open(options(folder.path(), &clock)).unwrap();
    assert!(spool.sync(PATIENCE));
    let blocks = ship_all(&spool);
    assert_chained(&blocks);
    let head: BlockHead = serde_json::from_str(&blocks[0].head).unwrap();
    assert_eq!((head.block, head.first_sequence), (0, 0));
    let events = events_of(&blocks);
    let kept = numbers(&events);
    assert!(
        kept.windows(2).all(|pair| pair[0] < pair[1]),
        "in order, none twice"
    );
    let kept: BTreeSet<u64> = kept
        .into_iter()
        .map(|number| u64::try_from(number).unwrap())
        .collect();
    assert!(on_disk.is_subset(&kept));
    let gaps = events
        .iter()
        .filter(|event| event.activity == "spool.unclean_stop")
        .count();
    assert!(
        gaps >= 5,
        "each kill but perhaps the last is an event: {gaps}"
    );
}
