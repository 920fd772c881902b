//! Answers that a client leaves unread.
//!
//! HTTP/2 lets a client take nothing of an answer, or a byte now and then, by the windows it opens. Nothing waits for the
//! socket then, so nothing times out there; what is left of the answer stays in memory.

use std::{collections::HashMap, time::Duration};

use testudo_model::snapshot::TransferRules;

use super::frames::{Frame, kind};

/// Rounds in which a stream may be slow although its answer is ready. They make up the grace.
const PATIENCE: u32 = 4;
/// Rounds in a row in which that must be so: at the end of one, an answer may just be on its way.
const CERTAIN: u32 = 2;

/// The streams that have not ended, and how they move.
#[derive(Debug)]
pub(super) struct Unread {
    round: Duration,
    /// Fewer bytes in a round are slow.
    least: u64,
    streams: HashMap<u32, Stream>,
    last_opened: u32,
    /// Rounds in a row in which more streams were slow than could be for want of an answer.
    suspicious: u32,
}

#[derive(Debug, Default)]
struct Stream {
    /// Sent in this round.
    bytes: u64,
    /// Rounds in a row in which it was slow.
    slow: u32,
}

impl Unread {
    pub(super) fn new(transfer: TransferRules) -> Self {
        let round = transfer.grace() / PATIENCE;
        let millis = u64::try_from(round.as_millis()).unwrap_or(u64::MAX);
        let least = transfer.min_bytes_per_second.saturating_mul(millis) / 1_000;
        Self {
            round,
            least: least.max(1),
            streams: HashMap::new(),
            last_opened: 0,
            suspicious: 0,
        }
    }

    /// How long a round is.
    pub(super) const fn round(&self) -> Duration {
        self.round
    }

    /// Notes a frame that came.
    pub(super) fn received(&mut self, frame: Frame) {
        if frame.kind == kind::RST_STREAM {
            self.streams.remove(&frame.stream);
        }
        // A second header section on a stream is its trailer section.
        if frame.kind == kind::HEADERS && frame.stream > self.last_opened {
            self.last_opened = frame.stream;
            self.streams.insert(frame.stream, Stream::default());
        }
    }

    /// Notes a frame that was sent.
    pub(super) fn sent(&mut self, frame: Frame) {
        if frame.ends_stream() {
            self.streams.remove(&frame.stream);
        } else if frame.kind == kind::DATA
            && let Some(stream) = self.streams.get_mut(&frame.stream)
        {
            stream.bytes += u64::from(frame.length);
        }
    }

    /// Whether no stream is open.
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Ends a round in which `under_way` calls had no answer yet or were still being answered. Whether more streams than
    /// those are slow: theirs are answers that are ready, and that nobody takes.
    pub(super) fn end_round(&mut self, under_way: usize) -> bool {
        let mut slow = 0;
        for stream in self.streams.values_mut() {
            let is_slow = std::mem::take(&mut stream.bytes) < self.least;
            stream.slow = if is_slow { stream.slow + 1 } else { 0 };
            slow += usize::from(stream.slow >= PATIENCE);
        }
        self.suspicious = if slow > under_way {
            self.suspicious + 1
        } else {
            0
        };
        self.suspicious >= CERTAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frames::Frames;

    const END_STREAM: u8 = 1;

    fn unread() -> Unread {
        Unread::new(TransferRules {
            min_bytes_per_second: 100,
            grace_millis: 4_000,
        })
    }

    fn frame(kind: u8, flags: u8, stream: u8, length: u8) -> Frame {
        let mut bytes = &[0, 0, length, kind, flags, 0, 0, 0, stream][..];
        Frames::of_server().next(&mut bytes).unwrap()
    }

    /// How many rounds go well in which so many calls are under way and `length` bytes are sent on stream 1.
    fn rounds(unread: &mut Unread, under_way: usize, length: u8) -> Option<u32> {
        (1..100).find(|_| {
            unread.sent(frame(kind::DATA, 0, 1, length));
            unread.end_round(under_way)
        })
    }

    #[test]
    fn an_answer_that_is_hardly_taken_is_noticed_and_one_that_is_not_ready_is_none() {
        let mut unread = unread();
        unread.received(frame(kind::HEADERS, 0, 1, 0));
        assert_eq!(rounds(&mut unread, 1, 1), None);
        assert_eq!(rounds(&mut unread, 0, 100), None);
        assert_eq!(rounds(&mut unread, 0, 99), Some(PATIENCE + CERTAIN - 1));
    }

    #[test]
    fn an_answer_that_is_just_on_its_way_is_not_unread() {
        let mut unread = unread();
        unread.received(frame(kind::HEADERS, 0, 1, 0));
        for _ in 0..10 {
            assert!(!unread.end_round(1));
        }
        assert!(!unread.end_round(0));
        unread.sent(frame(kind::DATA, END_STREAM, 1, 0));
        assert!(!unread.end_round(0));
    }

    #[test]
    fn streams_end_on_either_side_and_trailers_open_none() {
        let mut unread = unread();
        for stream in [1, 3, 5] {
            unread.received(frame(kind::HEADERS, 0, stream, 0));
        }
        unread.sent(frame(kind::HEADERS, END_STREAM, 1, 0));
        unread.sent(frame(kind::RST_STREAM, 0, 3, 0));
        unread.received(frame(kind::RST_STREAM, 0, 5, 0));
        unread.received(frame(kind::HEADERS, END_STREAM, 3, 0));
        assert!(unread.is_empty());
    }
}
