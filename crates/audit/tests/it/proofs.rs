//! Proofs, checked by an implementation that shares no code with the ledger's: RFC 6962 section 2.1, word for
//! word.

use base64::{Engine, engine::general_purpose::STANDARD};
use testudo_audit::verify_proof_file;
use testudo_trust::{Checkpoint, NoteVerifier, sha256};

use crate::fixture::World;

type Hash = [u8; 32];

/// MTH(D[n]) of RFC 6962 section 2.1.
fn tree_hash(leaves: &[String]) -> Hash {
    match leaves {
        [] => sha256(b""),
        [leaf] => sha256(&[b"\0", leaf.as_bytes()].concat()),
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&tree_hash(left), &tree_hash(right))
        }
    }
}

/// PATH(m, D[n]) of section 2.1.1.
fn path(index: usize, leaves: &[String]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, sibling) = if index < k {
        (path(index, left), tree_hash(right))
    } else {
        (path(index - k, right), tree_hash(left))
    };
    path.push(sibling);
    path
}

/// SUBPROOF(m, D[n], b) of section 2.1.2.
fn subproof(old: usize, leaves: &[String], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole {
            Vec::new()
        } else {
            vec![tree_hash(leaves)]
        };
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = if old <= k {
        (subproof(old, left, whole), tree_hash(right))
    } else {
        (subproof(old - k, right, false), tree_hash(left))
    };
    proof.push(sibling);
    proof
}

fn split(length: usize) -> usize {
    let mut k = 1;
    while k * 2 < length {
        k *= 2;
    }
    k
}

fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1][..], left, right].concat())
}

fn leaves(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let page = world.ledger.tail(all.len() as u64, 1_000).unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page.into_iter().map(|entry| entry.text));
    }
}

fn checkpoint(world: &World) -> Checkpoint {
    let verifier = NoteVerifier::parse(&world.ledger.verifier_key()).unwrap();
    let text = verifier.open(&world.ledger.checkpoint().unwrap()).unwrap();
    Checkpoint::parse(&text).unwrap()
}

/// A ledger whose size crosses tile borders, built in uneven steps.
fn grown() -> World {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    for count in [1, 254, 0, 1, 255, 30, 100] {
        world
            .ledger
            .intake(proxy.seal(&world, count), &world.roots)
            .unwrap();
        world.ledger.append(&world.own_events(2)).unwrap();
    }
    world
}

#[test]
fn the_checkpoint_commits_to_every_leaf() {
    let world = World::new();
    assert_eq!(checkpoint(&world).root, tree_hash(&[]));
    let world = grown();
    let (leaves, checkpoint) = (leaves(&world), checkpoint(&world));
    assert_eq!(checkpoint.origin, "bookshop.example/ledger");
    assert_eq!(checkpoint.size, leaves.len() as u64);
    assert_eq!(checkpoint.root, tree_hash(&leaves));
}

