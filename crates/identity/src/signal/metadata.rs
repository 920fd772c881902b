//! What a transmitter says of itself (SSF 1.0 section 7).

use serde_json::{Value, json};

use super::SignalDelivery;
use crate::{Fault, Provider, paths, records::ServiceAccount};

/// The part of the specification that is implemented.
const SPEC_VERSION: &str = "1_0";

impl Provider {
    /// The metadata; `None` while there is no receiver: then there is no transmitter either.
    ///
    /// # Errors
    /// The store fails.
    pub fn signal_metadata(&self) -> Result<Option<Value>, Fault> {
        let receivers = self
            .tenant
            .find::<ServiceAccount>(ServiceAccount::SIGNALS_INDEX, "receiver")?;
        if receivers.is_empty() {
            return Ok(None);
        }
        Ok(Some(json!({
            "spec_version": SPEC_VERSION,
            "issuer": self.settings.issuer,
            "jwks_uri": self.at(paths::JWKS),
            "delivery_methods_supported": [SignalDelivery::PUSH, SignalDelivery::POLL],
            "configuration_endpoint": self.at(paths::SSF_STREAMS),
            "status_endpoint": self.at(paths::SSF_STATUS),
            "add_subject_endpoint": self.at(paths::SSF_ADD_SUBJECT),
            "remove_subject_endpoint": self.at(paths::SSF_REMOVE_SUBJECT),
            "verification_endpoint": self.at(paths::SSF_VERIFICATION),
            "authorization_schemes": [
                { "spec_urn": "urn:ietf:rfc:6749" },
                { "spec_urn": "urn:ietf:rfc:9449" },
                { "spec_urn": "urn:ietf:rfc:8705" },
            ],
            "default_subjects": "ALL",
        })))
    }

    /// The URL of an endpoint.
    pub(super) fn at(&self, path: &str) -> String {
        [self.settings.issuer.as_str(), path].concat()
    }
}
