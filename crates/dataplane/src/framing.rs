//! A message that two parsers could read differently is refused before anything acts on it.
//!
//! The bytes of HTTP/1.1 have passed [`crate::http1`], which is stricter than hyper's parser. What is checked here
//! holds for HTTP/2 as well, or needs the parsed target.

use http::{Extensions, HeaderMap, Method, StatusCode, Uri, Version, header, request::Parts};
use testudo_model::{CanonicalPath, limits};

use crate::rejection::Rejection;

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// RFC 9112 section 3: no request line, or one that not every parser reads the same way.
    #[error("the request line is malformed")]
    RequestLine,
    /// RFC 9112 section 5: the same for a header field.
    #[error("a header field is malformed")]
    Field,
    /// RFC 9112 section 6: the length of the body is not certain.
    #[error("the length of the body is ambiguous")]
    Length,
    /// RFC 9110 section 7.2: exactly one host, the same everywhere.
    #[error("there must be exactly one well-formed host, the same in target and `Host`")]
    Host,
    /// RFC 9112 section 6.1: another transfer coding than `chunked`.
    #[error("the transfer coding is not supported")]
    Coding,
    /// RFC 9110 section 9.3.6: the target of a CONNECT.
    #[error("CONNECT must name a host and a port")]
    Connect,
    /// CONNECT, TRACE, or a name that is no method.
    #[error("the method is not supported")]
    Method,
    /// RFC 9110 section 7.8: WebSockets are opened (and taken out of the message before), nothing else is.
    #[error("no protocol but WebSocket can be upgraded to")]
    Upgrade,
    /// RFC 9110 section 10.1.1.
    #[error("the expectation is not supported")]
    Expectation,
    /// More header fields or bytes than allowed.
    #[error(
        "more than {} header fields or {} bytes of them",
        limits::MAX_HEADER_FIELDS,
        limits::MAX_HEADER_BYTES
    )]
    HeaderSize,
    /// The request target is too long, whatever it is made of.
    #[error(
        "the request line is longer than {} bytes",
        limits::MAX_REQUEST_LINE_BYTES
    )]
    TargetLength,
    /// The head did not come in time.
    #[error("the header section took longer than {} s", limits::HEADER_READ_TIMEOUT.as_secs())]
    Timeout,
    /// The query is too long.
    #[error("the query is longer than {} bytes", limits::MAX_QUERY_BYTES)]
    QueryLength,
    /// A query with bytes that RFC 3986 does not allow.
    #[error("the query has a character that RFC 3986 does not allow")]
    Query,
    /// A version that is not served.
    #[error("the HTTP version is not supported")]
    Version,
}

impl FramingError {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::RequestLine
            | Self::Field
            | Self::Length
            | Self::Host
            | Self::Connect
            | Self::Query => StatusCode::BAD_REQUEST,
            Self::Coding | Self::Method | Self::Upgrade => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::HeaderSize => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetLength | Self::QueryLength => StatusCode::URI_TOO_LONG,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        }
    }

    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::RequestLine => "request.line",
            Self::Field => "request.field",
            Self::Length => "request.length",
            Self::Coding => "request.transfer_coding",
            Self::Connect => "request.connect_malformed",
            Self::TargetLength => "request.target_length",
            Self::Timeout => "request.timeout",
            Self::Host => "request.host",
            Self::Method => "request.method",
            Self::Upgrade => "request.upgrade",
            Self::Expectation => "request.expectation",
            Self::HeaderSize => "request.header_size",
            Self::QueryLength | Self::Query => "request.query",
            Self::Version => "request.version",
        }
    }
}

/// What the request is about, read once for everybody.
#[derive(Debug)]
pub(crate) struct Target {
    /// Host and port as the client named them.
    pub(crate) authority: String,
    /// Canonical path.
    pub(crate) path: CanonicalPath<'static>,
    /// Query without `?`.
    pub(crate) query: Option<String>,
}

