//! The transmitter of signals (OpenID Shared Signals Framework 1.0): streams of receivers, and what they fetch (RFC 8936).

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{delete, patch, put},
};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;
use testudo_identity::{
    Caller, Parameters, Poll, PresentedToken, ProofTarget, ReceiverRight, RequestProof,
    SignalAudience, SignalError, paths,
};
use tokio::time::Instant;

use super::{
    Endpoint, MAX_FORM_BYTES, Refusal, Workload, body,
    oauth::{DPOP, cacheable, no_store, oauth_error, single},
};
use crate::plane::Plane;

/// Where the signals of one stream are fetched: below [`paths::SSF_POLL`].
pub const POLL: &str = "/ssf/poll/{stream}";

/// Longest time for which a poll waits for the first signal (RFC 8936 section 2.2), and how often it is looked for one.
const MAX_POLL_WAIT: Duration = Duration::from_secs(30);
const POLL_LOOK: Duration = Duration::from_millis(200);

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get(paths::SSF_CONFIGURATION, metadata),
        Endpoint::post(paths::SSF_STREAMS, create),
        Endpoint::get(paths::SSF_STREAMS, show),
        Endpoint::new(Method::PATCH, paths::SSF_STREAMS, patch(update)),
        Endpoint::new(Method::PUT, paths::SSF_STREAMS, put(replace)),
        Endpoint::new(Method::DELETE, paths::SSF_STREAMS, delete(remove)),
        Endpoint::get(paths::SSF_STATUS, status),
        Endpoint::post(paths::SSF_STATUS, set_status),
        Endpoint::post(paths::SSF_ADD_SUBJECT, add_subject),
        Endpoint::post(paths::SSF_REMOVE_SUBJECT, remove_subject),
        Endpoint::post(paths::SSF_VERIFICATION, verify),
        Endpoint::post(POLL, poll),
    ]
}

/// A request of a receiver.
struct Asked {
    method: Method,
    path: String,
    /// `stream_id` of a request without a body.
    stream: Option<String>,
    headers: HeaderMap,
    workload: Option<Workload>,
    caller: Caller,
    body: Bytes,
}

impl Asked {
    async fn read(plane: &Plane, request: Request) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let (caller, workload) = body::caller(&head.extensions, &head.headers, &*plane.entropy);
        let body = axum::body::to_bytes(body, MAX_FORM_BYTES).await;
        let unread = |_| Refusal::bad_request("the request does not come whole, or is too large");
        let query = Parameters::parse(head.uri.query().unwrap_or(""))
            .map_err(|error| Refusal::bad_request(format!("the query cannot be read: {error}")))?;
        if query.is_repeated("stream_id") {
            return Err(Refusal::bad_request("`stream_id` is repeated"));
        }
        Ok(Self {
            method: head.method,
            path: head.uri.path().to_owned(),
            stream: query.get("stream_id").map(str::to_owned),
            headers: head.headers,
            workload,
            caller,
            body: body.map_err(unread)?,
        })
    }

    /// Who asks, if they may. The token is in the header, and never in the query (RFC 6750 section 2).
    fn receiver(&self, plane: &Plane, right: ReceiverRight) -> Result<SignalAudience, SignalError> {
        let field = single(&self.headers, &header::AUTHORIZATION).unwrap_or("");
        let (scheme, token) = field.split_once(' ').unwrap_or_default();
        let proof = scheme.eq_ignore_ascii_case("DPoP").then(|| RequestProof {
            proof: single(&self.headers, &DPOP).unwrap_or(""),
            target: ProofTarget {
                method: self.method.as_str(),
                path: &self.path,
            },
        });
        let is_known = proof.is_some() || scheme.eq_ignore_ascii_case("Bearer");
        let peer = plane.standing(self.workload.as_ref());
        let presented = PresentedToken {
            token: if is_known { token } else { "" },
            proof,
            peer: peer.as_ref(),
        };
        plane.provider.signal_receiver(presented, right)
    }
}

/// Does what a receiver asks for, if it may.
async fn serve<T: Send + 'static>(
    plane: &Arc<Plane>,
    request: Request,
    right: ReceiverRight,
    handle: impl FnOnce(&Plane, &SignalAudience, &Asked) -> Result<T, SignalError> + Send + 'static,
) -> Result<Result<T, SignalError>, Refusal> {
    let asked = Asked::read(plane, request).await?;
    let done = plane.blocking(move |plane| {
        let receiver = asked.receiver(plane, right)?;
        handle(plane, &receiver, &asked)
    });
    done.await
}

/// `GET /.well-known/ssf-configuration` (section 7.2). Without a receiver there is no transmitter.
async fn metadata(State(plane): State<Arc<Plane>>) -> Result<Response, Refusal> {
    let document = plane.blocking(|plane| plane.provider.signal_metadata());
    match document.await?.transpose() {
        Some(document) => cacheable(document),
        None => Err(Refusal::not_found("resource")),
    }
}

