//! Admin API, identity endpoints, enrolment, snapshots and the ledger's intake.
