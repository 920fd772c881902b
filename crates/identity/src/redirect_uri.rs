//! Redirect URIs: compared byte by byte, with the one exception of RFC 8252 section 7.3.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::{Host, Url, form_urlencoded};

use crate::limits::MAX_REDIRECT_URI_BYTES;

/// Why a text cannot be registered as redirect URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedirectUri {
    /// Longer than [`MAX_REDIRECT_URI_BYTES`].
    #[error("a redirect URI has at most {MAX_REDIRECT_URI_BYTES} bytes")]
    TooLong,
    /// Not an absolute URI of printable ASCII without `\`.
    #[error("`{0}` is not an absolute URI of plain ASCII")]
    NotAbsolute(String),
    /// Has a fragment or user information.
    #[error("`{0}` has a fragment or user information")]
    FragmentOrUser(String),
    /// The scheme sends codes in the clear or to a script.
    #[error(
        "`{0}` must be https, http on the loopback interface, or a private-use scheme with a dot (RFC 8252)"
    )]
    Scheme(String),
}

/// A registered redirect URI.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RedirectUri(String);

impl RedirectUri {
    /// The URI as registered.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a request may ask for `presented`: the same bytes, or, for a native client, the same loopback
    /// address and path with another port (RFC 8252 section 7.3).
    pub(crate) fn accepts(&self, presented: &str, any_loopback_port: bool) -> bool {
        if self.0 == presented {
            return true;
        }
        match (
            any_loopback_port,
            loopback_parts(&self.0),
            loopback_parts(presented),
        ) {
            (true, Some(registered), Some(presented)) => registered == presented,
            _ => false,
        }
    }
}

/// Whether any program of the user's machine could be the one that takes the answer: a loopback port or a
/// private-use scheme belongs to whoever asks for it first (RFC 8252 section 8.6).
pub(crate) fn is_anybodys(uri: &str) -> bool {
    !uri.starts_with("https://")
}

/// What tells people where they are sent: the host, or the scheme of an application on their device.
pub(crate) fn place_of(uri: &str) -> &str {
    let (scheme, rest) = uri.split_once(':').unwrap_or((uri, ""));
    match rest.strip_prefix("//") {
        Some(rest) if matches!(scheme, "https" | "http") => {
            rest.split(['/', '?']).next().unwrap_or(rest)
        }
        _ => scheme,
    }
}

/// `uri` with further query parameters. `uri` was matched with a registered one, so it has no fragment.
pub(crate) fn with_parameters(uri: &str, parameters: &[(&str, &str)]) -> String {
    let encoded = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish();
    let separator = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{separator}{encoded}")
}

/// Host and the rest behind the port of `http://127.0.0.1[:port]/…` or `http://[::1][:port]/…`.
fn loopback_parts(uri: &str) -> Option<(&'static str, &str)> {
    let authority_on = uri.strip_prefix("http://")?;
    ["127.0.0.1", "[::1]"].into_iter().find_map(|host| {
        let behind_host = authority_on.strip_prefix(host)?;
        let rest = match behind_host.strip_prefix(':') {
            Some(port_on) => {
                let rest = port_on.trim_start_matches(|c: char| c.is_ascii_digit());
                let port = port_on.strip_suffix(rest)?;
                port.parse::<u16>().ok().filter(|port| *port != 0)?;
                rest
            }
            None => behind_host,
        };
        (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((host, rest))
    })
}

fn scheme_is_safe(url: &Url) -> bool {
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http" | "https", None) => false,
        // A private-use scheme is a reversed domain name (RFC 8252 section 7.1), which `javascript` is not.
        (scheme, _) => scheme.contains('.'),
    }
}

impl FromStr for RedirectUri {
    type Err = InvalidRedirectUri;

