//! Limits of the store, each with its reason.

use testudo_model::limits::MAX_SNAPSHOT_BYTES;

/// Longest tenant, collection, log, index or key.
pub const MAX_NAME_BYTES: usize = 4 * 1024;
/// Largest record or log entry as JSON: a snapshot is the largest thing anybody keeps.
pub const MAX_VALUE_BYTES: usize = MAX_SNAPSHOT_BYTES;
/// Bytes of log entries after which the next one starts a row of its own. Reading one entry opens its whole
/// row: about 20 µs for this much.
pub const RUN_BYTES: usize = 64 * 1024;
/// Index values of one record. Each costs a row.
pub const MAX_INDEX_VALUES: usize = 256;
/// Operations in one transaction: a longer one makes all other writers wait.
pub const MAX_OPERATIONS: usize = 10_000;
/// Records, entries or changes in one answer. A larger `limit` means this one.
pub const MAX_PAGE: usize = 10_000;
/// Records [`find`](crate::Tenant::find) answers with. More are an error, since nobody would notice a cut.
pub const MAX_FOUND: usize = 100_000;
/// Changes kept for those who follow. About 200 bytes each.
pub const CHANGES_KEPT: u64 = 100_000;
/// Transactions waiting for the writer. Further writers wait for a place.
pub const WRITE_QUEUE: usize = 4_096;
/// Transactions in one commit, so that the first does not wait for ever.
pub const MAX_GROUP: usize = 1_024;