impl Target {
    /// Path and query as they are sent on.
    pub(crate) fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.as_str().to_owned(),
        }
    }
}

/// Checks the head of a request and reads its target.
///
/// # Errors
/// [`Rejection::Framing`] or [`Rejection::Path`].
pub(crate) fn admit(head: &Parts) -> Result<Target, Rejection> {
    check_header_size(
        &head.headers,
        limits::MAX_HEADER_FIELDS,
        limits::MAX_HEADER_BYTES,
    )?;
    read(head)
}

/// As [`admit`], for a request that a proxy of the fleet has taken and added its own fields to.
///
/// # Errors
/// [`Rejection::Framing`] or [`Rejection::Path`].
pub(crate) fn admit_from_proxy(head: &Parts) -> Result<Target, Rejection> {
    check_header_size(
        &head.headers,
        limits::MAX_MESH_HEADER_FIELDS,
        limits::MAX_MESH_HEADER_BYTES,
    )?;
    read(head)
}

fn read(head: &Parts) -> Result<Target, Rejection> {
    if let Some(refused) = refused_before(&head.extensions) {
        return Err(refused.into());
    }
    check_method(&head.method)?;
    let authority = authority(head)?;
    check_length(head)?;
    check_connection_options(&head.headers)?;
    let query = head.uri.query();
    check_query(query)?;
    let path = CanonicalPath::parse(head.uri.path())?.into_owned();
    Ok(Target {
        authority,
        path,
        query: query.map(str::to_owned),
    })
}

/// Why the bytes of the request were refused, if they were: then nothing else in `head` means anything.
pub(crate) fn refused_before(extensions: &Extensions) -> Option<FramingError> {
    extensions.get().copied()
}

fn check_method(method: &Method) -> Result<(), FramingError> {
    let name = method.as_str();
    let shaped = name.len() <= limits::MAX_METHOD_BYTES
        && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    // TRACE reflects credentials, CONNECT makes a tunnel; PRI is the HTTP/2 preface.
    if shaped && !matches!(name, "CONNECT" | "TRACE" | "TRACK" | "PRI") {
        Ok(())
    } else {
        Err(FramingError::Method)
    }
}

fn check_header_size(
    headers: &HeaderMap,
    max_fields: usize,
    max_bytes: usize,
) -> Result<(), FramingError> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if headers.len() > max_fields || bytes > max_bytes {
        return Err(FramingError::HeaderSize);
    }
    Ok(())
}

/// The one host the message names: target and `Host` must agree (RFC 9112 section 3.2.2 lets the target win;
/// a service behind us might not).
fn authority(head: &Parts) -> Result<String, FramingError> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(FramingError::Host);
    }
    let host = host
        .map(|value| value.to_str().map_err(|_| FramingError::Host))
        .transpose()?;
    let authority = match (head.uri.authority(), host) {
        (Some(target), Some(host)) if !target.as_str().eq_ignore_ascii_case(host) => {
            return Err(FramingError::Host);
        }
        (Some(target), Some(_)) => target.as_str(),
        // HTTP/2 and 3 have no need of `Host`; HTTP/1.1 without it is malformed (RFC 9112 section 3.2).
        (Some(target), None) if head.version >= Version::HTTP_2 => target.as_str(),
        (None, Some(host)) => host,
        (_, None) => return Err(FramingError::Host),
    };
    if is_authority(authority) {
        Ok(authority.to_owned())
    } else {
        Err(FramingError::Host)
    }
}

/// `host [":" port]` without user information.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                (
                    address,
                    port.strip_prefix(':').or(port.is_empty().then_some("0")),
                )
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("0")),
        },
    };
    let host_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    let digits =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !host.is_empty() && host.len() <= 253 && host.bytes().all(host_ok) && port.is_some_and(digits)
}

