//! Field sections (RFC 9204) without a dynamic table: what stands in one stream means the same whatever came on others,
//! and no stream waits for another.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{huffman, static_table::STATIC_TABLE};

/// What a field line counts for beyond its name and value (RFC 9114 section 4.2.2).
const OVERHEAD: usize = 32;
/// `:status`, without a value.
const STATUS: u64 = 24;

/// A name and a value, as they stand there.
pub(super) type Line = (Bytes, Bytes);

/// Why a field section is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QpackError {
    /// RFC 9204 section 2.2: nobody can read it, or only with a dynamic table.
    #[error("the field section cannot be decoded")]
    Undecodable,
    /// Larger than announced.
    #[error("the field section is larger than allowed")]
    TooLarge,
}

/// The lines of `section`, which may count for `limit` bytes. It is short enough to be held: a string takes at most 8/5 of
/// what stands there.
///
/// # Errors
/// [`QpackError`].
pub(super) fn decode(mut section: Bytes, limit: usize) -> Result<Vec<Line>, QpackError> {
    // With a required insert count of zero the base means nothing.
    if prefixed(&mut section, 8)?.1 != 0 {
        return Err(QpackError::Undecodable);
    }
    prefixed(&mut section, 7)?;
    let mut left = limit;
    let mut lines = Vec::new();
    while section.has_remaining() {
        let line = line(&mut section)?;
        left = (line.0.len() + line.1.len())
            .checked_add(OVERHEAD)
            .and_then(|size| left.checked_sub(size))
            .ok_or(QpackError::TooLarge)?;
        lines.push(line);
    }
    Ok(lines)
}

fn line(section: &mut Bytes) -> Result<Line, QpackError> {
    let first = *section.first().ok_or(QpackError::Undecodable)?;
    let entry = |number: u64| {
        usize::try_from(number)
            .ok()
            .and_then(|number| STATIC_TABLE.get(number))
            .map(|(name, value)| (Bytes::from_static(name), Bytes::from_static(value)))
            .ok_or(QpackError::Undecodable)
    };
    if first & 0b1100_0000 == 0b1100_0000 {
        entry(prefixed(section, 6)?.1)
    } else if first & 0b1101_0000 == 0b0101_0000 {
        let (name, _) = entry(prefixed(section, 4)?.1)?;
        Ok((name, string(section, 7)?))
    } else if first & 0b1110_0000 == 0b0010_0000 {
        let name = string(section, 3)?;
        Ok((name, string(section, 7)?))
    } else {
        // From the dynamic table.
        Err(QpackError::Undecodable)
    }
}

/// A string whose length has a prefix of `bits`, before which stands whether it is Huffman coded.
fn string(section: &mut Bytes, bits: u32) -> Result<Bytes, QpackError> {
    let (flags, length) = prefixed(section, bits)?;
    let length = usize::try_from(length).map_err(|_| QpackError::Undecodable)?;
    if length > section.len() {
        return Err(QpackError::Undecodable);
    }
    let text = section.split_to(length);
    if flags & 1 == 0 {
        return Ok(text);
    }
    huffman::decode(&text)
        .map(Bytes::from)
        .ok_or(QpackError::Undecodable)
}

/// An integer with a prefix of `bits` (RFC 7541 section 5.1), and what stands before the prefix.
fn prefixed(bytes: &mut Bytes, bits: u32) -> Result<(u8, u64), QpackError> {
    let mut next = || bytes.try_get_u8().map_err(|_| QpackError::Undecodable);
    let first = next()?;
    let mask = u8::MAX >> (8 - bits);
    let flags = first.checked_shr(bits).unwrap_or(0);
    let mut value = u64::from(first & mask);
    if first & mask != mask {
        return Ok((flags, value));
    }
    // Five groups of seven bits are more than any length that is taken.
    for shift in (0..35).step_by(7) {
        let byte = next()?;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((flags, value));
        }
    }
    Err(QpackError::Undecodable)
}