#[test]
fn a_checkpoint_has_the_published_form() {
    let world = World::new();
    let note = world.ledger.checkpoint().unwrap();
    let lines: Vec<_> = note.split('\n').collect();
    assert_eq!(lines[0], "bookshop.example/ledger");
    assert_eq!(lines[1], "0");
    // SHA-256 of nothing: the root of the empty tree.
    assert_eq!(lines[2], "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    assert_eq!(lines[3], "");
    let signature = lines[4].strip_prefix("— bookshop.example/ledger ").unwrap();
    let signature = STANDARD.decode(signature).unwrap();
    assert_eq!(signature.len(), 4 + 64);
    let key = world.ledger.verifier_key();
    let id: String = signature[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(key.split('+').nth(1).unwrap(), id);
    assert_eq!(lines[5..], [""]);
}

#[test]
fn every_leaf_has_a_proof_file_that_is_exactly_the_path_of_the_rfc() {
    let world = grown();
    let (leaves, key) = (leaves(&world), world.ledger.verifier_key());
    for index in (0..leaves.len())
        .step_by(7)
        .chain([255, 256, 257, 511, 512, leaves.len() - 1])
    {
        let file = world.ledger.prove(index as u64).unwrap();
        let mut expected = format!(
            "c2sp.org/tlog-proof@v1\nextra {}\nindex {index}\n",
            STANDARD.encode(&leaves[index])
        );
        for hash in path(index, &leaves) {
            expected.push_str(&format!("{}\n", STANDARD.encode(hash)));
        }
        expected.push_str(&format!("\n{}", world.ledger.checkpoint().unwrap()));
        let (own, rest) = file.split_at(expected.len());
        assert_eq!(own, expected);
        assert_eq!(!rest.is_empty(), leaves[index].starts_with("{\"e\":"));
        let proven = verify_proof_file(&file, &key).unwrap();
        assert_eq!(proven.leaf, leaves[index].as_bytes());
    }
    assert!(world.ledger.prove(leaves.len() as u64).is_err());
}

#[test]
fn a_proof_says_nothing_about_another_leaf() {
    let world = grown();
    let key = world.ledger.verifier_key();
    let (one, two) = (
        world.ledger.entry(3).unwrap(),
        world.ledger.entry(4).unwrap(),
    );
    let file = world.ledger.prove(3).unwrap();
    let swapped = file.replace(&STANDARD.encode(&one.text), &STANDARD.encode(&two.text));
    assert!(verify_proof_file(&swapped, &key).is_err());
    let moved = file.replace("\nindex 3\n", "\nindex 4\n");
    assert!(verify_proof_file(&moved, &key).is_err());
    let other = World::new();
    assert!(verify_proof_file(&file, &other.ledger.verifier_key()).is_err());
}

#[test]
fn a_proof_covers_all_that_an_event_says() {
    let world = World::new();
    let mut proxy = world.proxy("orders");
    let mut events = world.alike(proxy.id(), "reads").to_vec();
    events.extend(world.alike(proxy.id(), "writes"));
    let block = proxy.seal_events(&world, &events, 0);
    world.ledger.intake(block, &world.roots).unwrap();
    let key = world.ledger.verifier_key();
    let whole = |file: &str| verify_proof_file(file, &key).map(|proven| proven.event);
    let proofs: Vec<_> = (0..5)
        .map(|index| world.ledger.prove(index).unwrap())
        .collect();
    assert_eq!(whole(&proofs[0]), Ok(None), "the block is no event");
    for (index, event) in (1..).zip(&events) {
        assert_eq!(whole(&proofs[index]), Ok(Some(Box::new(event.clone()))));
    }
    let second = proofs[2].rfind("c2sp.org/tlog-proof@v1\n").unwrap();
    let (own, template) = proofs[2].split_at(second);
    assert_eq!(proofs[1], template);
    for (why, proof) in [
        ("the rest is not proven", own.to_owned()),
        ("another event says the rest", format!("{own}{}", proofs[3])),
        ("it is not the rest", format!("{own}{own}")),
        ("nothing is like", format!("{template}{template}")),
        ("three", format!("{own}{template}{template}")),
        (
            "changed",
            format!("{own}{}", template.replace("index 1", "index 2")),
        ),
    ] {
        assert!(whole(&proof).is_err(), "{why}");
    }
}

#[test]
fn every_earlier_tree_is_proven_to_be_the_beginning_of_this_one() {
    let world = grown();
    let leaves = leaves(&world);
    for old in (1..=leaves.len())
        .step_by(11)
        .chain([255, 256, 257, 512, leaves.len()])
    {
        let (proof, note) = world.ledger.consistency(old as u64).unwrap();
        assert_eq!(proof, subproof(old, &leaves, true), "{old}");
        assert_eq!(note, world.ledger.checkpoint().unwrap());
    }
    assert!(world.ledger.consistency(leaves.len() as u64 + 1).is_err());
}