fn check_length(head: &Parts) -> Result<(), FramingError> {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    let mut encodings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let encoding = encodings.next();
    if lengths.next().is_some()
        || encodings.next().is_some()
        || (length.is_some() && encoding.is_some())
    {
        return Err(FramingError::Length);
    }
    if let Some(length) = length
        && content_length(length.as_bytes()).is_none()
    {
        return Err(FramingError::Length);
    }
    if let Some(encoding) = encoding
        && !encoding.as_bytes().eq_ignore_ascii_case(b"chunked")
    {
        return Err(FramingError::Length);
    }
    match head.version {
        Version::HTTP_11 | Version::HTTP_2 | Version::HTTP_3 => Ok(()),
        // RFC 9112 section 6.1: a length of its own, or no body at all.
        Version::HTTP_10 if encoding.is_some() => Err(FramingError::Length),
        Version::HTTP_10
            if length.is_none()
                && matches!(head.method, Method::POST | Method::PUT | Method::PATCH) =>
        {
            Err(FramingError::Length)
        }
        Version::HTTP_10 => Ok(()),
        _ => Err(FramingError::Version),
    }
}

/// `Content-Length`: digits without sign, padding or leading zero, at most 18 of them.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    let leading_zero = value.len() > 1 && value.first() == Some(&b'0');
    if value.len() > 18 || leading_zero || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Nothing at all is no number either.
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn check_connection_options(headers: &HeaderMap) -> Result<(), FramingError> {
    for upgrade in headers.get_all(header::UPGRADE) {
        // RFC 9113 dropped the h2c upgrade; ignoring it is what a server that does not know it does.
        let ignorable = |token: &[u8]| token.trim_ascii().eq_ignore_ascii_case(b"h2c");
        if !upgrade
            .as_bytes()
            .split(|byte| *byte == b',')
            .all(ignorable)
        {
            return Err(FramingError::Upgrade);
        }
    }
    for expectation in headers.get_all(header::EXPECT) {
        if !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(FramingError::Expectation);
        }
    }
    Ok(())
}

fn check_query(query: Option<&str>) -> Result<(), FramingError> {
    let Some(query) = query else { return Ok(()) };
    if query.len() > limits::MAX_QUERY_BYTES {
        return Err(FramingError::QueryLength);
    }
    if query.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(FramingError::Query)
    }
}