    fn from_str(text: &str) -> Result<Self, InvalidRedirectUri> {
        if text.len() > MAX_REDIRECT_URI_BYTES {
            return Err(InvalidRedirectUri::TooLong);
        }
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|}*".contains(&byte));
        let url = plain.then(|| Url::parse(text).ok()).flatten();
        let Some(url) = url else {
            return Err(InvalidRedirectUri::NotAbsolute(text.to_owned()));
        };
        if text.contains('#') || !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidRedirectUri::FragmentOrUser(text.to_owned()));
        }
        // `https:evil`, `https:/evil` and `https:///evil` parse as `https://evil`: what browsers repair is not what is
        // written.
        let written_out = !matches!(url.scheme(), "http" | "https")
            || (text.contains("://") && !text.contains(":///"));
        if !written_out {
            return Err(InvalidRedirectUri::NotAbsolute(text.to_owned()));
        }
        if !scheme_is_safe(&url) {
            return Err(InvalidRedirectUri::Scheme(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RedirectUri {
    type Error = InvalidRedirectUri;

    fn try_from(text: String) -> Result<Self, InvalidRedirectUri> {
        text.parse()
    }
}

impl From<RedirectUri> for String {
    fn from(uri: RedirectUri) -> Self {
        uri.0
    }
}

impl fmt::Debug for RedirectUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> RedirectUri {
        text.parse().unwrap()
    }

    #[test]
    fn what_leaks_codes_cannot_be_registered() {
        for bad in [
            "",
            "/callback",
            "//evil.example/cb",
            "https:evil.example",
            "https:/evil.example",
            "https:///evil.example",
            "https:////evil.example",
            "\\evil",
            "http://shop.example/cb",
            "http://127.0.0.1.evil.example/cb",
            "https://shop.example/cb#fragment",
            "https://user@shop.example/cb",
            "https://shop.example\\@evil.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://shop.example/c b",
            "https://shop.example/\r\nset-cookie:x",
        ] {
            assert!(bad.parse::<RedirectUri>().is_err(), "{bad}");
        }
        for good in [
            "https://shop.example/cb?tenant=1",
            "http://127.0.0.1/cb",
            "http://[::1]:0/cb",
            "http://localhost:3000/cb",
            "com.example.app:/cb",
        ] {
            assert!(good.parse::<RedirectUri>().is_ok(), "{good}");
        }
    }

    #[test]
    fn a_redirect_uri_is_compared_byte_by_byte() {
        let registered = uri("https://shop.example/cb");
        assert!(registered.accepts("https://shop.example/cb", false));
        for other in [
            "https://shop.example/cb/",
            "https://shop.example/cb?x=1",
            "https://SHOP.example/cb",
            "https://shop.example:443/cb",
            "https://shop.example/%63b",
            "https://shop.example/x/../cb",
        ] {
            assert!(!registered.accepts(other, true), "{other}");
        }
    }

    #[test]
    fn a_native_client_may_choose_the_loopback_port_and_nothing_else() {
        let registered = uri("http://127.0.0.1/cb");
        assert!(registered.accepts("http://127.0.0.1:51234/cb", true));
        assert!(
            !registered.accepts("http://127.0.0.1:51234/cb", false),
            "not for web clients"
        );
        for other in [
            "http://127.0.0.1:51234/other",
            "http://127.0.0.1:51234/cb?x",
            "http://127.0.0.1:0/cb",
            "http://127.0.0.1:65536/cb",
            "http://127.0.0.1:80@evil.example/cb",
            "http://127.0.0.1:/cb",
            "http://[::1]:51234/cb",
            "http://127.0.0.1.evil.example/cb",
            "http://localhost:51234/cb",
        ] {
            assert!(!registered.accepts(other, true), "{other}");
        }
    }

    #[test]
    fn people_are_told_the_host_or_the_scheme() {
        for (uri, place) in [
            (
                "https://shop.example/cb?x=https://bank.example",
                "shop.example",
            ),
            ("https://shop.example:8443", "shop.example:8443"),
            ("https://shop.example?bank.example", "shop.example"),
            ("http://[::1]:7/cb", "[::1]:7"),
            ("com.example.app:/cb", "com.example.app"),
            ("com.example.app://bank.example/cb", "com.example.app"),
        ] {
            assert_eq!(place_of(uri), place);
        }
    }

    #[test]
    fn parameters_are_added_to_what_is_there() {
        assert_eq!(
            with_parameters("https://a/cb", &[("code", "x y")]),
            "https://a/cb?code=x+y"
        );
        assert_eq!(
            with_parameters("https://a/cb?t=1", &[("state", "&")]),
            "https://a/cb?t=1&state=%26"
        );
    }

    proptest! {
        #[test]
        fn no_text_crashes_the_parser(text in "\\PC{0,80}") {
            let _ = text.parse::<RedirectUri>();
            let _ = uri("http://[::1]/cb").accepts(&text, true);
        }

        #[test]
        fn whatever_is_accepted_goes_to_the_registered_host(text in "http://(127\\.0\\.0\\.1|\\[::1\\]|evil)[:@/a-z0-9.]{0,20}") {
            if uri("http://127.0.0.1/cb").accepts(&text, true) {
                let url = Url::parse(&text).unwrap();
                prop_assert_eq!(url.host_str(), Some("127.0.0.1"));
            }
        }
    }
}
