//! What is on disk and not yet in the ledger.

use std::{collections::VecDeque, path::PathBuf};

use super::segment::Frame;

/// A block on disk.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) number: u64,
    pub(super) head_hash: [u8; 32],
    pub(super) path: PathBuf,
    pub(super) frame: Frame,
}

impl Stored {
    fn bytes(&self) -> u64 {
        u64::try_from(self.frame.length).unwrap_or(u64::MAX)
    }
}

/// Blocks in order, with the files they lie in. The newest block's file always stays: the chain continues
/// from it after a restart.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    segments: VecDeque<Segment>,
    unshipped: VecDeque<Stored>,
    unshipped_bytes: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    last_block: u64,
}

impl Backlog {
    /// Notes a block that is on disk.
    pub(super) fn push(&mut self, stored: Stored) {
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
        self.unshipped_bytes = self.unshipped_bytes.saturating_add(stored.bytes());
        self.unshipped.push_back(stored);
    }

    /// The oldest block without a receipt.
    pub(super) fn oldest(&self) -> Option<&Stored> {
        self.unshipped.front()
    }

    /// Forgets the oldest block, for which a receipt came, and names the files nobody needs any more.
    pub(super) fn pop(&mut self) -> Vec<PathBuf> {
        let gone = self.unshipped.pop_front();
        self.unshipped_bytes = self
            .unshipped_bytes
            .saturating_sub(gone.map_or(0, |stored| stored.bytes()));
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
        }
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
