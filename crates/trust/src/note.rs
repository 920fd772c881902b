//! Signed notes and checkpoints of transparency logs, as C2SP writes them
//! (<https://c2sp.org/signed-note>, <https://c2sp.org/tlog-checkpoint>), with Ed25519 keys.
//!
//! A note is text, an empty line, and signature lines `— <name> <base64(key id || signature)>`.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use testudo_model::Redacted;
use zeroize::Zeroizing;

use crate::{
    encoding::{base64, hex},
    entropy::or_abort,
    hash::sha256_of_parts,
    merkle::Hash,
};

/// Type byte of Ed25519 in key ids and verifier keys.
const ED25519_TYPE: u8 = 1;
/// As the reference implementation.
const MAX_NOTE_BYTES: usize = 1_000_000;
/// As the reference implementation.
const MAX_SIGNATURES: usize = 100;
const MAX_VERIFIER_KEY_BYTES: usize = 1024;

/// Why a note, key or checkpoint is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// A key name is not empty and has no white space, `+` or line end.
    #[error("a key name must not be empty or contain white space, control characters or `+`")]
    Name,
    /// Not an Ed25519 key in PKCS#8.
    #[error("not a PKCS#8 private key on Ed25519")]
    PrivateKey,
    /// Not `name+id+base64` of an Ed25519 key, or the id is not the key's.
    #[error("not a verifier key `name+id+key` for Ed25519")]
    VerifierKey,
    /// No empty line between text and signatures, or lines that are neither.
    #[error("not a signed note")]
    Malformed,
    /// No signature by the verifier's key, or one that does not verify.
    #[error("the note is not signed by the expected key")]
    Signature,
    /// The text of the note is not a checkpoint.
    #[error("not a checkpoint: origin, size and root hash in three lines")]
    Checkpoint,
}

/// Signs notes under a name.
pub struct NoteSigner {
    name: String,
    pkcs8: Zeroizing<Vec<u8>>,
    key: Ed25519KeyPair,
}

impl NoteSigner {
    /// A signer with a new key from the operating system's randomness.
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        let key = or_abort(Ed25519KeyPair::generate());
        Self::from_pkcs8(name, or_abort(key.to_pkcs8()).as_ref())
    }

    /// A signer whose key [`to_pkcs8`](Self::to_pkcs8) wrote.
    pub fn from_pkcs8(name: &str, pkcs8: &[u8]) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Name);
        }
        let key = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| NoteError::PrivateKey)?;
        Ok(Self {
            name: name.to_owned(),
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            key,
        })
    }

    /// The private key in PKCS#8, to be sealed.
    pub fn to_pkcs8(&self) -> Redacted<Vec<u8>> {
        Redacted::new(self.pkcs8.to_vec())
    }

    /// What verifiers are configured with: `name+id+key`.
    pub fn verifier_key(&self) -> String {
        let key = [&[ED25519_TYPE], self.key.public_key().as_ref()].concat();
        format!(
            "{}+{}+{}",
            self.name,
            hex::encode(&self.key_id()),
            base64::encode(&key)
        )
    }

    /// The note over `text`: the text, an empty line and the signature. `text` ends with a line end; one is
    /// added if it does not.
    pub fn sign(&self, text: &str) -> String {
        let line_end = if text.ends_with('\n') { "" } else { "\n" };
        let text = format!("{text}{line_end}");
        let signature = or_abort(self.key.try_sign(text.as_bytes()));
        let signature = base64::encode(&[&self.key_id(), signature.as_ref()].concat());
        format!("{text}\n— {} {signature}\n", self.name)
    }

    fn key_id(&self) -> [u8; 4] {
        key_id(&self.name, self.key.public_key().as_ref())
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NoteSigner({})", self.verifier_key())
    }
}

/// Verifies notes of one signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteVerifier {
    name: String,
    key: [u8; 32],
}

