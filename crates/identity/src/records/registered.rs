//! What is known of a client because it registered itself.

use serde::{Deserialize, Serialize};
use testudo_model::{RegistrationTokenId, Timestamp};

use crate::AuthMethod;

/// What is known of a client because it registered itself, by the names of the metadata registered with IANA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// How it proves who it is.
    pub auth_method: AuthMethod,
    /// Where it runs.
    pub application_type: ApplicationType,
    /// What it says about itself.
    pub about: About,
    /// The token it was registered with.
    pub token: RegistrationTokenId,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// Where an application runs (OpenID Connect Dynamic Client Registration 1.0 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplicationType {
    /// On a server or in a browser: the browser returns to `https`.
    Web,
    /// On the user's device.
    Native,
}

/// What a client says about itself. It is kept for administrators and for the client; nothing of it is shown to users or
/// fetched, because nobody knows whether it is true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Its home page.
    pub client_uri: Option<String>,
    /// A picture.
    pub logo_uri: Option<String>,
    /// What it does with people's data.
    pub policy_uri: Option<String>,
    /// Its terms.
    pub tos_uri: Option<String>,
    /// Where its login can be begun (OpenID Connect Core 1.0 section 4).
    pub initiate_login_uri: Option<String>,
    /// Who answers for it.
    pub contacts: Vec<String>,
    /// Which software it is, the same for all its installations.
    pub software_id: Option<String>,
    /// Which version of it.
    pub software_version: Option<String>,
}
