//! The join token: one line that lets one proxy join the fleet, once.

use std::fmt::{self, Write as _};

use crate::{JoinTokenId, Redacted, SpiffeId};

/// Longest printed token. A longer text is not looked at.
const MAX_TOKEN_BYTES: usize = 1024;
/// What every printed token starts with; the digit is the version of the form.
const SCHEME: &str = "testudo-join1";
/// What every identity begins with, and what is therefore not printed.
const SPIFFE: &str = "spiffe://";
/// Secrets outside these lengths are not ours. 22 base64url characters carry 128 bits.
const SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 22..=128;
const MAX_SERVER_BYTES: usize = 300;

/// Why a text is not a join token. Never repeats the text: it may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: {0}; copy the whole line that `testudo join-token create` printed")]
pub struct InvalidJoinToken(&'static str);

/// What a proxy needs for first contact: who it becomes, whom to trust (the pin and the trust domain), whom to call,
/// and a one-use secret. Printed as
/// `testudo-join1.<token id>.<secret>.<SHA-256 of the CA certificate, hex>.<identity>[@<server>]`, the identity
/// without its `spiffe://`.
#[derive(Clone)]
pub struct JoinToken {
    /// Public half: names the token in lists and in the ledger.
    pub id: JoinTokenId,
    /// One-use secret, base64url characters.
    pub secret: Redacted<String>,
    /// SHA-256 of the fleet CA's DER certificate. The control plane must show a chain that ends in it.
    pub ca_sha256: [u8; 32],
    /// Whom the fleet takes its one user for. The proxy looks at it before it uses the token up; the control plane goes by
    /// what it wrote down. It must be `spiffe://<trust domain>/testudo/server` of the same trust domain.
    pub identity: SpiffeId,
    /// `host:port` of the control plane's proxy port, if the token was made for one.
    pub server: Option<String>,
}

impl JoinToken {
    /// Reads a printed token.
    ///
    /// # Errors
    /// Says which part is wrong, without repeating it.
    pub fn parse(text: &str) -> Result<Self, InvalidJoinToken> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_BYTES {
            return Err(InvalidJoinToken("it is too long"));
        }
        let mut parts = text.splitn(5, '.');
        if parts.next() != Some(SCHEME) {
            return Err(InvalidJoinToken("it does not start with `testudo-join1.`"));
        }
        let mut part = || parts.next().ok_or(InvalidJoinToken("a part is missing"));
        let (id, secret, pin, rest) = (part()?, part()?, part()?, part()?);
        let (identity, server) = rest
            .split_once('@')
            .map_or((rest, None), |(identity, server)| (identity, Some(server)));
        if !server.is_none_or(is_server) {
            return Err(InvalidJoinToken("the server is not `host:port`"));
        }
        Ok(Self {
            id: id
                .parse()
                .map_err(|_| InvalidJoinToken("the token id is malformed"))?,
            secret: parse_secret(secret)?,
            ca_sha256: parse_pin(pin).ok_or(InvalidJoinToken(
                "the CA pin is not 64 lower-case hex digits",
            ))?,
            identity: format!("{SPIFFE}{identity}")
                .parse()
                .map_err(|_| InvalidJoinToken("the identity is malformed"))?,
            server: server.map(str::to_owned),
        })
    }

    /// The printed form. It is shown once, to whoever made the token.
    pub fn print(&self) -> Redacted<String> {
        let mut text = format!("{SCHEME}.{}.{}.", self.id, self.secret.expose());
        for byte in self.ca_sha256 {
            let _ = write!(text, "{byte:02x}");
        }
        let identity = self.identity.as_str();
        let _ = write!(
            text,
            ".{}",
            identity.strip_prefix(SPIFFE).unwrap_or(identity)
        );
        if let Some(server) = &self.server {
            let _ = write!(text, "@{server}");
        }
        Redacted::new(text)
    }

    /// What goes on the wire: `<token id>.<secret>`.
    pub fn credential(&self) -> Redacted<String> {
        Redacted::new(format!("{}.{}", self.id, self.secret.expose()))
    }

    /// Reads what [`JoinToken::credential`] wrote.
    ///
    /// # Errors
    /// Says which part is wrong, without repeating it.
    pub fn parse_credential(
        text: &str,
    ) -> Result<(JoinTokenId, Redacted<String>), InvalidJoinToken> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(InvalidJoinToken("it is too long"));
        }
        let (id, secret) = text
            .split_once('.')
            .ok_or(InvalidJoinToken("a part is missing"))?;
        let id = id
            .parse()
            .map_err(|_| InvalidJoinToken("the token id is malformed"))?;
        Ok((id, parse_secret(secret)?))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "JoinToken({}, <redacted>)", self.id)
    }
}

fn parse_secret(text: &str) -> Result<Redacted<String>, InvalidJoinToken> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if SECRET_LENGTHS.contains(&text.len()) && text.bytes().all(allowed) {
        Ok(Redacted::new(text.to_owned()))
    } else {
        Err(InvalidJoinToken("the secret is malformed"))
    }
}

fn parse_pin(text: &str) -> Option<[u8; 32]> {
    let canonical = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 64 || !text.bytes().all(canonical) {
        return None;
    }
    let mut pin = [0; 32];
    for (at, byte) in pin.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(pin)
}

fn is_server(text: &str) -> bool {
    let host_ok = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    text.len() <= MAX_SERVER_BYTES
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && host.bytes().all(host_ok)
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(server: Option<&str>) -> JoinToken {
        JoinToken {
            id: "join_01JDA0000000000000000000AA".parse().unwrap(),
            secret: Redacted::new("abcdefghijklmnopqrstuvwxyz-_0123456789AAAAA".to_owned()),
            ca_sha256: [0xa5; 32],
            identity: "spiffe://bookshop.example/svc/orders".parse().unwrap(),
            server: server.map(str::to_owned),
        }
    }

    #[test]
    fn a_token_survives_printing() {
        for server in [
            None,
            Some("10.0.0.7:9444"),
            Some("[::1]:9444"),
            Some("control.bookshop.example:9444"),
        ] {
            let printed = token(server).print();
            let read = JoinToken::parse(&format!(" {}\n", printed.expose())).unwrap();
            assert_eq!(read.print().expose(), printed.expose());
            assert_eq!(read.server.as_deref(), server);
            assert_eq!(read.identity, token(None).identity);
            let (id, secret) = JoinToken::parse_credential(read.credential().expose()).unwrap();
            assert_eq!(
                (id, secret.expose()),
                (read.id, token(None).secret.expose())
            );
        }
    }

    #[test]
    fn a_damaged_token_is_refused_without_being_repeated() {
        let good = token(Some("a:1")).print().into_exposed();
        let bad = [
            String::new(),
            good.replace("join1", "join2"),
            good.replace("a5a5", "A5a5"),
            good.replace("a5a5", "5a5"),
            good.replace("abcdef", "abc/ef"),
            good.replace("@a:1", "@a"),
            good.replace("@a:1", "@a:0"),
            good.replace("@a:1", "@evil host:1"),
            good.replace("bookshop", "Bookshop"),
            good.replace("/svc/orders", "/svc/"),
            good.replace("bookshop.example", "spiffe://bookshop.example"),
            good.chars().take(60).collect(),
            format!("{good}{}", "1".repeat(2000)),
        ];
        for text in bad {
            let error = JoinToken::parse(&text).unwrap_err().to_string();
            assert!(!error.contains("abcdefghij"), "{error}");
        }
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        let shown = format!("{:?}", token(None));
        assert_eq!(
            shown,
            "JoinToken(join_01JDA0000000000000000000AA, <redacted>)"
        );
    }
}
