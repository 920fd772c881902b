//! One changed byte anywhere is found, and the first bad leaf named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use testudo_audit::{Anchors, Report, verify_export};
use testudo_trust::{NoteSigner, TrustBundle};

use crate::fixture::{World, domain};

/// A ledger of `blocks` blocks with three events each and two events more, exported.
fn exported(blocks: usize) -> (World, PathBuf) {
    exported_with(blocks, 3)
}

fn exported_with(blocks: usize, events: usize) -> (World, PathBuf) {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    for _ in 0..blocks {
        world
            .ledger
            .intake(proxy.seal(&world, events), &world.roots)
            .unwrap();
    }
    world.ledger.append(&world.own_events(2)).unwrap();
    let folder = world.folder.path().join("export");
    assert_eq!(
        world.ledger.export(&folder).unwrap(),
        world.ledger.size().unwrap()
    );
    (world, folder)
}

fn verify(world: &World, folder: &Path) -> Report {
    verify_export(folder, &world.ledger.verifier_key(), Anchors::default()).unwrap()
}

fn to_roots(roots: &TrustBundle) -> Anchors<'_> {
    Anchors {
        roots: Some(roots),
        checkpoint: None,
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path))
        } else {
            all.push(path)
        }
    }
    all.sort();
    all
}

#[test]
fn an_export_verifies_with_files_and_key_alone() {
    let (world, folder) = exported(5);
    let names: Vec<_> = files(&folder)
        .iter()
        .map(|path| path.strip_prefix(&folder).unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        ["checkpoint", "tile/0/000.p/22", "tile/entries/000.p/22"]
    );
    let report = verify(&world, &folder);
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((report.leaves, report.events, report.blocks), (22, 17, 5));
    let to_roots = verify_export(
        &folder,
        &world.ledger.verifier_key(),
        to_roots(&world.roots),
    )
    .unwrap();
    assert_eq!(to_roots, report);
    assert!(
        world.ledger.export(&folder).is_err(),
        "an export is never mixed with another"
    );
}

