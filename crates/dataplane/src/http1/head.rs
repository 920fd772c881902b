//! The head of a request: request line and header section, by the letter of RFC 9112 sections 2 to 6.
//!
//! Each byte is looked at once, also if they come one by one. What is refused does not depend on how the bytes
//! were split, so an attacker gains nothing by splitting them.

use testudo_model::limits::{
    MAX_HEADER_BYTES, MAX_HEADER_FIELDS, MAX_METHOD_BYTES, MAX_REQUEST_LINE_BYTES,
};

use super::syntax::{is_target, is_token, line_run, token_run, value_run};
use crate::framing::{FramingError, content_length, is_authority};

/// What follows from a head for the bytes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// How the body is framed.
    pub(crate) body: Framing,
    /// Whether the answer may end HTTP on this connection: CONNECT, or an upgrade is asked for.
    pub(crate) may_switch: bool,
}

/// How a body is framed (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; none without a field that says otherwise.
    Length(u64),
    /// In the chunked coding.
    Chunked,
}

/// A head of which a part may have come.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    /// The first byte that was not looked at.
    at: usize,
    /// Where the line begins that is not complete.
    line: usize,
    /// Where the value of that line begins, if its name is complete.
    value: Option<usize>,
    /// RFC 9112 section 2.2 allows for one empty line before the request line.
    has_blank: bool,
    request: Option<RequestLine>,
    fields: Fields,
}

#[derive(Debug)]
struct RequestLine {
    /// Where the header section begins.
    end: usize,
    is_http10: bool,
    method: Method,
}

/// Methods that framing depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Connect,
    /// It has content, or means nothing.
    WithContent,
    Options,
    Other,
}

/// What the fields said so far.
#[derive(Debug, Default)]
struct Fields {
    count: usize,
    hosts: usize,
    length: Option<u64>,
    is_chunked: bool,
    has_upgrade: bool,
}

/// What became of a line.
enum Line {
    Read,
    Incomplete,
    /// The empty one.
    Last,
}

impl HeadReader {
    /// Reads on. `bytes` are all bytes from the beginning of the head. Once it is complete, says how many of them
    /// it has.
    ///
    /// # Errors
    /// What is wrong with it; never a matter of bytes that have not come.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Option<(usize, Head)>, FramingError> {
        loop {
            let line = match &self.request {
                None => self.request_line(bytes)?,
                Some(request) => {
                    let limit = request.end + MAX_HEADER_BYTES;
                    self.field_line(bytes, limit)?
                }
            };
            match line {
                Line::Read => {}
                Line::Incomplete => return Ok(None),
                Line::Last => return Ok(Some((self.at, self.finish()?))),
            }
        }
    }

    fn request_line(&mut self, bytes: &[u8]) -> Result<Line, FramingError> {
        let window = window(bytes, MAX_REQUEST_LINE_BYTES);
        self.at += line_run(window.get(self.at..).unwrap_or_default());
        let line = window.get(self.line..self.at).unwrap_or_default();
        match window.get(self.at..).unwrap_or_default() {
            [b'\r', b'\n', ..] if line.is_empty() && !self.has_blank => self.has_blank = true,
            [b'\r', b'\n', ..] => self.request = Some(RequestLine::parse(line, self.at + 2)?),
            [] | [b'\r'] if window.len() < MAX_REQUEST_LINE_BYTES => return Ok(Line::Incomplete),
            [] | [b'\r'] => return Err(too_long(line)),
            _ => return Err(FramingError::RequestLine),
        }
        self.begin_line();
        Ok(Line::Read)
    }

    fn field_line(&mut self, bytes: &[u8], limit: usize) -> Result<Line, FramingError> {
        let window = window(bytes, limit);
        let incomplete = || match window.len() < limit {
            true => Ok(Line::Incomplete),
            false => Err(FramingError::HeaderSize),
        };
        let value = match self.value {
            Some(value) => value,
            None => {
                self.at += token_run(window.get(self.at..).unwrap_or_default());
                match window.get(self.at..).unwrap_or_default() {
                    [] => return incomplete(),
                    [b'\r'] if self.at == self.line => return incomplete(),
                    [b'\r', b'\n', ..] if self.at == self.line => {
                        self.begin_line();
                        return Ok(Line::Last);
                    }
                    [b':', ..] if self.at > self.line => {
                        self.at += 1;
                        self.value = Some(self.at);
                        self.at
                    }
                    _ => return Err(FramingError::Field),
                }
            }
        };
        self.at += value_run(window.get(self.at..).unwrap_or_default());
        match window.get(self.at..).unwrap_or_default() {
            [b'\r', b'\n', ..] => {
                let name = window.get(self.line..value - 1).unwrap_or_default();
                let value = window.get(value..self.at).unwrap_or_default();
                let is_http10 = self.request.as_ref().is_some_and(|line| line.is_http10);
                self.fields.read(name, value, is_http10)?;
                self.begin_line();
                Ok(Line::Read)
            }
            [] | [b'\r'] => incomplete(),
            _ => Err(FramingError::Field),
        }
    }

    fn begin_line(&mut self) {
        self.at += 2;
        self.line = self.at;
        self.value = None;
    }

    fn finish(&self) -> Result<Head, FramingError> {
        let Some(RequestLine {
            is_http10, method, ..
        }) = self.request
        else {
            return Err(FramingError::RequestLine);
        };
        let fields = &self.fields;
        // RFC 9112 section 3.2: exactly one; HTTP/1.0 knew none.
        if fields.hosts > 1 || (fields.hosts == 0 && !is_http10) {
            return Err(FramingError::Host);
        }
        let body = match (fields.length, fields.is_chunked) {
            (Some(_), true) => return Err(FramingError::Length),
            // RFC 1945 section 7.2.2: without a length nobody knows where it ends.
            (None, false) if is_http10 && method == Method::WithContent => {
                return Err(FramingError::Length);
            }
            (None, true) => Framing::Chunked,
            (length, false) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(Head {
            body,
            may_switch: fields.has_upgrade || method == Method::Connect,
        })
    }
}

