//! SPIFFE identities (SPIFFE-ID specification, section 2).

use std::{fmt, str::FromStr, sync::Arc};

use crate::{ServiceName, text::serde_as_text};

const MAX_ID_BYTES: usize = 2048;
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Why a text is not a SPIFFE id or trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Not `spiffe://…` in exactly that case.
    #[error("a SPIFFE id starts with `spiffe://`")]
    Scheme,
    /// The trust domain is empty, too long or has a character outside `a-z0-9.-_`.
    #[error("a trust domain is 1 to 255 characters of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    /// The path has an empty, `.` or `..` segment, a trailing slash or a character outside `A-Za-z0-9.-_`.
    #[error(
        "a SPIFFE path is `/`-separated segments of A-Z, a-z, 0-9, `.`, `-` and `_`, none empty, `.` or `..`"
    )]
    Path,
    /// Longer than 2048 bytes.
    #[error("a SPIFFE id has at most 2048 bytes")]
    TooLong,
}

/// A trust domain: the part after `spiffe://`, before the first slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as text, e.g. `bookshop.example`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The default id of a declared service: `spiffe://<domain>/svc/<service>`.
    pub fn service(&self, name: &ServiceName) -> SpiffeId {
        self.known_path("/svc/", name.as_str())
    }

    /// The gateway's id: `spiffe://<domain>/testudo/gateway`. Only ids under `/testudo/` are ours to give.
    pub fn gateway(&self) -> SpiffeId {
        self.known_path("/testudo/", "gateway")
    }

    /// The control plane's id: `spiffe://<domain>/testudo/server`.
    pub fn server(&self) -> SpiffeId {
        self.known_path("/testudo/", "server")
    }

    fn known_path(&self, prefix: &str, last: &str) -> SpiffeId {
        SpiffeId {
            text: format!("spiffe://{}{prefix}{last}", self.0).into(),
            path_at: "spiffe://".len() + self.0.len(),
        }
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        if is_trust_domain(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSpiffeId::TrustDomain)
        }
    }
}

fn is_trust_domain(text: &str) -> bool {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= MAX_TRUST_DOMAIN_BYTES && text.bytes().all(allowed)
}

/// A workload's identity: `spiffe://<trust domain>/<path>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    path_at: usize,
}

impl SpiffeId {
    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path with its leading slash; empty for a trust domain's own id.
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or("")
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        let domain = self.text.get("spiffe://".len()..self.path_at).unwrap_or("");
        TrustDomain(domain.into())
    }

    /// Whether the id is in `domain`. No allocation.
    pub fn is_in(&self, domain: &TrustDomain) -> bool {
        self.text.get("spiffe://".len()..self.path_at) == Some(domain.as_str())
    }

    /// The declared service this id names, if it has the default form `/svc/<service>`.
    pub fn service(&self) -> Option<ServiceName> {
        self.path().strip_prefix("/svc/")?.parse().ok()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID_BYTES {
            return Err(InvalidSpiffeId::TooLong);
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or(InvalidSpiffeId::Scheme)?;
        let (domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if !is_trust_domain(domain) {
            return Err(InvalidSpiffeId::TrustDomain);
        }
        let segment_ok = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !path.is_empty() && !path.split('/').skip(1).all(segment_ok) {
            return Err(InvalidSpiffeId::Path);
        }
        Ok(Self {
            text: text.into(),
            path_at: "spiffe://".len() + domain.len(),
        })
    }
}

macro_rules! text_conversions {
    ($($name:ident: $field:tt),*) => {$(
        serde_as_text!($name);

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.$field)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.$field)
            }
        }
    )*};
}

text_conversions!(TrustDomain: 0, SpiffeId: text);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_specification() {
        let id: SpiffeId = "spiffe://bookshop.example/svc/orders".parse().unwrap();
        assert_eq!(id.path(), "/svc/orders");
        assert_eq!(id.trust_domain().as_str(), "bookshop.example");
        assert_eq!(id.service(), Some("orders".parse().unwrap()));
        assert_eq!(id, id.trust_domain().service(&"orders".parse().unwrap()));
        for bad in [
            "SPIFFE://a/b",
            "https://a/b",
            "spiffe://",
            "spiffe:///b",
            "spiffe://A/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a/./b",
            "spiffe://a/b/",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/b%2fc",
            "spiffe://a/b\0",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
