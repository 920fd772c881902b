//! What is on disk and not yet in the ledger.

use std::{collections::VecDeque, path::PathBuf};

use bytes::Bytes;

use super::segment::Frame;

/// Bytes of blocks that also stay in memory until they are shipped, so that shipping does not read and open
/// again what was sealed a moment ago. Eight full blocks: more wait only while the ledger is away, and then the
/// disk is fast enough.
const MAX_KEPT_BYTES: usize = 8 * 1024 * 1024;

/// A block on disk.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) number: u64,
    pub(super) head_hash: [u8; 32],
    pub(super) path: PathBuf,
    pub(super) frame: Frame,
    /// The block as it is shipped, unless it has to be read back.
    pub(super) encoded: Option<Bytes>,
}

impl Stored {
    fn bytes(&self) -> u64 {
        u64::try_from(self.frame.length).unwrap_or(u64::MAX)
    }

    fn kept_bytes(&self) -> usize {
        self.encoded.as_ref().map_or(0, Bytes::len)
    }
}

/// Blocks in order, with the files they lie in. The newest block's file always stays: the chain continues
/// from it after a restart.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    segments: VecDeque<Segment>,
    unshipped: VecDeque<Stored>,
    unshipped_bytes: u64,
    kept_bytes: usize,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    last_block: u64,
}

impl Backlog {
    /// Notes a block that is on disk, and keeps it in memory as well if there is room.
    pub(super) fn push(&mut self, mut stored: Stored) {
        match self.segments.back_mut() {
            Some(newest) if newest.path == stored.path => newest.last_block = stored.number,
            _ => {
                let segment = Segment {
                    path: stored.path.clone(),
                    last_block: stored.number,
                };
                self.segments.push_back(segment);
            }
        }
        if self.kept_bytes + stored.kept_bytes() > MAX_KEPT_BYTES {
            stored.encoded = None;
        }
        self.kept_bytes += stored.kept_bytes();
        self.unshipped_bytes = self.unshipped_bytes.saturating_add(stored.bytes());
        self.unshipped.push_back(stored);
    }

    /// The oldest block without a receipt.
    pub(super) fn oldest(&self) -> Option<&Stored> {
        self.unshipped.front()
    }

    /// Forgets the oldest block, for which a receipt came, and names the files nobody needs any more.
    pub(super) fn pop(&mut self) -> Vec<PathBuf> {
        if let Some(gone) = self.unshipped.pop_front() {
            self.unshipped_bytes = self.unshipped_bytes.saturating_sub(gone.bytes());
            self.kept_bytes = self.kept_bytes.saturating_sub(gone.kept_bytes());
        }
        let needed_from = self
            .unshipped
            .front()
            .map_or(u64::MAX, |stored| stored.number);
        let mut unneeded = Vec::new();
        while self.segments.len() > 1
            && self
                .segments
                .front()
                .is_some_and(|oldest| oldest.last_block < needed_from)
        {
            unneeded.extend(self.segments.pop_front().map(|segment| segment.path));
        }
        unneeded
    }

    /// Bytes of the blocks without a receipt. The files may hold two segments more: the oldest one is
    /// partly shipped, and the newest one always stays.
    pub(super) fn bytes(&self) -> u64 {
        self.unshipped_bytes
    }

    /// Blocks without a receipt.
    pub(super) fn unshipped(&self) -> usize {
        self.unshipped.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(number: u64, file: &str) -> Stored {
        let frame = Frame {
            offset: 0,
            length: 10,
        };
        Stored {
            number,
            head_hash: [0; 32],
            path: PathBuf::from(file),
            frame,
            encoded: None,
        }
    }

    #[test]
    fn memory_keeps_what_fits_and_takes_more_when_there_is_room_again() {
        let half = Bytes::from(vec![0; MAX_KEPT_BYTES / 2]);
        let with_bytes = |number| Stored {
            encoded: Some(half.clone()),
            ..stored(number, "a")
        };
        let mut backlog = Backlog::default();
        let mut kept = Vec::new();
        (0..4).for_each(|number| backlog.push(with_bytes(number)));
        for number in 4..8 {
            kept.push(backlog.oldest().unwrap().encoded.is_some());
            backlog.pop();
            assert!(backlog.kept_bytes <= MAX_KEPT_BYTES);
            backlog.push(with_bytes(number));
        }
        assert_eq!(kept, [true, true, false, false]);
        assert!(backlog.oldest().unwrap().encoded.is_some());
        while backlog.oldest().is_some() {
            backlog.pop();
        }
        assert_eq!(backlog.kept_bytes, 0);
    }

    #[test]
    fn a_file_goes_when_all_its_blocks_are_shipped_but_the_newest_file_stays() {
        let mut backlog = Backlog::default();
        for (number, file) in [(0, "a"), (1, "a"), (2, "b"), (3, "c")] {
            backlog.push(stored(number, file));
        }
        assert_eq!(backlog.bytes(), 40);
        assert_eq!(backlog.pop(), Vec::<PathBuf>::new());
        assert_eq!(backlog.pop(), [PathBuf::from("a")]);
        assert_eq!(backlog.pop(), [PathBuf::from("b")]);
        assert_eq!(backlog.pop(), Vec::<PathBuf>::new());
        assert_eq!((backlog.unshipped(), backlog.bytes()), (0, 0));
        backlog.push(stored(4, "d"));
        assert_eq!(backlog.pop(), [PathBuf::from("c")]);
    }
}
