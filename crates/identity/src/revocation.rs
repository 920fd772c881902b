//! Taking back: the revocation log that proxies follow, and the revocation endpoint (RFC 7009).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use testudo_model::{
    AccessTokenClaims, SessionId, Timestamp, TokenId, UserId,
    event::EventClass,
    snapshot::{Revocation, Revoked},
};
use testudo_store::{Expected, LogEntry, Tenant};

use crate::{
    Caller, ErrorCode, Fault, OauthError, Provider,
    change::{Report, until_settled},
    records::Grant,
    session::EndReason,
    token::{
        AuthenticatedClient, ClientAuthenticationError, ClientHolder, RefreshToken, TokenRequest,
    },
};

/// Entries read at once while catching up with the log.
const READ_AT_ONCE: usize = 1_000;

/// An entry of the revocation log as stored. Its sequence number is its index plus one, so that 0 means
/// "nothing seen yet".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationEntry {
    /// When it was said.
    pub at: Timestamp,
    /// When it no longer concerns anything that could be valid.
    pub expires: Timestamp,
    /// What no longer holds.
    pub what: Revoked,
}

impl LogEntry for RevocationEntry {
    const LOG: &'static str = "revocations";
}

/// What a token can be taken back by.
#[derive(Debug, Clone, Copy)]
pub struct TokenNames<'a> {
    /// `jti`.
    pub id: &'a TokenId,
    /// `sid`.
    pub session: Option<&'a SessionId>,
    /// `sub`.
    pub subject: &'a str,
    /// `iat`.
    pub issued_at: Timestamp,
}

/// Why a revocation request is refused. An unknown token is no reason (RFC 7009 section 2.2).
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// `token` is not there, or a parameter is repeated.
    #[error("send exactly one `token`")]
    Token,
    /// The client did not prove who it is.
    #[error(transparent)]
    Client(#[from] ClientAuthenticationError),
    /// Our fault.
    #[error("the token could not be revoked")]
    Unavailable(#[from] Fault),
}

impl RevokeError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        match self {
            Self::Client(error) => error.to_oauth(),
            Self::Token => OauthError::new(ErrorCode::InvalidRequest, 400, self),
            Self::Unavailable(fault) => OauthError::of_fault(fault, self),
        }
    }
}

impl Provider {
    /// Handles a request of the revocation endpoint: a refresh token ends its grant with all its access tokens,
    /// an access token is taken back alone.
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub fn revoke(&self, request: &TokenRequest<'_>, caller: &Caller) -> Result<(), RevokeError> {
        if request.parameters.first_repeated().is_some() {
            return Err(RevokeError::Token);
        }
        let token = request.parameters.get("token").ok_or(RevokeError::Token)?;
        let client = self.authenticate_client_at("token.revoke", request, caller)?;
        if let Ok(refresh_token) = token.parse::<RefreshToken>() {
            let stored = self
                .tenant
                .get::<Grant>(refresh_token.grant().as_str())
                .map_err(Fault::from)?;
            let own = |grant: &Grant| refresh_token.is_genuine(grant) && is_of(grant, &client);
            if let Some(grant) = stored.map(|stored| stored.record).filter(own) {
                self.end_refreshing(&grant.id, &client, caller)?;
            }
        } else if let Ok(claims) = self.signed_claims(token)
            && claims.client_id == client.name().as_str()
            // Once is enough: every entry goes to every proxy, and its event stays for ever.
            && !self.is_revoked(&claims)?
        {
            self.take_back(Revoked::Token(claims.jti), caller)?;
        }
        Ok(())
    }

    /// Ends a grant because its client has no more use for its tokens. A client that is told of logouts stays logged in
    /// by itself, and is told when the session ends.
    fn end_refreshing(
        &self,
        id: &SessionId,
        client: &AuthenticatedClient,
        caller: &Caller,
    ) -> Result<(), Fault> {
        if !client.is_told_of_logouts() {
            self.end_session(id, EndReason::ClientRevocation, caller)?;
            return Ok(());
        }
        until_settled(|| {
            let Some(mut stored) = self.tenant.get::<Grant>(id.as_str())? else {
                return Ok(Some(()));
            };
            stored.record.refresh = None;
            let report = EndReason::ClientRevocation
                .report()
                .target(stored.record.user.as_str())
                .session(id)
                .detail("clients", stored.record.client_id.as_str());
            let change = self
                .change()
                .put(Expected::Version(stored.version), &stored.record)
                .revoke(Revoked::Session(id.clone()));
            Ok(change.report(report, caller).commit()?.then_some(()))
        })
    }

