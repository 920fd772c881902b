//! Identifiers: a prefix that tells the kind and a ULID that sorts by time of making.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{Clock, Entropy, entropy::random_bytes, text::serde_as_text};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID_CHARS: usize = 26;
/// Characters whose bits fit a machine word.
const WORD_CHARS: usize = 12;
const MAX_PREFIX_BYTES: usize = 4;

/// Why a text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an identifier of the form `{prefix}_<26 Crockford base32 characters>`")]
pub struct InvalidId {
    prefix: &'static str,
    text: String,
}

/// `prefix`, `_`, and a ULID: 48 bits of milliseconds and 80 random bits in Crockford base32.
fn generate(prefix: &str, clock: &dyn Clock, entropy: &dyn Entropy) -> Arc<str> {
    let millis = u128::try_from(clock.now().unix_millis()).unwrap_or(0) & ((1 << 48) - 1);
    let random: [u8; 10] = random_bytes(entropy);
    let value = random
        .iter()
        .fold(millis, |value, byte| (value << 8) | u128::from(*byte));
    let mut text = String::with_capacity(MAX_PREFIX_BYTES + 1 + ULID_CHARS);
    text.push_str(prefix);
    text.push('_');
    // Word by word: each event has several, and shifting 128 bits is slow.
    for (shift, characters) in [
        (10 * WORD_CHARS, ULID_CHARS - 2 * WORD_CHARS),
        (5 * WORD_CHARS, WORD_CHARS),
        (0, WORD_CHARS),
    ] {
        let word = (value >> shift) as u64;
        for digit in (0..characters).rev() {
            let index = (word >> (5 * digit)) & 31;
            text.extend(ALPHABET.get(index as usize).copied().map(char::from));
        }
    }
    text.into()
}

/// A digit of Crockford's base32, in upper case.
const fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'H' | b'J' | b'K' | b'M' | b'N' | b'P'..=b'T' | b'V'..=b'Z')
}

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
        #[schemars(with = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The prefix all identifiers of this kind carry.
            pub const PREFIX: &'static str = {
                assert!($prefix.len() <= MAX_PREFIX_BYTES);
                $prefix
            };

            /// A new identifier.
            pub fn generate(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
                Self(generate($prefix, clock, entropy))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let well_formed = text
                    .strip_prefix(concat!($prefix, "_"))
                    .is_some_and(|ulid| ulid.len() == ULID_CHARS && ulid.bytes().all(is_digit));
                if well_formed {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { prefix: $prefix, text: text.chars().take(64).collect() })
                }
            }
        }

        serde_as_text!($name);

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    )*};
}

id! {
    /// A person known to the identity provider; the `sub` of their tokens.
    UserId = "usr";
    /// A service account: a non-human subject with credentials of its own.
    ServiceAccountId = "sva";
    /// A login session; every token family belongs to one.
    SessionId = "ses";
    /// One access token (`jti`).
    TokenId = "tok";
    /// One authorization decision; it is on the wire, in the event and in `testudo policy explain`.
    DecisionId = "dec";
    /// One event of the ledger.
    EventId = "evt";
    /// One call tree: the gateway makes it, every hop repeats it.
    TransactionId = "txn";
    /// A one-use token with which a proxy joins the fleet (its public half).
    JoinTokenId = "join";
    /// One proxy instance; its spool's node name.
    InstanceId = "ins";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    struct At(i64);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_millis(self.0)
        }
        fn monotonic_nanos(&self) -> u64 {
            0
        }
    }
    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn identifiers_sort_by_time_of_making() {
        let early = UserId::generate(&At(1_000), &Fixed(0xff));
        let late = UserId::generate(&At(1_001), &Fixed(0));
        assert!(early < late);
        assert_eq!(early.as_str().parse::<UserId>(), Ok(early));
    }

    #[test]
    fn an_identifier_of_another_kind_is_refused() {
        let session = SessionId::generate(&At(1), &Fixed(1));
        assert!(session.as_str().parse::<UserId>().is_err());
        assert!("usr_".parse::<UserId>().is_err());
        assert!("usr_0000000000000000000000000l".parse::<UserId>().is_err());
    }
}
