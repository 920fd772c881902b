//! An answer on its way to the client, at no less than the lowest rate.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use http_body::Body;
use quinn::SendStream;
use testudo_model::snapshot::TransferRules;

use super::{
    code::INTERNAL_ERROR, connection::SEND_WINDOW_BYTES, frames::kind, qpack, session::Session,
};
use crate::{body::AnswerBody, rate::Watched, varint};

/// Why an answer did not pass whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum AnswerError {
    /// The client wants no more of it, or has gone.
    #[error("the client broke off")]
    Broken,
    /// The client takes it too slowly.
    #[error("the client does not read")]
    Unread,
    /// What stands behind it ended before its end.
    #[error("the answer was broken off")]
    Incomplete,
}

/// Sends `answer`, and waits until the client has all of it.
pub(super) async fn send(
    session: &Session,
    stream: SendStream,
    answer: Response<AnswerBody>,
    rules: TransferRules,
) {
    let mut sending = Sending {
        session,
        stream,
        reader: Watched::new(rules),
        sent: 0,
    };
    match sending.all(answer, rules).await {
        Ok(()) => {}
        Err(AnswerError::Broken) => session.broken_off(),
        Err(AnswerError::Unread | AnswerError::Incomplete) => {
            // It may have ended.
            let _ = sending.stream.reset(INTERNAL_ERROR);
        }
    }
}

struct Sending<'a> {
    session: &'a Session,
    stream: SendStream,
    reader: Watched,
    sent: u64,
}

impl Sending<'_> {
    async fn all(
        &mut self,
        answer: Response<AnswerBody>,
        rules: TransferRules,
    ) -> Result<(), AnswerError> {
        let (head, body) = answer.into_parts();
        // What it holds is given back when the client has the answer.
        let mut body = pin!(body);
        self.section(Some(head.status), &head.headers).await?;
        while let Some(frame) = self.next(body.as_mut()).await? {
            match frame.into_data() {
                Ok(data) => self.frame(kind::DATA, data).await?,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.section(None, &trailers).await?;
                    }
                }
            }
        }
        self.stream.finish().map_err(|_| AnswerError::Broken)?;
        let taken = tokio::time::timeout(self.patience(rules), self.stream.stopped());
        match taken.await {
            Ok(Ok(None)) => Ok(()),
            Ok(_) => Err(AnswerError::Broken),
            Err(_) => Err(AnswerError::Unread),
        }
    }

    /// What comes next of `body`, unless the client breaks off first.
    async fn next(
        &mut self,
        mut body: Pin<&mut AnswerBody>,
    ) -> Result<Option<http_body::Frame<Bytes>>, AnswerError> {
        tokio::select! {
            biased;
            frame = poll_fn(|context| body.as_mut().poll_frame(context)) => {
                frame.transpose().map_err(|_| AnswerError::Incomplete)
            }
            _ = self.stream.stopped() => Err(AnswerError::Broken),
        }
    }

    async fn section(
        &mut self,
        status: Option<StatusCode>,
        fields: &HeaderMap,
    ) -> Result<(), AnswerError> {
        let fields = fields.iter().filter(|(name, _)| !is_of_connection(name));
        self.frame(kind::HEADERS, qpack::encode(status, fields))
            .await
    }

    async fn frame(&mut self, kind: u64, payload: Bytes) -> Result<(), AnswerError> {
        let mut head = BytesMut::with_capacity(16);
        varint::write(&mut head, kind);
        varint::write(&mut head, u64::try_from(payload.len()).unwrap_or(u64::MAX));
        let mut parts = [head.freeze(), payload];
        let mut left = &mut parts[..];
        while !left.is_empty() {
            let written = {
                let mut writing = pin!(self.stream.write_chunks(left));
                poll_fn(|context| match writing.as_mut().poll(context) {
                    Poll::Pending => {
                        ready!(self.reader.poll_exceeded(context));
                        Poll::Ready(Err(AnswerError::Unread))
                    }
                    written => written.map_err(|_| AnswerError::Broken),
                })
                .await?
            };
            self.reader.moved(written.bytes);
            self.sent += u64::try_from(written.bytes).unwrap_or(0);
            left = left.get_mut(written.chunks..).unwrap_or_default();
        }
        self.session.answered();
        Ok(())
    }

    /// How long the client may take for what QUIC still keeps for it.
    fn patience(&self, rules: TransferRules) -> Duration {
        let kept = self.sent.min(SEND_WINDOW_BYTES);
        let seconds = kept.checked_div(rules.min_bytes_per_second).unwrap_or(0);
        rules.grace() + Duration::from_secs(seconds)
    }
}

/// Whether `name` speaks of a connection of HTTP/1.1 (RFC 9114 section 4.2).
fn is_of_connection(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
}
