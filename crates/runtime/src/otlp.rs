//! Trace spans in the JSON encoding of OTLP (opentelemetry-proto 1.x, `docs/specification.md`, "JSON Protobuf
//! Encoding"): ids in hex, 64-bit numbers as strings, enums as numbers, names in lowerCamelCase.

use serde_json::{Value, json};

use crate::spans::{AttributeValue, Emitter, Span, SpanKind};

/// `Span.flags`: the span's own trace flags in the low byte, and whether its parent is known to be in another
/// process, which it always is here if there is one.
const FLAG_SAMPLED: u32 = 0x001;
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
const FLAG_IS_REMOTE: u32 = 0x200;
/// `Status.code`.
const STATUS_ERROR: u32 = 2;

/// An `ExportTraceServiceRequest`.
pub(crate) fn trace_request(spans: &[Span]) -> Vec<u8> {
    let mut emitters: Vec<&Emitter> = Vec::new();
    for span in spans {
        if !emitters.contains(&&*span.emitter) {
            emitters.push(&span.emitter);
        }
    }
    let resource_spans: Vec<Value> = emitters
        .into_iter()
        .map(|emitter| {
            let own = spans.iter().filter(|span| *span.emitter == *emitter);
            json!({
                "resource": { "attributes": resource(emitter) },
                "scopeSpans": [{
                    "scope": { "name": "testudo", "version": env!("CARGO_PKG_VERSION") },
                    "spans": own.map(span_json).collect::<Vec<_>>(),
                }],
            })
        })
        .collect();
    json!({ "resourceSpans": resource_spans })
        .to_string()
        .into_bytes()
}

fn resource(emitter: &Emitter) -> Value {
    json!([
        attribute("service.name", text(&emitter.service)),
        attribute("telemetry.sdk.name", text("testudo")),
        attribute("telemetry.sdk.language", text("rust")),
        attribute("telemetry.sdk.version", text(env!("CARGO_PKG_VERSION"))),
        attribute("testudo.spiffe_id", text(&emitter.spiffe_id)),
    ])
}

fn span_json(span: &Span) -> Value {
    let attributes: Vec<Value> = span
        .attributes
        .iter()
        .map(|(name, value)| match value {
            AttributeValue::Text(value) => attribute(name, text(value)),
            AttributeValue::Integer(value) => {
                attribute(name, json!({ "intValue": value.to_string() }))
            }
        })
        .collect();
    let mut encoded = json!({
        "traceId": span.context.trace_id(),
        "spanId": span.context.span_id(),
        "flags": FLAG_SAMPLED,
        "name": span.name,
        "kind": kind(span.kind),
        "startTimeUnixNano": span.start_unix_nanos.to_string(),
        "endTimeUnixNano": span.end_unix_nanos.to_string(),
        "attributes": attributes,
        "status": if span.is_error { json!({ "code": STATUS_ERROR }) } else { json!({}) },
    });
    if let Some(fields) = encoded.as_object_mut() {
        if let Some(parent) = &span.parent {
            fields.insert("parentSpanId".to_owned(), json!(parent.span_id()));
            let flags = FLAG_SAMPLED | FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE;
            fields.insert("flags".to_owned(), json!(flags));
        }
        if let Some(state) = span.context.tracestate() {
            fields.insert("traceState".to_owned(), json!(state));
        }
    }
    encoded
}

/// `Span.SpanKind`.
const fn kind(kind: SpanKind) -> u32 {
    match kind {
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    }
}

fn attribute(name: &str, value: Value) -> Value {
    json!({ "key": name, "value": value })
}

fn text(value: &str) -> Value {
    json!({ "stringValue": value })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::TraceContext;

    #[test]
    fn a_batch_looks_as_the_otlp_specification_says() {
        let emitter = |service: &str| {
            Arc::new(Emitter {
                service: service.to_owned(),
                spiffe_id: format!("spiffe://a.example/services/{service}"),
            })
        };
        let received = |parent| TraceContext::received(Some(parent), ["a=1"]).unwrap();
        let span = |service, is_error| Span {
            emitter: emitter(service),
            context: received("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01"),
            parent: Some(received(
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )),
            kind: SpanKind::Client,
            name: "GET /stock/{id}".to_owned(),
            start_unix_nanos: u64::MAX - 1,
            end_unix_nanos: u64::MAX,
            attributes: vec![("http.response.status_code", 503.into())],
            is_error,
        };
        let body = trace_request(&[
            span("orders", true),
            span("inventory", false),
            span("orders", false),
        ]);
        let body: Value = serde_json::from_slice(&body).unwrap();
        let groups = body["resourceSpans"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        assert_eq!(
            groups[0]["resource"]["attributes"][0],
            json!({ "key": "service.name", "value": { "stringValue": "orders" } })
        );
        let spans = groups[0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 2);
        assert_eq!(
            spans[0],
            json!({
                "traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "spanId": "00f067aa0ba902b8",
                "parentSpanId": "00f067aa0ba902b7", "traceState": "a=1", "flags": 769,
                "name": "GET /stock/{id}", "kind": 3,
                "startTimeUnixNano": "18446744073709551614", "endTimeUnixNano": "18446744073709551615",
                "attributes": [{ "key": "http.response.status_code", "value": { "intValue": "503" } }],
                "status": { "code": 2 },
            })
        );
        assert_eq!(spans[1]["status"], json!({}));
    }
}
