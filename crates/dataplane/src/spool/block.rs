//! Blocks: runs of events, Merkle-rooted, chained and signed by the proxy's identity.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use testudo_model::{
    InstanceId, Timestamp,
    event::{Block, BlockError, BlockHead, Event, EventLines},
};
use testudo_trust::{
    Svid, base64url, hex,
    merkle::{Frontier, leaf_hash},
    sha256,
};

/// The events of the next block. Each is encoded and hashed as it comes, once: its text goes to disk and onto
/// the wire as it is here.
#[derive(Debug, Default)]
pub(super) struct Draft {
    lines: EventLines,
    tree: Frontier,
}

/// The chain a spool's blocks form. `block`, `sequence` and `previous` have no gaps, so that a missing block
/// cannot be hidden.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    instance: InstanceId,
    next_block: u64,
    next_sequence: u64,
    previous: [u8; 32],
}

/// A block, ready to be written and shipped.
#[derive(Debug)]
pub(super) struct SealedBlock {
    pub(super) number: u64,
    pub(super) head_hash: [u8; 32],
    /// A [`Block`], encoded.
    pub(super) encoded: Bytes,
}

/// Why a block could not be made. The events stay where they are.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    /// No valid identity to sign with.
    #[error(
        "the certificate of {id} ended at {ended}: its signature would prove nothing; renew or join again"
    )]
    Expired { id: String, ended: Timestamp },
    /// The head could not be written as JSON.
    #[error("could not encode the head of the block")]
    Encode(#[source] serde_json::Error),
}

/// Why blocks read back do not form a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BrokenChain {
    #[error("it is not a block: {0}")]
    Form(#[from] BlockError),
    #[error("its head is not one")]
    Head,
    #[error("it belongs to another instance")]
    Instance,
    #[error("a block is missing before it")]
    Gap,
    #[error("it does not continue the block before it")]
    Previous,
}

impl Draft {
    /// Takes an event in, or gives it back, with nothing changed, if it is too long.
    pub(super) fn push(&mut self, event: Box<Event>) -> Result<(), Box<Event>> {
        let leaf = leaf_hash(self.lines.push(event)?);
        self.tree.append(leaf);
        Ok(())
    }

    /// Whether there is no event.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether it has to be sealed before another event comes.
    pub(super) fn is_full(&self) -> bool {
        self.lines.is_full()
    }

    /// Starts over, with the memory it has.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.tree = Frontier::new();
    }
}

impl Chain {
    /// The chain of a new spool.
    pub(super) fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            next_block: 0,
            next_sequence: 0,
            previous: [0; 32],
        }
    }

    /// Number of the next block.
    pub(super) fn next_block(&self) -> u64 {
        self.next_block
    }

    /// Sequence number of the next event.
    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Makes the next block of `draft` and moves on. On an error the chain has not moved.
    pub(super) fn seal(
        &mut self,
        draft: &Draft,
        lost: u64,
        svid: &Svid,
        now: Timestamp,
    ) -> Result<SealedBlock, SealError> {
        if now >= svid.not_after() {
            return Err(SealError::Expired {
                id: svid.id().to_string(),
                ended: svid.not_after(),
            });
        }
        let count = u32::try_from(draft.tree.size()).unwrap_or(u32::MAX);
        let head = BlockHead {
            reporter: svid.id().clone(),
            instance: self.instance.clone(),
            block: self.next_block,
            first_sequence: self.next_sequence,
            count,
            previous: hex::encode(&self.previous),
            root: hex::encode(&draft.tree.root()),
            lost,
            sealed_at: now,
        };
        let head = serde_json::to_string(&head).map_err(SealError::Encode)?;
        let head_hash = sha256(head.as_bytes());
        let signature = base64url::encode(&svid.sign(head.as_bytes()));
        let chain = svid.chain().iter().map(|der| STANDARD.encode(der));
        let encoded = draft
            .lines
            .encode(&head, &signature, &chain.collect::<Vec<_>>());
        let number = self.next_block;
        self.advance(count, head_hash);
        Ok(SealedBlock {
            number,
            head_hash,
            encoded: encoded.into(),
        })
    }

    /// Takes in a block read back from disk; `Ok(None)` for a repetition of the newest one (a write that was
    /// retried although it had succeeded).
    pub(super) fn follow(
        &mut self,
        encoded: Bytes,
        is_oldest: bool,
    ) -> Result<Option<SealedBlock>, BrokenChain> {
        let block = Block::decode(&encoded)?;
        let head: BlockHead = serde_json::from_str(&block.head).map_err(|_| BrokenChain::Head)?;
        let head_hash = sha256(block.head.as_bytes());
        if head.instance != self.instance {
            return Err(BrokenChain::Instance);
        }
        if is_oldest {
            // What came before was shipped and deleted: the oldest block on disk is taken as the anchor.
            self.next_block = head.block;
            self.next_sequence = head.first_sequence;
        } else if head.block.checked_add(1) == Some(self.next_block) && head_hash == self.previous {
            return Ok(None);
        } else if (head.block, head.first_sequence) != (self.next_block, self.next_sequence) {
            return Err(BrokenChain::Gap);
        } else if head.previous != hex::encode(&self.previous) {
            return Err(BrokenChain::Previous);
        }
        self.advance(head.count, head_hash);
        Ok(Some(SealedBlock {
            number: head.block,
            head_hash,
            encoded,
        }))
    }

    fn advance(&mut self, count: u32, head_hash: [u8; 32]) {
        self.next_block += 1;
        self.next_sequence += u64::from(count);
        self.previous = head_hash;
    }
}
