//! One canonical form of a request path, so that what is decided is what is forwarded.
//!
//! Matching, policy and the upstream all see the same bytes. Whatever two parsers could read differently
//! (dot segments, encoded slashes, `;` parameters, backslashes, double encoding) is refused, not repaired.

use std::{borrow::Cow, fmt};

use crate::limits;

/// Why a path is refused. All of them answer 400, [`PathError::TooLong`] 414.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Does not start with `/`.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// Longer than [`limits::MAX_PATH_BYTES`].
    #[error("the path is longer than {} bytes", limits::MAX_PATH_BYTES)]
    TooLong,
    /// `//`, `/./` or `/../`, plain or percent-encoded.
    #[error("the path has an empty or dot segment")]
    DotSegment,
    /// `\`, `;` or their encodings, or an encoded `/`: parsers disagree on where segments end.
    #[error("the path has a separator that parsers read differently (`\\`, `;`, encoded `/`)")]
    AmbiguousSeparator,
    /// A `%` that is not followed by two hexadecimal digits, or an encoded `%` that encodes again.
    #[error("the path has a malformed or doubled percent-encoding")]
    PercentEncoding,
    /// A control character, space, raw non-ASCII byte, or `#`, `"`, `<`, `>`, `^`, `` ` ``, `{`, `|`, `}`.
    #[error("the path has a character that RFC 3986 does not allow")]
    BadCharacter,
    /// Percent-encoded bytes that are not UTF-8.
    #[error("the path's percent-encoded bytes are not UTF-8")]
    NotUtf8,
}

/// A path that every parser reads the same way: absolute, no dot or empty segments (a single trailing slash
/// is kept), valid UTF-8. Each path has one spelling: what may stand in a segment as it is (`pchar` of RFC 3986)
/// does, everything else is an escape in upper-case hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

impl<'a> CanonicalPath<'a> {
    /// Parses the path of a request target (without the query). Borrows when nothing needs to change.
    pub fn parse(raw: &'a str) -> Result<Self, PathError> {
        if raw.len() > limits::MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        for byte in raw.bytes() {
            match byte {
                b'\\' | b';' => return Err(PathError::AmbiguousSeparator),
                b'%' => {}
                byte if is_path_character(byte) => {}
                _ => return Err(PathError::BadCharacter),
            }
        }
        let canonical = if raw.contains('%') {
            Cow::Owned(normalise_escapes(raw)?)
        } else {
            Cow::Borrowed(raw)
        };
        check_segments(&canonical)?;
        Ok(Self(canonical))
    }

    /// The canonical text, still percent-encoded where it must be.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments without slashes; a trailing slash yields a last empty segment.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }

    /// Detaches the path from the bytes it was parsed from.
    pub fn into_owned(self) -> CanonicalPath<'static> {
        CanonicalPath(Cow::Owned(self.0.into_owned()))
    }
}

impl fmt::Display for CanonicalPath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// `pchar` of RFC 3986 without `%` and `;`, plus `/`.
const fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn normalise_escapes(raw: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(raw.len());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(char::from(byte));
            decoded.push(byte);
            continue;
        }
        let high = bytes
            .next()
            .and_then(hex_value)
            .ok_or(PathError::PercentEncoding)?;
        let low = bytes
            .next()
            .and_then(hex_value)
            .ok_or(PathError::PercentEncoding)?;
        let value = (high << 4) | low;
        match value {
            b'/' | b'\\' | b';' => return Err(PathError::AmbiguousSeparator),
            0..=0x1f | 0x7f => return Err(PathError::BadCharacter),
            // Not only the unreserved characters: many servers take `/%40all` for `/@all`.
            value if is_path_character(value) => out.push(char::from(value)),
            value => {
                out.push('%');
                out.push(hex_digit(value >> 4));
                out.push(hex_digit(value & 15));
            }
        }
        decoded.push(value);
    }
    // Overlong UTF-8 (`%c0%ae`) and the like.
    std::str::from_utf8(&decoded).map_err(|_| PathError::NotUtf8)?;
    // A second decoding downstream would turn `%2561`, or `%25%361`, into `%61` into `a`.
    let mut after_percents = out.split("%25").skip(1);
    if after_percents.any(|after| starts_with_two_hex_digits(after.bytes())) {
        return Err(PathError::PercentEncoding);
    }
    Ok(out)
}

