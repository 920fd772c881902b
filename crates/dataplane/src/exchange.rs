//! One request and its answer, as far as every role handles them alike: what is known about the request for
//! metrics, records and traces, and how its end is told.

use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use hyper::body::Body;

use crate::{
    authorize::Permit,
    body::AnswerBody,
    forward::Forwarded,
    framing::{self, Target},
    grpc,
    metrics::Role,
    overload::Admitted,
    proxy::Worker,
    record,
    rejection::{Rejection, UpstreamError},
    relay, respond,
    routes::RouteRef,
    serve::Active,
    span::{Ending, OpenSpan},
    state::Enforced,
    stream::Standing,
    trace,
    websocket::Opening,
};

/// The reason label of what was forwarded.
const ALLOWED: &str = "allowed";

/// What is known about a request so far.
pub(crate) struct Exchange {
    role: Role,
    started_nanos: u64,
    version: Version,
    method: Method,
    uri: Uri,
    /// The bytes of the head were refused: what it says is nobody's to repeat.
    is_misread: bool,
    /// The body had not wholly arrived with the head.
    is_unread: bool,
    is_grpc: bool,
    service: Option<Arc<str>>,
    /// Kept only if spans are exported and the trace is sampled.
    span: Option<Box<OpenSpan>>,
    /// The client's address: the peer's until the source is known better.
    pub(crate) client: IpAddr,
    active: Active,
    admitted: Admitted,
}

impl Exchange {
    pub(crate) fn begin(
        worker: &Worker,
        role: Role,
        request: &Request<impl Body>,
        peer: IpAddr,
        active: Active,
    ) -> Self {
        Self {
            role,
            started_nanos: worker.proxy.clock.monotonic_nanos(),
            version: request.version(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            is_misread: framing::refused_before(request.extensions()).is_some(),
            is_unread: !request.body().is_end_stream(),
            is_grpc: request.version() >= Version::HTTP_2 && grpc::is_grpc(request.headers()),
            service: None,
            span: None,
            client: peer.to_canonical(),
            active,
            admitted: worker.pressure.begin(),
        }
    }

    /// Notes which service the request is for.
    pub(crate) fn reached(&mut self, enforced: &Enforced, service: usize) {
        self.service = enforced.service_label(service).cloned();
    }

    /// Settles the trace context of the request in `headers`; answers the trace id, 32 hex digits.
    pub(crate) fn join_trace(
        &mut self,
        worker: &Worker,
        headers: &mut HeaderMap,
        target: &Target,
    ) -> String {
        let has_spans = worker.proxy.spans.is_some();
        let to_service = self.role == Role::Inbound;
        let settled = trace::settle(headers, &*worker.entropy, has_spans, to_service);
        let trace_id = settled.context.trace_id();
        if settled.is_ours {
            self.span = Some(Box::new(OpenSpan::begin(settled, target)));
        }
        trace_id
    }

    /// Notes which route the request is for.
    pub(crate) fn matched(&mut self, enforced: &Enforced, route: RouteRef) {
        if let Some(span) = &mut self.span {
            span.matched(enforced, route);
        }
    }

    /// Notes the decision to forward the request.
    pub(crate) fn permitted(&mut self, permit: &Permit) {
        if let Some(span) = &mut self.span {
            span.permitted(permit);
        }
    }

    /// What came of the request that `standing` is for (the standing of a WebSocket, or not), as an answer. A WebSocket
    /// is carried from here on; an answer that is a stream ends when what allowed it does.
    pub(crate) fn answer(
        &self,
        opening: Option<Opening>,
        forwarded: Forwarded,
        standing: impl FnOnce(bool) -> Option<Standing>,
    ) -> Result<Response<AnswerBody>, Rejection> {
        match (forwarded, opening) {
            (Forwarded::Answered(mut answer), _) => {
                if answer.body().is_stream() {
                    let standing = standing(false).ok_or(Rejection::NoRoute)?;
                    let is_grpc = grpc::is_grpc(answer.headers());
                    answer.body_mut().guard(standing.until_cut(), is_grpc);
                }
                Ok(answer)
            }
            (Forwarded::Opened(answer, opened), Some(opening)) => {
                let standing = standing(true).ok_or(Rejection::NoRoute)?;
                let (answer, client) = opening.accept(answer);
                self.active
                    .carry(relay::websocket(client, opened, standing));
                Ok(answer)
            }
            (Forwarded::Opened(..), None) => Err(UpstreamError::Handshake.into()),
        }
    }

    /// Runs what the request has opened. It lasts no longer than the connection of the request.
    pub(crate) fn carry(&self, stream: impl Future<Output = ()> + Send + 'static) {
        self.active.carry(stream);
    }

    /// The answer, counted; a refusal is also recorded.
    pub(crate) fn end(
        mut self,
        worker: &Worker,
        result: Result<Response<AnswerBody>, Rejection>,
    ) -> Response<AnswerBody> {
        let is_refused = result.is_err();
        let (mut response, status, reason) = match result {
            Ok(response) => {
                let status = response.status();
                (response, status, ALLOWED)
            }
            Err(rejection) if self.is_grpc => {
                self.note(worker, &rejection);
                // Not the 200 that gRPC has for everything.
                let status = rejection.status();
                (grpc::refuse(&rejection), status, rejection.code())
            }
            Err(rejection) => {
                self.note(worker, &rejection);
                let mut refusal = respond::refuse(&rejection, self.version);
                if self.method == Method::HEAD {
                    // A client would take a body for a breach of HTTP/2; between proxies it would be counted on the
                    // connection that carries everybody's calls.
                    respond::omit_body(&mut refusal);
                }
                if self.is_unread && self.version < Version::HTTP_2 {
                    // Nobody reads the body of a refused request, so the connection carries no other one; a
                    // client that is not told would lose its next request (RFC 9112 section 9.6).
                    let close = HeaderValue::from_static("close");
                    refusal.headers_mut().insert(header::CONNECTION, close);
                }
                (refusal, rejection.status(), rejection.code())
            }
        };
        let proxy = &worker.proxy;
        let service = self.service.as_ref().unwrap_or(&worker.no_service);
        let took_nanos = proxy
            .clock
            .monotonic_nanos()
            .saturating_sub(self.started_nanos);
        let took = Duration::from_nanos(took_nanos);
        proxy
            .metrics
            .request(self.role, service, status, reason, took);
        if let (Some(spans), Some(span)) = (&proxy.spans, self.span) {
            let ending = Ending {
                role: self.role,
                method: said(self.is_misread, self.method.as_str()),
                version: self.version,
                client: self.client,
                service: self.service.as_deref(),
                status,
                reason,
                is_refused,
                took_nanos,
            };
            spans.end(*span, &ending, &*proxy.clock);
        }
        response.body_mut().hold((self.active, self.admitted));
        response
    }

    fn note(&mut self, worker: &Worker, rejection: &Rejection) {
        if let (Some(span), Some(decision)) = (&mut self.span, rejection.decision()) {
            span.denied(decision);
        }
        record::refusal(
            worker,
            self.role,
            rejection,
            self.client,
            said(self.is_misread, self.method.as_str()),
            said(self.is_misread, self.uri.path()),
        );
    }
}

/// `text` of the head of a request, unless that was misread.
const fn said(is_misread: bool, text: &str) -> &str {
    if is_misread { "-" } else { text }
}