/// The bytes that may be looked at: nothing beyond a limit decides anything.
fn window(bytes: &[u8], limit: usize) -> &[u8] {
    bytes.get(..limit).unwrap_or(bytes)
}

/// What a request line that does not end is: a method (RFC 9112 section 3) or a target that nobody serves.
fn too_long(line: &[u8]) -> FramingError {
    match line.iter().position(|byte| *byte == b' ') {
        Some(at) if at <= MAX_METHOD_BYTES => FramingError::TargetLength,
        _ => FramingError::Method,
    }
}

impl RequestLine {
    /// `method SP request-target SP HTTP-version`, and not a byte more.
    fn parse(line: &[u8], end: usize) -> Result<Self, FramingError> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(FramingError::RequestLine);
        };
        let is_http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(FramingError::Version);
            }
            _ => return Err(FramingError::RequestLine),
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return Err(FramingError::RequestLine);
        }
        if method.len() > MAX_METHOD_BYTES {
            return Err(FramingError::Method);
        }
        let method = match method {
            b"CONNECT" => Method::Connect,
            b"POST" | b"PUT" | b"PATCH" => Method::WithContent,
            b"OPTIONS" => Method::Options,
            _ => Method::Other,
        };
        check_target(method, target)?;
        Ok(Self {
            end,
            is_http10,
            method,
        })
    }
}

/// The four forms of RFC 9112 section 3.2. What a path means is decided later.
fn check_target(method: Method, target: &[u8]) -> Result<(), FramingError> {
    if method == Method::Connect {
        return match std::str::from_utf8(target) {
            Ok(authority) if is_authority(authority) => Ok(()),
            _ => Err(FramingError::Connect),
        };
    }
    if !is_target(target) {
        return Err(FramingError::RequestLine);
    }
    match target {
        [b'/', ..] => Ok(()),
        b"*" if method == Method::Options => Ok(()),
        _ => {
            let absolute = strip_scheme(target, b"http://")
                .or_else(|| strip_scheme(target, b"https://"))
                .ok_or(FramingError::RequestLine)?;
            let authority = absolute
                .split(|byte| matches!(byte, b'/' | b'?'))
                .next()
                .unwrap_or_default();
            match std::str::from_utf8(authority) {
                Ok(authority) if is_authority(authority) => Ok(()),
                _ => Err(FramingError::Host),
            }
        }
    }
}

