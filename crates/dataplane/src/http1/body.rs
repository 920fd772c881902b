//! Where a body ends: a number of bytes, or the chunked coding by the letter of RFC 9112 section 7.1.
//!
//! Chunk extensions mean nothing to anybody we know, and parsers differ over them, so only their plain form passes,
//! and little of it.

use testudo_model::limits::{
    MAX_CHUNK_EXTENSION_BYTES, MAX_CHUNK_EXTENSIONS_BYTES, MAX_TRAILER_BYTES, MAX_TRAILER_FIELDS,
};

use super::{
    head::Framing,
    syntax::{is_token, is_value},
};

/// Digits of a chunk's size. The size itself fits what others count with: below 2^63.
const MAX_SIZE_DIGITS: usize = 16;

/// The chunked coding is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// No hexadecimal number of at most 16 digits and below 2^63.
    #[error("the size of a chunk is malformed")]
    Size,
    /// Not as RFC 9112 section 7.1.1 has it, white space, or too long.
    #[error("the extensions of a chunk are malformed or too long")]
    Extension,
    /// Something else than CRLF.
    #[error("a line of the chunked coding does not end in CRLF")]
    LineEnd,
    /// A malformed field, or too many of them.
    #[error("the trailer section is malformed or too long")]
    Trailer,
}

/// A body under way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are left.
    Length(u64),
    /// In the chunked coding.
    Chunked(Chunked),
}

/// How far a read of a body came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All bytes belong to it, and there are more to come.
    Within,
    /// It is complete.
    Complete,
    /// The byte after those that were read is wrong.
    Broken(BodyError),
}

/// What the next byte of a chunked body is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Size { digits: usize },
    ExtensionName { length: usize },
    ExtensionValue { length: usize },
    Quoted,
    QuotedPair,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

/// The chunked coding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunked {
    part: Part,
    /// Bytes of the chunk that are to come.
    remaining: u64,
    /// Bytes of extensions of this chunk, and of all.
    extension: usize,
    extensions: usize,
    trailer: usize,
    trailer_fields: usize,
}

impl Body {
    pub(crate) const fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked {
                part: Part::Size { digits: 0 },
                remaining: 0,
                extension: 0,
                extensions: 0,
                trailer: 0,
                trailer_fields: 0,
            }),
        }
    }

    /// Reads on; how many of `bytes` belong to the body.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> (usize, Progress) {
        match self {
            Self::Length(remaining) => {
                let taken = take(remaining, bytes);
                let progress = match remaining {
                    0 => Progress::Complete,
                    _ => Progress::Within,
                };
                (taken, progress)
            }
            Self::Chunked(chunked) => chunked.read(bytes),
        }
    }
}

/// Counts as many of `bytes` as are left.
fn take(remaining: &mut u64, bytes: &[u8]) -> usize {
    let taken = usize::try_from(*remaining).map_or(bytes.len(), |left| left.min(bytes.len()));
    *remaining = remaining.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
    taken
}

impl Chunked {
    fn read(&mut self, bytes: &[u8]) -> (usize, Progress) {
        let mut at = 0;
        while let Some((byte, rest)) = bytes.get(at..).and_then(<[u8]>::split_first) {
            if self.part == Part::Data {
                at += take(&mut self.remaining, bytes.get(at..).unwrap_or(rest));
                if self.remaining == 0 {
                    self.part = Part::DataCr;
                }
                continue;
            }
            match self.step(*byte) {
                Ok(part) => self.part = part,
                Err(error) => return (at, Progress::Broken(error)),
            }
            at += 1;
            if self.part == Part::End {
                return (at, Progress::Complete);
            }
        }
        (at, Progress::Within)
    }

    /// What follows `byte`.
    fn step(&mut self, byte: u8) -> Result<Part, BodyError> {
        match self.part {
            Part::Size { digits } => self.size(byte, digits),
            Part::ExtensionName { .. }
            | Part::ExtensionValue { .. }
            | Part::Quoted
            | Part::QuotedPair
            | Part::AfterQuoted => self.extension(byte),
            Part::SizeLf => {
                let next = match self.remaining {
                    0 => Part::TrailerStart,
                    _ => Part::Data,
                };
                line_end(byte, b'\n', next)
            }
            Part::Data | Part::End => Err(BodyError::LineEnd),
            Part::DataCr => line_end(byte, b'\r', Part::DataLf),
            Part::DataLf => {
                self.extension = 0;
                line_end(byte, b'\n', Part::Size { digits: 0 })
            }
            Part::TrailerStart | Part::TrailerName | Part::TrailerValue => self.trailer(byte),
            Part::TrailerLf => line_end(byte, b'\n', Part::TrailerStart),
            Part::EndLf => line_end(byte, b'\n', Part::End),
        }
    }

