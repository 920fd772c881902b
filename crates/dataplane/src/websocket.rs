//! Opening a WebSocket: RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2.
//!
//! Each hop has its own handshake. A client's is read here and ends here; the next proxy is asked by extended
//! CONNECT, the service by an upgrade whose answer is checked. What the two ends agree on (`Sec-WebSocket-Version`,
//! `-Protocol`, `-Extensions`) passes, and so do the frames, which nobody on the way reads.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    request::Parts,
};
use hyper::{ext::Protocol, upgrade::OnUpgrade};
use testudo_model::Entropy;
use testudo_trust::sha1_checksum;

use crate::{body::AnswerBody, routes::RouteRef, state::Enforced};

/// Name of the protocol, in an upgrade and in an extended CONNECT.
pub(crate) const PROTOCOL: &str = "websocket";
/// RFC 6455 section 1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;
const VERSION: &[u8] = b"13";

/// Why a WebSocket is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebsocketError {
    /// RFC 6455 section 4.2.1.
    #[error("the opening handshake of the WebSocket is incomplete or malformed")]
    Handshake,
    /// RFC 6455 section 4.4.
    #[error("only version 13 of the WebSocket protocol is served")]
    Version,
    /// The route does not say that it may be.
    #[error("no WebSocket may be opened here: the route has no `websocket = true`")]
    NotAllowed,
}

impl WebsocketError {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Handshake => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::NotAllowed => StatusCode::NOT_IMPLEMENTED,
        }
    }

    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Handshake => "request.websocket",
            Self::Version => "request.websocket_version",
            Self::NotAllowed => "route.websocket",
        }
    }
}

/// A client's wish to open a WebSocket.
#[derive(Debug)]
pub(crate) struct Opening {
    client: OnUpgrade,
    /// What proves to a client over HTTP/1.1 that its handshake was understood; HTTP/2 needs no proof.
    accept: Option<HeaderValue>,
}

impl Opening {
    /// Takes the handshake out of `head`, if it has one. What is left is a GET to be judged like any other.
    ///
    /// # Errors
    /// [`WebsocketError::Handshake`], [`WebsocketError::Version`].
    pub(crate) fn take(head: &mut Parts) -> Result<Option<Self>, WebsocketError> {
        let accept = if is_extended_connect(head) {
            None
        } else if asks_for_websocket(&head.headers) {
            Some(take_key(head)?)
        } else {
            return Ok(None);
        };
        check_version(&head.headers)?;
        let client = head
            .extensions
            .remove::<OnUpgrade>()
            .ok_or(WebsocketError::Handshake)?;
        head.extensions.remove::<Protocol>();
        head.headers.remove(header::UPGRADE);
        head.method = Method::GET;
        Ok(Some(Self { client, accept }))
    }

    /// Turns `answer`, which the next hop agreed with, into the answer to the client; and the client's stream,
    /// which is there once that answer is out.
    pub(crate) fn accept(
        self,
        mut answer: Response<AnswerBody>,
    ) -> (Response<AnswerBody>, OnUpgrade) {
        *answer.body_mut() = AnswerBody::empty();
        let fields = answer.headers_mut();
        fields.remove(header::CONTENT_LENGTH);
        fields.remove(header::SEC_WEBSOCKET_ACCEPT);
        match self.accept {
            Some(accept) => {
                fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                insert_upgrade(fields);
                *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            }
            None => *answer.status_mut() = StatusCode::OK,
        }
        (answer, self.client)
    }
}

/// Whether the route takes what the client wants.
///
/// # Errors
/// [`WebsocketError::NotAllowed`].
pub(crate) fn check_route(
    enforced: &Enforced,
    matched: RouteRef,
    opening: Option<&Opening>,
) -> Result<(), WebsocketError> {
    if opening.is_none() {
        return Ok(());
    }
    let services = &enforced.snapshot().services;
    let route = services
        .get(matched.service)
        .and_then(|service| service.routes.get(matched.route));
    if route.is_some_and(|route| route.websocket) {
        Ok(())
    } else {
        Err(WebsocketError::NotAllowed)
    }
}

/// What the service must answer to be believed.
#[derive(Debug)]
pub(crate) struct Expected(HeaderValue);

/// Makes `request` an upgrade (RFC 6455 section 4.1) with a key of its own.
pub(crate) fn ask_service<B>(request: &mut Request<B>, entropy: &dyn Entropy) -> Option<Expected> {
    let mut key = [0; KEY_BYTES];
    entropy.fill(&mut key);
    let key = BASE64.encode(key);
    let fields = request.headers_mut();
    insert_upgrade(fields);
    fields.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).ok()?);
    accept_for(&key).map(Expected)
}

impl Expected {
    /// Whether the service agreed. `None`: it switched to something nobody asked for.
    pub(crate) fn agreed<B>(&self, answer: &Response<B>) -> Option<bool> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Some(false);
        }
        let fields = answer.headers();
        let proof = only(fields, &header::SEC_WEBSOCKET_ACCEPT);
        (asks_for_websocket(fields)
            && names(fields, &header::CONNECTION, "upgrade")
            && proof == Some(&self.0))
        .then_some(true)
    }
}

