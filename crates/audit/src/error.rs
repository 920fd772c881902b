//! What can go wrong in this room.

use std::{path::PathBuf, sync::Arc};

use testudo_model::{InstanceId, SpiffeId, Timestamp};
use testudo_store::StoreError;

/// Why the ledger failed. An operation that fails has appended nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// An event is longer than a leaf may be.
    #[error(
        "event {index} of the call has {bytes} bytes encoded, the limit is {limit}; shorten its details"
    )]
    EventTooLarge {
        /// Its place in the call.
        index: usize,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More events in one call than a block may have.
    #[error("{count} events in one call, the limit is {limit}; append them in parts")]
    TooManyEvents {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// An event is of another tenant or cannot be encoded.
    #[error("event {index} of the call cannot be a leaf: {why}")]
    EventMalformed {
        /// Its place in the call.
        index: usize,
        /// Why.
        why: &'static str,
    },
    /// More callers wait than the queue holds.
    #[error("too many appends wait for the disk; try again")]
    Busy,
    /// Other control planes won every attempt.
    #[error("other control planes append faster than this one; try again")]
    Contended,
    /// There is no such leaf.
    #[error("there is no leaf {index}; the ledger has {size}")]
    NoSuchLeaf {
        /// The index asked for.
        index: u64,
        /// The size of the ledger.
        size: u64,
    },
    /// A tree of that size never existed.
    #[error("there is no tree of size {asked}; the ledger has {size} leaves")]
    NoSuchSize {
        /// The size asked for.
        asked: u64,
        /// The size of the ledger.
        size: u64,
    },
    /// What the store holds contradicts itself.
    #[error("the ledger is damaged: {what}; run `testudo audit verify` and restore a backup")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl LedgerError {
    /// The stable code of the error, with a page in `docs/errors`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::EventTooLarge { .. } => "audit.event_too_large",
            Self::TooManyEvents { .. } => "audit.too_many_events",
            Self::EventMalformed { .. } => "audit.event_malformed",
            Self::Busy => "audit.busy",
            Self::Contended => "audit.contended",
            Self::NoSuchLeaf { .. } => "audit.no_such_leaf",
            Self::NoSuchSize { .. } => "audit.no_such_size",
            Self::Damaged { .. } => "audit.damaged",
            Self::Store(_) => "audit.store",
        }
    }
}

/// Why a block was not taken. There is no receipt; the proxy keeps the block.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IntakeError {
    /// A part of the block is malformed or beyond a limit.
    #[error("the block is malformed: {what}")]
    Malformed {
        /// What.
        what: &'static str,
    },
    /// An event of the block cannot be a leaf.
    #[error("event {index} of the block cannot be a leaf: {why}")]
    Event {
        /// Its place in the block.
        index: usize,
        /// Why.
        why: &'static str,
    },
    /// The certificate chain does not verify at the time of sealing.
    #[error("the block's certificate chain does not verify at {sealed_at}")]
    Chain {
        /// When the block says it was sealed.
        sealed_at: Timestamp,
        /// Why.
        #[source]
        source: Arc<testudo_trust::X509Error>,
    },
    /// The certificate is somebody else's.
    #[error("the block says it comes from `{claimed}`, its certificate says `{certified}`")]
    Reporter {
        /// The head's reporter.
        claimed: SpiffeId,
        /// The certificate's id.
        certified: SpiffeId,
    },
    /// The signature does not fit head and certificate.
    #[error("the block's signature does not verify")]
    Signature,
    /// The events are not those the head commits to.
    #[error("the block's events are not those that its head was signed over")]
    Root,
    /// The reporter's clock is ahead.
    #[error("the block was sealed at {sealed_at}, which is in the future; set the proxy's clock")]
    Future {
        /// When the block says it was sealed.
        sealed_at: Timestamp,
    },
    /// The spool belongs to another reporter.
    #[error("spool {instance} belongs to `{owner}`")]
    ForeignSpool {
        /// The spool.
        instance: InstanceId,
        /// Whose it is.
        owner: SpiffeId,
    },
    /// The block contradicts what the same spool reported before. It was kept as evidence.
    #[error(
        "block {block} of spool {instance} contradicts what was reported before; the proxy must start a new \
         spool"
    )]
    Forked {
        /// The spool.
        instance: InstanceId,
        /// The block.
        block: u64,
    },
    /// The block leaves a gap and the spool has too many already. Send the missing blocks first.
    #[error("spool {instance} has too many gaps; send block {wanted} first")]
    TooManyGaps {
        /// The spool.
        instance: InstanceId,
        /// The first missing block.
        wanted: u64,
    },
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[from] LedgerError),
}

impl IntakeError {
    /// Whether sending the same block again can never help: the proxy sets it aside and goes on with the next
    /// one, which leaves a gap that shows.
    pub const fn is_permanent(&self) -> bool {
        !matches!(
            self,
            Self::Ledger(_) | Self::Future { .. } | Self::TooManyGaps { .. }
        )
    }

    /// The stable code of the error, with a page in `docs/errors`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "audit.block_malformed",
            Self::Event { .. } => "audit.block_event",
            Self::Chain { .. } => "audit.block_chain",
            Self::Reporter { .. } => "audit.block_reporter",
            Self::Signature => "audit.block_signature",
            Self::Root => "audit.block_root",
            Self::Future { .. } => "audit.block_future",
            Self::ForeignSpool { .. } => "audit.block_foreign_spool",
            Self::Forked { .. } => "audit.block_forked",
            Self::TooManyGaps { .. } => "audit.block_too_many_gaps",
            Self::Ledger(error) => error.code(),
        }
    }
}

impl From<StoreError> for IntakeError {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error.into())
    }
}

/// Why an export could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The folder has something in it.
    #[error("`{}` is not empty; export into a new folder", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// A file cannot be written or read.
    #[error("`{}` cannot be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The verifier key is not one.
    #[error("the verifier key is malformed; it has the form `<name>+<id>+<base64>`")]
    VerifierKey,
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[from] LedgerError),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error.into())
    }
}

/// Why a proof file proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The verifier key is not one.
    #[error("the verifier key is malformed; it has the form `<name>+<id>+<base64>`")]
    VerifierKey,
    /// The file does not have the form `c2sp.org/tlog-proof@v1`.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The checkpoint is not signed by the key.
    #[error("the checkpoint is not signed by the given key")]
    Checkpoint,
    /// The checkpoint is of another log.
    #[error("the checkpoint is of another log")]
    Origin,
    /// The hashes do not lead from the leaf to the checkpoint's root.
    #[error("the leaf is not in the tree of the checkpoint")]
    NotIncluded,
}
