//! The two text encodings of bytes that protocols here use. Both decoders accept exactly one text per value,
//! so that an identifier, a token or a signature has no second spelling.

/// Hexadecimal, lower case.
pub mod hex {
    /// Two lower-case digits a byte.
    pub fn encode(bytes: &[u8]) -> String {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
            .collect()
    }

    /// Reads lower-case digits only; `None` for anything else, an odd number of digits included.
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        pairs
            .iter()
            .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
            .collect()
    }

    fn nibble(digit: u8) -> Option<u8> {
        match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }
}

/// Base64 with the URL-safe alphabet and no padding (RFC 4648 section 5, RFC 7515 section 2).
pub mod base64url {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    /// Without padding.
    pub fn encode(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for padding, white space, the other alphabet and unused bits that are not zero.
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(text).ok()
    }
}

/// Base64 with padding (RFC 4648 section 4), for notes and `x5c`.
pub(crate) mod base64 {
    use base64::{Engine, engine::general_purpose::STANDARD};

    pub(crate) fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
        STANDARD.decode(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{base64url, hex};

    #[test]
    fn a_value_has_one_spelling() {
        for bad in ["A", "0", "0G", "AB", "0x", " 00", "00 "] {
            assert_eq!(hex::decode(bad), None, "{bad}");
        }
        for bad in ["QQ==", "QR", "Q Q", "QQ\n", "+_8A", "/w", "Q"] {
            assert_eq!(base64url::decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn decoding_is_the_inverse_of_encoding(bytes: Vec<u8>) {
            prop_assert_eq!(hex::decode(&hex::encode(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(base64url::decode(&base64url::encode(&bytes)), Some(bytes));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_text(text in "[A-Za-z0-9_-]{0,12}") {
            if let Some(bytes) = base64url::decode(&text) {
                prop_assert_eq!(base64url::encode(&bytes), text.clone());
            }
            if let Some(bytes) = hex::decode(&text) {
                prop_assert_eq!(hex::encode(&bytes), text);
            }
        }
    }
}
