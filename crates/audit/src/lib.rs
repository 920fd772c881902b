//! The ledger: an append-only Merkle log of events with signed checkpoints and proofs.
