//! W3C trace context and request ids: what came from outside is kept if it is well formed and replaced if not,
//! so that nothing an attacker writes reaches a log or a service unparsed.

use http::{HeaderMap, HeaderName, HeaderValue};
use testudo_model::Entropy;
use testudo_runtime::TraceContext;

use crate::headers::passing;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest `X-Request-Id` passed on.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Where a request stands in its trace.
#[derive(Debug)]
pub(crate) struct Settled {
    /// What goes on: the caller's span, or ours.
    pub(crate) context: TraceContext,
    /// The caller's span, if ours goes on in its place.
    pub(crate) parent: Option<TraceContext>,
    /// Whether the span that goes on is ours, to be exported.
    pub(crate) is_ours: bool,
}

/// Makes trace context and request id well formed, each once. A request without an id of its own has that of its trace;
/// a proxy on the way to another does not send it twice (`to_service`: the service is next).
///
/// A proxy that exports spans (`has_spans`) puts its own into a trace that is sampled. One that does not passes on
/// its caller's: naming a span that nobody exports would break the tree.
pub(crate) fn settle(
    headers: &mut HeaderMap,
    entropy: &dyn Entropy,
    has_spans: bool,
    to_service: bool,
) -> Settled {
    let received = {
        let states = headers
            .get_all(TRACESTATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        TraceContext::received(sole(headers, &TRACEPARENT), states)
    };
    let settled = match received {
        Some(parent) if has_spans && parent.is_sampled() => Settled {
            context: parent.child(entropy),
            parent: Some(parent),
            is_ours: true,
        },
        Some(context) => Settled {
            context,
            parent: None,
            is_ours: false,
        },
        None => Settled {
            context: TraceContext::begin(entropy),
            parent: None,
            is_ours: has_spans,
        },
    };
    write(headers, &settled.context);
    if !sole(headers, &X_REQUEST_ID).is_some_and(is_clean_request_id) {
        replace_request_id(headers, &settled.context, to_service);
    }
    settled
}

fn replace_request_id(headers: &mut HeaderMap, context: &TraceContext, to_service: bool) {
    if !to_service {
        headers.remove(X_REQUEST_ID);
    } else if let Ok(value) = HeaderValue::from_str(&context.trace_id()) {
        headers.insert(X_REQUEST_ID, passing(value));
    }
}

fn write(headers: &mut HeaderMap, context: &TraceContext) {
    if let Ok(value) = HeaderValue::from_bytes(&context.traceparent()) {
        headers.insert(TRACEPARENT, passing(value));
    }
    match context
        .tracestate()
        .and_then(|state| HeaderValue::from_str(state).ok())
    {
        Some(state) => drop(headers.insert(TRACESTATE, state)),
        None => drop(headers.remove(TRACESTATE)),
    }
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
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
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
        let settled = settle(&mut headers, &*SeededEntropy::new(1), false, true);
        (headers, settled.context.trace_id())
    }

    fn with_spans(traceparent: Option<&str>) -> (HeaderMap, Settled) {
        let mut headers = HeaderMap::new();
        if let Some(value) = traceparent {
            headers.insert(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        let settled = settle(&mut headers, &*SeededEntropy::new(1), true, true);
        (headers, settled)
    }

    #[test]
    fn a_proxy_that_exports_spans_puts_its_own_below_the_callers() {
        let (headers, settled) = with_spans(Some(GOOD));
        let own = settled.context;
        assert_eq!(own.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(settled.parent.unwrap().span_id(), "00f067aa0ba902b7");
        assert_ne!(own.span_id(), "00f067aa0ba902b7");
        assert_eq!(headers[TRACEPARENT].as_bytes(), own.traceparent());
        assert!(settled.is_ours);

        let (_, first) = with_spans(None);
        assert!(first.is_ours && first.parent.is_none());
    }

    #[test]
    fn a_trace_that_nobody_records_gets_no_span_of_ours() {
        let unsampled = GOOD.replace("-01", "-00");
        let (headers, settled) = with_spans(Some(&unsampled));
        assert_eq!(headers[TRACEPARENT], unsampled);
        assert!(!settled.is_ours && settled.parent.is_none());
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

    #[test]
    fn between_proxies_only_a_clean_request_id_of_the_clients_own_travels() {
        for (own, expected) in [
            (None, None),
            (Some("a b"), None),
            (Some("r-1"), Some("r-1")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(own) = own {
                headers.insert(X_REQUEST_ID, HeaderValue::from_static(own));
            }
            settle(&mut headers, &*SeededEntropy::new(1), false, false);
            let left = headers.get(X_REQUEST_ID).map(|left| left.to_str().unwrap());
            assert_eq!(left, expected);
        }
    }
}