impl NoteVerifier {
    /// Reads a verifier key `name+id+key`.
    pub fn parse(verifier_key: &str) -> Result<Self, NoteError> {
        if verifier_key.len() > MAX_VERIFIER_KEY_BYTES {
            return Err(NoteError::VerifierKey);
        }
        let mut parts = verifier_key.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::VerifierKey);
        };
        let key = base64::decode(key).ok_or(NoteError::VerifierKey)?;
        let Some((&ED25519_TYPE, key)) = key.split_first() else {
            return Err(NoteError::VerifierKey);
        };
        let key: [u8; 32] = key.try_into().map_err(|_| NoteError::VerifierKey)?;
        if !is_name(name) || hex::decode(id).as_deref() != Some(&key_id(name, &key)) {
            return Err(NoteError::VerifierKey);
        }
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// The text of `note`, its last line end included, if it is signed by this verifier's key. Signatures by
    /// other keys (witnesses) are not looked at.
    pub fn open(&self, note: &str) -> Result<String, NoteError> {
        let is_control = |c: char| c.is_ascii_control() && c != '\n';
        if note.len() > MAX_NOTE_BYTES || note.contains(is_control) {
            return Err(NoteError::Malformed);
        }
        // The last empty line: text may have some of its own.
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Malformed)?;
        let text = format!("{text}\n");
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Malformed)?;
        if signatures.split('\n').count() > MAX_SIGNATURES {
            return Err(NoteError::Malformed);
        }
        let mut verified = false;
        for line in signatures.split('\n') {
            let (name, id, signature) = read_signature(line).ok_or(NoteError::Malformed)?;
            if name == self.name && id == key_id(&self.name, &self.key) {
                UnparsedPublicKey::new(&ED25519, &self.key)
                    .verify(text.as_bytes(), &signature)
                    .map_err(|_| NoteError::Signature)?;
                verified = true;
            }
        }
        if verified {
            Ok(text)
        } else {
            Err(NoteError::Signature)
        }
    }
}

/// What a log commits to: so many leaves, with this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log, unique and stable: its schema-less URL by custom.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root hash of the tree.
    pub root: Hash,
}

impl Checkpoint {
    /// The text to sign: three lines.
    pub fn to_text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            base64::encode(&self.root)
        )
    }

    /// Reads the text of a note. Extension lines are allowed and not looked at.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let lines = text.strip_suffix('\n').ok_or(NoteError::Checkpoint)?;
        let mut lines = lines.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Checkpoint);
        };
        let size_read: u64 = size.parse().map_err(|_| NoteError::Checkpoint)?;
        let root = base64::decode(root).and_then(|root| root.try_into().ok());
        let canonical = size_read.to_string() == size;
        if origin.is_empty() || !canonical || lines.any(str::is_empty) {
            return Err(NoteError::Checkpoint);
        }
        let root = root.ok_or(NoteError::Checkpoint)?;
        Ok(Self {
            origin: origin.to_owned(),
            size: size_read,
            root,
        })
    }
}

