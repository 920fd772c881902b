//! The part of BER that LDAP uses (RFC 4511 section 5.1): tags of one byte, definite lengths.
//!
//! Nothing here recurses: who reads a message says which element comes next, so no nesting of a server's can use up a stack.

/// `INTEGER`.
const INTEGER: u8 = 0x02;
/// `BOOLEAN`.
const BOOLEAN: u8 = 0x01;
/// `OCTET STRING`.
pub(super) const OCTETS: u8 = 0x04;
/// `ENUMERATED`.
pub(super) const ENUMERATED: u8 = 0x0a;
/// `SEQUENCE`.
pub(super) const SEQUENCE: u8 = 0x30;
/// `SET`.
pub(super) const SET: u8 = 0x31;

/// Bytes that are not what RFC 4511 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer is not as RFC 4511 says")]
pub(super) struct Malformed;

/// An element with what is in it.
pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let digits: Vec<u8> = length
                .to_be_bytes()
                .into_iter()
                .skip_while(|byte| *byte == 0)
                .collect();
            bytes.push(0x80 | u8::try_from(digits.len()).unwrap_or(0x7f));
            bytes.extend(digits);
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

/// An element of several.
pub(super) fn sequence(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    element(tag, &parts.concat())
}

pub(super) fn octets(bytes: &[u8]) -> Vec<u8> {
    element(OCTETS, bytes)
}

pub(super) fn boolean(value: bool) -> Vec<u8> {
    element(BOOLEAN, &[if value { 0xff } else { 0 }])
}

pub(super) fn integer(value: i32) -> Vec<u8> {
    number(INTEGER, value)
}

/// An `INTEGER` or `ENUMERATED`, in as few bytes as there can be.
pub(super) fn number(tag: u8, value: i32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let sign: u8 = if value < 0 { 0xff } else { 0 };
    let mut kept: &[u8] = &bytes;
    while let [first, rest @ ..] = kept
        && *first == sign
        && rest.first().is_some_and(|next| (next ^ sign) & 0x80 == 0)
    {
        kept = rest;
    }
    element(tag, kept)
}

/// How long the message is that begins with these bytes, head included; `None` if that cannot be told yet.
pub(super) fn message_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match bytes {
        [] => Ok(None),
        [SEQUENCE, rest @ ..] => {
            let length = length(rest)?;
            Ok(length.map(|(length, head)| 1 + head + length))
        }
        _ => Err(Malformed),
    }
}

/// A length, and of how many bytes it was.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let Some((first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    if *first < 0x80 {
        return Ok(Some((usize::from(*first), 1)));
    }
    let count = usize::from(*first & 0x7f);
    if !(1..=4).contains(&count) {
        return Err(Malformed);
    }
    let Some((digits, _)) = rest.split_at_checked(count) else {
        return Ok(None);
    };
    let value = digits
        .iter()
        .fold(0usize, |value, digit| (value << 8) | usize::from(*digit));
    Ok(Some((value, 1 + count)))
}

/// Reads elements one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next element: its tag, and what is in it.
    pub(super) fn next(&mut self) -> Result<(u8, &'b [u8]), Malformed> {
        let (tag, rest) = self.0.split_first().ok_or(Malformed)?;
        // Tags of several bytes are none of LDAP's.
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let (length, head) = length(rest)?.ok_or(Malformed)?;
        let (_, rest) = rest.split_at_checked(head).ok_or(Malformed)?;
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok((*tag, content))
    }

    /// The next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<&'b [u8], Malformed> {
        match self.next()? {
            (found, content) if found == tag => Ok(content),
            _ => Err(Malformed),
        }
    }

    pub(super) fn integer(&mut self) -> Result<i32, Malformed> {
        number_of(self.expect(INTEGER)?)
    }

    pub(super) fn enumerated(&mut self) -> Result<i32, Malformed> {
        number_of(self.expect(ENUMERATED)?)
    }
}

fn number_of(content: &[u8]) -> Result<i32, Malformed> {
    let (first, rest) = content.split_first().ok_or(Malformed)?;
    if rest.len() > 3 {
        return Err(Malformed);
    }
    let start = i32::from(i8::from_be_bytes([*first]));
    Ok(rest
        .iter()
        .fold(start, |value, byte| (value << 8) | i32::from(*byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (value, bytes) in [
            (0, vec![2, 1, 0]),
            (127, vec![2, 1, 127]),
            (128, vec![2, 2, 0, 128]),
            (-1, vec![2, 1, 255]),
            (-129, vec![2, 2, 0xff, 0x7f]),
            (i32::MAX, vec![2, 4, 0x7f, 0xff, 0xff, 0xff]),
        ] {
            assert_eq!(integer(value), bytes);
            assert_eq!(Reader::new(&bytes).integer(), Ok(value));
        }
    }

    #[test]
    fn lengths_that_nobody_sends_are_refused_before_they_come() {
        assert_eq!(message_length(&[0x30, 0x84, 0, 0, 1, 0]), Ok(Some(262)));
        assert_eq!(message_length(&[0x30, 0x82, 1]), Ok(None));
        for bad in [&[0x30, 0x80][..], &[0x30, 0x85, 0], &[0x31, 0], b"HTTP"] {
            assert_eq!(message_length(bad), Err(Malformed), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(content in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let bytes = element(OCTETS, &content);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.expect(OCTETS), Ok(&content[..]));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while reader.next().is_ok() {}
            let _ = message_length(&bytes);
        }
    }
}
