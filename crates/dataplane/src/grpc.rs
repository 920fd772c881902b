//! What of gRPC concerns a proxy: its requests look like any other over HTTP/2, but its clients look for the outcome
//! in trailers, and they say how long they wait
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{
    body::AnswerBody,
    headers::{self, TESTUDO_DECISION},
    rejection::Rejection,
    respond,
};

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// When to try again, in milliseconds (gRFC A6).
const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// Digits that a timeout may have.
const MAX_TIMEOUT_DIGITS: usize = 8;

/// Whether a message is gRPC, by its content type. gRPC-Web is another protocol.
pub(crate) fn is_grpc(fields: &HeaderMap) -> bool {
    fields
        .get(header::CONTENT_TYPE)
        .and_then(|content_type| content_type.to_str().ok())
        .and_then(|content_type| content_type.strip_prefix(GRPC))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// How long the client waits for the whole call, if it says so.
pub(crate) fn timeout(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MAX_TIMEOUT_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// A refusal as gRPC clients expect it: HTTP's 200, and the outcome in trailers that are all there is.
pub(crate) fn refuse(rejection: &Rejection) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::empty());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
    let problem = rejection.problem();
    let message = match &problem.detail {
        Some(detail) => format!("{}: {} ({detail})", problem.code, problem.title),
        None => format!("{}: {}", problem.code, problem.title),
    };
    set_outcome(fields, status(rejection.status()), &message);
    if let Some(decision) = rejection.decision() {
        headers::set(fields, TESTUDO_DECISION, decision.as_str());
    }
    respond::add_challenges(fields, rejection);
    if let Some(seconds) = rejection.retry_after_seconds() {
        let pushback = seconds.saturating_mul(1000);
        headers::set(fields, GRPC_RETRY_PUSHBACK_MS, &pushback.to_string());
    }
    response
}

/// The trailers of a call that was allowed and is no longer.
pub(crate) fn cut(reason: &str) -> HeaderMap {
    let message = format!("the call was cut: {reason}");
    outcome(StatusCode::FORBIDDEN, &message)
}

/// The trailers of a call that has begun to be answered and took too long.
pub(crate) fn too_late() -> HeaderMap {
    outcome(
        StatusCode::GATEWAY_TIMEOUT,
        "the answer did not end in time",
    )
}

fn outcome(http: StatusCode, message: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    set_outcome(&mut fields, status(http), message);
    fields
}

fn set_outcome(fields: &mut HeaderMap, status: u8, message: &str) {
    /// What `grpc-message` encodes: all but printable ASCII, and `%`.
    const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
    headers::set(fields, GRPC_STATUS, &status.to_string());
    let message = utf8_percent_encode(message, ENCODED).to_string();
    headers::set(fields, GRPC_MESSAGE, &message);
}

/// The gRPC status that says the same. Where gRPC's own table
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>) is coarse, the more precise status.
const fn status(http: StatusCode) -> u8 {
    const INVALID_ARGUMENT: u8 = 3;
    const DEADLINE_EXCEEDED: u8 = 4;
    const PERMISSION_DENIED: u8 = 7;
    const RESOURCE_EXHAUSTED: u8 = 8;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    const UNAUTHENTICATED: u8 = 16;
    match http.as_u16() {
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 405 | 501 => UNIMPLEMENTED,
        413 | 429 | 431 => RESOURCE_EXHAUSTED,
        502 | 503 => UNAVAILABLE,
        504 => DEADLINE_EXCEEDED,
        400..=499 => INVALID_ARGUMENT,
        _ => INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::UpstreamError;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn grpc_is_told_by_its_content_type_and_grpc_web_is_not_it() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let fields = with(header::CONTENT_TYPE, content_type);
            assert_eq!(is_grpc(&fields), expected, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_timeout_is_read_or_ignored_whole() {
        let of = |text: &str| timeout(&with(GRPC_TIMEOUT, text));
        assert_eq!(
            of("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(of("10S"), Some(Duration::from_secs(10)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("7u"), Some(Duration::from_micros(7)));
        assert_eq!(of("7n"), Some(Duration::from_nanos(7)));
        for bad in [
            "",
            "S",
            "1",
            "1s",
            "123456789S",
            "-1S",
            "+1S",
            "1 S",
            "1.5S",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refusal_is_all_trailers() {
        let answer = refuse(&Rejection::Upstream(UpstreamError::TimedOut));
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[GRPC_STATUS], "4");
        assert_eq!(
            answer.headers()[GRPC_MESSAGE],
            "upstream.timed_out: The service did not answer (no answer in time)"
        );
        assert!(http_body::Body::is_end_stream(answer.body()));
        for (http, grpc) in [
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 8),
            (503, 14),
            (400, 3),
        ] {
            assert_eq!(status(StatusCode::from_u16(http).unwrap()), grpc);
        }
    }

    #[test]
    fn a_message_is_one_field_whatever_is_in_it() {
        let mut fields = HeaderMap::new();
        set_outcome(&mut fields, 13, "50 % of\r\ngrün");
        assert_eq!(fields[GRPC_MESSAGE], "50 %25 of%0D%0Agr%C3%BCn");
    }
}