/// `POST /ssf/streams` (section 8.1.1.1).
async fn create(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let (http, caller) = (plane.outbound_rules.borrow().allow_http, &asked.caller);
        let provider = &plane.provider;
        provider.create_signal_stream(receiver, &asked.body, http, caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(told(StatusCode::CREATED, answered))
}

/// `GET /ssf/streams` (section 8.1.1.2).
async fn show(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let provider = &plane.provider;
        provider.signal_stream_configuration(receiver, asked.stream.as_deref())
    };
    let answered = serve(&plane, request, ReceiverRight::Read, handle).await?;
    Ok(told(StatusCode::OK, answered))
}

/// `PATCH /ssf/streams` (section 8.1.1.3).
async fn update(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let (http, caller) = (plane.outbound_rules.borrow().allow_http, &asked.caller);
        let provider = &plane.provider;
        provider.update_signal_stream(receiver, &asked.body, http, caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(told(StatusCode::OK, answered))
}

/// `PUT /ssf/streams` (section 8.1.1.4).
async fn replace(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let (http, caller) = (plane.outbound_rules.borrow().allow_http, &asked.caller);
        let provider = &plane.provider;
        provider.replace_signal_stream(receiver, &asked.body, http, caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(told(StatusCode::OK, answered))
}

/// `DELETE /ssf/streams` (section 8.1.1.5).
async fn remove(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let id = asked.stream.as_deref().unwrap_or("");
        let provider = &plane.provider;
        provider.delete_signal_stream(receiver, id, &asked.caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(done(StatusCode::NO_CONTENT, answered))
}

/// `GET /ssf/status` (section 8.1.2.1).
async fn status(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let id = asked.stream.as_deref().unwrap_or("");
        plane.provider.signal_stream_status(receiver, id)
    };
    let answered = serve(&plane, request, ReceiverRight::Read, handle).await?;
    Ok(told(StatusCode::OK, answered))
}

/// `POST /ssf/status` (section 8.1.2.2).
async fn set_status(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let provider = &plane.provider;
        provider.set_signal_stream_status(receiver, &asked.body, &asked.caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(told(StatusCode::OK, answered))
}

/// `POST /ssf/subjects/add` (section 8.1.3.2).
async fn add_subject(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let provider = &plane.provider;
        provider.add_signal_subject(receiver, &asked.body, &asked.caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(done(StatusCode::OK, answered))
}

/// `POST /ssf/subjects/remove` (section 8.1.3.3).
async fn remove_subject(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let provider = &plane.provider;
        provider.remove_signal_subject(receiver, &asked.body, &asked.caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(done(StatusCode::NO_CONTENT, answered))
}

/// `POST /ssf/verify` (section 8.1.4.2).
async fn verify(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let handle = |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let provider = &plane.provider;
        provider.verify_signal_stream(receiver, &asked.body, &asked.caller)
    };
    let answered = serve(&plane, request, ReceiverRight::Manage, handle).await?;
    Ok(done(StatusCode::NO_CONTENT, answered))
}

/// `POST /ssf/poll/{stream}` (RFC 8936 section 2).
async fn poll(
    State(plane): State<Arc<Plane>>,
    Path(stream): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let handle = move |plane: &Plane, receiver: &SignalAudience, asked: &Asked| {
        let provider = &plane.provider;
        provider.poll_signals(receiver, &stream, &asked.body, &asked.caller)
    };
    let poll = match serve(&plane, request, ReceiverRight::Read, handle).await? {
        Ok(poll) => Arc::new(poll),
        Err(error) => return Ok(oauth_error(&error.to_oauth())),
    };
    // Who comes when as many wait as may is answered at once.
    let place = plane.waiting_polls.try_acquire();
    let until = match place.as_ref().is_ok_and(|_| poll.may_wait) {
        true => Instant::now() + MAX_POLL_WAIT,
        false => Instant::now(),
    };
    loop {
        let asked = Arc::clone(&poll);
        let polled = plane.blocking(move |plane| plane.provider.polled_signals(&asked));
        match polled.await? {
            Ok(sets) if sets.is_empty() && Instant::now() < until => {
                wait_for_signals(&plane, &poll, until).await;
            }
            Ok(sets) => return Ok(no_store(Json(sets).into_response())),
            Err(error) => return Ok(oauth_error(&error.to_oauth())),
        }
    }
}

/// Until something seems to be there. What a paused stream has is looked at again and again.
async fn wait_for_signals(plane: &Plane, poll: &Poll, until: Instant) {
    tokio::time::sleep(POLL_LOOK).await;
    while !plane.provider.has_signals_for(poll) && Instant::now() < until {
        tokio::time::sleep(POLL_LOOK).await;
    }
}

fn told(status: StatusCode, answered: Result<Value, SignalError>) -> Response {
    match answered {
        Ok(document) => no_store((status, Json(document)).into_response()),
        Err(error) => oauth_error(&error.to_oauth()),
    }
}

fn done(status: StatusCode, answered: Result<(), SignalError>) -> Response {
    match answered {
        Ok(()) => no_store(status.into_response()),
        Err(error) => oauth_error(&error.to_oauth()),
    }
}
