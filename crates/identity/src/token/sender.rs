//! What a client has that a thief of its tokens has not.

use serde::{Deserialize, Serialize};
use testudo_model::SpiffeId;

use crate::dpop::KeyThumbprint;

/// The key behind a token request. Two requests with one refresh token at the same moment are an honest race if
/// they are of one key, and a theft if they are of two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SenderKey {
    /// None that the request shows: a client secret, or the name of a public client.
    Unseen,
    /// The key of the workload's certificate. The certificates change every few minutes, whose they are does not.
    Workload(SpiffeId),
    /// The key it signed its assertion with.
    Assertion(KeyThumbprint),
    /// The key of its DPoP proof.
    Key(KeyThumbprint),
}