fn check_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if matches!(segment, "." | "..") || (segment.is_empty() && !is_last) {
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

fn starts_with_two_hex_digits(mut bytes: impl Iterator<Item = u8>) -> bool {
    bytes.next().and_then(hex_value).is_some() && bytes.next().and_then(hex_value).is_some()
}

const fn hex_value(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

const fn hex_digit(value: u8) -> char {
    (if value < 10 {
        b'0' + value
    } else {
        b'A' + value - 10
    }) as char
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_paths_are_borrowed_and_unchanged() {
        for plain in ["/", "/a", "/a/b.c/~d", "/a/", "/api/orders/42", "/a:b@c"] {
            let path = CanonicalPath::parse(plain).unwrap();
            assert!(matches!(path.0, Cow::Borrowed(_)));
            assert_eq!(path.as_str(), plain);
        }
    }

    #[test]
    fn escapes_have_one_form() {
        assert_eq!(CanonicalPath::parse("/%61dmin").unwrap().as_str(), "/admin");
        assert_eq!(CanonicalPath::parse("/%41DMIN").unwrap().as_str(), "/ADMIN");
        assert_eq!(
            CanonicalPath::parse("/caf%c3%a9").unwrap().as_str(),
            "/caf%C3%A9"
        );
        assert_eq!(CanonicalPath::parse("/a%20b").unwrap().as_str(), "/a%20b");
        assert_eq!(
            CanonicalPath::parse("/users/%40all").unwrap().as_str(),
            "/users/@all"
        );
        assert_eq!(
            CanonicalPath::parse("/v1/a%3aread%28%2C%2A%29")
                .unwrap()
                .as_str(),
            "/v1/a:read(,*)"
        );
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        let table = [
            ("", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("//admin", PathError::DotSegment),
            ("/admin//", PathError::DotSegment),
            ("/public/../admin", PathError::DotSegment),
            ("/public/%2e%2e/admin", PathError::DotSegment),
            ("/public/%2E./admin", PathError::DotSegment),
            ("/./admin", PathError::DotSegment),
            ("/admin/.", PathError::DotSegment),
            ("/public/..%2fadmin", PathError::AmbiguousSeparator),
            ("/public/..%5cadmin", PathError::AmbiguousSeparator),
            ("/public\\admin", PathError::AmbiguousSeparator),
            ("/admin;x=1", PathError::AmbiguousSeparator),
            ("/admin%3bx", PathError::AmbiguousSeparator),
            ("/%2561dmin", PathError::PercentEncoding),
            ("/%25%361dmin", PathError::PercentEncoding),
            ("/%25%36%31dmin", PathError::PercentEncoding),
            ("/a%", PathError::PercentEncoding),
            ("/a%2", PathError::PercentEncoding),
            ("/a%zz", PathError::PercentEncoding),
            ("/%uff0e", PathError::PercentEncoding),
            ("/admin%00.css", PathError::BadCharacter),
            ("/admin%0d%0ax", PathError::BadCharacter),
            ("/admin%09", PathError::BadCharacter),
            ("/a b", PathError::BadCharacter),
            ("/a#b", PathError::BadCharacter),
            ("/ａdmin", PathError::BadCharacter),
            ("/%c0%ae%c0%ae/admin", PathError::NotUtf8),
        ];
        for (raw, error) in table {
            assert_eq!(CanonicalPath::parse(raw), Err(error), "{raw}");
        }
        let long = format!("/{}", "a".repeat(limits::MAX_PATH_BYTES));
        assert_eq!(CanonicalPath::parse(&long), Err(PathError::TooLong));
    }

    proptest! {
        #[test]
        fn an_escape_and_what_it_stands_for_are_one_path_wherever_both_are_allowed(
            before in "[a-z@:]{0,4}", byte in 0x20u8..0x7f, after in "[a-z@:]{0,4}",
        ) {
            let plain = format!("/{before}{}{after}", char::from(byte));
            let escaped = format!("/{before}%{byte:02x}{after}");
            let (plain, escaped) = (CanonicalPath::parse(&plain), CanonicalPath::parse(&escaped));
            if let (Ok(plain), Ok(escaped)) = (plain, escaped) {
                prop_assert_eq!(plain, escaped);
            }
        }

        #[test]
        fn decoding_once_more_changes_nothing_that_a_path_is_made_of(raw in "/([a-z.@:]|%[2-7][0-9a-f]){0,12}") {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                let again = CanonicalPath::parse(path.as_str());
                prop_assert_eq!(again.as_ref(), Ok(&path));
            }
        }

        #[test]
        fn canonical_is_a_fixed_point(raw in "/[ -~é]{0,40}") {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                let again = CanonicalPath::parse(path.as_str()).unwrap();
                prop_assert_eq!(again.as_str(), path.as_str());
                prop_assert!(!path.segments().any(|s| s == "." || s == ".."));
            }
        }
    }
}
