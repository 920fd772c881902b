//! The head of a request: from field lines to what all versions of HTTP have in common.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use testudo_model::limits;

use super::qpack::{self, Line, QpackError};
use crate::{
    framing::{FramingError, is_authority},
    http1::is_target,
};

/// What a field section may count for, as clients are told: what [`crate::framing`] allows, in the counting of RFC 9114
/// section 4.2.2, so that it is the judge of all but floods.
pub(super) const MAX_SECTION_BYTES: usize = limits::MAX_HEADER_BYTES
    + limits::MAX_REQUEST_LINE_BYTES
    + 32 * (limits::MAX_HEADER_FIELDS + 4);

/// Fields of a connection, which HTTP/3 has no use for (RFC 9114 section 4.2).
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The request that `section` describes. One that is malformed has the [`FramingError`] among its extensions, as those have
/// that the gate in front of HTTP/1.1 refuses, and nothing else.
///
/// # Errors
/// [`QpackError::Undecodable`]: nothing on the connection can be relied on.
pub(crate) fn read(section: Bytes) -> Result<Request<()>, QpackError> {
    let request = match qpack::decode(section, MAX_SECTION_BYTES) {
        Ok(lines) => request(lines),
        Err(QpackError::TooLarge) => Err(FramingError::HeaderSize),
        Err(error) => return Err(error),
    };
    Ok(request.unwrap_or_else(refused))
}

/// A request of which nothing is known but why it is refused.
pub(super) fn refused(error: FramingError) -> Request<()> {
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_3;
    request.extensions_mut().insert(error);
    request
}

fn request(lines: Vec<Line>) -> Result<Request<()>, FramingError> {
    let mut pseudo = Pseudo::default();
    let mut fields = HeaderMap::with_capacity(lines.len());
    for (name, value) in lines {
        // After the first field a name with a colon is only that of a malformed one.
        if name.starts_with(b":") && fields.is_empty() {
            pseudo.set(&name, value)?;
        } else {
            append(&mut fields, &name, value)?;
        }
    }
    let mut request = Request::new(());
    *request.method_mut() = pseudo.method()?;
    *request.uri_mut() = pseudo.uri()?;
    *request.version_mut() = Version::HTTP_3;
    *request.headers_mut() = fields;
    Ok(request)
}

fn append(fields: &mut HeaderMap, name: &[u8], value: Bytes) -> Result<(), FramingError> {
    // Upper case is refused, not lowered: RFC 9114 section 4.2.
    let name = HeaderName::from_lowercase(name).map_err(|_| FramingError::Field)?;
    let is_padded = value.trim_ascii().len() != value.len();
    let is_of_connection =
        CONNECTION_FIELDS.contains(&name) || (name == header::TE && value != "trailers");
    if is_padded || is_of_connection {
        return Err(FramingError::Field);
    }
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| FramingError::Field)?;
    fields
        .try_append(name, value)
        .map_err(|_| FramingError::HeaderSize)?;
    Ok(())
}

/// Pseudo-header fields (RFC 9114 section 4.3.1), each at most once.
#[derive(Default)]
struct Pseudo {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
}

