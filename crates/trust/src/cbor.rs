//! CBOR (RFC 8949) from outside, and no more of it than WebAuthn needs: every length is written down, no key comes twice,
//! there are no tags and no floating point, and nothing is large or deep.

use minicbor::{Decoder, data::Type};

/// Longest encoding. An attestation with a chain of certificates has about 3 KiB.
pub const MAX_CBOR_BYTES: usize = 16 * 1024;
/// Deepest nesting: a chain of certificates is the third level of an attestation object.
const MAX_DEPTH: usize = 4;
/// Entries of one array or map.
const MAX_ENTRIES: u64 = 64;

/// A value; texts and bytes are borrowed from its encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cbor<'a> {
    /// Major types 0 and 1, as far as 64 bits with a sign go.
    Integer(i64),
    /// Major type 2.
    Bytes(&'a [u8]),
    /// Major type 3.
    Text(&'a str),
    /// Major type 4.
    Array(Vec<Self>),
    /// Major type 5, in the order of the encoding.
    Map(Vec<(Self, Self)>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// Why bytes are not such a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// More than [`MAX_CBOR_BYTES`].
    #[error("more than {MAX_CBOR_BYTES} bytes")]
    TooLarge,
    /// Cut short, or no CBOR.
    #[error("not well-formed CBOR")]
    Malformed,
    /// An array or map has more entries, or is nested deeper, than anything here needs.
    #[error("too many entries, or nested too deep")]
    TooComplex,
    /// A tag, a float, or a length that is left open.
    #[error("a kind of value that has no place here")]
    Kind,
    /// A key comes twice in one map, or is neither a number nor a text.
    #[error("a map has a key twice, or one that is no key")]
    Key,
    /// There is more behind the value.
    #[error("there is something behind the value")]
    TrailingBytes,
}

impl<'a> Cbor<'a> {
    /// Reads the one value that `bytes` are.
    ///
    /// # Errors
    /// See [`CborError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CborError> {
        match Self::parse_prefix(bytes)? {
            (value, []) => Ok(value),
            (_, _) => Err(CborError::TrailingBytes),
        }
    }

    /// Reads the value that `bytes` begin with; the rest too.
    ///
    /// # Errors
    /// See [`CborError`].
    pub fn parse_prefix(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), CborError> {
        if bytes.len() > MAX_CBOR_BYTES {
            return Err(CborError::TooLarge);
        }
        let mut decoder = Decoder::new(bytes);
        let value = read(&mut decoder, MAX_DEPTH)?;
        let rest = bytes.get(decoder.position()..).unwrap_or_default();
        Ok((value, rest))
    }

    /// What a map has under a text.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(&Cbor::Text(key))
    }

    /// What a map has under a number.
    pub fn get_integer(&self, key: i64) -> Option<&Self> {
        self.entry(&Cbor::Integer(key))
    }

    fn entry(&self, key: &Cbor<'_>) -> Option<&Self> {
        let Self::Map(entries) = self else {
            return None;
        };
        let found = entries.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    /// The number, if it is one.
    pub const fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The bytes, if it is some.
    pub const fn as_bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub const fn as_text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values of an array, if it is one.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The entries of a map, if it is one.
    pub fn as_map(&self) -> Option<&[(Self, Self)]> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }
}

fn read<'a>(decoder: &mut Decoder<'a>, depth: usize) -> Result<Cbor<'a>, CborError> {
    let malformed = |_| CborError::Malformed;
    match decoder.datatype().map_err(malformed)? {
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int => decoder.i64().map(Cbor::Integer).map_err(malformed),
        Type::Bytes => decoder.bytes().map(Cbor::Bytes).map_err(malformed),
        Type::String => decoder.str().map(Cbor::Text).map_err(malformed),
        Type::Bool => decoder.bool().map(Cbor::Bool).map_err(malformed),
        Type::Null => decoder.null().map(|()| Cbor::Null).map_err(malformed),
        Type::Array => {
            let (count, depth) = bounded(decoder.array().map_err(malformed)?, depth)?;
            let values = (0..count).map(|_| read(decoder, depth));
            values.collect::<Result<_, _>>().map(Cbor::Array)
        }
        Type::Map => {
            let (count, depth) = bounded(decoder.map().map_err(malformed)?, depth)?;
            read_entries(decoder, count, depth).map(Cbor::Map)
        }
        _ => Err(CborError::Kind),
    }
}

