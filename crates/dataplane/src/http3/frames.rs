//! A stream cut into frames (RFC 9114 section 7.1). Of a frame nothing is held but what has come and was not yet asked for;
//! how much that can be, flow control says.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use quinn::{RecvStream, VarInt};

use super::code::{FRAME_ERROR, Fault};
use crate::varint;

/// Bytes taken from the stream at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Kinds of frames.
pub(super) mod kind {
    pub(in super::super) const DATA: u64 = 0x0;
    pub(in super::super) const HEADERS: u64 = 0x1;
    pub(in super::super) const CANCEL_PUSH: u64 = 0x3;
    pub(in super::super) const SETTINGS: u64 = 0x4;
    pub(in super::super) const PUSH_PROMISE: u64 = 0x5;
    pub(in super::super) const GOAWAY: u64 = 0x7;
    pub(in super::super) const MAX_PUSH_ID: u64 = 0xd;

    /// Whether frames of that kind were of HTTP/2 and are no more (RFC 9114 section 11.2.1).
    pub(in super::super) const fn is_of_http2(kind: u64) -> bool {
        matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
    }
}

/// What a frame is, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: u64,
    pub(super) length: u64,
}

/// A stream from the client.
#[derive(Debug)]
pub(super) struct Frames {
    stream: RecvStream,
    held: Bytes,
    has_ended: bool,
}

impl Frames {
    pub(super) const fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            held: Bytes::new(),
            has_ended: false,
        }
    }

    /// The next frame. `None`: the stream has ended. What is left of the frame before must have been taken.
    pub(super) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<FrameHead>, Fault>> {
        loop {
            let mut ahead = &self.held[..];
            if let Some(kind) = varint::read(&mut ahead)
                && let Some(length) = varint::read(&mut ahead)
            {
                let taken = self.held.len() - ahead.len();
                self.held.advance(taken);
                return Poll::Ready(Ok(Some(FrameHead { kind, length })));
            }
            if !ready!(self.poll_more(context))? {
                let is_whole = self.held.is_empty();
                return Poll::Ready(
                    is_whole
                        .then_some(None)
                        .ok_or(Fault::Connection(FRAME_ERROR)),
                );
            }
        }
    }

    /// Some of the `left` bytes of the frame, which are more than none.
    pub(super) fn poll_piece(
        &mut self,
        left: &mut u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Fault>> {
        if self.held.is_empty() && !ready!(self.poll_more(context))? {
            return Poll::Ready(Err(Fault::Connection(FRAME_ERROR)));
        }
        let most = usize::try_from(*left).unwrap_or(usize::MAX);
        let piece = self.held.split_to(most.min(self.held.len()));
        *left -= u64::try_from(piece.len()).unwrap_or(*left);
        Poll::Ready(Ok(piece))
    }

    /// Whether the stream has ended and nothing is left of it, as far as is known.
    pub(super) fn poll_is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.held.is_empty() && matches!(self.poll_more(context), Poll::Ready(Ok(false)))
    }

    pub(super) async fn head(&mut self) -> Result<Option<FrameHead>, Fault> {
        poll_fn(|context| self.poll_head(context)).await
    }

    /// All of a frame of `length` bytes. The caller says how many may be held.
    pub(super) async fn payload(&mut self, length: u64) -> Result<Bytes, Fault> {
        let mut left = length;
        let mut payload = BytesMut::new();
        while left > 0 {
            let piece = poll_fn(|context| self.poll_piece(&mut left, context)).await?;
            if left == 0 && payload.is_empty() {
                return Ok(piece);
            }
            payload.extend_from_slice(&piece);
        }
        Ok(payload.freeze())
    }

    /// The integer that a stream of one direction begins with.
    pub(super) async fn number(&mut self) -> Result<u64, Fault> {
        loop {
            let mut ahead = &self.held[..];
            if let Some(number) = varint::read(&mut ahead) {
                let taken = self.held.len() - ahead.len();
                self.held.advance(taken);
                return Ok(number);
            }
            if !poll_fn(|context| self.poll_more(context)).await? {
                return Err(Fault::Broken);
            }
        }
    }

    /// Some bytes of a stream without frames; `None` at its end.
    pub(super) async fn bytes(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.held.is_empty() && !poll_fn(|context| self.poll_more(context)).await? {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.held)))
    }

    /// Asks the client to send no more.
    pub(super) fn stop(&mut self, code: VarInt) {
        // It may have ended.
        let _ = self.stream.stop(code);
    }

    /// Whether more came, or the stream has ended.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        if self.has_ended {
            return Poll::Ready(Ok(false));
        }
        // It keeps nothing between two polls.
        let reading = pin!(self.stream.read_chunk(CHUNK_BYTES, true));
        match ready!(reading.poll(context)) {
            Ok(Some(chunk)) if self.held.is_empty() => self.held = chunk.bytes,
            // The head of a frame, cut in two.
            Ok(Some(chunk)) => {
                self.held = [&self.held[..], &chunk.bytes[..]].concat().into();
            }
            Ok(None) => self.has_ended = true,
            Err(_) => return Poll::Ready(Err(Fault::Broken)),
        }
        Poll::Ready(Ok(!self.has_ended))
    }
}
