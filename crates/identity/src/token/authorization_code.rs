//! The authorization code grant (RFC 6749 section 4.1.3).

use testudo_model::{
    SessionId, UserId,
    limits::{ACCESS_TOKEN_LIFETIME, AUTHORIZATION_CODE_LIFETIME, REFRESH_TOKEN_LIFETIME},
};
use testudo_store::{Expected, Versioned};

use super::{AuthenticatedClient, ClientHolder, GrantBasis, TokenError, TokenResponse};
use crate::{
    Caller, Fault, Parameters, Provider,
    change::until_settled,
    limits::MAX_OPAQUE_TOKEN_BYTES,
    records::{
        AuthorizationCode, Client, CodeState, Grant, GrantType, RefreshState, Session, User,
    },
    scopes::{self, OFFLINE_ACCESS},
    secret::{self, StoredSecret},
    session::EndReason,
};

/// The parameters of the grant.
struct Redemption<'a> {
    code: &'a str,
    redirect_uri: &'a str,
    verifier: Option<&'a str>,
}

impl Provider {
    /// Gives tokens for a code, once.
    pub(super) fn redeem_code(
        &self,
        client: &AuthenticatedClient,
        parameters: &Parameters,
        caller: &Caller,
    ) -> Result<TokenResponse, TokenError> {
        let ClientHolder::Client(registered) = &client.holder else {
            return Err(TokenError::UnauthorizedClient);
        };
        let redemption = Redemption::of(parameters)?;
        until_settled(|| self.try_redeem(client, registered, &redemption, caller))
    }

    /// `None`: somebody else wrote one of the records first, perhaps the same code.
    fn try_redeem(
        &self,
        client: &AuthenticatedClient,
        registered: &Client,
        redemption: &Redemption<'_>,
        caller: &Caller,
    ) -> Result<Option<TokenResponse>, TokenError> {
        let stored = self
            .tenant
            .get::<AuthorizationCode>(&secret::digest(redemption.code));
        let stored = stored
            .map_err(Fault::from)?
            .ok_or(TokenError::UnknownGrant)?;
        redemption.check(&stored.record, registered)?;
        if stored.record.key.is_some() && stored.record.key.as_ref() != client.key() {
            return Err(TokenError::KeyMismatch);
        }
        if let CodeState::Redeemed { grant, .. } = &stored.record.state {
            // Code *and* verifier are in two hands: what the first got is taken back (RFC 6749 section 4.1.2).
            // Whoever only has the code fails above and cannot end anybody's session with it.
            self.end_session(grant, EndReason::CodeReuse, caller)?;
            return Err(TokenError::CodeReplayed);
        }
        let now = self.clock.now();
        if now >= stored.record.expires_at {
            return Err(TokenError::UnknownGrant);
        }
        let mut session = self.session_behind(&stored.record.login, &stored.record.user)?;
        let basis = GrantBasis {
            user: &stored.record.user,
            scopes: &stored.record.scopes,
            authentication: &stored.record.authentication,
        };
        let grant = self.new_grant(&basis, client, registered, &session.record);
        let nonce = stored.record.nonce.as_deref();
        let (tokens, report) = self.user_tokens(&grant, &grant.scopes, nonce, client)?;
        let authorized_at = stored.record.expires_at - AUTHORIZATION_CODE_LIFETIME;
        let redeemed = AuthorizationCode {
            state: CodeState::Redeemed {
                grant: grant.id.clone(),
                remember_until: now + ACCESS_TOKEN_LIFETIME,
            },
            ..stored.record
        };
        // The session is written too, so that ending it and redeeming a code of it exclude each other.
        session.record.used_at = now;
        let allowed =
            self.stage_still_allowed(self.change(), registered, &grant.user, &grant.scopes)?;
        let change = allowed
            .ok_or(TokenError::SessionEnded)?
            .put(Expected::Version(stored.version), &redeemed)
            .put(Expected::Version(session.version), &session.record)
            .put(Expected::Absent, &grant)
            .report(
                report
                    .detail("grant_type", GrantType::AuthorizationCode.as_str())
                    .detail("authorized_at", authorized_at.to_string()),
                caller,
            );
        let change = self.make_room_for_grant(change, &grant.login, &grant.user)?;
        Ok(change.commit()?.then_some(tokens))
    }

    /// The session that something was granted in, if it and its user still are.
    pub(super) fn session_behind(
        &self,
        login: &SessionId,
        user: &UserId,
    ) -> Result<Versioned<Session>, TokenError> {
        let session = self
            .tenant
            .get::<Session>(login.as_str())
            .map_err(Fault::from)?;
        let user = self
            .tenant
            .get::<User>(user.as_str())
            .map_err(Fault::from)?;
        let enabled = user.is_some_and(|user| !user.record.disabled);
        session.filter(|_| enabled).ok_or(TokenError::SessionEnded)
    }

    /// What `session` gives `registered`, of which this is the authenticated side.
    pub(super) fn new_grant(
        &self,
        basis: &GrantBasis<'_>,
        client: &AuthenticatedClient,
        registered: &Client,
        session: &Session,
    ) -> Grant {
        let now = self.clock.now();
        let offline = scopes::has(basis.scopes, OFFLINE_ACCESS);
        let refresh = registered
            .may_use(GrantType::RefreshToken)
            .then(|| RefreshState {
                key: StoredSecret::new(secret::generate(&*self.entropy).into_exposed()),
                counter: 0,
                rotated_at: now,
                rotated_by: None,
                bound_to: client.key().filter(|_| client.is_public()).cloned(),
            });
        let expires_at = match (&refresh, offline) {
            // Kept for as long as its client may have to be told that the session has ended.
            (None, _) if registered.logout.backchannel_logout_uri.is_some() => session.expires_at,
            (None, _) => now + ACCESS_TOKEN_LIFETIME,
            (Some(_), true) => now + REFRESH_TOKEN_LIFETIME,
            (Some(_), false) => (now + REFRESH_TOKEN_LIFETIME).min(session.expires_at),
        };
        Grant {
            id: SessionId::generate(&*self.clock, &*self.entropy),
            login: session.id.clone(),
            user: basis.user.clone(),
            client_id: registered.client_id.clone(),
            client_created_at: registered.created_at,
            scopes: basis.scopes.clone(),
            authentication: basis.authentication.clone(),
            created_at: now,
            used_at: now,
            expires_at,
            offline,
            refresh,
        }
    }
}

impl<'a> Redemption<'a> {
    fn of(parameters: &'a Parameters) -> Result<Self, TokenError> {
        let required = |name| parameters.get(name).ok_or(TokenError::Missing(name));
        let code = required("code")?;
        if code.len() > MAX_OPAQUE_TOKEN_BYTES {
            return Err(TokenError::UnknownGrant);
        }
        Ok(Self {
            code,
            redirect_uri: required("redirect_uri")?,
            verifier: parameters.get("code_verifier"),
        })
    }

    /// Everything the code is bound to.
    fn check(&self, code: &AuthorizationCode, client: &Client) -> Result<(), TokenError> {
        if code.client_id != client.client_id || code.client_created_at != client.created_at {
            return Err(TokenError::UnknownGrant);
        }
        if code.redirect_uri != self.redirect_uri {
            return Err(TokenError::RedirectMismatch);
        }
        match (&code.challenge, self.verifier) {
            (Some(challenge), Some(verifier)) if challenge.accepts(verifier) => Ok(()),
            (None, None) => Ok(()),
            // Also a verifier without a challenge: somebody took that out of the request (RFC 9700 section 4.8.2).
            _ => Err(TokenError::VerifierMismatch),
        }
    }
}
