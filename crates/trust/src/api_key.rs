//! API keys as text: `tst_`, the id's 26 digits, `_`, 256 random bits and a checksum, both in lower-case hexadecimal.
//!
//! A scanner of source code finds one by `tst_[0-9A-HJKMNP-TV-Z]{26}_[0-9a-f]{72}`, and the checksum (the first 32 bits of the
//! SHA-256 of all before it) tells it from everything else that looks like one without asking anybody.

use testudo_model::{ApiKeyId, Entropy, Redacted, Ulid, random_bytes};

use crate::{hex, sha256};

/// What every key begins with.
const PREFIX: &str = "tst_";
const SECRET_BYTES: usize = 32;
const SECRET_DIGITS: usize = 2 * SECRET_BYTES;
const CHECKSUM_BYTES: usize = 4;

/// An API key that somebody shows. Whether it is one of ours, its digest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyText {
    id: ApiKeyId,
    digest: [u8; 32],
}

impl ApiKeyText {
    /// Whether `text` is meant as a key, however wrong it is.
    pub fn is_meant(text: &[u8]) -> bool {
        text.starts_with(PREFIX.as_bytes())
    }

    /// Makes the key with this id.
    pub fn generate(id: &ApiKeyId, entropy: &dyn Entropy) -> (Self, Redacted<String>) {
        let secret = hex::encode(&random_bytes::<SECRET_BYTES>(entropy));
        let body = format!("{PREFIX}{}_{secret}", id.ulid().as_str());
        let text = format!("{body}{}", checksum(&body));
        let key = Self {
            id: id.clone(),
            digest: sha256(text.as_bytes()),
        };
        (key, Redacted::new(text))
    }

    /// Reads a key; `None` if it is none, or was cut or mistyped.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        if secret.len() != SECRET_DIGITS + 2 * CHECKSUM_BYTES {
            return None;
        }
        let (body, given) = text.split_at_checked(text.len() - 2 * CHECKSUM_BYTES)?;
        let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if !secret.bytes().all(is_hex) || given != checksum(body) {
            return None;
        }
        Some(Self {
            id: ApiKeyId::from(id.parse::<Ulid>().ok()?),
            digest: sha256(text.as_bytes()),
        })
    }

    /// Its id, which is no secret.
    pub const fn id(&self) -> &ApiKeyId {
        &self.id
    }

    /// SHA-256 of the whole text: what is kept of it. 256 random bits cannot be guessed, so no slow hash is needed.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

fn checksum(body: &str) -> String {
    let digest = sha256(body.as_bytes());
    hex::encode(digest.get(..CHECKSUM_BYTES).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use testudo_testkit::{FakeClock, SeededEntropy};

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made_and_no_other_text_is_one() {
        let entropy = SeededEntropy::new(1);
        let id = ApiKeyId::generate(&*FakeClock::today(), &*entropy);
        let (key, text) = ApiKeyText::generate(&id, &*entropy);
        let text = text.expose();
        assert_eq!(text.len(), 103);
        assert_eq!(ApiKeyText::parse(text).as_ref(), Some(&key));
        assert_eq!(key.id(), &id);
        for end in 0..text.len() {
            let cut = text.get(..end).unwrap();
            assert_eq!(ApiKeyText::parse(cut), None, "cut at {end}");
        }
        // One digit wrong anywhere.
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(
                ApiKeyText::parse(std::str::from_utf8(&other).unwrap()),
                None
            );
        }
        for other in [
            text.to_uppercase(),
            text.to_lowercase(),
            format!("{text}0"),
            format!(" {text}"),
            format!("{text}\n"),
            text.replacen("tst_", "tst", 1),
            "tst_é".to_owned(),
            String::new(),
        ] {
            assert_eq!(ApiKeyText::parse(&other), None, "{other:?}");
        }
    }
}
