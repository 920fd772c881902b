//! Addresses of clients that we call ourselves.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::limits::MAX_REDIRECT_URI_BYTES;

/// A text that is not an address we would call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an absolute http(s) URL with a host, without fragment and user information, of at most \
     {MAX_REDIRECT_URI_BYTES} bytes"
)]
pub struct InvalidNotificationUri(String);

/// A registered address that is called when something happens (`backchannel_logout_uri`).
///
/// It says what the client wrote. Whether it may be called is decided when it is: the scheme, and the addresses behind the
/// name at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NotificationUri(String);

impl NotificationUri {
    /// The address as registered.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NotificationUri {
    type Err = InvalidNotificationUri;

    fn from_str(text: &str) -> Result<Self, InvalidNotificationUri> {
        let invalid = || InvalidNotificationUri(text.chars().take(128).collect());
        let plain = text.len() <= MAX_REDIRECT_URI_BYTES
            && text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let url = plain.then(|| Url::parse(text).ok()).flatten();
        let url = url.ok_or_else(invalid)?;
        let good = matches!(url.scheme(), "https" | "http")
            && text.contains("://")
            && url.has_host()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid())
        }
    }
}

impl TryFrom<String> for NotificationUri {
    type Error = InvalidNotificationUri;

    fn try_from(text: String) -> Result<Self, InvalidNotificationUri> {
        text.parse()
    }
}

impl From<NotificationUri> for String {
    fn from(uri: NotificationUri) -> Self {
        uri.0
    }
}

impl fmt::Display for NotificationUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_call_is_written_out() {
        for good in ["https://app.example/logout", "http://127.0.0.1:8080/x?y=z"] {
            assert_eq!(good.parse::<NotificationUri>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/logout",
            "https:app.example",
            "https://",
            "https://app.example/#x",
            "https://user@app.example/",
            "https://user:pass@app.example/",
            "https://app.example\\@evil.example/",
            "https://app example/",
            "ftp://app.example/",
            "file:///etc/passwd",
            "gopher://app.example/",
            "javascript:alert(1)",
        ] {
            assert!(bad.parse::<NotificationUri>().is_err(), "{bad}");
        }
        let long = format!("https://app.example/{}", "x".repeat(MAX_REDIRECT_URI_BYTES));
        assert!(long.parse::<NotificationUri>().is_err());
    }
}