    fn size(&mut self, byte: u8, digits: usize) -> Result<Part, BodyError> {
        match byte {
            b';' if digits > 0 => Ok(Part::ExtensionName { length: 0 }),
            b'\r' if digits > 0 => Ok(Part::SizeLf),
            _ => {
                let digit = char::from(byte).to_digit(16).ok_or(BodyError::Size)?;
                // Sixteen digits may be 2^63 and more, which some count as less than nothing.
                if digits >= MAX_SIZE_DIGITS || self.remaining > (i64::MAX >> 4).unsigned_abs() {
                    return Err(BodyError::Size);
                }
                self.remaining = self.remaining << 4 | u64::from(digit);
                Ok(Part::Size { digits: digits + 1 })
            }
        }
    }

    /// `*( ";" token [ "=" ( token / quoted-string ) ] )`.
    fn extension(&mut self, byte: u8) -> Result<Part, BodyError> {
        self.extension += 1;
        self.extensions += 1;
        if self.extension > MAX_CHUNK_EXTENSION_BYTES
            || self.extensions > MAX_CHUNK_EXTENSIONS_BYTES
        {
            return Err(BodyError::Extension);
        }
        let is_printable = matches!(byte, b' '..=b'~');
        match (self.part, byte) {
            (Part::ExtensionName { length } | Part::ExtensionValue { length }, b';')
                if length > 0 =>
            {
                Ok(Part::ExtensionName { length: 0 })
            }
            (Part::AfterQuoted, b';') => Ok(Part::ExtensionName { length: 0 }),
            (Part::ExtensionName { length } | Part::ExtensionValue { length }, b'\r')
                if length > 0 =>
            {
                Ok(Part::SizeLf)
            }
            (Part::AfterQuoted, b'\r') => Ok(Part::SizeLf),
            (Part::ExtensionName { length }, b'=') if length > 0 => {
                Ok(Part::ExtensionValue { length: 0 })
            }
            (Part::ExtensionValue { length: 0 }, b'"') => Ok(Part::Quoted),
            (Part::ExtensionName { length }, _) if is_token(byte) => {
                Ok(Part::ExtensionName { length: length + 1 })
            }
            (Part::ExtensionValue { length }, _) if is_token(byte) => {
                Ok(Part::ExtensionValue { length: length + 1 })
            }
            (Part::Quoted, b'"') => Ok(Part::AfterQuoted),
            (Part::Quoted, b'\\') => Ok(Part::QuotedPair),
            (Part::Quoted | Part::QuotedPair, _) if is_printable => Ok(Part::Quoted),
            _ => Err(BodyError::Extension),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<Part, BodyError> {
        self.trailer += 1;
        if self.trailer > MAX_TRAILER_BYTES {
            return Err(BodyError::Trailer);
        }
        match self.part {
            Part::TrailerStart if byte == b'\r' => Ok(Part::EndLf),
            Part::TrailerStart if is_token(byte) && self.trailer_fields < MAX_TRAILER_FIELDS => {
                self.trailer_fields += 1;
                Ok(Part::TrailerName)
            }
            Part::TrailerName if is_token(byte) => Ok(Part::TrailerName),
            Part::TrailerName if byte == b':' => Ok(Part::TrailerValue),
            Part::TrailerValue if byte == b'\r' => Ok(Part::TrailerLf),
            Part::TrailerValue if is_value(byte) => Ok(Part::TrailerValue),
            _ => Err(BodyError::Trailer),
        }
    }
}

fn line_end(byte: u8, expected: u8, next: Part) -> Result<Part, BodyError> {
    match byte == expected {
        true => Ok(next),
        false => Err(BodyError::LineEnd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(body: &str) -> (usize, Progress) {
        Body::new(Framing::Chunked).read(body.as_bytes())
    }

    #[test]
    fn a_length_is_counted_and_not_a_byte_more() {
        let mut body = Body::new(Framing::Length(5));
        assert_eq!(body.read(b"ab"), (2, Progress::Within));
        assert_eq!(body.read(b"cdeGET /"), (3, Progress::Complete));
        assert_eq!(
            Body::new(Framing::Length(0)).read(b"GET"),
            (0, Progress::Complete)
        );
    }

    #[test]
    fn well_formed_chunks_pass() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "00000000000000a\r\n0123456789\r\n000\r\n\r\n",
            "A;name\r\n0123456789\r\n0;last=1\r\n\r\n",
            "1;a=\"b;c\\\"\";d=e\r\nx\r\n0\r\n\r\n",
            "1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n",
            "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nEmpty:\r\n\r\n",
        ] {
            assert_eq!(chunked(body), (body.len(), Progress::Complete), "{body:?}");
            let followed = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(
                chunked(&followed),
                (body.len(), Progress::Complete),
                "{body:?}"
            );
        }
    }

    #[test]
    fn chunks_that_parsers_read_differently_do_not_pass() {
        for (body, error) in [
            ("0x5\r\nhello\r\n0\r\n\r\n", BodyError::Size),
            ("+5\r\nhello\r\n", BodyError::Size),
            ("-5\r\nhello\r\n", BodyError::Size),
            (" 5\r\nhello\r\n", BodyError::Size),
            ("5 \r\nhello\r\n", BodyError::Size),
            ("5\t\r\nhello\r\n", BodyError::Size),
            ("5_0\r\nhello\r\n", BodyError::Size),
            ("0_2e\r\nhello\r\n", BodyError::Size),
            ("FFFFFFFFFFFFFFFFF\r\nhello\r\n", BodyError::Size),
            ("FFFFFFFFFFFFFFFF\r\nhello\r\n", BodyError::Size),
            ("8000000000000000\r\nhello\r\n", BodyError::Size),
            ("00000000000000005\r\nhello\r\n", BodyError::Size),
            ("\r\nhello\r\n", BodyError::Size),
            ("g\r\nhello\r\n", BodyError::Size),
            ("5\nhello\r\n", BodyError::Size),
            (";a\r\nhello\r\n", BodyError::Size),
            ("5;\r\nhello\r\n", BodyError::Extension),
            ("5;=x\r\nhello\r\n", BodyError::Extension),
            ("5;a=\r\nhello\r\n", BodyError::Extension),
            ("5;;a\r\nhello\r\n", BodyError::Extension),
            ("5; a\r\nhello\r\n", BodyError::Extension),
            ("5;a b\r\nhello\r\n", BodyError::Extension),
            ("5;a\nhello\r\n", BodyError::Extension),
            ("5;a\0b\r\nhello\r\n", BodyError::Extension),
            ("5;a=\"b\nc\"\r\nhello\r\n", BodyError::Extension),
            ("5;a=\"b\rc\"\r\nhello\r\n", BodyError::Extension),
            ("5;a=\"b\"c\r\nhello\r\n", BodyError::Extension),
            ("5;a\rb\r\nhello\r\n", BodyError::LineEnd),
            ("5\r\r\nhello\r\n", BodyError::LineEnd),
            ("5\r\nhello\n0\r\n\r\n", BodyError::LineEnd),
            ("5\r\nhello0\r\n\r\n", BodyError::LineEnd),
            ("5\r\nhello world\r\n0\r\n\r\n", BodyError::LineEnd),
            ("5\r\nhello\rx0\r\n\r\n", BodyError::LineEnd),
            ("0\r\n\n", BodyError::Trailer),
            ("0\r\nX-A : b\r\n\r\n", BodyError::Trailer),
            ("0\r\nX-A: b\r\n c\r\n\r\n", BodyError::Trailer),
            ("0\r\nX-A: b\n\r\n", BodyError::Trailer),
            ("0\r\nX-A: \0\r\n\r\n", BodyError::Trailer),
            ("0\r\n: b\r\n\r\n", BodyError::Trailer),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", BodyError::Trailer),
            ("0\r\nX: a\rb\r\n\r\n", BodyError::LineEnd),
            ("0\r\n\rx", BodyError::LineEnd),
        ] {
            assert!(
                matches!(chunked(body), (_, Progress::Broken(found)) if found == error),
                "{body:?}: {:?}",
                chunked(body)
            );
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let broken = |body: &str| matches!(chunked(body), (_, Progress::Broken(_)));
        let with_extension = |length: usize| format!("0;{}\r\n\r\n", "a".repeat(length));
        assert!(!broken(&with_extension(MAX_CHUNK_EXTENSION_BYTES - 1)));
        assert!(broken(&with_extension(MAX_CHUNK_EXTENSION_BYTES)));
        let chunk = format!("1;{}\r\nx\r\n", "a".repeat(99));
        assert!(!broken(&chunk.repeat(MAX_CHUNK_EXTENSIONS_BYTES / 100)));
        assert!(broken(&chunk.repeat(MAX_CHUNK_EXTENSIONS_BYTES / 100 + 1)));
        let fields = |count: usize| format!("0\r\n{}\r\n", "X: a\r\n".repeat(count));
        assert!(!broken(&fields(MAX_TRAILER_FIELDS)));
        assert!(broken(&fields(MAX_TRAILER_FIELDS + 1)));
        assert!(broken(&format!(
            "0\r\nX: {}",
            "a".repeat(MAX_TRAILER_BYTES)
        )));
    }
}