#[test]
fn an_export_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_world, folder) = exported(1);
    for file in files(&folder) {
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert_eq!(
        fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn every_flipped_byte_of_an_export_is_found() {
    let (world, folder) = exported_with(1, 1);
    let key = world.ledger.verifier_key();
    for file in files(&folder) {
        let original = fs::read(&file).unwrap();
        for at in 0..original.len() {
            let mut changed = original.clone();
            changed[at] ^= 0x20;
            fs::write(&file, &changed).unwrap();
            let report = verify_export(&folder, &key, Anchors::default()).unwrap();
            assert!(!report.is_intact(), "byte {at} of {}", file.display());
            if !file.ends_with("checkpoint") {
                let leaf = report.defect.unwrap().leaf.unwrap();
                assert!(
                    leaf <= expected_leaf(&file, &original, at),
                    "byte {at}: leaf {leaf}"
                );
            }
        }
        fs::write(&file, original).unwrap();
    }
    assert!(verify(&world, &folder).is_intact());
}

/// The leaf that byte `at` of a level-0 tile or an entry bundle belongs to.
fn expected_leaf(file: &Path, original: &[u8], at: usize) -> u64 {
    if file.to_str().unwrap().contains("tile/0") {
        return at as u64 / 32;
    }
    let (mut end, mut leaf) = (0, 0);
    loop {
        end += 2 + usize::from(u16::from_be_bytes([original[end], original[end + 1]]));
        if at < end {
            return leaf;
        }
        leaf += 1;
    }
}

#[test]
fn the_report_names_exactly_the_bad_leaf_across_tiles() {
    let (world, folder) = exported(200);
    assert_eq!(files(&folder).len(), 1 + 4 + 4 + 1);
    for (file, index) in [("tile/entries/000", 17), ("tile/entries/002", 100)] {
        let path = folder.join(file);
        let original = fs::read(&path).unwrap();
        let mut at = 0;
        for _ in 0..index {
            at += 2 + usize::from(u16::from_be_bytes([original[at], original[at + 1]]));
        }
        let mut changed = original.clone();
        changed[at + 20] ^= 1;
        fs::write(&path, changed).unwrap();
        let defect = verify(&world, &folder).defect.unwrap();
        let tile: u64 = file.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(defect.leaf, Some(tile * 256 + index));
        assert_eq!(defect.place, file);
        fs::write(&path, original).unwrap();
    }
    let upper = folder.join("tile/1/000.p/3");
    let original = fs::read(&upper).unwrap();
    let mut changed = original.clone();
    changed[40] ^= 1;
    fs::write(&upper, changed).unwrap();
    assert_eq!(
        verify(&world, &folder).defect.unwrap().place,
        "tile/1/000.p/3"
    );
    fs::write(&upper, original).unwrap();
    assert!(verify(&world, &folder).is_intact());
}

#[test]
fn missing_swapped_and_cut_files_are_found() {
    let (world, folder) = exported(200);
    for file in files(&folder) {
        let original = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(
            !verify(&world, &folder).is_intact(),
            "{} is gone",
            file.display()
        );
        fs::write(&file, &original[..original.len() - 1]).unwrap();
        assert!(
            !verify(&world, &folder).is_intact(),
            "{} is cut",
            file.display()
        );
        fs::write(&file, [&original[..], b"\0"].concat()).unwrap();
        assert!(
            !verify(&world, &folder).is_intact(),
            "{} has more",
            file.display()
        );
        fs::write(&file, original).unwrap();
    }
    let (one, two) = (
        folder.join("tile/entries/000"),
        folder.join("tile/entries/001"),
    );
    let spare = folder.join("spare");
    fs::rename(&one, &spare).unwrap();
    fs::rename(&two, &one).unwrap();
    fs::rename(&spare, &two).unwrap();
    assert_eq!(verify(&world, &folder).defect.unwrap().leaf, Some(0));
}

#[test]
fn a_checkpoint_of_another_key_or_log_is_refused() {
    let (world, folder) = exported(1);
    let note = fs::read_to_string(folder.join("checkpoint")).unwrap();
    let text = note.split_once("\n\n").unwrap().0.to_owned() + "\n";
    let stranger = NoteSigner::generate("bookshop.example/ledger").unwrap();
    fs::write(folder.join("checkpoint"), stranger.sign(&text)).unwrap();
    assert!(!verify(&world, &folder).is_intact());
    let named_otherwise = NoteSigner::generate("other.example/ledger").unwrap();
    fs::write(folder.join("checkpoint"), named_otherwise.sign(&text)).unwrap();
    let report =
        verify_export(&folder, &named_otherwise.verifier_key(), Anchors::default()).unwrap();
    insta::assert_snapshot!(report.defect.unwrap().what, @"the checkpoint is of another log");
    assert!(verify_export(&folder, "nonsense", Anchors::default()).is_err());
}

#[test]
fn blocks_are_checked_against_the_roots_that_are_given() {
    let (world, folder) = exported(1);
    let other = World::new();
    let strangers = TrustBundle::new(domain(), vec![other.authority.cert_der().to_vec()]).unwrap();
    let key = world.ledger.verifier_key();
    let report = verify_export(&folder, &key, to_roots(&strangers)).unwrap();
    assert_eq!(report.defect.unwrap().leaf, Some(0));
}

#[test]
fn an_export_must_hold_what_a_kept_checkpoint_covers() {
    let (world, folder) = exported(5);
    let key = world.ledger.verifier_key();
    let since = |checkpoint: &str| {
        let anchors = Anchors {
            roots: None,
            checkpoint: Some(checkpoint),
        };
        verify_export(&folder, &key, anchors).unwrap()
    };
    let same = fs::read_to_string(folder.join("checkpoint")).unwrap();
    assert!(since(&same).is_intact());
    world.ledger.append(&world.own_events(1)).unwrap();
    let newer = world.ledger.checkpoint().unwrap();
    assert!(!since(&newer).is_intact(), "the end was cut off");
    // The ledger's own key signs another history of the same length.
    let other = World::new();
    other.ledger.append(&other.own_events(3)).unwrap();
    assert!(!since(&other.ledger.checkpoint().unwrap()).is_intact());
    assert!(!since("nonsense").is_intact());
}

#[test]
fn outside_its_blocks_nobody_speaks_for_a_proxy() {
    let world = World::new();
    let orders = world.proxy("orders");
    let made_up = world.event(orders.id(), "decision.enforce");
    world.ledger.append(&[made_up]).unwrap();
    let defect = world.ledger.verify(None, None).unwrap().defect.unwrap();
    assert_eq!(defect.leaf, Some(0));
    insta::assert_snapshot!(defect.what, @"an event outside any block is not the control plane's own");
}

#[test]
fn an_export_made_while_the_ledger_grows_is_whole() {
    let (world, folder) = exported(70);
    let second = world.folder.path().join("second");
    std::thread::scope(|scope| {
        let growing = scope.spawn(|| {
            for _ in 0..30 {
                world.ledger.append(&world.own_events(20)).unwrap();
            }
        });
        for round in 0..5 {
            let folder = second.join(round.to_string());
            world.ledger.export(&folder).unwrap();
            assert!(verify(&world, &folder).is_intact());
        }
        growing.join().unwrap();
    });
    assert!(verify(&world, &folder).is_intact());
}

#[test]
fn a_checkpoint_kept_elsewhere_shows_that_the_end_was_cut_off() {
    let world = World::new();
    world.ledger.append(&world.own_events(3)).unwrap();
    let kept = world.ledger.checkpoint().unwrap();
    world.ledger.append(&world.own_events(300)).unwrap();
    assert!(world.ledger.verify(None, Some(&kept)).unwrap().is_intact());

    let backup = tempfile::tempdir().unwrap();
    let data = world.folder.path().join("data");
    copy(&data, backup.path());
    world.ledger.append(&world.own_events(1)).unwrap();
    let newest = world.ledger.checkpoint().unwrap();
    let World {
        ledger,
        store,
        clock,
        entropy,
        authority,
        roots,
        folder,
    } = world;
    drop((ledger, store.clone()));
    drop(store);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(backup.path(), &data).unwrap();
    let rolled_back = World::restore(folder, clock, entropy, authority, roots);
    assert!(
        rolled_back.ledger.verify(None, None).unwrap().is_intact(),
        "it cannot know"
    );
    let report = rolled_back.ledger.verify(None, Some(&newest)).unwrap();
    insta::assert_snapshot!(
        report.defect.unwrap().what,
        @"the ledger had 304 leaves then and has 303 now: its end was cut off"
    );
    let other = World::new().ledger.checkpoint().unwrap();
    assert!(rolled_back.ledger.verify(None, Some(&other)).is_err());
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_changed_byte_of_the_data_folder_never_shows_as_an_intact_ledger_with_other_leaves() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    for _ in 0..5 {
        world
            .ledger
            .intake(proxy.seal(&world, 40), &world.roots)
            .unwrap();
    }
    let texts = |world: &World| {
        let entries = world.ledger.tail(0, 1_000)?;
        Ok::<_, testudo_audit::LedgerError>(
            entries
                .into_iter()
                .map(|entry| entry.text)
                .collect::<Vec<_>>(),
        )
    };
    let original = texts(&world).unwrap();
    let World {
        ledger,
        store,
        clock,
        entropy,
        authority,
        roots,
        folder,
    } = world;
    drop((ledger, store));
    let data = folder.path().join("data");
    let database = files(&data)
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let bytes = fs::read(&database).unwrap();
    let mut found = 0;
    let mut state = (folder, clock, entropy, authority, roots);
    for at in (4_096..bytes.len()).step_by(bytes.len() / 40) {
        let mut changed = bytes.clone();
        changed[at] ^= 0xff;
        fs::write(&database, changed).unwrap();
        let (folder, clock, entropy, authority, roots) = state;
        match World::try_restore(&folder, &clock) {
            Some((store, ledger)) => {
                let world = World {
                    ledger,
                    store,
                    clock,
                    entropy,
                    authority,
                    roots,
                    folder,
                };
                match world.ledger.verify(Some(&world.roots), None) {
                    Ok(report) if report.is_intact() => {
                        assert_eq!(texts(&world).unwrap(), original, "byte {at}");
                    }
                    _ => found += 1,
                }
                let World {
                    ledger,
                    store,
                    clock,
                    entropy,
                    authority,
                    roots,
                    folder,
                } = world;
                drop((ledger, store));
                state = (folder, clock, entropy, authority, roots);
            }
            None => {
                found += 1;
                state = (folder, clock, entropy, authority, roots);
            }
        }
        for file in files(&data) {
            if file != database && file.extension().is_none_or(|kind| kind != "key") {
                let name = file.file_name().unwrap().to_str().unwrap();
                if name.ends_with("-wal") || name.ends_with("-shm") {
                    fs::remove_file(file).unwrap();
                }
            }
        }
    }
    assert!(
        found > 10,
        "only {found} of about 40 changes hit something that matters"
    );
}