/// A field section with the `status` of an answer, if it is one, and `fields`.
pub(super) fn encode<'a>(
    status: Option<http::StatusCode>,
    fields: impl Iterator<Item = (&'a http::HeaderName, &'a http::HeaderValue)>,
) -> Bytes {
    let mut section = BytesMut::with_capacity(256);
    section.put_u16(0);
    if let Some(status) = status {
        write_prefixed(&mut section, 0b0101_0000, 4, STATUS);
        write_string(&mut section, 0, 7, status.as_str().as_bytes());
    }
    for (name, value) in fields {
        let named = STATIC_TABLE
            .iter()
            .position(|(known, _)| *known == name.as_str().as_bytes())
            .and_then(|number| u64::try_from(number).ok());
        match named {
            Some(number) => write_prefixed(&mut section, 0b0101_0000, 4, number),
            None => write_string(&mut section, 0b0010_0000, 3, name.as_str().as_bytes()),
        }
        write_string(&mut section, 0, 7, value.as_bytes());
    }
    section.freeze()
}

fn write_string(section: &mut BytesMut, flags: u8, bits: u32, text: &[u8]) {
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    write_prefixed(section, flags, bits, length);
    section.extend_from_slice(text);
}

fn write_prefixed(section: &mut BytesMut, flags: u8, bits: u32, value: u64) {
    let mask = u8::MAX >> (8 - bits);
    let Some(mut rest) = value.checked_sub(u64::from(mask)) else {
        return section.put_u8(flags | u8::try_from(value).unwrap_or(mask));
    };
    section.put_u8(flags | mask);
    while rest >= 0x80 {
        section.put_u8(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0));
        rest >>= 7;
    }
    section.put_u8(u8::try_from(rest).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
    use proptest::prelude::*;

    use super::*;

    fn read(section: &[u8]) -> Result<Vec<(String, String)>, QpackError> {
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        let lines = decode(Bytes::copy_from_slice(section), 1000)?;
        Ok(lines
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect())
    }

    #[test]
    fn the_example_of_rfc_9204_is_read() {
        // Appendix B.1.
        let lines = read(b"\x00\x00\x51\x0b/index.html").unwrap();
        assert_eq!(lines, [(":path".to_owned(), "/index.html".to_owned())]);
    }

    #[test]
    fn what_needs_a_dynamic_table_or_is_no_section_is_refused() {
        for section in [
            // A required insert count; dynamic, and dynamic after the base, with and without a value.
            &b"\x02\x00\xd1"[..],
            b"\x00\x00\x80",
            b"\x00\x00\x40\x01a",
            b"\x00\x00\x10",
            b"\x00\x00\x00\x01a",
            // No such number, no end of a number, no end of a string, no prefix.
            b"\x00\x00\xff\x24",
            b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x00\x00\x51\x7f\xff\xff\xff\xff\x0f",
            b"\x00\x00\x51\x05abc",
            b"\x00",
            b"",
        ] {
            assert_eq!(read(section), Err(QpackError::Undecodable), "{section:?}");
        }
    }

    #[test]
    fn a_small_section_that_means_a_large_one_is_refused() {
        // Each byte is a line of the static table.
        let mut bomb = vec![0, 0];
        bomb.resize(600, 0xd1);
        assert_eq!(read(&bomb), Err(QpackError::TooLarge));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            fields in proptest::collection::vec(("[a-z][a-z0-9-]{0,200}", "[ -~]{0,300}"), 0..10),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let section = encode(Some(StatusCode::NOT_FOUND), headers.iter());
            let lines = decode(section, 1 << 16).unwrap();
            let expected = headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
            let expected: Vec<_> = std::iter::once((&b":status"[..], &b"404"[..])).chain(expected).collect();
            let lines: Vec<_> = lines.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            prop_assert_eq!(lines, expected);
        }

        #[test]
        fn no_bytes_break_the_decoder_or_exceed_its_limit(section: Vec<u8>, limit in 0_usize..500) {
            if let Ok(lines) = decode(Bytes::from(section), limit) {
                let size: usize = lines.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD).sum();
                prop_assert!(size <= limit);
            }
        }
    }
}
