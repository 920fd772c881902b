//! The ledger: an append-only Merkle log of events with signed checkpoints and proofs.
//!
//! A leaf is an event, the signed head of a block of events, or evidence of a forked spool ([`Leaf`]). Hashing
//! is RFC 6962, checkpoints, tiles and proofs are C2SP, so that a stranger's tool verifies what is exported.
//!
//! * [`Ledger::append`] takes the control plane's own events, [`Ledger::take`] those that another room commits
//!   with its changes, [`Ledger::intake`] the blocks of proxies. All return when leaves, tree and signed
//!   checkpoint are durable, in one transaction of the store.
//! * [`Ledger::search`], [`Ledger::tail`], [`Ledger::entry`] read; [`Ledger::prove`] and
//!   [`Ledger::consistency`] prove; [`Ledger::verify`] recomputes everything in place.
//! * [`Ledger::export`] writes plain files; [`verify_export`] and [`verify_proof_file`] need nothing else.
//!
//! Leaves hold personal data. They are sealed in the store; an export is readable by whoever gets it.
//!
//! What this cannot show: a ledger rewritten by somebody who has its signing key, unless a checkpoint from
//! before was kept elsewhere. Keep some, and give one to [`Ledger::verify`].

mod alike;
mod commit;
mod error;
mod evidence;
mod export;
mod filter;
mod index;
mod inspection;
mod intake;
mod leaf;
mod ledger;
mod offline;
mod outbox;
mod proof;
mod search;
mod spool;
mod tile;
mod verification;

pub use error::{ExportError, IntakeError, LedgerError, ProofError};
pub use filter::{Filter, FilterError};
pub use inspection::{Defect, Report};
pub use leaf::{BlockEvidence, Leaf, LeafError};
pub use ledger::{Appended, Ledger, LedgerOptions};
pub use offline::{Anchors, verify_export};
pub use proof::{ProvenLeaf, verify_proof_file};
pub use search::{Entry, SearchPage};
