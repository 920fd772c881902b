//! The refresh token grant (RFC 6749 section 6), rotating (RFC 9700 section 4.14.2).
//!
//! A refresh token is the id of its grant, a counter, and a MAC of both under the grant's key. The grant stores
//! the key and the one counter that is valid, so that a row per session is all there is, and every older token
//! is known to be old. The same old token of the same sender within a few seconds gets the same successor again,
//! because two tabs and lost answers are not thieves; later, or of another sender, it ends the grant. For a client whose
//! tokens are worth nothing without its key, the token stays the same.

use std::{fmt, str::FromStr};

use testudo_model::{SessionId, limits::REFRESH_TOKEN_LIFETIME};
use testudo_store::{Expected, Versioned};
use testudo_trust::{base64url, constant_time_eq, hmac_sha256};

use super::{AuthenticatedClient, ClientHolder, TokenError, TokenResponse};
use crate::{
    Caller, DpopError, Fault, Parameters, Provider,
    change::until_settled,
    limits::{MAX_GRANT_LIFETIME, MAX_OPAQUE_TOKEN_BYTES, REFRESH_RACE_WINDOW},
    records::{Client, Grant, GrantType, RefreshState, Session, User},
    scopes,
    session::EndReason,
};

/// A refresh token: `<grant>.<counter>.<mac>`.
pub(crate) struct RefreshToken {
    grant: SessionId,
    counter: u64,
    mac: String,
}

impl RefreshToken {
    /// The valid token of a grant.
    pub(crate) fn current_of(grant: &Grant) -> Option<Self> {
        let refresh = grant.refresh.as_ref()?;
        let mac = mac(refresh, &grant.id, refresh.counter);
        Some(Self {
            grant: grant.id.clone(),
            counter: refresh.counter,
            mac,
        })
    }

    /// The grant the token says it is of; believe it after [`RefreshToken::is_genuine`].
    pub(crate) const fn grant(&self) -> &SessionId {
        &self.grant
    }

    /// Whether it is the newest token of its grant.
    pub(crate) fn is_current(&self, grant: &Grant) -> bool {
        let refresh = grant.refresh.as_ref();
        refresh.is_some_and(|refresh| refresh.counter == self.counter)
    }

    /// Whether we made the token, for this grant.
    pub(crate) fn is_genuine(&self, grant: &Grant) -> bool {
        grant.refresh.as_ref().is_some_and(|refresh| {
            let expected = mac(refresh, &grant.id, self.counter);
            constant_time_eq(expected.as_bytes(), self.mac.as_bytes())
        })
    }
}

fn mac(refresh: &RefreshState, grant: &SessionId, counter: u64) -> String {
    let message = format!("testudo refresh token v1 {grant} {counter}");
    base64url::encode(&hmac_sha256(
        refresh.key.expose().as_bytes(),
        message.as_bytes(),
    ))
}

impl fmt::Display for RefreshToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.grant, self.counter, self.mac)
    }
}

/// The text has no form of a refresh token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotARefreshToken;

impl FromStr for RefreshToken {
    type Err = NotARefreshToken;

    fn from_str(text: &str) -> Result<Self, NotARefreshToken> {
        if text.len() > MAX_OPAQUE_TOKEN_BYTES {
            return Err(NotARefreshToken);
        }
        let mut parts = text.split('.');
        let (Some(grant), Some(counter), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotARefreshToken);
        };
        let grant = grant.parse().map_err(|_| NotARefreshToken)?;
        let parsed = counter.parse::<u64>().map_err(|_| NotARefreshToken)?;
        // One text per token: no `+1`, no `01`.
        if parsed.to_string() != counter {
            return Err(NotARefreshToken);
        }
        Ok(Self {
            grant,
            counter: parsed,
            mac: mac.to_owned(),
        })
    }
}

/// What a genuine token deserves.
enum Verdict {
    /// It is the valid one.
    Rotate,
    /// It was valid a moment ago: its successor again.
    Repeat,
    /// It is in two hands.
    Stolen(EndReason),
}

impl Provider {
    /// Gives new tokens for a refresh token.
    pub(super) fn refresh(
        &self,
        client: &AuthenticatedClient,
        parameters: &Parameters,
        caller: &Caller,
    ) -> Result<TokenResponse, TokenError> {
        let ClientHolder::Client(registered) = &client.holder else {
            return Err(TokenError::UnauthorizedClient);
        };
        let presented = parameters
            .get("refresh_token")
            .ok_or(TokenError::Missing("refresh_token"))?;
        let presented = presented
            .parse::<RefreshToken>()
            .map_err(|_| TokenError::UnknownGrant)?;
        let scope = parameters.get("scope");
        until_settled(|| self.try_refresh(client, registered, &presented, scope, caller))
    }

