//! The trace span of one request, named and described by OpenTelemetry's semantic conventions for HTTP
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>, stable since 1.23).
//!
//! The query is left out: tokens and personal data turn up in queries, and spans leave the fleet.

use std::{net::IpAddr, sync::Arc};

use http::{StatusCode, Version};
use testudo_model::{Clock, SpiffeId};
use testudo_runtime::{Attribute, AttributeValue, Emitter, Span, SpanKind, SpanSink};

use crate::{
    authorize::Permit, framing::Target, metrics::Role, routes::RouteRef, state::Enforced,
    trace::Settled,
};

/// Methods of RFC 9110 and RFC 5789. Others are `_OTHER`: a caller must not choose the names of spans.
const KNOWN_METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// Where a proxy's spans go, and under whose name.
#[derive(Debug)]
pub(crate) struct Spans {
    sink: SpanSink,
    emitter: Arc<Emitter>,
}

/// A span whose request is under way.
#[derive(Debug)]
pub(crate) struct OpenSpan {
    settled: Settled,
    authority: String,
    path: String,
    route: Option<String>,
    operation: Option<String>,
    decision: Option<String>,
}

/// How the request of a span ended.
pub(crate) struct Ending<'a> {
    pub(crate) role: Role,
    pub(crate) method: &'a str,
    pub(crate) version: Version,
    pub(crate) client: IpAddr,
    pub(crate) service: Option<&'a str>,
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    /// Whether this proxy answered itself.
    pub(crate) is_refused: bool,
    pub(crate) took_nanos: u64,
}

impl Spans {
    /// Spans of the proxy that is `id`.
    pub(crate) fn new(sink: SpanSink, id: &SpiffeId) -> Self {
        let service = id
            .service()
            .map_or_else(|| "gateway".to_owned(), |name| name.to_string());
        let spiffe_id = id.to_string();
        Self {
            sink,
            emitter: Arc::new(Emitter { service, spiffe_id }),
        }
    }

    /// Emits `span`, which ends now.
    pub(crate) fn end(&self, span: OpenSpan, ending: &Ending<'_>, clock: &dyn Clock) {
        let end_unix_nanos = self.sink.now_unix_nanos(clock);
        let kind = match ending.role {
            Role::Gateway | Role::Inbound => SpanKind::Server,
            Role::Outbound => SpanKind::Client,
        };
        // A client's mistake is no error of the server it makes it at.
        let is_error = match kind {
            SpanKind::Server => ending.status.is_server_error(),
            SpanKind::Client => ending.status.is_client_error() || ending.status.is_server_error(),
        };
        self.sink.emit(Span {
            emitter: Arc::clone(&self.emitter),
            name: span.name(ending.method),
            attributes: span.attributes(ending, kind, is_error),
            context: span.settled.context,
            parent: span.settled.parent,
            kind,
            start_unix_nanos: end_unix_nanos.saturating_sub(ending.took_nanos),
            end_unix_nanos,
            is_error,
        });
    }
}

impl OpenSpan {
    /// The span of a request for `target`.
    pub(crate) fn begin(settled: Settled, target: &Target) -> Self {
        Self {
            settled,
            authority: target.authority.clone(),
            path: target.path.as_str().to_owned(),
            route: None,
            operation: None,
            decision: None,
        }
    }

    /// Notes which route the request is for.
    pub(crate) fn matched(&mut self, enforced: &Enforced, route: RouteRef) {
        let services = &enforced.snapshot().services;
        let found = services
            .get(route.service)
            .and_then(|service| service.routes.get(route.route));
        self.route = found.map(|route| route.path.to_string());
        self.operation = found.map(|route| route.operation.to_string());
    }

    /// Notes the decision that lets the request pass.
    pub(crate) fn permitted(&mut self, permit: &Permit) {
        self.decision = Some(permit.decision().to_string());
    }

    /// Notes the decision that stops it.
    pub(crate) fn denied(&mut self, decision: &impl ToString) {
        self.decision = Some(decision.to_string());
    }

    fn name(&self, method: &str) -> String {
        let method = known(method).unwrap_or("HTTP");
        match &self.route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        }
    }

    fn attributes(&self, ending: &Ending<'_>, kind: SpanKind, is_error: bool) -> Vec<Attribute> {
        let (host, port) = split_authority(&self.authority, ending.role);
        let method = known(ending.method);
        let mut list: Vec<Attribute> = vec![
            ("http.request.method", method.unwrap_or("_OTHER").into()),
            ("http.response.status_code", ending.status.as_u16().into()),
            ("network.protocol.version", version(ending.version).into()),
            ("server.address", host.to_owned().into()),
            ("server.port", port.into()),
            ("testudo.role", ending.role.as_str().into()),
            ("testudo.reason", ending.reason.into()),
        ];
        let mut add = |name, value: Option<AttributeValue>| {
            list.extend(value.map(|value| (name, value)));
        };
        let route = self.route.clone().map(Into::into);
        match kind {
            SpanKind::Server => {
                add("url.scheme", Some("https".into()));
                add("url.path", Some(self.path.clone().into()));
                add("client.address", Some(ending.client.to_string().into()));
                add("http.route", route);
            }
            SpanKind::Client => {
                let full = format!("http://{}{}", self.authority, self.path);
                add("url.full", Some(full.into()));
                add("url.template", route);
            }
        }
        let original = method.is_none().then(|| ending.method.to_owned().into());
        add("http.request.method_original", original);
        add(
            "testudo.service",
            ending.service.map(|name| name.to_owned().into()),
        );
        add("testudo.operation", self.operation.clone().map(Into::into));
        add("testudo.decision", self.decision.clone().map(Into::into));
        let error_type = || match ending.is_refused {
            true => ending.reason.into(),
            false => ending.status.as_str().to_owned().into(),
        };
        add("error.type", is_error.then(error_type));
        list
    }
}

fn known(method: &str) -> Option<&'static str> {
    KNOWN_METHODS.into_iter().find(|known| *known == method)
}

/// Host and port of an authority that the framing gate let through.
fn split_authority(authority: &str, role: Role) -> (&str, u16) {
    let default = match role {
        Role::Gateway | Role::Inbound => 443,
        Role::Outbound => 80,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
        _ => (authority, default),
    };
    (host.trim_matches(['[', ']']), port)
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_split_into_host_and_port() {
        for (authority, role, expected) in [
            ("shop.example", Role::Gateway, ("shop.example", 443)),
            ("inventory", Role::Outbound, ("inventory", 80)),
            ("shop.example:8443", Role::Gateway, ("shop.example", 8443)),
            ("[::1]:8443", Role::Gateway, ("::1", 8443)),
            ("[::1]", Role::Inbound, ("::1", 443)),
        ] {
            assert_eq!(split_authority(authority, role), expected, "{authority}");
        }
    }

    #[test]
    fn a_caller_does_not_choose_the_names_of_spans() {
        assert_eq!(known("GET"), Some("GET"));
        assert_eq!(known("GETX"), None);
    }
}
