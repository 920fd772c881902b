//! One request over HTTP/2 and its answer: begun at a place, over when nobody keeps it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::task::yield_now;

use super::{Answer, Lease, Outbound, SendFailure, Unsent, failure, streams::Place};
use crate::{
    arriving::Arriving,
    body::{RequestBody, Upload},
    http2::{Received, Sending, Tunnel},
    rejection::UpstreamError,
};

/// A request under way; ends when dropped.
pub(crate) struct OpenStream {
    place: Place,
    upload: Upload,
}

/// An upstream's answer, and what it keeps open.
pub(super) struct Reply {
    pub(super) response: Response<Arriving>,
    pub(super) tunnel: Option<Tunnel>,
    stream: OpenStream,
}

impl Reply {
    /// The answer, with what `lease` makes of what is kept.
    pub(super) fn leased(self, lease: impl FnOnce(OpenStream) -> Lease) -> Answer {
        Answer {
            response: self.response,
            tunnel: self.tunnel,
            lease: lease(self.stream),
        }
    }
}

impl Place {
    /// Sends `request` from here.
    pub(super) async fn send(self, request: Outbound) -> Result<Reply, SendFailure> {
        let ends_with_head = request.body().is_end_stream() && *request.method() != Method::CONNECT;
        if !ends_with_head {
            // What is sent of a body cannot be sent again, so a farewell that has arrived is read first.
            yield_now().await;
        }
        let Some(sender) = self.connection().ready().await else {
            return Err(SendFailure::Unsent(self.unsent(request)));
        };
        let upload = request.body().upload();
        let (head, body) = request.into_parts();
        let mut head = Request::from_parts(head, ());
        announce_length(&mut head, &body);
        // Dropped when nobody waits any more, also before the answer, it ends the sending of the body.
        let stream = OpenStream {
            place: self,
            upload,
        };
        if ends_with_head {
            // Tells that all was sent.
            drop(body);
            stream.send_head(sender, head).await
        } else {
            stream.send_whole(sender, head, body).await
        }
    }

    /// `request`, which nobody has seen.
    fn unsent(&self, request: Outbound) -> Unsent {
        Unsent {
            request,
            error: UpstreamError::Broken,
            was_kept: self.connection().has_answered(),
        }
    }
}

impl OpenStream {
    /// Sends a request without a body.
    async fn send_head(
        self,
        mut sender: SendRequest<Bytes>,
        head: Request<()>,
    ) -> Result<Reply, SendFailure> {
        let again = head.clone();
        let sent = sender.send_request(head, true);
        drop(sender);
        let outcome = match sent {
            Ok((answer, _)) => answer.await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(answer) => Ok(self.reply(answer, None)),
            Err(error) if is_unseen(&error) => {
                let request = again.map(|()| RequestBody::none());
                let mut unsent = self.place.unsent(Box::new(request));
                // A goodbye says nothing about how the other side does. A refusal does, and is paid for.
                unsent.was_kept &= error.is_go_away();
                Err(SendFailure::Unsent(unsent))
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// Sends a request with what follows its head.
    async fn send_whole(
        self,
        mut sender: SendRequest<Bytes>,
        head: Request<()>,
        body: RequestBody,
    ) -> Result<Reply, SendFailure> {
        let is_connect = head.method() == Method::CONNECT;
        let (answer, sending) = sender
            .send_request(head, false)
            .map_err(|_| self.failure())?;
        drop(sender);
        let mut tunnel = None;
        if is_connect {
            drop(body);
            tunnel = Some(sending);
        } else {
            send_body(Sending::new(body, sending)).await;
        }
        let answer = answer.await.map_err(|_| self.failure())?;
        Ok(self.reply(answer, tunnel))
    }

    fn failure(&self) -> SendFailure {
        SendFailure::Sent(failure(&self.upload))
    }

    fn reply(self, answer: Response<RecvStream>, tunnel: Option<SendStream<Bytes>>) -> Reply {
        self.place.connection().note_answer();
        let (head, receiving) = answer.into_parts();
        let (tunnel, content) = match tunnel {
            Some(sending) if head.status == StatusCode::OK => {
                (Some(Tunnel::new(sending, receiving)), Arriving::Nothing)
            }
            _ => (
                None,
                Arriving::Answer(Received::new(receiving, &head.headers)),
            ),
        };
        Reply {
            response: Response::from_parts(head, content),
            tunnel,
            stream: self,
        }
    }
}

/// Whether the other side has certainly not looked at the request: it said goodbye before it came (RFC 9113 section 6.8),
/// or had no place for it (section 8.7).
fn is_unseen(error: &h2::Error) -> bool {
    let is_left_out = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    error.is_remote() && (is_left_out || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// RFC 9110 section 8.6: a length that is known is said, also none where a method usually has content.
fn announce_length(head: &mut Request<()>, body: &RequestBody) {
    let has_meaning = !matches!(
        *head.method(),
        Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT
    );
    if let Some(length) = body.size_hint().exact()
        && (length > 0 || has_meaning)
    {
        let announced = head.headers_mut().entry(header::CONTENT_LENGTH);
        announced.or_insert_with(|| length.into());
    }
}

/// Sends as much as there is room for, and the rest aside.
async fn send_body(mut sending: Sending) {
    let is_sent = poll_fn(|context| Poll::Ready(Pin::new(&mut sending).poll(context).is_ready()));
    if !is_sent.await {
        tokio::spawn(sending);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // Or the stream would go on, and its place be taken twice.
        self.upload.abort();
    }
}