/// `SHA-256(name || 0x0A || 0x01 || key)[..4]`: a hint which key to try, not a promise.
fn key_id(name: &str, key: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256_of_parts(&[name.as_bytes(), b"\n", &[ED25519_TYPE], key]);
    [a, b, c, d]
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

fn read_signature(line: &str) -> Option<(&str, [u8; 4], Vec<u8>)> {
    let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
    let decoded = base64::decode(encoded)?;
    let (id, signature) = decoded.split_first_chunk::<4>()?;
    (is_name(name) && !signature.is_empty()).then(|| (name, *id, signature.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example in the documentation of Go's `golang.org/x/mod/sumdb/note`.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_reference_note_opens() {
        assert_eq!(NoteVerifier::parse(KEY).unwrap().open(NOTE).unwrap(), TEXT);
    }

    #[test]
    fn a_note_opens_with_its_signers_key_only() {
        let signer = NoteSigner::generate("log.example/audit").unwrap();
        let again =
            NoteSigner::from_pkcs8("log.example/audit", signer.to_pkcs8().expose()).unwrap();
        assert_eq!(again.verifier_key(), signer.verifier_key());
        let verifier = NoteVerifier::parse(&signer.verifier_key()).unwrap();
        let note = again.sign("a\n\nb\n");
        assert_eq!(verifier.open(&note).unwrap(), "a\n\nb\n");
        let other = NoteSigner::generate("log.example/audit").unwrap();
        let other = NoteVerifier::parse(&other.verifier_key()).unwrap();
        assert_eq!(other.open(&note), Err(NoteError::Signature));
        assert_eq!(other.open(NOTE), Err(NoteError::Signature));
    }

    #[test]
    fn a_witness_may_sign_too_but_a_bad_signature_of_the_log_never_passes() {
        let (log, witness) = (
            NoteSigner::generate("log").unwrap(),
            NoteSigner::generate("w").unwrap(),
        );
        let verifier = NoteVerifier::parse(&log.verifier_key()).unwrap();
        let line = |note: String| note.rsplit_once("\n\n").unwrap().1.to_owned();
        let both = format!("{}{}", log.sign("text\n"), line(witness.sign("text\n")));
        assert_eq!(verifier.open(&both).unwrap(), "text\n");
        let forged = format!("{}{}", log.sign("text\n"), line(log.sign("other\n")));
        assert_eq!(verifier.open(&forged), Err(NoteError::Signature));
    }

    #[test]
    fn malformed_notes_and_keys_are_refused() {
        let verifier = NoteVerifier::parse(KEY).unwrap();
        for bad in [
            "",
            "\n\n",
            TEXT,
            NOTE.trim_end(),
            &NOTE.replace("— ", "- "),
            &NOTE.replace("x08g", "x08h"),
            &NOTE.replace("JnAM=", "JnAM"),
            &NOTE.replace("answer", "ans\twer"),
            &format!("{NOTE}\n"),
            &format!("{NOTE}{}", "— w AAAAAAA=\n".repeat(MAX_SIGNATURES)),
            &format!("{}{NOTE}", " ".repeat(MAX_NOTE_BYTES)),
        ] {
            assert!(verifier.open(bad).is_err(), "{:?}", bad.get(..40));
        }
        for bad in [
            "",
            "a+b",
            "PeterNeumann",
            &KEY.replace("c74f", "c74e"),
            &KEY.replace("ARpc", "AhpC"),
        ] {
            assert_eq!(
                NoteVerifier::parse(bad),
                Err(NoteError::VerifierKey),
                "{bad}"
            );
        }
        for bad in ["", "a b", "a+b", "a\nb", "a\u{a0}b"] {
            assert_eq!(
                NoteSigner::generate(bad).unwrap_err(),
                NoteError::Name,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_checkpoint_has_one_spelling() {
        let checkpoint = Checkpoint {
            origin: "log.example/audit".into(),
            size: 42,
            root: [7; 32],
        };
        let text = checkpoint.to_text();
        assert_eq!(Checkpoint::parse(&text), Ok(checkpoint.clone()));
        assert_eq!(
            Checkpoint::parse(&format!("{text}extension\n")),
            Ok(checkpoint)
        );
        for bad in [
            text.trim_end(),
            &text.replace("42", "042"),
            &text.replace("42", "+42"),
            &text.replace("42", "-1"),
            &text.replace("42", "18446744073709551616"),
            &text.replace("Bwc=", "Bw=="),
            &text.replace("log.example/audit", ""),
            &format!("{text}\n"),
        ] {
            assert_eq!(Checkpoint::parse(bad), Err(NoteError::Checkpoint), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_character_anywhere_in_the_text_is_seen(
            text in "[a-z\n]{1,40}\n", at in any::<proptest::sample::Index>(),
        ) {
            let signer = NoteSigner::generate("log").unwrap();
            let verifier = NoteVerifier::parse(&signer.verifier_key()).unwrap();
            let note = signer.sign(&text);
            prop_assert_eq!(verifier.open(&note).unwrap(), text.clone());
            let mut changed = note.into_bytes();
            let at = at.index(text.len() - 1);
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            prop_assert!(verifier.open(&String::from_utf8(changed).unwrap()).is_err());
        }
    }
}