fn is_extended_connect(head: &Parts) -> bool {
    let protocol = head.extensions.get::<Protocol>().map(Protocol::as_str);
    head.method == Method::CONNECT && head.version == Version::HTTP_2 && protocol == Some(PROTOCOL)
}

fn asks_for_websocket(fields: &HeaderMap) -> bool {
    only(fields, &header::UPGRADE).is_some_and(|protocol| {
        protocol
            .as_bytes()
            .eq_ignore_ascii_case(PROTOCOL.as_bytes())
    })
}

/// Checks what an upgrade needs and takes its key out; the answer to it.
fn take_key(head: &mut Parts) -> Result<HeaderValue, WebsocketError> {
    let fields = &mut head.headers;
    let has_body = fields.contains_key(header::TRANSFER_ENCODING)
        || fields
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0");
    if head.version != Version::HTTP_11
        || head.method != Method::GET
        || has_body
        || !names(fields, &header::CONNECTION, "upgrade")
    {
        return Err(WebsocketError::Handshake);
    }
    let accept = only(fields, &header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok())
        .filter(|key| {
            BASE64
                .decode(key)
                .is_ok_and(|bytes| bytes.len() == KEY_BYTES)
        })
        .and_then(accept_for)
        .ok_or(WebsocketError::Handshake)?;
    fields.remove(header::SEC_WEBSOCKET_KEY);
    Ok(accept)
}

fn check_version(fields: &HeaderMap) -> Result<(), WebsocketError> {
    match only(fields, &header::SEC_WEBSOCKET_VERSION) {
        Some(version) if version.as_bytes() == VERSION => Ok(()),
        Some(_) => Err(WebsocketError::Version),
        None => Err(WebsocketError::Handshake),
    }
}

/// RFC 6455 section 4.2.2.
fn accept_for(key: &str) -> Option<HeaderValue> {
    let digest = sha1_checksum(format!("{key}{ACCEPT_GUID}").as_bytes());
    HeaderValue::from_str(&BASE64.encode(digest)).ok()
}

fn insert_upgrade(fields: &mut HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
}

/// The value of a field that is there exactly once.
fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = fields.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Whether the comma-separated list `name` has `token`.
fn names(fields: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    fields
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    const HANDSHAKE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
    ];

    fn head(method: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/live");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn refused(method: &str, fields: &[(&str, &str)]) -> Option<WebsocketError> {
        take_key(&mut head(method, fields))
            .and_then(|_| check_version(&head(method, fields).headers))
            .err()
    }

    /// The handshake with one field changed, or left out.
    fn with(name: &str, value: Option<&'static str>) -> Vec<(&'static str, &'static str)> {
        HANDSHAKE
            .into_iter()
            .filter_map(|(known, kept)| match (known == name, value) {
                (true, Some(value)) => Some((known, value)),
                (true, None) => None,
                (false, _) => Some((known, kept)),
            })
            .collect()
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        assert_eq!(accept_for(KEY).unwrap(), ACCEPT);
    }

    #[test]
    fn a_handshake_is_taken_whole_or_refused() {
        assert_eq!(refused("GET", &HANDSHAKE), None);
        assert_eq!(refused("POST", &HANDSHAKE), Some(WebsocketError::Handshake));
        for (name, value) in [
            ("connection", None),
            ("connection", Some("keep-alive")),
            ("sec-websocket-key", None),
            ("sec-websocket-key", Some("c2hvcnQ=")),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ")),
            ("sec-websocket-version", None),
        ] {
            let fields = with(name, value);
            assert_eq!(
                refused("GET", &fields),
                Some(WebsocketError::Handshake),
                "{fields:?}"
            );
        }
        let old = with("sec-websocket-version", Some("8"));
        assert_eq!(refused("GET", &old), Some(WebsocketError::Version));
        for extra in [
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("sec-websocket-key", KEY),
        ] {
            let mut fields = HANDSHAKE.to_vec();
            fields.push(extra);
            assert_eq!(
                refused("GET", &fields),
                Some(WebsocketError::Handshake),
                "{extra:?}"
            );
        }
    }

    #[test]
    fn other_upgrades_are_none_of_ours() {
        for upgrade in ["h2c", "websocket, h2c", "tls/1.0"] {
            let mut head = head("GET", &with("upgrade", Some(upgrade)));
            assert!(Opening::take(&mut head).unwrap().is_none(), "{upgrade}");
        }
    }

    #[test]
    fn a_service_is_believed_only_with_the_right_proof() {
        let answer = |status: u16, fields: &[(&str, &str)]| {
            let mut answer = Response::builder().status(status);
            for (name, value) in fields {
                answer = answer.header(*name, *value);
            }
            Expected(HeaderValue::from_static(ACCEPT)).agreed(&answer.body(()).unwrap())
        };
        let good = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", ACCEPT),
        ];
        assert_eq!(answer(101, &good), Some(true));
        assert_eq!(answer(403, &[]), Some(false));
        assert_eq!(answer(200, &good), Some(false));
        for missing in 0..good.len() {
            let mut fields = good.to_vec();
            fields.remove(missing);
            assert_eq!(answer(101, &fields), None, "{fields:?}");
        }
        let forged = [good[0], good[1], ("sec-websocket-accept", KEY)];
        assert_eq!(answer(101, &forged), None);
    }
}
