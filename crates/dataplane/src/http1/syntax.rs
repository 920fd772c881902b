//! Which bytes may stand where (RFC 9110 sections 5.5 and 5.6.2, RFC 3986).
//!
//! Every byte of every head passes here, so most are looked at many at a time.

/// Bytes that are looked at together.
const BLOCK: usize = 32;
/// One of something in each byte of a word.
const ONES: u64 = u64::MAX / 255;
/// The highest bit of each byte.
const HIGH_BITS: u64 = ONES << 7;

static TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");
/// All that a request target may have, in path and query.
static TARGET: [bool; 256] = table(b"!$%&'()*+,-./:;=?@[\\]^_{|}~");

/// Letters, digits, and `others`.
#[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
const fn table(mut others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = u8::MAX;
    while byte > 0 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte -= 1;
    }
    while let [other, rest @ ..] = others {
        table[*other as usize] = true;
        others = rest;
    }
    table
}

fn is_in(table: &[bool; 256], byte: u8) -> bool {
    table.get(usize::from(byte)).copied().unwrap_or(false)
}

/// `tchar`: methods, field names, names of chunk extensions.
pub(super) fn is_token(byte: u8) -> bool {
    is_in(&TOKEN, byte)
}

/// What a field value is made of: no control byte but the tab.
pub(super) const fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// How many bytes at the beginning are of a token.
pub(super) fn token_run(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| is_token(**byte)).count()
}

/// How many bytes at the beginning are of a field value.
pub(super) fn value_run(bytes: &[u8]) -> usize {
    let mut run = 0;
    loop {
        let rest = bytes.get(run..).unwrap_or_default();
        run += run_of(rest, controls, |byte| matches!(byte, b' '..=b'~' | 0x80..));
        match bytes.get(run) {
            Some(b'\t') => run += 1,
            _ => return run,
        }
    }
}

/// How many bytes at the beginning are of a request line: visible ASCII and spaces.
pub(super) fn line_run(bytes: &[u8]) -> usize {
    let others = |word| controls(word) | word & HIGH_BITS;
    run_of(bytes, others, |byte| matches!(byte, b' '..=b'~'))
}

/// How many bytes at the beginning are good: those of which `bad_in` marks none in a word, and which `is_good`.
fn run_of(bytes: &[u8], bad_in: impl Fn(u64) -> u64, is_good: impl Fn(u8) -> bool) -> usize {
    let clean = clean_blocks(bytes, &is_good);
    let (words, rest) = bytes.get(clean..).unwrap_or_default().as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let bad = bad_in(u64::from_le_bytes(*word));
        if bad != 0 {
            return clean + number * 8 + bad.trailing_zeros() as usize / 8;
        }
    }
    clean + words.len() * 8 + rest.iter().take_while(|byte| is_good(**byte)).count()
}

/// How many bytes the blocks at the beginning have in which all are good: tokens are long. All of a block are looked at
/// whatever the first ones are, for then the compiler looks at many at once.
fn clean_blocks(bytes: &[u8], is_good: impl Fn(u8) -> bool) -> usize {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let is_clean = |block: &&[u8; BLOCK]| block.iter().fold(true, |all, byte| all & is_good(*byte));
    BLOCK * blocks.iter().take_while(is_clean).count()
}

/// Marks control bytes (below 0x20, and 0x7f) by their highest bit. A borrow may mark bytes above the first one, so
/// only the first counts.
const fn controls(word: u64) -> u64 {
    let deletes = word ^ (ONES * 0x7f);
    (below(word, 0x20) | below(deletes, 1)) & HIGH_BITS
}

/// The classic test for bytes below `limit`, for a limit of at most 0x80.
const fn below(word: u64, limit: u64) -> u64 {
    word.wrapping_sub(ONES * limit) & !word
}

/// Whether a request target has only bytes that no parser takes for something else: no fragment, and nothing that
/// URLs must encode. Browsers leave a backtick in a query as it is.
pub(crate) fn is_target(target: &[u8]) -> bool {
    let is_plain = |byte: &u8| is_in(&TARGET, *byte);
    if target.iter().all(is_plain) {
        return true;
    }
    let mut parts = target.splitn(2, |byte| *byte == b'?');
    let (path, query) = (parts.next(), parts.next());
    path.is_some_and(|path| path.iter().all(is_plain))
        && query.is_some_and(|query| query.iter().all(|byte| is_plain(byte) || *byte == b'`'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_what_the_rfc_lists() {
        let listed = b"!#$%&'*+-.^_`|~";
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || listed.contains(&byte);
            assert_eq!(is_token(byte), expected, "{byte:#x}");
        }
    }

    #[test]
    fn runs_end_at_the_first_byte_that_is_not_allowed() {
        for length in 0..80 {
            for stop in 0..length {
                for (byte, in_value) in [(b'\r', false), (0, false), (0x7f, false), (b'\t', true)] {
                    let mut text = vec![b'a'; length];
                    text[stop] = byte;
                    let expected = if in_value { length } else { stop };
                    assert_eq!(value_run(&text), expected, "{length} {stop} {byte:#x}");
                    assert_eq!(line_run(&text), stop, "{length} {stop} {byte:#x}");
                }
            }
        }
        assert_eq!(value_run("größer als sechzehn Byte".as_bytes()), 26);
    }

    #[test]
    fn hyper_reads_every_target_that_is_let_through() {
        for byte in 0..=u8::MAX {
            for prefix in ["/", "/a?b=", "http://a.example/"] {
                let target = [prefix.as_bytes(), &[byte], b"z"].concat();
                if is_target(&target) {
                    assert!(http::Uri::try_from(&*target).is_ok(), "{prefix} {byte:#x}");
                }
            }
        }
    }
}