impl Pseudo {
    fn set(&mut self, name: &[u8], value: Bytes) -> Result<(), FramingError> {
        let field = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b":protocol" => &mut self.protocol,
            _ => return Err(FramingError::Field),
        };
        match field.replace(value) {
            None => Ok(()),
            Some(_) => Err(FramingError::Field),
        }
    }

    fn method(&self) -> Result<Method, FramingError> {
        let method = self.method.as_deref().ok_or(FramingError::RequestLine)?;
        let method = Method::from_bytes(method).map_err(|_| FramingError::Method)?;
        match (method, &self.protocol) {
            // Neither tunnels nor WebSockets (RFC 9220), which have no `:scheme` and `:path` or other ones.
            (Method::CONNECT, _) => Err(FramingError::Method),
            (_, Some(_)) => Err(FramingError::Field),
            (method, None) => Ok(method),
        }
    }

    fn uri(self) -> Result<Uri, FramingError> {
        let path = self.path.ok_or(FramingError::RequestLine)?;
        if path.len() > limits::MAX_REQUEST_LINE_BYTES {
            return Err(FramingError::TargetLength);
        }
        let is_https = self.scheme.is_some_and(|scheme| scheme == "https");
        let is_asterisk = path == "*" && self.method.is_some_and(|method| method == "OPTIONS");
        if !is_https || !is_target(&path) || !(path.starts_with(b"/") || is_asterisk) {
            return Err(FramingError::RequestLine);
        }
        let mut uri = http::uri::Parts::default();
        let path = PathAndQuery::from_maybe_shared(path).map_err(|_| FramingError::RequestLine)?;
        uri.path_and_query = Some(path);
        // Else the request must have a `Host`.
        if let Some(authority) = self.authority {
            if !std::str::from_utf8(&authority).is_ok_and(is_authority) {
                return Err(FramingError::Host);
            }
            let authority =
                Authority::from_maybe_shared(authority).map_err(|_| FramingError::Host)?;
            uri.scheme = Some(Scheme::HTTPS);
            uri.authority = Some(authority);
        }
        Uri::from_parts(uri).map_err(|_| FramingError::RequestLine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::refused_before;

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "shop.example"),
        (":path", "/a?b"),
    ];

    fn verdict(lines: &[(&str, &str)]) -> Result<Request<()>, FramingError> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        request(
            lines
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
        )
    }

    /// What is wrong with a GET in which `name` has `value` instead, or that has it besides.
    fn with(name: &str, value: &str) -> Option<FramingError> {
        let mut lines = GET.to_vec();
        match lines.iter_mut().find(|line| line.0 == name) {
            Some(line) => line.1 = value,
            None => lines.push((name, value)),
        }
        verdict(&lines).err()
    }

    #[test]
    fn a_request_is_read() {
        let mut lines = GET.to_vec();
        lines.extend([("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]);
        let request = verdict(&lines).unwrap();
        assert_eq!(request.method(), "GET");
        assert_eq!(request.uri(), "https://shop.example/a?b");
        assert_eq!(request.version(), Version::HTTP_3);
        assert_eq!(request.headers().get_all("cookie").iter().count(), 2);
    }

    #[test]
    fn a_pseudo_field_is_there_once_and_before_all_others() {
        for (place, (name, _)) in GET.iter().enumerate() {
            let mut twice = GET.to_vec();
            twice.insert(place, GET[place]);
            assert_eq!(verdict(&twice).err(), Some(FramingError::Field), "{name}");
            let mut late = GET.to_vec();
            let line = late.remove(place);
            late.extend([("a", "b"), line]);
            assert_eq!(verdict(&late).err(), Some(FramingError::Field), "{name}");
        }
        for missing in [":method", ":scheme", ":path"] {
            let lines: Vec<_> = GET.into_iter().filter(|line| line.0 != missing).collect();
            assert_eq!(verdict(&lines).err(), Some(FramingError::RequestLine));
        }
        assert_eq!(with(":status", "200"), Some(FramingError::Field));
        assert_eq!(with(":protocol", "websocket"), Some(FramingError::Field));
        assert_eq!(with(":method", "CONNECT"), Some(FramingError::Method));
    }

    #[test]
    fn fields_that_another_version_would_read_differently_are_refused() {
        for (name, value) in [
            ("Accept", "a"),
            ("a b", "c"),
            ("", "c"),
            ("a", "b\r\nc: d"),
            ("a", "b\0"),
            ("a", " b"),
            ("a", "b\t"),
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
        ] {
            assert_eq!(
                with(name, value),
                Some(FramingError::Field),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn a_target_is_one_or_the_request_is_refused() {
        for path in [
            "",
            "a",
            "*",
            "/a#b",
            "/a b",
            "/\u{e4}",
            "https://shop.example/",
        ] {
            assert_eq!(
                with(":path", path),
                Some(FramingError::RequestLine),
                "{path}"
            );
        }
        assert_eq!(with(":scheme", "http"), Some(FramingError::RequestLine));
        for authority in ["", "a@b", "a,b", "a:99999", "a b"] {
            assert_eq!(with(":authority", authority), Some(FramingError::Host));
        }
        let long = "/".repeat(limits::MAX_REQUEST_LINE_BYTES + 1);
        assert_eq!(with(":path", &long), Some(FramingError::TargetLength));
    }

    #[test]
    fn a_section_that_is_too_large_is_a_request_to_be_refused() {
        let mut bomb = vec![0, 0];
        bomb.resize(MAX_SECTION_BYTES / 32, 0xd1);
        let request = read(bomb.into()).unwrap();
        let error = refused_before(request.extensions());
        assert_eq!(error, Some(FramingError::HeaderSize));
    }
}
