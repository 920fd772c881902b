//! What happened, for those who follow.

use serde::{Deserialize, Serialize};

/// One change. Changes are numbered in the order of commits, without gaps, over all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its number; also the version of the record it wrote.
    pub sequence: u64,
    /// Tenant.
    pub tenant: String,
    /// Collection or log.
    pub collection: String,
    /// What was done.
    pub operation: Operation,
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A record was inserted or replaced.
    Put {
        /// Its key.
        key: String,
    },
    /// A record was deleted, or swept after it had expired.
    Delete {
        /// Its key.
        key: String,
    },
    /// Entries were appended to a log.
    Append {
        /// Index of the first.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// A change as it is sealed; its number is in the associated data.
#[derive(Serialize, Deserialize)]
pub(crate) struct SealedForm {
    pub(crate) tenant: String,
    pub(crate) collection: String,
    pub(crate) operation: Operation,
}

impl SealedForm {
    pub(crate) fn numbered(self, sequence: u64) -> Change {
        Change {
            sequence,
            tenant: self.tenant,
            collection: self.collection,
            operation: self.operation,
        }
    }
}
