//! Host names under which the fleet is reached.

use std::{fmt, net::IpAddr, str::FromStr};

use super::text_value::text_value;

/// A DNS name in lower case or an IP address, without a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(String);

/// A text that is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a host name: write a DNS name in lower case (no port, no wildcard) or an IP address"
)]
pub struct InvalidHostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn localhost() -> Self {
        Self("localhost".to_owned())
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, InvalidHostName> {
        // The printed form of an address is its one canonical form.
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_string()));
        }
        let is_name = text.len() <= 253 && text.split('.').all(is_label);
        let looks_like_address = text
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if is_name && !looks_like_address {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidHostName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

text_value!(
    HostName,
    "a host name",
    "^[a-z0-9:]([a-z0-9.:-]*[a-z0-9:])?$",
    ["localhost", "shop.bookshop.example"]
);

/// A label of RFC 1123 section 2.1, in lower case.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_have_one_form() {
        for good in [
            "localhost",
            "shop.bookshop.example",
            "127.0.0.1",
            "::1",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
        }
        assert_eq!(
            "0:0:0:0:0:0:0:1".parse::<HostName>().unwrap().as_str(),
            "::1"
        );
        for bad in [
            "",
            "Shop.example",
            "a..b",
            "-a.example",
            "a.example:443",
            "*.example",
            "a.example.",
            "1.2.3",
            "bücher.example",
        ] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }
}
