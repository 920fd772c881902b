//! Proof files: `c2sp.org/tlog-proof@v1`; of an event that is said by what makes it another than one before it, one behind
//! the other.

use base64::{Engine, engine::general_purpose::STANDARD};
use testudo_model::event::Event;
use testudo_trust::{
    Checkpoint, NoteVerifier,
    merkle::{Hash, leaf_hash, verify_inclusion},
};

use crate::{Leaf, ProofError, alike, leaf::MAX_LEAF_BYTES};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A leaf of the largest size in base64, 64 hashes and a checkpoint with room for many witnesses.
const MAX_PROOF_BYTES: usize = MAX_LEAF_BYTES * 2 + 64 * 1024;
const MAX_PROOFS_BYTES: usize = 2 * MAX_PROOF_BYTES;
/// Longest path in a tree of 2^64 leaves.
const MAX_PATH: usize = 64;

/// A leaf that a proof file proved to be in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenLeaf {
    /// Its place.
    pub index: u64,
    /// Its bytes; [`crate::Leaf::parse`] reads them.
    pub leaf: Vec<u8>,
    /// The event it is, whole; `None` if it is none.
    pub event: Option<Box<Event>>,
    /// The checkpoint it is proven against.
    pub checkpoint: Checkpoint,
}

/// Verifies a proof file that carries its leaf as extra data, with nothing but the log's verifier key.
///
/// # Errors
/// The file is malformed, signed by another key, or does not prove all that its leaf says.
pub fn verify_proof_file(proof: &str, verifier_key: &str) -> Result<ProvenLeaf, ProofError> {
    let verifier = NoteVerifier::parse(verifier_key).map_err(|_| ProofError::VerifierKey)?;
    if proof.len() > MAX_PROOFS_BYTES {
        return Err(ProofError::Malformed("it is too long"));
    }
    let (own, rest) = split(proof);
    let mut proven = verify(own, &verifier, verifier_key)?;
    let template = rest
        .map(|rest| verify(rest, &verifier, verifier_key))
        .transpose()?;
    proven.event = match Leaf::parse(&proven.leaf) {
        Ok(Leaf::Alike(alike)) => {
            let says_the_rest = |template: &ProvenLeaf| {
                Some(template.index) == alike::place(proven.index, alike.back())
                    && template.checkpoint == proven.checkpoint
            };
            let template = template
                .filter(says_the_rest)
                .and_then(|template| Leaf::parse(&template.leaf).ok());
            let whole = template.and_then(|leaf| alike.restore(leaf.event()?));
            Some(Box::new(whole.ok_or(ProofError::Malformed(
                "it does not prove the event that its leaf is like",
            ))?))
        }
        _ if template.is_some() => return Err(ProofError::Malformed("it proves two leaves")),
        Ok(Leaf::Event(event)) => Some(event),
        _ => None,
    };
    Ok(proven)
}

/// The first proof, and what follows it.
fn split(proof: &str) -> (&str, Option<&str>) {
    let second = format!("\n{HEADER}\n");
    let at = proof.find(&second).map(|at| at + 1);
    match at.and_then(|at| proof.split_at_checked(at)) {
        Some((own, rest)) => (own, Some(rest)),
        None => (proof, None),
    }
}

