//! Identifiers: a prefix that tells the kind and a ULID that sorts by time of making.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{Clock, Entropy, Timestamp, entropy::random_bytes, text::serde_as_text};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID_CHARS: usize = 26;
/// Digits that hold the milliseconds.
const TIME_CHARS: usize = 10;
const RANDOM_BYTES: usize = 10;
const MAX_PREFIX_BYTES: usize = 4;

/// Why a text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an identifier of the form `{prefix}<26 Crockford base32 characters>`")]
pub struct InvalidId {
    prefix: &'static str,
    text: String,
}

impl InvalidId {
    fn new(prefix: &'static str, text: &str) -> Self {
        let text = text.chars().take(64).collect();
        Self { prefix, text }
    }
}

/// What an identifier is behind its prefix: 48 bits of milliseconds and 80 random bits in Crockford's base32. Things
/// that are made as one, such as a decision and the event that records it, share theirs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid([u8; ULID_CHARS]);

impl Ulid {
    /// A new one.
    pub fn generate(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
        let random: [u8; RANDOM_BYTES] = random_bytes(entropy);
        let mut ulid = Self::least_of(clock.now());
        let (_, rest) = ulid.0.split_at_mut(TIME_CHARS);
        // Five bytes are eight digits.
        for (digits, bytes) in rest.chunks_mut(8).zip(random.chunks(5)) {
            let number = |number, byte: &u8| (number << 8) | u64::from(*byte);
            write_digits(digits, bytes.iter().fold(0, number));
        }
        ulid
    }

    /// The least that can be made at `at`.
    pub fn least_of(at: Timestamp) -> Self {
        let millis = u64::try_from(at.unix_millis()).unwrap_or(0);
        let mut ulid = Self::ZERO;
        let (time, _) = ulid.0.split_at_mut(TIME_CHARS);
        write_digits(time, millis & ((1 << 48) - 1));
        ulid
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// When it was made, as its maker says.
    pub fn made_at(self) -> Timestamp {
        let digits = self.0.iter().take(TIME_CHARS);
        Timestamp::from_unix_millis(digits.fold(0, |millis, digit| (millis << 5) | value(*digit)))
    }

    const ZERO: Self = Self([b'0'; ULID_CHARS]);

    /// `prefix`, `_` and the digits.
    fn behind(self, prefix: &str) -> Arc<str> {
        let mut text = [b'_'; MAX_PREFIX_BYTES + 1 + ULID_CHARS];
        let (digits, length) = (prefix.len() + 1, prefix.len() + 1 + ULID_CHARS);
        if let Some(place) = text.get_mut(..prefix.len()) {
            place.copy_from_slice(prefix.as_bytes());
        }
        if let Some(place) = text.get_mut(digits..length) {
            place.copy_from_slice(&self.0);
        }
        let text = text.get(..length).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default().into()
    }
}

impl FromStr for Ulid {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits: Result<[u8; ULID_CHARS], _> = text.as_bytes().try_into();
        match digits {
            Ok(digits) if digits.iter().copied().all(is_digit) => Ok(Self(digits)),
            _ => Err(InvalidId::new("", text)),
        }
    }
}

impl fmt::Debug for Ulid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

serde_as_text!(Ulid);

/// A digit of Crockford's base32, in upper case.
const fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'H' | b'J' | b'K' | b'M' | b'N' | b'P'..=b'T' | b'V'..=b'Z')
}

/// Writes as many of the last digits of `number` as there are places.
fn write_digits(places: &mut [u8], mut number: u64) {
    for place in places.iter_mut().rev() {
        *place = ALPHABET
            .get((number & 31) as usize)
            .copied()
            .unwrap_or(b'0');
        number >>= 5;
    }
}

/// The number that a digit stands for.
fn value(digit: u8) -> i64 {
    let value = match digit {
        b'0'..=b'9' => digit - b'0',
        b'A'..=b'H' => digit - b'A' + 10,
        b'J' | b'K' => digit - b'J' + 18,
        b'M' | b'N' => digit - b'M' + 20,
        b'P'..=b'T' => digit - b'P' + 22,
        b'V'..=b'Z' => digit - b'V' + 27,
        _ => 0,
    };
    i64::from(value)
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
                Self::from(Ulid::generate(clock, entropy))
            }

            /// What it is behind its prefix.
            pub fn ulid(&self) -> Ulid {
                self.0.as_bytes().last_chunk().map_or(Ulid::ZERO, |digits| Ulid(*digits))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<Ulid> for $name {
            fn from(ulid: Ulid) -> Self {
                Self(ulid.behind($prefix))
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
                    Err(InvalidId::new(concat!($prefix, "_"), text))
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
    /// A group; unlike its name, never used again.
    GroupId = "grp";
    /// A login session; every token family belongs to one.
    SessionId = "ses";
    /// One access token (`jti`).
    TokenId = "tok";
    /// An API key (its public half). As a token it has the [`TokenId`] that was made with it.
    ApiKeyId = "key";
    /// One authorization decision; it is on the wire, in the event and in `testudo policy explain`.
    DecisionId = "dec";
    /// One event of the ledger.
    EventId = "evt";
    /// One call tree: the gateway makes it, every hop repeats it.
    TransactionId = "txn";
    /// A one-use token with which a proxy joins the fleet (its public half).
    JoinTokenId = "join";
    /// A token with which OAuth clients are registered (its public half).
    RegistrationTokenId = "rgt";
    /// One proxy instance; its spool's node name.
    InstanceId = "ins";
    /// Something that somebody outside is told.
    NoticeId = "ntc";
    /// A stream of security events to one receiver.
    StreamId = "str";
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_identifier_says_when_it_was_made_and_shares_that_with_what_was_made_with_it() {
        for millis in [0, 1, 31, 1_795_355_588_340, (1 << 48) - 1] {
            let decision = DecisionId::generate(&At(millis), &Fixed(0xa5));
            assert_eq!(decision.ulid().made_at(), At(millis).now());
            let least = Ulid::least_of(At(millis).now());
            assert_eq!(least.made_at(), At(millis).now());
            assert!(least < decision.ulid());
            // Ten bytes of 0xa5.
            assert!(decision.as_str().ends_with("MPJTB9D5MPJTB9D5"));
            let event = EventId::from(decision.ulid());
            assert_eq!(
                event.as_str().strip_prefix("evt_"),
                Some(decision.ulid().as_str())
            );
            assert_eq!(
                event.as_str().parse::<EventId>().unwrap().ulid(),
                decision.ulid()
            );
        }
        for digit in ALPHABET {
            let text = format!("{}{}", "0".repeat(TIME_CHARS - 1), char::from(*digit));
            let ulid: Ulid = format!("{text}{}", "0".repeat(16)).parse().unwrap();
            let number = ALPHABET.iter().position(|other| other == digit).unwrap();
            assert_eq!(ulid.made_at().unix_millis(), i64::try_from(number).unwrap());
        }
        for bad in [
            "",
            "evt_01M81RGDQM7AD69PCSBH7H9W43",
            "01M81RGDQM7AD69PCSBH7H9W4\"",
            "01m81rgdqm7ad69pcsbh7h9w43",
        ] {
            assert!(bad.parse::<Ulid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_identifier_of_another_kind_is_refused() {
        let session = SessionId::generate(&At(1), &Fixed(1));
        assert!(session.as_str().parse::<UserId>().is_err());
        assert!("usr_".parse::<UserId>().is_err());
        assert!("usr_0000000000000000000000000l".parse::<UserId>().is_err());
    }
}