/// The target of a request that is sent on: `<scheme>://<authority><path>` for HTTP/2, the path for HTTP/1.1.
pub(crate) fn outgoing_uri(target: &Target, scheme: Option<&str>) -> Option<Uri> {
    let path = target.path_and_query();
    if let Some(scheme) = scheme {
        Uri::builder()
            .scheme(scheme)
            .authority(target.authority.as_str())
            .path_and_query(path)
            .build()
            .ok()
    } else {
        path.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn verdict(
        version: Version,
        method: &str,
        uri: &str,
        fields: &[(&str, &str)],
    ) -> Result<Target, String> {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        admit(&head).map_err(|rejection| rejection.code().to_owned())
    }

    fn refused(method: &str, fields: &[(&str, &str)]) -> Option<String> {
        let fields: Vec<_> = [("host", "shop.example")]
            .iter()
            .chain(fields)
            .copied()
            .collect();
        verdict(Version::HTTP_11, method, "/a", &fields).err()
    }

    #[test]
    fn an_ordinary_request_has_one_target() {
        let target = verdict(
            Version::HTTP_11,
            "GET",
            "/%61?b=c",
            &[("host", "Shop.example:8443")],
        )
        .unwrap();
        assert_eq!(target.authority, "Shop.example:8443");
        assert_eq!(target.path_and_query(), "/a?b=c");
        assert_eq!(
            outgoing_uri(&target, Some("https")).unwrap(),
            "https://Shop.example:8443/a?b=c"
        );
        assert!(verdict(Version::HTTP_2, "GET", "https://shop.example/a", &[]).is_ok());
    }

    #[test]
    fn a_body_of_uncertain_length_is_refused() {
        for fields in [
            &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "5"), ("content-length", "5")],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("content-length", "05")],
            &[("content-length", "")],
            &[("content-length", "9223372036854775808")],
            &[("transfer-encoding", "gzip, chunked")],
            &[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            &[("transfer-encoding", "chunked;a=b")],
            &[("transfer-encoding", "identity")],
            &[("transfer-encoding", "")],
        ] {
            assert_eq!(
                refused("POST", fields).as_deref(),
                Some("request.length"),
                "{fields:?}"
            );
        }
        assert_eq!(refused("POST", &[("transfer-encoding", "Chunked")]), None);
        let old = |method, fields: &[_]| verdict(Version::HTTP_10, method, "/", fields).err();
        let host = ("host", "shop.example");
        assert_eq!(old("POST", &[host]).as_deref(), Some("request.length"));
        assert_eq!(
            old("GET", &[host, ("transfer-encoding", "chunked")]).as_deref(),
            Some("request.length")
        );
        assert_eq!(old("POST", &[host, ("content-length", "0")]), None);
    }

    #[test]
    fn there_is_exactly_one_host() {
        let host_of = |uri: &str, hosts: &[&str]| {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            verdict(Version::HTTP_11, "GET", uri, &fields).map(|target| target.authority)
        };
        for (uri, hosts) in [
            ("/", &[][..]),
            ("/", &["a.example", "a.example"]),
            ("/", &["a.example,b.example"]),
            ("/", &["user@a.example"]),
            ("/", &["a.example:99999"]),
            ("/", &["a.example:"]),
            ("/", &["a.example:8a"]),
            ("/", &["[::1"]),
            ("/", &["[nonsense]"]),
            ("/", &[""]),
            ("/", &["a/b"]),
            ("http://a.example/", &["b.example"]),
            ("http://a.example/", &[]),
        ] {
            assert_eq!(
                host_of(uri, hosts),
                Err("request.host".to_owned()),
                "{uri} {hosts:?}"
            );
        }
        assert_eq!(host_of("/", &["[::1]:8443"]).unwrap(), "[::1]:8443");
        assert_eq!(
            host_of("http://a.example/", &["A.example"]).unwrap(),
            "a.example"
        );
    }

    #[test]
    fn methods_upgrades_and_expectations_that_nobody_serves_are_refused() {
        for method in ["CONNECT", "TRACE", "get", "PRI", &"A".repeat(64)] {
            assert_eq!(
                refused(method, &[]).as_deref(),
                Some("request.method"),
                "{method}"
            );
        }
        assert_eq!(
            refused("GET", &[("upgrade", "websocket")]).as_deref(),
            Some("request.upgrade")
        );
        assert_eq!(refused("GET", &[("upgrade", "h2c")]), None);
        assert_eq!(
            refused("POST", &[("expect", "200-ok")]).as_deref(),
            Some("request.expectation")
        );
        assert_eq!(refused("POST", &[("expect", "100-continue")]), None);
    }

    #[test]
    fn too_many_or_too_large_fields_are_refused() {
        let many: Vec<String> = (0..200).map(|n| format!("x-{n}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
        assert_eq!(
            refused("GET", &many).as_deref(),
            Some("request.header_size")
        );
        let large = "a".repeat(limits::MAX_HEADER_BYTES);
        assert_eq!(
            refused("GET", &[("x-large", &large)]).as_deref(),
            Some("request.header_size")
        );
    }

    #[test]
    fn odd_queries_and_paths_are_refused() {
        let get = |uri: &str| verdict(Version::HTTP_11, "GET", uri, &[("host", "a.example")]).err();
        assert_eq!(
            get(&format!("/a?{}", "q".repeat(9000))).as_deref(),
            Some("request.query")
        );
        assert_eq!(get("/public/../admin").as_deref(), Some("request.path"));
        assert_eq!(get("*").as_deref(), Some("request.path"));
    }
}
