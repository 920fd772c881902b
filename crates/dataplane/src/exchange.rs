//! One request and its answer, as far as every role handles them alike: what is known about the request for
//! metrics and records, and how its end is told.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Body, Incoming};

use crate::{
    body::AnswerBody, metrics::Role, proxy::Worker, record, rejection::Rejection, respond,
    serve::Active, state::Enforced,
};

/// The reason label of what was forwarded.
const ALLOWED: &str = "allowed";

/// What is known about a request so far.
pub(crate) struct Exchange {
    role: Role,
    started_nanos: u64,
    version: Version,
    method: String,
    path: String,
    /// The body had not wholly arrived with the head.
    is_unread: bool,
    service: Option<Arc<str>>,
    /// The client's address: the peer's until the source is known better.
    pub(crate) client: IpAddr,
    active: Active,
}

impl Exchange {
    pub(crate) fn begin(
        worker: &Worker,
        role: Role,
        request: &Request<Incoming>,
        peer: IpAddr,
        active: Active,
    ) -> Self {
        Self {
            role,
            started_nanos: worker.proxy.clock.monotonic_nanos(),
            version: request.version(),
            method: request.method().as_str().to_owned(),
            path: request.uri().path().to_owned(),
            is_unread: !request.body().is_end_stream(),
            service: None,
            client: peer.to_canonical(),
            active,
        }
    }

    /// Notes which service the request is for.
    pub(crate) fn reached(&mut self, enforced: &Enforced, service: usize) {
        self.service = enforced.service_label(service).cloned();
    }

    /// The answer, counted; a refusal is also recorded.
    pub(crate) fn end(
        self,
        worker: &Worker,
        result: Result<Response<AnswerBody>, Rejection>,
    ) -> Response<AnswerBody> {
        let (mut response, reason) = match result {
            Ok(response) => (response, ALLOWED),
            Err(rejection) => {
                record::refusal(
                    worker,
                    self.role,
                    &rejection,
                    self.client,
                    &self.method,
                    &self.path,
                );
                let mut refusal = respond::refuse(&rejection, self.version);
                if self.is_unread && self.version != Version::HTTP_2 {
                    // Nobody reads the body of a refused request, so the connection carries no other one; a
                    // client that is not told would lose its next request (RFC 9112 section 9.6).
                    let close = HeaderValue::from_static("close");
                    refusal.headers_mut().insert(header::CONNECTION, close);
                }
                (refusal, rejection.code())
            }
        };
        let service = self.service.as_ref().unwrap_or(&worker.no_service);
        let nanos = worker
            .proxy
            .clock
            .monotonic_nanos()
            .saturating_sub(self.started_nanos);
        let took = Duration::from_nanos(nanos);
        worker
            .proxy
            .metrics
            .request(self.role, service, response.status(), reason, took);
        response.body_mut().hold(self.active);
        response
    }
}
