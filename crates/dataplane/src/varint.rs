//! Integers of one, two, four or eight bytes (RFC 9000 section 16).

use bytes::{Buf, BufMut, BytesMut};

/// The largest.
pub(crate) const MAX: u64 = (1 << 62) - 1;

/// Takes one from the front of `bytes`. `None`, with some bytes taken or not: there is no whole one.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u64> {
    let length = 1_usize << (bytes.first()? >> 6);
    if bytes.len() < length {
        return None;
    }
    Some(match length {
        1 => u64::from(bytes.get_u8()) & 0x3f,
        2 => u64::from(bytes.get_u16()) & 0x3fff,
        4 => u64::from(bytes.get_u32()) & 0x3fff_ffff,
        _ => bytes.get_u64() & MAX,
    })
}

/// Appends `value`, at most [`MAX`].
pub(crate) fn write(bytes: &mut BytesMut, value: u64) {
    match value {
        0..0x40 => bytes.put_uint(value, 1),
        0x40..0x4000 => bytes.put_uint(value | 1 << 14, 2),
        0x4000..0x4000_0000 => bytes.put_uint(value | 2 << 30, 4),
        _ => bytes.put_u64(value.min(MAX) | 3 << 62),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(value in 0..=MAX, bits in 0_u32..62, more: Vec<u8>) {
            let value = value >> bits;
            let mut bytes = BytesMut::new();
            write(&mut bytes, value);
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(read(&mut &bytes[..cut]), None);
            }
            bytes.extend_from_slice(&more);
            let mut rest = &bytes[..];
            prop_assert_eq!(read(&mut rest), Some(value));
            prop_assert_eq!(rest, &more[..]);
        }
    }

    #[test]
    fn the_examples_of_rfc_9000_are_read() {
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(read(&mut &bytes[..]), Some(value));
        }
    }
}
