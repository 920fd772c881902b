//! Signals: what receivers meet, and what administrators see of their streams.

use http::Method;
use serde_json::Value;
use testudo_identity::paths;

use super::{
    Entry, JSON,
    admin::{entry, listed},
    shape::{any, count, list, maybe, named, object, one_of, open, text},
};
use crate::http::POLL;

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;

const STREAM: &str = "/api/v1/signal-streams/{stream}";

pub(super) fn entries() -> Vec<Entry> {
    streams().into_iter().chain(administration()).collect()
}

/// A request of a receiver.
fn receiver(method: Method, path: &'static str, summary: &'static str) -> Entry {
    Entry::new(method, path, summary).refuses(JSON, named("OauthError"))
}

fn streams() -> Vec<Entry> {
    let configured = || open([("stream_id", text()), ("iss", text()), ("aud", text())]);
    let named_stream = || open([("stream_id", text())]);
    let subject = || open([("stream_id", text()), ("subject", any())]);
    let status = || one_of(&["enabled", "paused", "disabled"]);
    let statuses = || open([("stream_id", text()), ("status", status())]);
    let streams = paths::SSF_STREAMS;
    vec![
        Entry::new(
            GET,
            paths::SSF_CONFIGURATION,
            "Metadata of the transmitter of signals (SSF 1.0)",
        )
        .gives(200, JSON, open([("issuer", text())])),
        receiver(POST, streams, "Make a stream of signals (SSF 1.0)")
            .takes(JSON, open([]))
            .gives(201, JSON, configured()),
        receiver(GET, streams, "A stream, or all of the receiver")
            .query("stream_id", text(), "which one")
            .gives(200, JSON, any()),
        receiver(Method::PATCH, streams, "Change a stream")
            .takes(JSON, named_stream())
            .gives(200, JSON, configured()),
        receiver(Method::PUT, streams, "Replace what is said of a stream")
            .takes(JSON, named_stream())
            .gives(200, JSON, configured()),
        receiver(DELETE, streams, "Delete a stream")
            .must("stream_id", text(), "which one")
            .gives_nothing(204),
        receiver(GET, paths::SSF_STATUS, "Whether a stream flows")
            .must("stream_id", text(), "which one")
            .gives(200, JSON, statuses()),
        receiver(POST, paths::SSF_STATUS, "Let a stream flow, or not")
            .takes(JSON, statuses())
            .gives(200, JSON, statuses()),
        receiver(POST, paths::SSF_ADD_SUBJECT, "Be told of a user again")
            .takes(JSON, subject())
            .gives_nothing(200),
        receiver(
            POST,
            paths::SSF_REMOVE_SUBJECT,
            "Not to be told of a user any more",
        )
        .takes(JSON, subject())
        .gives_nothing(204),
        receiver(POST, paths::SSF_VERIFICATION, "See whether a stream works")
            .takes(JSON, named_stream())
            .gives_nothing(204),
        receiver(POST, POLL, "Fetch signals (RFC 8936)")
            .takes(JSON, open([]))
            .gives(200, JSON, open([("sets", any())])),
    ]
}

fn administration() -> Vec<Entry> {
    let stream = || named("SignalStream");
    vec![
        listed(
            "/api/v1/signal-streams",
            "Streams of signals",
            "SignalStream",
        ),
        entry(GET, STREAM, "A stream of signals", stream()),
        entry(
            DELETE,
            STREAM,
            "Delete a stream of signals with what waits for it",
            object([("deleted", text())]),
        ),
        entry(
            POST,
            "/api/v1/signal-streams/{stream}/disable",
            "Send nothing over a stream of signals any more",
            stream(),
        ),
        entry(
            POST,
            "/api/v1/signal-streams/{stream}/enable",
            "Send signals over a stream again",
            stream(),
        ),
    ]
}

pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let last_delivery = object([("at", text()), ("failure", maybe(text()))]);
    let stream = object([
        ("id", text()),
        ("receiver", maybe(text())),
        ("description", maybe(text())),
        ("method", text()),
        ("endpoint_url", maybe(text())),
        ("events", list(text())),
        ("status", one_of(&["enabled", "paused", "disabled"])),
        ("status_reason", maybe(text())),
        ("status_set_by", one_of(&["receiver", "administrator"])),
        ("removed_subjects", count()),
        ("waiting", count()),
        ("last_delivery", maybe(last_delivery)),
        ("created", text()),
        ("updated", text()),
    ]);
    vec![("SignalStream", stream)]
}
