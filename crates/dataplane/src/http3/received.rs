//! A request as it comes: its head, and then its content.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body::{Body, Frame, SizeHint};
use quinn::RecvStream;
use testudo_model::limits;

use super::{
    code::{
        EXCESSIVE_LOAD, FRAME_UNEXPECTED, Fault, MESSAGE_ERROR, NO_ERROR,
        QPACK_DECOMPRESSION_FAILED, REQUEST_INCOMPLETE,
    },
    frames::{FrameHead, Frames, kind},
    head::{self, MAX_SECTION_BYTES},
    session::Session,
};
use crate::{
    arriving::Arriving,
    body::BodyError,
    framing::{FramingError, content_length},
};

/// The content of a request. Its trailers are passed over: nobody reads them.
#[derive(Debug)]
pub(crate) struct Received {
    session: Arc<Session>,
    frames: Frames,
    part: Part,
    has_trailers: bool,
    /// What `Content-Length` still promises.
    promised: Option<u64>,
}

/// Where in the stream we are, with what is left of a frame.
#[derive(Debug)]
enum Part {
    BetweenFrames,
    Data(u64),
    Skipped(u64),
    Ended,
}

/// Reads the head of a request from `stream`.
///
/// # Errors
/// [`Fault`]: it is no request.
pub(super) async fn request(
    session: &Arc<Session>,
    stream: RecvStream,
) -> Result<Request<Arriving>, Fault> {
    let mut frames = Frames::new(stream);
    let first = loop {
        let frame = frames.head().await?;
        match frame.ok_or(Fault::Stream(REQUEST_INCOMPLETE))? {
            first @ FrameHead {
                kind: kind::HEADERS,
                ..
            } => break first,
            other => {
                check_unknown(other.kind)?;
                session.useless()?;
                skip(&mut frames, other.length).await?;
            }
        }
    };
    let most = u64::try_from(MAX_SECTION_BYTES).unwrap_or(u64::MAX);
    let (head, part) = if first.length > most {
        (
            head::refused(FramingError::HeaderSize),
            Part::Skipped(first.length),
        )
    } else {
        let section = frames.payload(first.length).await?;
        let head =
            head::read(section).map_err(|_| Fault::Connection(QPACK_DECOMPRESSION_FAILED))?;
        let is_over = poll_fn(|context| Poll::Ready(frames.poll_is_over(context))).await;
        let part = if is_over {
            Part::Ended
        } else {
            Part::BetweenFrames
        };
        (head, part)
    };
    let promised = promised(head.headers());
    let breaks_promise = matches!(part, Part::Ended) && promised.is_some_and(|bytes| bytes > 0);
    let head = if breaks_promise {
        head::refused(FramingError::Length)
    } else {
        head
    };
    let received = Received {
        session: Arc::clone(session),
        frames,
        part,
        has_trailers: false,
        promised,
    };
    Ok(head.map(|()| Arriving::Quic(Box::new(received))))
}

/// What `Content-Length` says. Whether it may is decided with the rest of the head.
fn promised(fields: &HeaderMap) -> Option<u64> {
    content_length(fields.get(header::CONTENT_LENGTH)?.as_bytes())
}

/// Passes over a frame of `length` bytes.
async fn skip(frames: &mut Frames, length: u64) -> Result<(), Fault> {
    let mut left = length;
    while left > 0 {
        poll_fn(|context| frames.poll_piece(&mut left, context)).await?;
    }
    Ok(())
}

/// Frames of an unknown kind mean nothing, known ones have their places (RFC 9114 sections 7.2 and 9).
const fn check_unknown(frame: u64) -> Result<(), Fault> {
    use kind::*;
    match frame {
        DATA | HEADERS | CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID => {
            Err(Fault::Connection(FRAME_UNEXPECTED))
        }
        frame if is_of_http2(frame) => Err(Fault::Connection(FRAME_UNEXPECTED)),
        _ => Ok(()),
    }
}

impl Received {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        loop {
            match &mut self.part {
                Part::Ended => return Poll::Ready(Ok(None)),
                Part::BetweenFrames => match ready!(self.frames.poll_head(context))? {
                    Some(frame) => self.part = self.enter(frame)?,
                    None if self.promised.is_some_and(|promised| promised > 0) => {
                        return Poll::Ready(Err(Fault::Stream(MESSAGE_ERROR)));
                    }
                    None => self.part = Part::Ended,
                },
                Part::Data(0) | Part::Skipped(0) => self.part = Part::BetweenFrames,
                Part::Skipped(left) => {
                    ready!(self.frames.poll_piece(left, context))?;
                }
                Part::Data(left) => {
                    let piece = ready!(self.frames.poll_piece(left, context))?;
                    if let Some(promised) = &mut self.promised {
                        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                        *promised = promised.saturating_sub(length);
                    }
                    return Poll::Ready(Ok(Some(piece)));
                }
            }
        }
    }

    fn enter(&mut self, frame: FrameHead) -> Result<Part, Fault> {
        let length = frame.length;
        match frame.kind {
            kind::DATA if !self.has_trailers => {
                if self.promised.is_some_and(|promised| promised < length) {
                    return Err(Fault::Stream(MESSAGE_ERROR));
                }
                if length == 0 {
                    self.session.useless()?;
                }
                Ok(Part::Data(length))
            }
            kind::HEADERS if !self.has_trailers => {
                let most = u64::try_from(limits::MAX_TRAILER_BYTES).unwrap_or(u64::MAX);
                if length > most {
                    return Err(Fault::Stream(EXCESSIVE_LOAD));
                }
                self.has_trailers = true;
                Ok(Part::Skipped(length))
            }
            other => {
                check_unknown(other)?;
                self.session.useless()?;
                Ok(Part::Skipped(length))
            }
        }
    }

    fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Broken => self.session.broken_off(),
            Fault::Stream(code) => self.frames.stop(code),
            Fault::Connection(code) => self.session.close(code),
        }
        self.part = Part::Ended;
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match ready!(self.poll_data(context)) {
            Ok(data) => Poll::Ready(data.map(|data| Ok(Frame::data(data)))),
            Err(fault) => {
                self.fail(fault);
                Poll::Ready(Some(Err(BodyError::Broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.part, Part::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.part, self.promised) {
            (Part::Ended, _) => SizeHint::with_exact(0),
            (_, Some(promised)) => SizeHint::with_exact(promised),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // RFC 9114 section 4.1: an answer that does not need the rest of the request.
        if !matches!(self.part, Part::Ended) {
            self.frames.stop(NO_ERROR);
        }
    }
}
