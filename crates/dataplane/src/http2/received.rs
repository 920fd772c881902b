//! The content of an answer, as it comes over HTTP/2.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};

use crate::{body::BodyError, framing::content_length};

/// On its way from an upstream. h2 has seen to it that no more comes than `Content-Length` says, and no less.
#[derive(Debug)]
pub(crate) struct Received {
    stream: RecvStream,
    /// What `Content-Length` still promises.
    promised: Option<u64>,
    has_data: bool,
}

impl Received {
    /// What `stream` brings after `fields`.
    pub(crate) fn new(stream: RecvStream, fields: &HeaderMap) -> Self {
        let length = fields.get(header::CONTENT_LENGTH);
        Self {
            promised: length.and_then(|length| content_length(length.as_bytes())),
            has_data: true,
            stream,
        }
    }

    fn taken(&mut self, data: &Bytes) -> Result<(), BodyError> {
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.promised = self.promised.map(|left| left.saturating_sub(bytes));
        self.stream
            .flow_control()
            .release_capacity(data.len())
            .map_err(|_| BodyError::Broken)
    }

    /// What a stream that was reset has come to. RFC 9113 section 8.1: after a whole answer a server may ask so that the
    /// rest of the request is not sent. Before it that would be no more than a part.
    fn broken_off(&self, error: &h2::Error) -> Option<BodyError> {
        let is_whole =
            error.reason() == Some(Reason::NO_ERROR) && self.promised.unwrap_or_default() == 0;
        (!is_whole).then_some(BodyError::Broken)
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_data {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    let taken = self.taken(&data);
                    return Poll::Ready(Some(taken.map(|()| Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.broken_off(&error).map(Err)),
                None => self.has_data = false,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(context)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => self.broken_off(&error).map(Err),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.promised {
            Some(left) => SizeHint::with_exact(left),
            None if self.stream.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
