//! The content of a request, as it goes out over HTTP/2.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::body::{BodyError, RequestBody};

/// Sends a body as far as the other side takes it. Ends with the body, with the stream, or when nobody wants the rest.
pub(crate) struct Sending {
    body: RequestBody,
    stream: SendStream<Bytes>,
    /// Data that waits for room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Sending {
    /// Of `body` on `stream`.
    pub(crate) fn new(body: RequestBody, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            waiting: None,
        }
    }

    /// Sends what waits, as soon as there is room. `None`: there is nothing more to do.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Option<()>> {
        // Any room will do: h2 cuts what is longer into pieces and asks for the rest. An empty end needs none.
        let needs_room = self
            .waiting
            .as_ref()
            .is_some_and(|(data, _)| !data.is_empty());
        while needs_room && self.stream.capacity() == 0 {
            let Some(Ok(_)) = ready!(self.stream.poll_capacity(context)) else {
                return Poll::Ready(None);
            };
        }
        let Some((data, is_last)) = self.waiting.take() else {
            return Poll::Ready(Some(()));
        };
        let sent = self.stream.send_data(data, is_last);
        Poll::Ready((sent.is_ok() && !is_last).then_some(()))
    }

    fn give_up(&mut self, error: BodyError) {
        self.stream.send_reset(match error {
            BodyError::Unwanted => Reason::CANCEL,
            _ => Reason::INTERNAL_ERROR,
        });
    }
}

impl Future for Sending {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // Also while there is no room: nobody else would give up then.
            if self.body.is_unwanted(context) {
                self.give_up(BodyError::Unwanted);
                return Poll::Ready(());
            }
            if self.stream.poll_reset(context).is_ready() {
                return Poll::Ready(());
            }
            if ready!(self.poll_sent(context)).is_none() {
                return Poll::Ready(());
            }
            // Only now, and not before there is something to send: room that is kept is nobody else's.
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    let is_last = self.body.is_end_stream();
                    if data.is_empty() && !is_last {
                        continue;
                    }
                    self.stream.reserve_capacity(data.len().min(1));
                    self.waiting = Some((data, is_last));
                }
                Some(Err(error)) => {
                    self.give_up(error);
                    return Poll::Ready(());
                }
                None => {
                    // Fails if the stream has ended meanwhile, and then nothing is missing.
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
            }
        }
    }
}
