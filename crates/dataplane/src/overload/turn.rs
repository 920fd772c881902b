//! A request's turn at its upstream: waits for its place, sends, and tells the turnstile how the upstream was.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{Ticket, TurnedAway, Turnstiles};
use crate::{
    authorize::Permit,
    body::Upload,
    metrics::Role,
    pace::Deadline,
    pool::Answer,
    proxy::Worker,
    rejection::{Rejection, UpstreamError},
};

/// After this time all of a request has to be there, or it gives its place away: nobody works on what still drips in, and
/// whoever withholds bodies must not hold places.
const UPLOAD: Duration = Duration::from_millis(100);
/// After this time is looked who it is that takes so long.
const LONG: Duration = Duration::from_secs(1);

/// A request's place among those that the upstream has at once.
pub(crate) struct Turn<'a> {
    ticket: Ticket,
    operation: &'a str,
}

impl<'a> Turn<'a> {
    /// Waits for a place for the request that `permit` allows.
    ///
    /// # Errors
    /// [`UpstreamError::Overloaded`] and [`UpstreamError::TimedOut`].
    pub(crate) async fn wait(
        worker: &Worker,
        turnstiles: &Turnstiles,
        permit: &'a Permit,
        role: Role,
        deadline: &mut Deadline,
    ) -> Result<Self, Rejection> {
        let (service, route) = permit.target().ok_or(Rejection::NoRoute)?;
        let entering = pin!(async {
            let entered = turnstiles.enter(role, service.name.as_str(), route.priority);
            entered.await.map_err(|TurnedAway| {
                let metrics = &worker.proxy.metrics;
                metrics.turned_away(role, route.priority, "upstream");
                UpstreamError::Overloaded
            })
        });
        Ok(Self {
            ticket: in_time(entering, deadline).await?,
            operation: route.operation.as_str(),
        })
    }

    /// The head of the answer, from `sending` the request with the body that `upload` tells about.
    ///
    /// # Errors
    /// Those of `sending`, and [`UpstreamError::TimedOut`].
    pub(crate) async fn send(
        self,
        mut sending: Pin<&mut impl Future<Output = Result<Answer, UpstreamError>>>,
        upload: &Upload,
        deadline: &mut Deadline,
    ) -> Result<Answer, Rejection> {
        let began = Instant::now();
        let soon = (began + UPLOAD).min(deadline.at());
        let mut answered = timeout_at(soon, sending.as_mut()).await;
        if answered.is_err() && !upload.has_ended() {
            drop(self);
            return in_time(sending, deadline).await;
        }
        if answered.is_err() {
            let long = (began + LONG).min(deadline.at());
            answered = timeout_at(long, sending.as_mut()).await;
        }
        let (turn, answer) = match answered {
            Ok(answer) => (Some(self), answer.map_err(Rejection::from)),
            Err(_) => (self.if_usually_quick(), in_time(sending, deadline).await),
        };
        if let Some(turn) = turn {
            turn.tell(&answer, upload, deadline);
        }
        answer
    }

    /// Gives the place away unless it is the upstream that is slow: a long poll, like a stream of gRPC that has not begun,
    /// waits for something to happen. What is usually answered at once does not.
    fn if_usually_quick(self) -> Option<Self> {
        let is_quick = self.ticket.is_usually_within(self.operation, LONG / 2);
        is_quick.then_some(self)
    }

    /// Tells only what no client has a hand in: the time from when all of the request was sent, and the route's own
    /// deadline. An upstream that refuses does so at once, which says nothing.
    fn tell(self, answer: &Result<Answer, Rejection>, upload: &Upload, deadline: &Deadline) {
        match answer {
            Ok(answer) if answer.response.status().as_u16() < 400 => {
                if let Some(sent) = upload.ended_at() {
                    self.ticket.answered(self.operation, sent.elapsed());
                }
            }
            Err(Rejection::Upstream(UpstreamError::TimedOut)) if !deadline.is_clients() => {
                self.ticket.timed_out();
            }
            _ => {}
        }
    }
}

/// Pinned by the caller: taken whole, it would lie in two futures.
async fn in_time<T>(
    work: Pin<&mut impl Future<Output = Result<T, UpstreamError>>>,
    deadline: &mut Deadline,
) -> Result<T, Rejection> {
    tokio::select! {
        biased;
        done = work => Ok(done?),
        () = deadline.passed() => Err(UpstreamError::TimedOut.into()),
    }
}
