//! Serving one connection: a task for each request, and an end for idle connections and those of a process that drains.

use std::{future::Future, sync::Arc, time::Duration};

use http::{Request, Response};
use quinn::{RecvStream, SendStream};
use testudo_model::{limits, snapshot::TransferRules};
use testudo_runtime::DrainWatch;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    answer,
    code::{Fault, NO_ERROR, REQUEST_INCOMPLETE, REQUEST_REJECTED},
    control, received,
    session::Session,
};
use crate::{arriving::Arriving, body::AnswerBody, listener, serve::Activity};

/// What QUIC keeps for the client to take, of all answers on the connection.
pub(crate) const SEND_WINDOW_BYTES: u64 = 1024 * 1024;
/// Numbers of requests differ by this (RFC 9000 section 2.1).
const NEXT_REQUEST: u64 = 4;
/// When draining, time for the goodbye to arrive and for requests on their way to be rejected, which may then be sent
/// again elsewhere.
const GOODBYE: Duration = Duration::from_millis(250);

/// Serves `quic` until it ends, is idle too long, or the process drains. On drain requests under way are finished.
pub(crate) async fn serve<S, F>(
    quic: quinn::Connection,
    service: S,
    transfer: TransferRules,
    activity: Arc<Activity>,
    mut drain: DrainWatch,
) where
    S: Fn(Request<Arriving>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    let opened = Instant::now();
    let session = Arc::new(Session::new(quic));
    let quic = &session.quic;
    // A client may leave no room for it.
    let Ok(Ok(mut control)) = timeout(limits::HEADER_READ_TIMEOUT, control::open(quic)).await
    else {
        return session.close(NO_ERROR);
    };
    let (mut requests, mut others) = (JoinSet::new(), JoinSet::new());
    let mut next = 0;
    // Once it drains: when the goodbye has arrived.
    let mut goodbye = None;
    loop {
        let is_over = goodbye.is_some_and(|goodbye| goodbye <= Instant::now());
        if is_over && requests.is_empty() {
            break;
        }
        tokio::select! {
            request = quic.accept_bi() => {
                let Ok((down, up)) = request else { break };
                if goodbye.is_some() {
                    reject(down, up);
                    continue;
                }
                next = control::number(down.id()) + NEXT_REQUEST;
                let (session, service) = (Arc::clone(&session), service.clone());
                requests.spawn(async move { exchange(&session, down, up, service, transfer).await });
            }
            other = quic.accept_uni() => {
                let Ok(other) = other else { break };
                let session = Arc::clone(&session);
                others.spawn(async move { control::listen(&session, other).await });
            }
            Some(ended) = requests.join_next() => listener::report(&ended),
            Some(ended) = others.join_next() => listener::report(&ended),
            () = activity.idle(opened) => break,
            () = drain.drained(), if goodbye.is_none() => {
                if control::say_goodbye(&mut control, next).await.is_err() {
                    break;
                }
                goodbye = Some(Instant::now() + GOODBYE);
            }
            () = wait_until(goodbye), if !is_over => {}
        }
    }
    session.close(NO_ERROR);
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Tells the client that nobody has begun to act on its request. Streams that have ended need not be told.
fn reject(mut down: SendStream, mut up: RecvStream) {
    let _ = down.reset(REQUEST_REJECTED);
    let _ = up.stop(REQUEST_REJECTED);
}

/// One request and its answer.
async fn exchange<S, F>(
    session: &Arc<Session>,
    mut down: SendStream,
    up: RecvStream,
    service: S,
    transfer: TransferRules,
) where
    S: Fn(Request<Arriving>) -> F,
    F: Future<Output = Response<AnswerBody>>,
{
    let head = timeout(limits::HEADER_READ_TIMEOUT, received::request(session, up)).await;
    let request = match head.unwrap_or(Err(Fault::Stream(REQUEST_INCOMPLETE))) {
        Ok(request) => request,
        Err(Fault::Broken) => return session.broken_off(),
        Err(Fault::Connection(code)) => return session.close(code),
        Err(Fault::Stream(code)) => {
            // It may have ended.
            let _ = down.reset(code);
            return;
        }
    };
    let answer = tokio::select! {
        biased;
        answer = service(request) => answer,
        _ = down.stopped() => return session.broken_off(),
    };
    answer::send(session, down, answer, transfer).await;
}
