//! Access tokens by the thousand, by the refresh tokens of a few logins.

use std::net::{SocketAddr, ToSocketAddrs};

use serde::Deserialize;
use tokio::task::LocalSet;

use crate::{
    Outcome,
    caller::{Origin, Stream, exchange},
    fleet::Fleet,
};

/// Logins, each with a connection of its own: the refresh tokens of one are good one after the other.
pub(crate) const LOGINS: usize = 8;

/// Logins of one user at an identity provider.
pub(crate) struct Logins {
    pub(crate) origin: Origin,
    /// `Host` of requests.
    pub(crate) host: String,
    /// Path of the token endpoint.
    pub(crate) path: &'static str,
    /// The newest of each login.
    pub(crate) refresh_tokens: Vec<String>,
}

/// A successful answer of the token endpoint (RFC 6749 section 5.1).
#[derive(Deserialize)]
struct Tokens {
    access_token: String,
    refresh_token: String,
}

impl Logins {
    /// New ones at `fleet`.
    pub(crate) fn begin(fleet: &Fleet) -> Outcome<Self> {
        let host = fleet.provider()?;
        let (name, _) = host.rsplit_once(':').ok_or("a provider without a port")?;
        let address = address_of(&host)?;
        let refresh_tokens = (0..LOGINS).map(|number| fleet.refresh_token(number));
        Ok(Self {
            origin: Origin::new(address, name, Some(&fleet.ca), false)?,
            refresh_tokens: refresh_tokens.collect::<Outcome<_>>()?,
            host,
            path: "/oauth2/token",
        })
    }

    /// `count` access tokens that nobody has seen.
    pub(crate) fn mint(&mut self, count: usize) -> Outcome<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let each = count.div_ceil(self.refresh_tokens.len().max(1));
        let mut minted = Vec::with_capacity(count);
        LocalSet::new().block_on(&runtime, async {
            let mut minting = Vec::new();
            for token in self.refresh_tokens.drain(..) {
                let at = TokenEndpoint {
                    origin: self.origin.clone(),
                    host: self.host.clone(),
                    path: self.path,
                };
                minting.push(tokio::task::spawn_local(refresh(at, token, each)));
            }
            for done in minting {
                let (tokens, last) = done.await??;
                minted.extend(tokens);
                self.refresh_tokens.push(last);
            }
            Ok(minted)
        })
    }
}

/// An IPv4 address of the identity provider at `host`.
pub(crate) fn address_of(host: &str) -> Outcome<SocketAddr> {
    let mut addresses = host.to_socket_addrs()?;
    let address = addresses.find(SocketAddr::is_ipv4);
    Ok(address.ok_or("no address of the provider")?)
}

/// Where tokens are asked for.
struct TokenEndpoint {
    origin: Origin,
    host: String,
    path: &'static str,
}

/// Refreshes `count` times (RFC 6749 section 6); the access tokens and the refresh token that is good then.
async fn refresh(
    at: TokenEndpoint,
    mut refresh_token: String,
    count: usize,
) -> Outcome<(Vec<String>, String)> {
    let mut stream = at.origin.connect().await?;
    let mut access_tokens = Vec::with_capacity(count);
    for _ in 0..count {
        let tokens = at.refresh_once(&mut stream, &refresh_token).await?;
        access_tokens.push(tokens.access_token);
        refresh_token = tokens.refresh_token;
    }
    Ok((access_tokens, refresh_token))
}

impl TokenEndpoint {
    async fn refresh_once(
        &self,
        stream: &mut Box<dyn Stream>,
        refresh_token: &str,
    ) -> Outcome<Tokens> {
        let form = format!("grant_type=refresh_token&client_id=cli&refresh_token={refresh_token}");
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            self.path,
            self.host,
            form.len(),
        );
        let mut answer = Vec::new();
        let status = exchange(stream, request.as_bytes(), &mut answer)
            .await?
            .status;
        let answer = String::from_utf8(answer)?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .ok_or("an answer without a body")?;
        if status != 200 {
            return Err(format!("no access token: status {status}: {body}").into());
        }
        Ok(serde_json::from_str(body)?)
    }
}
