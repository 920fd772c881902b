//! Secrets in the fleet file: by reference only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a secret is. The secret itself is never in the fleet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretReference {
    /// The text of a file, without its final line break. The path is relative to the fleet file.
    File(String),
    /// An environment variable of the process that reads the fleet file.
    Env(String),
    /// An argon2id hash in PHC form, `$argon2id$…`.
    Hash(String),
}

impl SecretReference {
    /// Name of the type in serde's data model: the reader recognises a secret written in place by it.
    pub(super) const TYPE_NAME: &'static str = "SecretReference";
}