    /// `None`: the grant was written meanwhile, perhaps by the same token.
    fn try_refresh(
        &self,
        client: &AuthenticatedClient,
        registered: &Client,
        presented: &RefreshToken,
        scope: Option<&str>,
        caller: &Caller,
    ) -> Result<Option<TokenResponse>, TokenError> {
        let stored = self
            .tenant
            .get::<Grant>(presented.grant.as_str())
            .map_err(Fault::from)?;
        let stored = stored.filter(|stored| presented.is_genuine(&stored.record));
        let Versioned {
            record: mut grant,
            version,
        } = stored.ok_or(TokenError::UnknownGrant)?;
        if !grant.belongs_to(registered) {
            // A genuine token in the hands of another client: it leaked.
            self.end_session(&grant.id, EndReason::RefreshByOtherClient, caller)?;
            return Err(TokenError::RefreshReplayed);
        }
        let verdict = self.judge(&grant, presented, client)?;
        if let Verdict::Stolen(reason) = verdict {
            self.end_session(&grant.id, reason, caller)?;
            return Err(TokenError::RefreshReplayed);
        }
        if !self.is_alive(&grant)? {
            return Err(TokenError::SessionEnded);
        }
        let granted =
            scopes::narrowed(grant.scopes.clone(), scope).ok_or(TokenError::InvalidScope)?;
        let mut change = self.change();
        if matches!(verdict, Verdict::Rotate) {
            if registered.policy.rotates_refresh_tokens() {
                self.rotate(&mut grant, client);
            }
            self.prolong(&mut grant);
            change = change.put(Expected::Version(version), &grant);
        }
        let (tokens, report) = self.user_tokens(&grant, &granted, None, client)?;
        let report = report
            .detail("grant_type", GrantType::RefreshToken.as_str())
            .detail("repeated", matches!(verdict, Verdict::Repeat));
        Ok(change.report(report, caller).commit()?.then_some(tokens))
    }

    fn judge(
        &self,
        grant: &Grant,
        presented: &RefreshToken,
        client: &AuthenticatedClient,
    ) -> Result<Verdict, DpopError> {
        let Some(refresh) = &grant.refresh else {
            return Ok(Verdict::Stolen(EndReason::RefreshReuse));
        };
        match (&refresh.bound_to, client.key()) {
            // Whoever it is, they get nothing; and a token alone shall not be enough to log somebody out.
            (Some(_), None) => return Err(DpopError::Missing),
            (Some(bound), Some(key)) if bound != key => {
                return Ok(Verdict::Stolen(EndReason::RefreshByOtherKey));
            }
            _ => {}
        }
        let sender = client.sender_key();
        let age = self.clock.now().since(refresh.rotated_at);
        Ok(match refresh.counter.checked_sub(presented.counter) {
            Some(0) => Verdict::Rotate,
            Some(1) if age > REFRESH_RACE_WINDOW => Verdict::Stolen(EndReason::RefreshReuse),
            Some(1) if refresh.rotated_by.as_ref() == Some(&sender) => Verdict::Repeat,
            Some(1) => Verdict::Stolen(EndReason::RefreshByOtherKey),
            // A counter from the future with a good MAC means that the store went back in time.
            Some(_) | None => Verdict::Stolen(EndReason::RefreshReuse),
        })
    }

    fn rotate(&self, grant: &mut Grant, client: &AuthenticatedClient) {
        if let Some(refresh) = &mut grant.refresh {
            refresh.counter = refresh.counter.saturating_add(1);
            refresh.rotated_at = self.clock.now();
            refresh.rotated_by = Some(client.sender_key());
            if client.is_public() {
                refresh.bound_to = client.key().cloned();
            }
        }
    }

    fn prolong(&self, grant: &mut Grant) {
        let now = self.clock.now();
        grant.used_at = now;
        if grant.offline {
            let end = grant.created_at + MAX_GRANT_LIFETIME;
            grant.expires_at = (now + REFRESH_TOKEN_LIFETIME).min(end);
        }
    }

    /// The user is enabled, the grant has time left, and so has its session, unless the grant goes on without.
    pub(crate) fn is_alive(&self, grant: &Grant) -> Result<bool, Fault> {
        let user = self.tenant.get::<User>(grant.user.as_str())?;
        let enabled = user.is_some_and(|user| !user.record.disabled);
        let in_time = self.clock.now() < grant.expires_at;
        let session_lives = || -> Result<bool, Fault> {
            Ok(grant.offline || self.tenant.get::<Session>(grant.login.as_str())?.is_some())
        };
        Ok(enabled && in_time && session_lives()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRANT: &str = "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    #[test]
    fn a_refresh_token_has_one_text_only() {
        assert!(format!("{GRANT}.7.mac").parse::<RefreshToken>().is_ok());
        for bad in [
            String::new(),
            format!("{GRANT}.7"),
            format!("{GRANT}.7.mac."),
            format!("{GRANT}.+7.mac"),
            format!("{GRANT}.07.mac"),
            format!("{GRANT}.-1.mac"),
            format!("usr{GRANT}.7.mac"),
            format!("{GRANT}.7.{}", "m".repeat(MAX_OPAQUE_TOKEN_BYTES)),
        ] {
            assert!(bad.parse::<RefreshToken>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_crashes_the_parser_and_what_it_takes_it_prints(text in "(ses_[0-9A-Z]{26})?[.0-9a-zA-Z+-]{0,60}") {
            if let Ok(token) = text.parse::<RefreshToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
