//! The Huffman code of HPACK and QPACK (RFC 7541 appendix B).
//!
//! The code is canonical: among codes of one length the symbols are in order, so the lengths say everything.

/// Length in bits of the code of each byte, and last that of the end of a string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28,
    28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7,
    8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19,
    13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13,
    28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21,
    22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23,
    22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
    25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// The symbol that ends a string, which no string may contain.
const END: usize = 256;
const LONGEST: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Codes {
    /// The first of them, as a number.
    first: u32,
    /// How many there are.
    count: u32,
    /// The place of the first among all symbols in the order of their codes.
    place: u32,
}

struct Table {
    by_length: [Codes; LONGEST + 1],
    /// All symbols, in the order of their codes.
    symbols: [u16; LENGTHS.len()],
}

static TABLE: Table = table();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler alone")]
const fn table() -> Table {
    let mut by_length = [Codes {
        first: 0,
        count: 0,
        place: 0,
    }; LONGEST + 1];
    let mut symbols = [0; LENGTHS.len()];
    let (mut code, mut place, mut length) = (0, 0, 1);
    while length <= LONGEST {
        by_length[length].first = code;
        by_length[length].place = place;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[place as usize] = symbol as u16;
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        by_length[length].count = place - by_length[length].place;
        code <<= 1;
        length += 1;
    }
    Table { by_length, symbols }
}

/// What `coded` stands for, if it is a string. The last byte is filled up with ones, by less than a whole byte.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    // The shortest code has five bits.
    let mut decoded = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in coded {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            let codes = TABLE.by_length.get(length)?;
            let Some(nth) = code
                .checked_sub(codes.first)
                .filter(|nth| *nth < codes.count)
            else {
                continue;
            };
            let place = usize::try_from(codes.place + nth).ok()?;
            let symbol = usize::from(*TABLE.symbols.get(place)?);
            if symbol == END {
                return None;
            }
            decoded.push(u8::try_from(symbol).ok()?);
            (code, length) = (0, 0);
        }
    }
    let is_padding = length < 8 && code == (1 << length) - 1;
    is_padding.then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_7541_are_read() {
        for (coded, text) in [
            (
                &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
                "www.example.com",
            ),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\x64\x02", "302"),
            (b"", ""),
        ] {
            assert_eq!(decode(coded).as_deref(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        for coded in [
            // A whole byte of filling, zeros as filling, the end within the string.
            &b"\x64\x02\xff"[..],
            b"\xa8\xeb\x10\x64\x9c\xb0",
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\xfc\x00",
        ] {
            assert_eq!(decode(coded), None, "{coded:?}");
        }
    }
}