fn strip_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = target.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

impl Fields {
    fn read(&mut self, name: &[u8], value: &[u8], is_http10: bool) -> Result<(), FramingError> {
        self.count += 1;
        if self.count > MAX_HEADER_FIELDS {
            return Err(FramingError::HeaderSize);
        }
        // Most names are none of these: the length tells.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                match std::str::from_utf8(trim(value)) {
                    Ok(host) if is_authority(host) => Ok(()),
                    _ => Err(FramingError::Host),
                }
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                match trim(value).eq_ignore_ascii_case(b"100-continue") {
                    true => Ok(()),
                    false => Err(FramingError::Expectation),
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.has_upgrade = true;
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = content_length(trim(value)).ok_or(FramingError::Length)?;
                match self.length.replace(length) {
                    None => Ok(()),
                    Some(_) => Err(FramingError::Length),
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if is_http10 || std::mem::replace(&mut self.is_chunked, true) {
                    return Err(FramingError::Length);
                }
                match trim(value).eq_ignore_ascii_case(b"chunked") {
                    true => Ok(()),
                    false => Err(FramingError::Coding),
                }
            }
            _ => Ok(()),
        }
    }
}

/// Without the spaces around. A tab is white space as well, but not to every parser: it stays, and spoils the value.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &[u8]) -> Result<Option<(usize, Head)>, FramingError> {
        HeadReader::default().read(head)
    }

    fn verdict(head: &str) -> Result<Head, FramingError> {
        read(head.as_bytes()).map(|read| {
            let (length, head_read) = read.expect("a complete head");
            assert_eq!(length, head.len(), "{head}");
            head_read
        })
    }

    /// A POST with these fields behind `Host`.
    fn post(fields: &str) -> Result<Framing, FramingError> {
        let head = format!("POST /a HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        verdict(&head).map(|head| head.body)
    }

    #[test]
    fn ordinary_heads_are_read_as_they_are_meant() {
        let get =
            verdict("GET /a?b=c HTTP/1.1\r\nHost: a.example:80\r\nX-A:\tb c\t\r\nX-B:\r\n\r\n");
        let plain = Head {
            body: Framing::Length(0),
            may_switch: false,
        };
        assert_eq!(get, Ok(plain));
        assert_eq!(verdict("\r\nGET / HTTP/1.1\r\nhOST:a\r\n\r\n"), Ok(plain));
        assert_eq!(verdict("GET / HTTP/1.0\r\n\r\n"), Ok(plain));
        assert_eq!(verdict("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(plain));
        assert_eq!(
            verdict("GET HTTPS://[::1]:8443?q HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n"),
            Ok(plain)
        );
        assert_eq!(post("Content-Length:  17 \r\n"), Ok(Framing::Length(17)));
        assert_eq!(post("content-length:0\r\n"), Ok(Framing::Length(0)));
        assert_eq!(post("Transfer-Encoding: CHUNKED\r\n"), Ok(Framing::Chunked));
        assert_eq!(post("Expect: 100-Continue\r\n"), Ok(Framing::Length(0)));
        assert_eq!(post("X: größer\r\n"), Ok(Framing::Length(0)));
        for switching in [
            "CONNECT a.example:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        ] {
            assert!(verdict(switching).unwrap().may_switch, "{switching}");
        }
    }

    #[test]
    fn a_body_of_uncertain_length_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 05\r\n",
            "Content-Length: 5_0\r\n",
            "Content-Length:  5 5\r\n",
            "Content-Length:\t5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 9223372036854775808\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length: 1000000000000000000000000000000\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(post(fields), Err(FramingError::Length), "{fields}");
        }
        for coding in [
            "xchunked",
            "chunked, identity",
            "identity",
            "chunked, chunked",
            "gzip, chunked",
            "chunked;a=b",
            ",chunked",
            "chunked,",
            "",
            "\r\n chunked",
            "\tchunked",
            "chunked\t",
            "\"chunked\"",
        ] {
            let fields = format!("Transfer-Encoding: {coding}\r\n");
            assert_eq!(post(&fields), Err(FramingError::Coding), "{coding:?}");
        }
        for old in [
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\n\r\n",
            "PUT / HTTP/1.0\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(verdict(old), Err(FramingError::Length), "{old}");
        }
    }

    #[test]
    fn lines_that_parsers_read_differently_are_refused() {
        let head =
            |fields: &str| verdict(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        for fields in [
            "X-A : b",
            "X A: b",
            ": b",
            "X-A",
            "X-A: b\r\n c",
            "X-A:\r\n b",
            "\tX-A: b",
            "X-A: b\0c",
            "X-A: b\rc",
            "X-A: b\nc",
            "X-A: b\r\r",
            "X-Ä: b",
            "X-A: \x7f",
            "X-A: \x0b",
            "X(A): b",
            "Transfer-Encoding : chunked",
            "X: a\r\n\tTransfer-Encoding: chunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: chunked\0",
            "X\0: b",
        ] {
            assert_eq!(head(fields), Err(FramingError::Field), "{fields:?}");
        }
        for head in [
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\r\nHost: x\r\n\r\n",
            "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "\tGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
            "GET / x HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.10\r\nHost: x\r\n\r\n",
            "GET / http/1.1\r\nHost: x\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET  HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /#a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /é HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET a.example HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "\x16\x03\x01\x02\x00",
        ] {
            assert_eq!(
                read(head.as_bytes()),
                Err(FramingError::RequestLine),
                "{head:?}"
            );
        }
        for version in ["HTTP/1.2", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9"] {
            let head = format!("GET / {version}\r\nHost: x\r\n\r\n");
            assert_eq!(verdict(&head), Err(FramingError::Version), "{version}");
        }
    }

    #[test]
    fn there_is_one_host_that_is_one() {
        for fields in [
            "",
            "Host: a\r\nHost: a\r\n",
            "Host: a\r\nhost: b\r\n",
            "Host: a,b\r\n",
            "Host: a@b\r\n",
            "Host: a:99999\r\n",
            "Host: a:\r\n",
            "Host:\r\n",
            "Host: a b\r\n",
            "Host:\ta\r\n",
            "Host: a/b\r\n",
            "Host: [::1\r\n",
            "Host: ä\r\n",
        ] {
            let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(verdict(&head), Err(FramingError::Host), "{fields:?}");
        }
        for target in [
            "http://[::1",
            "http://",
            "http:///a",
            "http://a@b/",
            "http://a:99999/",
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(verdict(&head), Err(FramingError::Host), "{target}");
        }
        for target in ["a@b:80", "http://a/", "/", "*", "[::1"] {
            let head = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(verdict(&head), Err(FramingError::Connect), "{target}");
        }
        assert_eq!(post("Expect: 200-ok\r\n"), Err(FramingError::Expectation));
    }

    #[test]
    fn too_much_of_anything_is_refused_before_it_is_read_to_its_end() {
        let endless = |start: &str| read(&[start.as_bytes(), &[b'a'; 100_000]].concat());
        assert_eq!(endless(""), Err(FramingError::Method));
        assert_eq!(endless("GET /"), Err(FramingError::TargetLength));
        let line = "GET / HTTP/1.1\r\nHost: a\r\n";
        assert_eq!(endless(line), Err(FramingError::HeaderSize));
        assert_eq!(
            endless(&format!("{line}X: ")),
            Err(FramingError::HeaderSize)
        );
        let with_fields = |count| {
            let fields: String = (0..count).map(|n| format!("X-{n}: a\r\n")).collect();
            verdict(&format!("{line}{fields}\r\n"))
        };
        assert!(with_fields(MAX_HEADER_FIELDS - 1).is_ok());
        assert_eq!(
            with_fields(MAX_HEADER_FIELDS),
            Err(FramingError::HeaderSize)
        );
        let long = |length: usize| {
            verdict(&format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                "a".repeat(length)
            ))
        };
        let around = "Host: a\r\nX: \r\n\r\n".len();
        assert!(long(MAX_HEADER_BYTES - around).is_ok());
        assert_eq!(
            long(MAX_HEADER_BYTES - around + 1),
            Err(FramingError::HeaderSize)
        );
        let method = "A".repeat(MAX_METHOD_BYTES + 1);
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(verdict(&head), Err(FramingError::Method));
    }
}
