//! How long a call may take.
//!
//! An answer has until the route's deadline, whole. One that is a stream has to begin by then; after that it may last,
//! but it must move.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, header};
use testudo_model::limits;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::grpc;

const EVENT_STREAM: &str = "text/event-stream";

/// The deadlines of a call whose answer has not begun.
pub(crate) struct Deadline {
    /// When there must be an answer.
    until: Pin<Box<Sleep>>,
    /// How long a gRPC client waits for the whole call.
    client_waits_until: Option<Instant>,
}

impl Deadline {
    /// Of a request with `fields` on a route with `timeout`. A gRPC client may want it shorter.
    pub(crate) fn new(timeout: Duration, fields: &HeaderMap) -> Self {
        let now = Instant::now();
        let client_waits_until = grpc::is_grpc(fields)
            .then(|| grpc::timeout(fields))
            .flatten()
            .and_then(|timeout| now.checked_add(timeout));
        let until = now + timeout;
        let until = client_waits_until.map_or(until, |waits| waits.min(until));
        Self {
            until: Box::pin(sleep_until(until)),
            client_waits_until,
        }
    }

    /// When the answer should have begun.
    pub(crate) fn at(&self) -> Instant {
        self.until.deadline()
    }

    /// Whether it is the client who does not wait for longer, and not the route.
    pub(crate) fn is_clients(&self) -> bool {
        self.client_waits_until == Some(self.at())
    }

    /// Resolves when the answer should have begun.
    pub(crate) async fn passed(&mut self) {
        self.until.as_mut().await;
    }

    /// What holds for the body of an answer with `fields`.
    pub(crate) fn begun(self, fields: &HeaderMap) -> Pace {
        if !is_stream(fields) {
            return Pace::Whole(self.until);
        }
        let now = Instant::now();
        let longest = now + limits::STREAM_LIFETIME;
        let until = self
            .client_waits_until
            .map_or(longest, |waits| waits.min(longest));
        Pace::Stream {
            until: Box::pin(sleep_until(until)),
            pause: Box::pin(sleep_until(now + limits::STREAM_IDLE_TIMEOUT)),
        }
    }
}

/// How long a body may take.
pub(crate) enum Pace {
    /// Until then, all of it.
    Whole(Pin<Box<Sleep>>),
    /// As long as it does not pause for too long, and not for ever.
    Stream {
        until: Pin<Box<Sleep>>,
        pause: Pin<Box<Sleep>>,
    },
}

impl Pace {
    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// Notes that the body has moved.
    pub(crate) fn moved(&mut self) {
        if let Self::Stream { pause, .. } = self {
            pause
                .as_mut()
                .reset(Instant::now() + limits::STREAM_IDLE_TIMEOUT);
        }
    }

    /// When the body will have taken too long, if it does not move until then.
    pub(crate) fn until(&self) -> Instant {
        match self {
            Self::Whole(until) => until.deadline(),
            Self::Stream { until, pause } => until.deadline().min(pause.deadline()),
        }
    }

    /// Ready when the body has taken too long.
    pub(crate) fn poll_exceeded(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Whole(until) => until.as_mut().poll(context),
            Self::Stream { until, pause } => {
                if until.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                pause.as_mut().poll(context)
            }
        }
    }
}

/// Whether an answer is sent bit by bit, for as long as somebody listens.
fn is_stream(fields: &HeaderMap) -> bool {
    let is_event_stream = |content_type: &str| {
        let media_type = content_type.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(EVENT_STREAM)
    };
    grpc::is_grpc(fields)
        || fields
            .get(header::CONTENT_TYPE)
            .and_then(|content_type| content_type.to_str().ok())
            .is_some_and(is_event_stream)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[tokio::test]
    async fn a_grpc_client_may_shorten_the_deadline_but_not_stretch_it() {
        let timeout = Duration::from_secs(30);
        let allowed = |pairs: &[_]| {
            let deadline = Deadline::new(timeout, &fields(pairs));
            deadline.until.deadline() - Instant::now()
        };
        let grpc = ("content-type", "application/grpc");
        assert!(allowed(&[grpc, ("grpc-timeout", "2S")]) <= Duration::from_secs(2));
        for pairs in [
            &[grpc, ("grpc-timeout", "99999999H")][..],
            &[grpc, ("grpc-timeout", "soon")],
            &[("grpc-timeout", "2S")],
        ] {
            let allowed = allowed(pairs);
            assert!(allowed <= timeout && allowed > timeout / 2, "{pairs:?}");
        }
    }

    #[tokio::test]
    async fn only_streams_may_last() {
        for (content_type, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            ("application/grpc+proto", true),
            ("text/plain", false),
            ("text/event-streams", false),
        ] {
            let deadline = Deadline::new(Duration::from_secs(1), &HeaderMap::new());
            let pace = deadline.begun(&fields(&[("content-type", content_type)]));
            assert_eq!(pace.is_stream(), expected, "{content_type}");
        }
    }
}
