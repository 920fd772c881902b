//! The device code grant (RFC 8628 section 3.4).

use testudo_model::{SessionId, limits::SESSION_LIFETIME};
use testudo_store::{Expected, Versioned};

use super::{AuthenticatedClient, ClientHolder, GrantBasis, TokenError, TokenResponse};
use crate::{
    Caller, Fault, Parameters, Provider,
    change::until_settled,
    device::{DeviceRequest, DeviceState, Poll, UserCode},
    limits::MAX_OPAQUE_TOKEN_BYTES,
    records::{Authentication, Client, GrantType, Session},
    secret,
};

impl Provider {
    /// Gives tokens for a device code once its user has said yes; until then it says what to wait for.
    pub(super) fn redeem_device_code(
        &self,
        client: &AuthenticatedClient,
        parameters: &Parameters,
        caller: &Caller,
    ) -> Result<TokenResponse, TokenError> {
        let ClientHolder::Client(registered) = &client.holder else {
            return Err(TokenError::UnauthorizedClient);
        };
        let code = parameters
            .get("device_code")
            .ok_or(TokenError::Missing("device_code"))?;
        until_settled(|| self.try_redeem_device_code(client, registered, code, caller))
    }

    fn try_redeem_device_code(
        &self,
        client: &AuthenticatedClient,
        registered: &Client,
        code: &str,
        caller: &Caller,
    ) -> Result<Option<TokenResponse>, TokenError> {
        let Versioned { record, version } = self
            .device_request(code, registered)?
            .ok_or(TokenError::UnknownGrant)?;
        let user_code = record.user_code.to_string();
        if self.clock.now() >= record.expires_at && record.state != DeviceState::Redeemed {
            return Err(TokenError::DeviceCodeExpired);
        }
        let (login, user, authentication, authorized_at) = match &record.state {
            DeviceState::Redeemed => return Err(TokenError::UnknownGrant),
            DeviceState::Denied => return Err(TokenError::AccessDenied),
            DeviceState::Waiting => {
                return Err(
                    match self.polls.ask(&user_code, self.clock.monotonic_nanos()) {
                        Poll::InTime => TokenError::AuthorizationPending,
                        Poll::TooSoon => TokenError::SlowDown,
                    },
                );
            }
            DeviceState::Allowed {
                login,
                user,
                authentication,
                at,
            } => (login, user, authentication, *at),
        };
        let mut approving = self.session_behind(login, user)?;
        let now = self.clock.now();
        // Apart from the rest, because both kinds of room may be made by ending the same grant.
        self.settle_room_for_session(user, login)?;
        let session = self.device_session(&approving.record, authentication, caller);
        let basis = GrantBasis {
            user,
            scopes: &record.scopes,
            authentication,
        };
        let grant = self.new_grant(&basis, client, registered, &session);
        let (tokens, report) = self.user_tokens(&grant, &grant.scopes, None, client)?;
        let redeemed = DeviceRequest {
            state: DeviceState::Redeemed,
            ..record.clone()
        };
        // The session it was allowed in is written too, so that ending it and this exclude each other.
        approving.record.used_at = now;
        let change = self
            .change()
            .put(Expected::Version(version), &redeemed)
            .put(Expected::Version(approving.version), &approving.record)
            .put(Expected::Absent, &session)
            .put(Expected::Absent, &grant)
            .report(
                report
                    .detail("grant_type", GrantType::DeviceCode.as_str())
                    .detail("authorized_by", login.as_str())
                    .detail("authorized_at", authorized_at.to_string()),
                caller,
            );
        let change = self.make_room_for_grant(change, &grant.login, &grant.user)?;
        let done = change.commit()?;
        if done {
            self.polls.forget(&user_code);
        }
        Ok(done.then_some(tokens))
    }

    /// The request that a device code is of, if it is right.
    fn device_request(
        &self,
        code: &str,
        client: &Client,
    ) -> Result<Option<Versioned<DeviceRequest>>, Fault> {
        let parsed = (code.len() <= MAX_OPAQUE_TOKEN_BYTES)
            .then(|| code.split_once('.'))
            .flatten();
        let Some((user_code, device_secret)) = parsed else {
            return Ok(None);
        };
        let Ok(user_code) = user_code.parse::<UserCode>() else {
            return Ok(None);
        };
        let stored = self.tenant.get::<DeviceRequest>(&user_code.to_string())?;
        Ok(stored.filter(|Versioned { record, .. }| {
            secret::matches(device_secret, record.digest.expose()) && record.belongs_to(client)
        }))
    }

    /// The device's own login: it is listed and ended apart from the one it was allowed in.
    fn device_session(
        &self,
        approving: &Session,
        authentication: &Authentication,
        caller: &Caller,
    ) -> Session {
        let now = self.clock.now();
        Session {
            id: SessionId::generate(&*self.clock, &*self.entropy),
            user: approving.user.clone(),
            authentication: authentication.clone(),
            cookie_digest: None,
            link: approving.link.clone(),
            source_ip: caller.source_ip,
            used_at: now,
            expires_at: now + SESSION_LIFETIME,
        }
    }
}
