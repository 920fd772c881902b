//! What an issuer says of itself (OpenID Connect Discovery 1.0 section 3).

use serde::Deserialize;
use url::Url;

/// Where an issuer is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamMetadata {
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    userinfo_endpoint: Option<String>,
    jwks_uri: String,
    /// Whether its answers say whose they are (RFC 9207).
    pub(super) names_itself: bool,
}

/// Why metadata is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// Not what section 3 says.
    #[error("the metadata of the issuer is not as specified")]
    Malformed,
    /// It says so itself.
    #[error("the metadata is of another issuer")]
    OtherIssuer,
    /// An address that browsers or secrets would be sent to without protection.
    #[error("an address in the metadata is not https")]
    Address,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: Option<String>,
    jwks_uri: String,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl UpstreamMetadata {
    /// Reads the metadata of `issuer`. `http` is for development.
    ///
    /// # Errors
    /// It is malformed or of another issuer (section 4.3: it would bring that one's keys and addresses), or has an address
    /// that is not `https`.
    pub fn read(text: &[u8], issuer: &str, allow_http: bool) -> Result<Self, InvalidMetadata> {
        let document: Document =
            serde_json::from_slice(text).map_err(|_| InvalidMetadata::Malformed)?;
        if document.issuer != issuer {
            return Err(InvalidMetadata::OtherIssuer);
        }
        let is_address = |text: &String| is_address(text, allow_http);
        let are_addresses = is_address(&document.authorization_endpoint)
            && is_address(&document.token_endpoint)
            && is_address(&document.jwks_uri)
            && document.userinfo_endpoint.as_ref().is_none_or(is_address);
        if !are_addresses {
            return Err(InvalidMetadata::Address);
        }
        Ok(Self {
            authorization_endpoint: document.authorization_endpoint,
            token_endpoint: document.token_endpoint,
            userinfo_endpoint: document.userinfo_endpoint,
            jwks_uri: document.jwks_uri,
            names_itself: document.authorization_response_iss_parameter_supported,
        })
    }

    /// Where its keys are.
    pub fn jwks_uri(&self) -> &str {
        &self.jwks_uri
    }

    /// Where it says more about somebody.
    pub fn userinfo_endpoint(&self) -> Option<&str> {
        self.userinfo_endpoint.as_deref()
    }
}

fn is_address(text: &str, allow_http: bool) -> bool {
    let Ok(url) = Url::parse(text) else {
        return false;
    };
    let is_scheme = url.scheme() == "https" || (allow_http && url.scheme() == "http");
    let has_nobody = url.username().is_empty() && url.password().is_none();
    // What a browser is sent to goes into a header.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    is_scheme && has_nobody && is_plain && url.has_host() && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://login.corp.example";

    fn read(name: &str, value: &str) -> Result<UpstreamMetadata, InvalidMetadata> {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://login.corp.example/auth?tenant=1",
            "token_endpoint": "https://login.corp.example/token",
            "jwks_uri": "https://keys.corp.example/",
        });
        document[name] = value.into();
        UpstreamMetadata::read(document.to_string().as_bytes(), ISSUER, false)
    }

    #[test]
    fn metadata_is_of_the_issuer_to_the_letter_and_leads_to_https_alone() {
        assert!(read("userinfo_endpoint", "https://login.corp.example/me").is_ok());
        for issuer in [
            "https://login.corp.example/",
            "https://LOGIN.corp.example",
            "https://evil.example",
            "",
        ] {
            assert_eq!(
                read("issuer", issuer),
                Err(InvalidMetadata::OtherIssuer),
                "{issuer}"
            );
        }
        for name in [
            "authorization_endpoint",
            "token_endpoint",
            "userinfo_endpoint",
            "jwks_uri",
        ] {
            for address in [
                "http://login.corp.example/",
                "javascript:alert(1)",
                "file:///etc/passwd",
                "//login.corp.example/",
                "https://corp@evil.example/",
                "https://login.corp.example/#x",
                "https://login.corp.example/\nSet-Cookie:%20a=b",
                "",
            ] {
                assert_eq!(
                    read(name, address),
                    Err(InvalidMetadata::Address),
                    "{name} {address:?}"
                );
            }
        }
        assert_eq!(
            UpstreamMetadata::read(b"[]", ISSUER, false),
            Err(InvalidMetadata::Malformed)
        );
    }
}
