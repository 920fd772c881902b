//! Frames that cost work and come to nothing, and how many of them are too many (CVE-2019-9512 to 9518,
//! CVE-2023-44487).
//!
//! Every client sends some: acknowledgements, pings, windows, a cancelled download. They are paid for by what the
//! connection is there for, answers, and by time.

use std::time::Duration;

use tokio::time::Instant;

use super::frames::{Frame, kind};

/// What a connection has at most, and begins with.
const MOST: u32 = 2_000;
/// The time that brings one.
const TICK: Duration = Duration::from_millis(10);
/// What a frame of an answer brings: a client may open two windows for each, and measure the line.
const PER_ANSWER: u32 = 4;
/// What a reset costs: the call behind it was begun.
pub(crate) const RESET: u32 = 10;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Anybody.
    Client,
    /// A verified proxy of the fleet, for many clients at once, who reset as they like.
    Proxy,
}

/// What a connection may still do for nothing.
#[derive(Debug)]
pub(crate) struct Budget {
    peer: Peer,
    left: u32,
    since: Instant,
}

impl Budget {
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            peer,
            left: MOST,
            since: Instant::now(),
        }
    }

    /// Charges for a frame that came. Whether there was enough left, with what time has brought until `now`.
    pub(crate) fn charge(&mut self, frame: Frame, now: impl FnOnce() -> Instant) -> bool {
        let cost = match frame.kind {
            kind::HEADERS => 0,
            // h2 counts small ones that nobody has read.
            kind::DATA => u32::from(frame.length == 0 && !frame.ends_stream()),
            kind::RST_STREAM if self.peer == Peer::Proxy => 0,
            kind::RST_STREAM => RESET,
            _ => 1,
        };
        self.spend(cost, now)
    }

    /// Takes `cost`. Whether there was enough left, with what time has brought until `now`.
    pub(crate) fn spend(&mut self, cost: u32, now: impl FnOnce() -> Instant) -> bool {
        if cost > self.left {
            self.earn_by_time(now());
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Notes a frame that was sent.
    pub(crate) fn sent(&mut self, frame: Frame) {
        if matches!(frame.kind, kind::DATA | kind::HEADERS) {
            self.answered();
        }
    }

    /// Notes a frame of an answer that was sent.
    pub(crate) fn answered(&mut self) {
        self.earn(PER_ANSWER);
    }

    fn earn_by_time(&mut self, now: Instant) {
        let ticks = now.saturating_duration_since(self.since).as_nanos() / TICK.as_nanos();
        let earned = u32::try_from(ticks).unwrap_or(MOST).min(MOST);
        self.since = now;
        self.earn(earned);
    }

    fn earn(&mut self, earned: u32) {
        self.left = self.left.saturating_add(earned).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frames::Frames;

    fn frame(kind: u8, flags: u8, length: u8) -> Frame {
        let mut bytes = &[0, 0, length, kind, flags, 0, 0, 0, 1][..];
        Frames::of_server().next(&mut bytes).unwrap()
    }

    /// How many of `frame` may be sent at once.
    fn allowed(budget: &mut Budget, frame: Frame, now: Instant) -> u32 {
        let mut count = 0;
        while count < 10 * MOST && budget.charge(frame, || now) {
            count += 1;
        }
        count
    }

    fn allowed_at_first(peer: Peer, frame: Frame) -> u32 {
        let mut budget = Budget::new(peer);
        let since = budget.since;
        allowed(&mut budget, frame, since)
    }

    #[test]
    fn floods_of_anything_but_requests_end() {
        const PRIORITY: u8 = 2;
        for kind in [PRIORITY, 4, 6, 8, kind::CONTINUATION, 0xbb] {
            for peer in [Peer::Client, Peer::Proxy] {
                assert_eq!(allowed_at_first(peer, frame(kind, 0, 4)), MOST, "{kind}");
            }
        }
        let empty = frame(kind::DATA, 0, 0);
        assert_eq!(allowed_at_first(Peer::Client, empty), MOST);
        let reset = frame(kind::RST_STREAM, 0, 4);
        assert_eq!(allowed_at_first(Peer::Client, reset), MOST / RESET);
        assert_eq!(allowed_at_first(Peer::Proxy, reset), 10 * MOST);
        for bounded_otherwise in [frame(kind::HEADERS, 5, 20), frame(kind::DATA, 0, 1)] {
            let allowed = allowed_at_first(Peer::Client, bounded_otherwise);
            assert_eq!(allowed, 10 * MOST);
        }
    }

    #[test]
    fn time_and_answers_pay() {
        let ping = frame(6, 0, 8);
        let mut budget = Budget::new(Peer::Client);
        let began = budget.since;
        assert_eq!(allowed(&mut budget, ping, began), MOST);
        let later = began + 300 * TICK;
        assert_eq!(allowed(&mut budget, ping, later), 300);
        budget.sent(frame(kind::DATA, 0, 100));
        budget.sent(frame(6, 1, 8));
        assert_eq!(allowed(&mut budget, ping, later), PER_ANSWER);
        let much_later = later + Duration::from_secs(3_600);
        let saved = allowed(&mut budget, ping, much_later);
        assert_eq!(saved, MOST, "what is not used is not saved for ever");
    }
}