fn read_entries<'a>(
    decoder: &mut Decoder<'a>,
    count: u64,
    depth: usize,
) -> Result<Vec<(Cbor<'a>, Cbor<'a>)>, CborError> {
    let mut entries: Vec<(Cbor<'a>, Cbor<'a>)> = Vec::new();
    for _ in 0..count {
        let key = read(decoder, depth)?;
        let is_key = matches!(key, Cbor::Integer(_) | Cbor::Text(_));
        if !is_key || entries.iter().any(|(known, _)| *known == key) {
            return Err(CborError::Key);
        }
        entries.push((key, read(decoder, depth)?));
    }
    Ok(entries)
}

/// The number of entries, and how deep they may be.
fn bounded(count: Option<u64>, depth: usize) -> Result<(u64, usize), CborError> {
    let count = count.ok_or(CborError::Kind)?;
    match depth.checked_sub(1) {
        Some(depth) if count <= MAX_ENTRIES => Ok((count, depth)),
        _ => Err(CborError::TooComplex),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    fn parse(digits: &str) -> Result<(), CborError> {
        Cbor::parse(&hex::decode(digits).unwrap()).map(drop)
    }

    /// RFC 8949 appendix A.
    #[test]
    fn the_examples_of_rfc_8949_are_read() {
        for (digits, value) in [
            ("00", Cbor::Integer(0)),
            ("17", Cbor::Integer(23)),
            ("1818", Cbor::Integer(24)),
            ("1b000000e8d4a51000", Cbor::Integer(1_000_000_000_000)),
            ("20", Cbor::Integer(-1)),
            ("3903e7", Cbor::Integer(-1000)),
            ("f4", Cbor::Bool(false)),
            ("f6", Cbor::Null),
            ("4401020304", Cbor::Bytes(&[1, 2, 3, 4])),
            ("62c3bc", Cbor::Text("ü")),
            (
                "8301820203820405",
                Cbor::Array(vec![
                    Cbor::Integer(1),
                    Cbor::Array(vec![Cbor::Integer(2), Cbor::Integer(3)]),
                    Cbor::Array(vec![Cbor::Integer(4), Cbor::Integer(5)]),
                ]),
            ),
            (
                "a201020304",
                Cbor::Map(vec![
                    (Cbor::Integer(1), Cbor::Integer(2)),
                    (Cbor::Integer(3), Cbor::Integer(4)),
                ]),
            ),
        ] {
            let bytes = hex::decode(digits).unwrap();
            assert_eq!(Cbor::parse(&bytes), Ok(value), "{digits}");
        }
        let bytes = hex::decode("a26161016162820203").unwrap();
        let map = Cbor::parse(&bytes).unwrap();
        assert_eq!(map.get("a").and_then(Cbor::as_integer), Some(1));
        assert_eq!(map.get("b").and_then(Cbor::as_array).unwrap().len(), 2);
        assert_eq!(map.get("c"), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read_at_all() {
        for (digits, why) in [
            ("", CborError::Malformed),
            ("44010203", CborError::Malformed),
            ("61ff", CborError::Malformed),
            ("1c", CborError::Kind),
            ("1bffffffffffffffff", CborError::Malformed),
            // Lengths that are left open.
            ("5f42010243030405ff", CborError::Kind),
            ("7f657374726561ff", CborError::Kind),
            ("9f01ff", CborError::Kind),
            ("bf6161 01ff", CborError::Kind),
            // Tags, floats, undefined.
            ("c11a514b67b0", CborError::Kind),
            ("f93c00", CborError::Kind),
            ("f7", CborError::Kind),
            // Keys.
            ("a201020103", CborError::Key),
            ("a2616101616102", CborError::Key),
            ("a1410101", CborError::Key),
            ("a1f501", CborError::Key),
            ("0000", CborError::TrailingBytes),
            ("818181818100", CborError::TooComplex),
            ("9841", CborError::TooComplex),
            ("9bffffffffffffffff", CborError::TooComplex),
        ] {
            let digits = digits.replace(' ', "");
            assert_eq!(parse(&digits), Err(why), "{digits}");
        }
        // A number in more bytes than it needs is the same number, also as a key.
        assert_eq!(parse("a20100180100"), Err(CborError::Key));
        let large = [vec![0x59, 0x40, 0x00], vec![0; 0x4000]].concat();
        assert_eq!(Cbor::parse(&large), Err(CborError::TooLarge));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_no_value_is_a_part_of_another(bytes: Vec<u8>) {
            if Cbor::parse(&bytes).is_ok() {
                for end in 0..bytes.len() {
                    prop_assert!(Cbor::parse(&bytes[..end]).is_err());
                }
                let longer = [bytes.as_slice(), &[0]].concat();
                prop_assert_eq!(Cbor::parse(&longer), Err(CborError::TrailingBytes));
            }
        }
    }
}
