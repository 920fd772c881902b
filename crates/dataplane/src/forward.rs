//! Sending on what was permitted. Every way out of a proxy is in this file and takes a [`Permit`].

use std::{future::Future, pin::Pin};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::{Body, Incoming};
use tokio::time::Sleep;

use crate::{
    authorize::Permit,
    body::{AnswerBody, RequestBody},
    framing::{Target, outgoing_uri},
    headers::{self, TESTUDO_DECISION, TXN_TOKEN},
    inflight::Delivery,
    pool::Answer,
    proxy::Worker,
    rejection::{Rejection, UpstreamError},
    transaction::Transaction,
};

/// A request ready to go on, its fields already made for the next hop.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
}

/// Sends a request to a sidecar of the service that `permit` names.
///
/// # Errors
/// [`Rejection::Upstream`].
pub(crate) async fn to_proxy(
    worker: &Worker,
    permit: Permit,
    mut outgoing: Outgoing,
    transaction: Option<&Transaction>,
) -> Result<Response<AnswerBody>, Rejection> {
    let (service, route) = permit.target().ok_or(Rejection::NoRoute)?;
    let endpoints = worker.proxy.state.endpoints();
    let addresses = endpoints
        .services
        .get(&service.name)
        .map(Vec::as_slice)
        .unwrap_or_default();
    if addresses.is_empty() {
        return Err(UpstreamError::NoEndpoint.into());
    }
    if let Some(transaction) = transaction {
        headers::set(&mut outgoing.headers, TXN_TOKEN, &transaction.token);
    }
    // HTTP/2 carries the host in `:authority`.
    outgoing.headers.remove(header::HOST);
    let request = outgoing.into_request(true, route.max_body_bytes)?;
    let deadline = Box::pin(tokio::time::sleep(route.timeout()));
    let sending = worker.mesh.send(&service.spiffe_id, addresses, request);
    let (answer, deadline) = in_time(sending, deadline).await?;
    Ok(relay(answer, deadline, &permit, true, None))
}

/// Sends a request to the local service that `permit` names, at its own address.
///
/// # Errors
/// [`Rejection::Upstream`].
pub(crate) async fn to_service(
    worker: &Worker,
    permit: Permit,
    mut outgoing: Outgoing,
    delivery: Option<Delivery>,
) -> Result<Response<AnswerBody>, Rejection> {
    let (service, route) = permit.target().ok_or(Rejection::NoRoute)?;
    headers::set(
        &mut outgoing.headers,
        header::HOST,
        &outgoing.target.authority,
    );
    join_cookies(&mut outgoing.headers);
    let request = outgoing.into_request(false, route.max_body_bytes)?;
    let deadline = Box::pin(tokio::time::sleep(route.timeout()));
    let sending = worker.local.send(service.upstream, request);
    let (answer, deadline) = in_time(sending, deadline).await?;
    Ok(relay(answer, deadline, &permit, false, delivery))
}

impl Outgoing {
    fn into_request(
        self,
        to_proxy: bool,
        max_body_bytes: u64,
    ) -> Result<Request<RequestBody>, Rejection> {
        if self.body.size_hint().lower() > max_body_bytes {
            return Err(UpstreamError::BodyTooLarge.into());
        }
        let uri = outgoing_uri(&self.target, to_proxy).ok_or(UpstreamError::Broken)?;
        let mut request = Request::new(RequestBody::new(self.body, max_body_bytes));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.version_mut() = if to_proxy {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        *request.headers_mut() = self.headers;
        Ok(request)
    }
}

async fn in_time(
    sending: impl Future<Output = Result<Answer, UpstreamError>>,
    mut deadline: Pin<Box<Sleep>>,
) -> Result<(Answer, Pin<Box<Sleep>>), Rejection> {
    tokio::select! {
        biased;
        answer = sending => Ok((answer?, deadline)),
        () = &mut deadline => Err(UpstreamError::TimedOut.into()),
    }
}

fn relay(
    (response, lease): Answer,
    deadline: Pin<Box<Sleep>>,
    permit: &Permit,
    from_proxy: bool,
    delivery: Option<Delivery>,
) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    headers::sanitise_response(&mut head.headers, from_proxy);
    // The decision closest to the service explains the answer best; it is kept if a proxy of ours made it.
    if !head.headers.contains_key(TESTUDO_DECISION) {
        headers::set(
            &mut head.headers,
            TESTUDO_DECISION,
            permit.decision().as_str(),
        );
    }
    let mut response = Response::new(AnswerBody::relay(
        body, deadline, from_proxy, lease, delivery,
    ));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// RFC 9113 section 8.2.3: HTTP/2 may split cookies into several fields, HTTP/1.1 has one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_cookies_become_one_field() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2", "c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        assert_eq!(
            headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(),
            ["a=1; b=2; c=3"]
        );
    }
}