    /// Takes something back at every proxy, by an entry in the revocation log.
    ///
    /// # Errors
    /// The store fails.
    pub fn take_back(&self, what: Revoked, caller: &Caller) -> Result<(), Fault> {
        until_settled(|| {
            let report = Report::new(EventClass::Authentication, "revocation.add")
                .target(&target(&what))
                .detail("kind", kind(&what));
            Ok(self
                .change()
                .revoke(what.clone())
                .report(report, caller)
                .commit()?
                .then_some(()))
        })
    }

    /// Entries of the revocation log after `sequence` (0: from the start) that still concern anything. The
    /// newest sequence number comes with them, since expired entries are left out.
    ///
    /// # Errors
    /// The store fails.
    pub fn revocations_since(&self, sequence: u64) -> Result<(Vec<Revocation>, u64), Fault> {
        let now = self.clock.now();
        let mut newest = sequence;
        let mut fresh = Vec::new();
        loop {
            let entries = self
                .fleet
                .read_log::<RevocationEntry>(newest, READ_AT_ONCE)?;
            let count = entries.len();
            for (index, RevocationEntry { at, expires, what }) in entries {
                newest = index + 1;
                if now < expires {
                    fresh.push(Revocation {
                        sequence: newest,
                        at,
                        expires,
                        what,
                    });
                }
            }
            if count < READ_AT_ONCE {
                return Ok((fresh, newest));
            }
        }
    }

    /// Whether a verified token was taken back.
    pub(crate) fn is_revoked(&self, claims: &AccessTokenClaims) -> Result<bool, Fault> {
        let token = TokenNames {
            id: &claims.jti,
            session: claims.sid.as_ref(),
            subject: &claims.sub,
            issued_at: Timestamp::from_unix_seconds(claims.iat),
        };
        Ok(self.taken_back(&token)?.is_some())
    }

    /// What takes a token back, while that still concerns anything.
    ///
    /// # Errors
    /// The store fails.
    pub fn taken_back(&self, token: &TokenNames<'_>) -> Result<Option<RevocationEntry>, Fault> {
        let mut view = self
            .revocations
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        view.catch_up(&self.fleet, self.clock.now())?;
        Ok(view.covering(token).cloned())
    }
}

fn is_of(grant: &Grant, client: &AuthenticatedClient) -> bool {
    match &client.holder {
        ClientHolder::Client(client) => grant.belongs_to(client),
        ClientHolder::ServiceAccount(_) => false,
    }
}

fn kind(what: &Revoked) -> &'static str {
    match what {
        Revoked::Token(_) => "token",
        Revoked::Session(_) => "session",
        Revoked::Subject(_) => "subject",
        Revoked::Workload(_) => "workload",
        Revoked::User(_) => "user",
    }
}

fn target(what: &Revoked) -> String {
    match what {
        Revoked::Token(id) => id.to_string(),
        Revoked::Session(id) => id.to_string(),
        Revoked::Subject(subject) => subject.clone(),
        Revoked::Workload(id) => id.to_string(),
        Revoked::User(id) => id.to_string(),
    }
}

/// What is taken back, as a proxy knows it: the log, read up to a position. Holds what could still be valid.
#[derive(Default)]
pub(crate) struct RevocationView {
    read: u64,
    entries: HashMap<Revoked, RevocationEntry>,
}

impl RevocationView {
    fn catch_up(&mut self, tenant: &Tenant, now: Timestamp) -> Result<(), Fault> {
        loop {
            let entries = tenant.read_log::<RevocationEntry>(self.read, READ_AT_ONCE)?;
            let count = entries.len();
            for (index, entry) in entries {
                self.read = index + 1;
                self.entries.insert(entry.what.clone(), entry);
            }
            if count > 0 {
                self.entries.retain(|_, entry| now < entry.expires);
            }
            if count < READ_AT_ONCE {
                return Ok(());
            }
        }
    }

    fn covering(&self, token: &TokenNames<'_>) -> Option<&RevocationEntry> {
        let of_token = self.entries.get(&Revoked::Token(token.id.clone()));
        let of_session = || {
            let session = token.session?;
            self.entries.get(&Revoked::Session(session.clone()))
        };
        let of_subject = || {
            let entry = self
                .entries
                .get(&Revoked::Subject(token.subject.to_owned()));
            entry.filter(|entry| token.is_before(entry))
        };
        let of_user = || {
            let user = token.subject.parse::<UserId>().ok()?;
            let entry = self.entries.get(&Revoked::User(user));
            entry.filter(|entry| token.is_before(entry))
        };
        of_token
            .or_else(of_session)
            .or_else(of_subject)
            .or_else(of_user)
    }
}

impl TokenNames<'_> {
    /// Issue times are whole seconds: a token of the very second of the revocation counts as before it.
    fn is_before(&self, entry: &RevocationEntry) -> bool {
        self.issued_at <= entry.at
    }
}
