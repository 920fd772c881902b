//! W3C trace context and request ids: what came from outside is kept if it is well formed and replaced if not,
//! so that nothing an attacker writes reaches a log or a service unparsed.

use http::{HeaderMap, HeaderName, HeaderValue};
use testudo_model::Entropy;
use testudo_runtime::TraceContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest `X-Request-Id` passed on.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Makes trace context and request id well formed, each once. Answers the trace id, 32 hex digits.
///
/// The span is the caller's: a proxy that exports no span of its own must not break the tree.
pub(crate) fn settle(headers: &mut HeaderMap, entropy: &dyn Entropy) -> String {
    let context = {
        let states = headers
            .get_all(TRACESTATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        TraceContext::accept(sole(headers, &TRACEPARENT), states, entropy)
    };
    if let Ok(value) = HeaderValue::from_bytes(&context.traceparent()) {
        headers.insert(TRACEPARENT, value);
    }
    match context
        .tracestate()
        .and_then(|state| HeaderValue::from_str(state).ok())
    {
        Some(state) => drop(headers.insert(TRACESTATE, state)),
        None => drop(headers.remove(TRACESTATE)),
    }
    let trace_id = context.trace_id();
    if !sole(headers, &X_REQUEST_ID).is_some_and(is_clean_request_id)
        && let Ok(value) = HeaderValue::from_str(&trace_id)
    {
        headers.insert(X_REQUEST_ID, value);
    }
    trace_id
}

/// The value of a field that occurs once and is ASCII.
fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        None
    } else {
        first.to_str().ok()
    }
}

fn is_clean_request_id(value: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    !value.is_empty() && value.len() <= MAX_REQUEST_ID_BYTES && value.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use testudo_testkit::SeededEntropy;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn settled(fields: &[(&'static str, &str)]) -> (HeaderMap, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trace = settle(&mut headers, &*SeededEntropy::new(1));
        (headers, trace)
    }

    #[test]
    fn a_good_trace_goes_on_unchanged() {
        let (headers, trace) = settled(&[
            ("traceparent", GOOD),
            ("tracestate", "a=1"),
            ("x-request-id", "r-1"),
        ]);
        assert_eq!(headers[TRACEPARENT], GOOD);
        assert_eq!(headers[TRACESTATE], "a=1");
        assert_eq!(headers[X_REQUEST_ID], "r-1");
        assert_eq!(trace, "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn malformed_trace_context_is_regenerated() {
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = GOOD.to_uppercase();
        let long = format!("{GOOD}-extra");
        for bad in ["", "x", zeros, &upper, &long] {
            let (headers, trace) = settled(&[("traceparent", bad), ("tracestate", "a=1")]);
            assert_ne!(headers[TRACEPARENT], bad);
            assert_eq!(trace.len(), 32);
            assert!(
                !headers.contains_key(TRACESTATE),
                "a state without its trace is dropped"
            );
        }
        let (twice, _) = settled(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_eq!(twice.get_all(TRACEPARENT).iter().count(), 1);
        assert_ne!(twice[TRACEPARENT], GOOD);
        let (big, _) = settled(&[
            ("traceparent", GOOD),
            ("tracestate", &format!("a={}", "a".repeat(10_240))),
        ]);
        assert!(!big.contains_key(TRACESTATE));
    }

    #[test]
    fn a_dirty_request_id_becomes_the_trace_id() {
        let huge = "r".repeat(1 << 20);
        for bad in ["", "a b", "a\"b", "\u{e9}", &huge] {
            let (headers, trace) = settled(&[("traceparent", GOOD), ("x-request-id", bad)]);
            assert_eq!(headers[X_REQUEST_ID], trace);
        }
    }
}
