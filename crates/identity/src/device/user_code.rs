//! User codes (RFC 8628 section 6.1).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use testudo_model::{Entropy, random_bytes};

/// Consonants without those that look alike: no code is a word, and every keyboard has them.
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters of a code: 34.5 bits.
const LETTERS: usize = 8;
/// Longest text that is looked at.
const MAX_TYPED_BYTES: usize = 64;

/// What a user types to connect a device, as `WDJB-MJHT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct UserCode(String);

/// The text has no form of a user code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code has {LETTERS} letters")]
pub(crate) struct NotAUserCode;

impl UserCode {
    pub(crate) fn generate(entropy: &dyn Entropy) -> Self {
        let mut letters = String::with_capacity(LETTERS);
        while letters.len() < LETTERS {
            let [byte] = random_bytes::<1>(entropy);
            // 240 is the largest multiple of 20 that a byte holds: each letter is as likely as the others.
            if byte < 240
                && let Some(letter) = ALPHABET.get(usize::from(byte % 20))
            {
                letters.push(char::from(*letter));
            }
        }
        Self(letters)
    }
}

impl FromStr for UserCode {
    type Err = NotAUserCode;

    /// As people type it: in any case, with any spaces and punctuation.
    fn from_str(text: &str) -> Result<Self, NotAUserCode> {
        if text.len() > MAX_TYPED_BYTES {
            return Err(NotAUserCode);
        }
        let typed = text
            .chars()
            .filter(|c| !c.is_whitespace() && !c.is_ascii_punctuation());
        let letters: String = typed.map(|c| c.to_ascii_uppercase()).collect();
        let is_code = letters.len() == LETTERS && letters.bytes().all(|b| ALPHABET.contains(&b));
        is_code.then_some(Self(letters)).ok_or(NotAUserCode)
    }
}

impl fmt::Display for UserCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.0.split_at_checked(LETTERS / 2).unwrap_or_default();
        write!(formatter, "{first}-{last}")
    }
}

impl TryFrom<String> for UserCode {
    type Error = NotAUserCode;

    fn try_from(text: String) -> Result<Self, NotAUserCode> {
        text.parse()
    }
}

impl From<UserCode> for String {
    fn from(code: UserCode) -> Self {
        code.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testudo_testkit::SeededEntropy;

    use super::*;

    #[test]
    fn a_code_is_taken_as_people_type_it() {
        let code: UserCode = "WDJB-MJHT".parse().unwrap();
        for typed in [
            "wdjbmjht",
            "WDJB MJHT",
            " wdjb - mjht ",
            "w.d.j.b.m.j.h.t",
            "WDJB_MJHT",
        ] {
            assert_eq!(typed.parse(), Ok(code.clone()), "{typed}");
        }
        for typed in [
            "",
            "WDJB-MJH",
            "WDJB-MJHTT",
            "WDJB-MJHA",
            "WDJB-MJH0",
            "ẂDJB-MJHT",
        ] {
            assert_eq!(typed.parse::<UserCode>(), Err(NotAUserCode), "{typed}");
        }
        assert!("W".repeat(1000).parse::<UserCode>().is_err());
    }

    #[test]
    fn every_letter_comes_as_often_as_the_others() {
        let entropy = SeededEntropy::new(1);
        let mut counts = [0_u32; 20];
        for _ in 0..5_000 {
            for letter in UserCode::generate(&*entropy).0.bytes() {
                counts[ALPHABET.iter().position(|known| *known == letter).unwrap()] += 1;
            }
        }
        // 2,000 of each; five standard deviations are about 220.
        assert!(
            counts.iter().all(|count| (1_780..2_220).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn no_text_crashes_the_parser_and_what_it_takes_it_prints(text in "\\PC{0,70}") {
            if let Ok(code) = text.parse::<UserCode>() {
                prop_assert_eq!(code.to_string().parse::<UserCode>(), Ok(code));
            }
        }
    }
}