/// Verifies the proof of one leaf.
fn verify(
    proof: &str,
    verifier: &NoteVerifier,
    verifier_key: &str,
) -> Result<ProvenLeaf, ProofError> {
    if proof.len() > MAX_PROOF_BYTES {
        return Err(ProofError::Malformed("it is too long"));
    }
    let (path, note) = proof
        .split_once("\n\n")
        .ok_or(ProofError::Malformed("it has no checkpoint"))?;
    let mut lines = path.split('\n');
    if lines.next() != Some(HEADER) {
        return Err(ProofError::Malformed(
            "its first line is not `c2sp.org/tlog-proof@v1`",
        ));
    }
    let leaf = lines
        .next()
        .and_then(|line| STANDARD.decode(line.strip_prefix("extra ")?).ok())
        .ok_or(ProofError::Malformed("it does not carry its leaf"))?;
    let index = lines
        .next()
        .and_then(|line| parse_index(line.strip_prefix("index ")?))
        .ok_or(ProofError::Malformed("its index is not a number"))?;
    let path = lines
        .map(|line| STANDARD.decode(line).ok()?.try_into().ok())
        .collect::<Option<Vec<Hash>>>()
        .filter(|path| path.len() <= MAX_PATH)
        .ok_or(ProofError::Malformed("its path is not a list of hashes"))?;
    let checkpoint = open_checkpoint(verifier, verifier_key, note)?;
    if !verify_inclusion(
        &leaf_hash(&leaf),
        index,
        checkpoint.size,
        &path,
        &checkpoint.root,
    ) {
        return Err(ProofError::NotIncluded);
    }
    Ok(ProvenLeaf {
        index,
        leaf,
        event: None,
        checkpoint,
    })
}

/// Writes a proof file.
pub(crate) fn print(leaf: &[u8], index: u64, path: &[Hash], checkpoint: &str) -> String {
    let mut proof = format!("{HEADER}\nextra {}\nindex {index}\n", STANDARD.encode(leaf));
    for hash in path {
        proof.push_str(&STANDARD.encode(hash));
        proof.push('\n');
    }
    proof.push('\n');
    proof.push_str(checkpoint);
    proof
}

/// Opens a signed checkpoint of the log that `verifier_key` names.
pub(crate) fn open_checkpoint(
    verifier: &NoteVerifier,
    verifier_key: &str,
    note: &str,
) -> Result<Checkpoint, ProofError> {
    let text = verifier.open(note).map_err(|_| ProofError::Checkpoint)?;
    let checkpoint =
        Checkpoint::parse(&text).map_err(|_| ProofError::Malformed("its checkpoint is not one"))?;
    // The key's name is the origin: a key used for two logs must not vouch for one in the name of the other.
    let named = verifier_key.split('+').next().unwrap_or_default();
    if checkpoint.origin != named {
        return Err(ProofError::Origin);
    }
    Ok(checkpoint)
}

/// A decimal without leading zeros.
fn parse_index(text: &str) -> Option<u64> {
    let index: u64 = text.parse().ok()?;
    (index.to_string() == text).then_some(index)
}

#[cfg(test)]
mod tests {
    use testudo_trust::{NoteSigner, merkle};

    use super::*;

    /// A log of two leaves and the proof of the second.
    fn proof() -> (String, String) {
        let leaves = [merkle::leaf_hash(b"first"), merkle::leaf_hash(b"second")];
        let signer = NoteSigner::generate("bookshop.example/ledger").unwrap();
        let checkpoint = Checkpoint {
            origin: "bookshop.example/ledger".to_owned(),
            size: 2,
            root: merkle::root(&leaves),
        };
        let note = signer.sign(&checkpoint.to_text());
        (
            print(b"second", 1, &leaves[..1], &note),
            signer.verifier_key(),
        )
    }

    #[test]
    fn a_proof_file_proves_its_leaf() {
        let (proof, key) = proof();
        let proven = verify_proof_file(&proof, &key).unwrap();
        assert_eq!(
            (proven.index, proven.leaf.as_slice()),
            (1, b"second".as_slice())
        );
        assert_eq!(proven.checkpoint.size, 2);
    }

    #[test]
    fn a_changed_proof_file_proves_nothing() {
        let (proof, key) = proof();
        for at in 0..proof.len() {
            let mut bytes = proof.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(verify_proof_file(&changed, &key).is_err(), "byte {at}");
            }
        }
        let (_, other) = self::proof();
        assert_eq!(
            verify_proof_file(&proof, &other),
            Err(ProofError::Checkpoint)
        );
        let moved = proof.replace("index 1", "index 01");
        assert!(matches!(
            verify_proof_file(&moved, &key),
            Err(ProofError::Malformed(_))
        ));
    }
}
