//! Sessions: finding one by its cookie, listing, ending.

use std::{collections::BTreeMap, net::IpAddr};

use testudo_model::{Redacted, SessionId, Timestamp, UserId, event::EventClass, snapshot::Revoked};
use testudo_store::{Expected, Versioned};

use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::{
        MAX_COOKIE_BYTES, MAX_GRANTS_PER_SESSION, MAX_GRANTS_PER_USER, MAX_SESSIONS_PER_USER,
    },
    records::{Authentication, Grant, Session, User},
    secret,
    signal::{Cause, Initiator, SignalEvent},
};

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The user said so.
    Logout,
    /// An administrator said so.
    Administrator,
    /// The account elsewhere that it was is connected no longer.
    Disconnected,
    /// The client revoked its refresh token (RFC 7009).
    ClientRevocation,
    /// An authorization code came a second time.
    CodeReuse,
    /// A refresh token came a second time.
    RefreshReuse,
    /// A refresh token came from a client it was not given to.
    RefreshByOtherClient,
    /// A refresh token came from the client it was given to, but with another key.
    RefreshByOtherKey,
}

impl EndReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Administrator => "administrator",
            Self::Disconnected => "account disconnected",
            Self::ClientRevocation => "client revocation",
            Self::CodeReuse => "authorization code reuse",
            Self::RefreshReuse => "refresh token reuse",
            Self::RefreshByOtherClient => "refresh token presented by another client",
            Self::RefreshByOtherKey => "refresh token presented with another key",
        }
    }

    /// What receivers of signals are told of it.
    const fn cause(self) -> Cause {
        let initiator = match self {
            Self::Logout => Initiator::User,
            Self::Administrator => Initiator::Admin,
            Self::Disconnected | Self::ClientRevocation => Initiator::System,
            Self::CodeReuse
            | Self::RefreshReuse
            | Self::RefreshByOtherClient
            | Self::RefreshByOtherKey => Initiator::Policy,
        };
        Cause::new(initiator, self.as_str())
    }

    /// Whether it means that somebody holds what they should not.
    const fn is_theft(self) -> bool {
        matches!(
            self,
            Self::CodeReuse
                | Self::RefreshReuse
                | Self::RefreshByOtherClient
                | Self::RefreshByOtherKey
        )
    }

    /// The event of such an end.
    pub(crate) fn report(self) -> Report {
        if self.is_theft() {
            Report::new(EventClass::DetectionFinding, "session.end").denied(self.as_str())
        } else {
            Report::new(EventClass::Authentication, "session.end").detail("reason", self.as_str())
        }
    }
}

/// Why the oldest session or grant ends when another begins.
const TOO_MANY: Cause = Cause::new(Initiator::Policy, "as many sessions as allowed");

/// A session with what it gave to clients.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// How the user logged in.
    pub authentication: Authentication,
    /// From where; unknown once the login itself has ended.
    pub source_ip: Option<IpAddr>,
    /// When it ends; none if the login has ended and only offline grants go on.
    pub expires_at: Option<Timestamp>,
    /// What clients got from it.
    pub grants: Vec<Grant>,
}

/// The cookie of a session: its id, and a secret of which only the hash is stored.
pub(crate) fn session_cookie(id: &SessionId, cookie_secret: &Redacted<String>) -> Redacted<String> {
    Redacted::new(format!("{id}.{}", cookie_secret.expose()))
}

impl Provider {
    /// The live session of a cookie, if its user may still log in.
    ///
    /// # Errors
    /// The store fails.
    pub fn session(&self, cookie: &str) -> Result<Option<Session>, Fault> {
        let Some(stored) = self.session_by_cookie(cookie)? else {
            return Ok(None);
        };
        let user = self.tenant.get::<User>(stored.record.user.as_str())?;
        let enabled = user.is_some_and(|user| !user.record.disabled);
        Ok(enabled.then_some(stored.record))
    }

    /// Sessions of a user, and logins that live on in offline grants.
    ///
    /// # Errors
    /// The store fails.
    pub fn sessions_of(&self, user: &UserId) -> Result<Vec<SessionView>, Fault> {
        let mut views = BTreeMap::new();
        for Versioned {
            record: session, ..
        } in self.tenant.find::<Session>("user", user.as_str())?
        {
            views.insert(session.id.clone(), SessionView::of_session(session));
        }
        for Versioned { record: grant, .. } in self.tenant.find::<Grant>("user", user.as_str())? {
            let view = views.entry(grant.login.clone());
            view.or_insert_with(|| SessionView::of_offline_grant(&grant))
                .grants
                .push(grant);
        }
        Ok(views.into_values().collect())
    }

    /// Ends a session with all it gave, or, by the `sid` of a token, what it gave to one client. Tokens are
    /// taken back at every proxy. `false`: there is no such session.
    ///
    /// # Errors
    /// The store fails.
    pub fn end_session(
        &self,
        id: &SessionId,
        why: EndReason,
        caller: &Caller,
    ) -> Result<bool, Fault> {
        until_settled(|| {
            let session = self.tenant.get::<Session>(id.as_str())?;
            let mut grants = self.tenant.find::<Grant>("login", id.as_str())?;
            if session.is_none() && grants.is_empty() {
                grants.extend(self.tenant.get::<Grant>(id.as_str())?);
            }
            let user = session.as_ref().map(|session| &session.record.user);
            let Some(user) = user
                .or(grants.first().map(|grant| &grant.record.user))
                .cloned()
            else {
                return Ok(Some(false));
            };
            let mut change = self.change();
            if let Some(session) = &session {
                change = change.delete::<Session>(Expected::Version(session.version), id.as_str());
            }
            change = self.end_grants(change, &grants, &why.cause())?;
            let clients: Vec<&str> = grants
                .iter()
                .map(|grant| grant.record.client_id.as_str())
                .collect();
            let report = why
                .report()
                .target(user.as_str())
                .session(id)
                .detail("clients", clients.join(" "));
            Ok(change.report(report, caller).commit()?.then_some(true))
        })
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    /// The store fails.
    pub fn end_sessions_of(&self, user: &UserId, caller: &Caller) -> Result<(), Fault> {
        until_settled(|| {
            let why = EndReason::Administrator;
            let report = why.report().target(user.as_str());
            let change = self
                .stage_end_of_all(self.change(), user, why.cause())?
                .report(report, caller);
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Ends all sessions of the user of `session`, by their own wish.
    pub(crate) fn log_out_everywhere(
        &self,
        session: &Session,
        caller: &Caller,
    ) -> Result<(), Fault> {
        until_settled(|| {
            let report = EndReason::Logout
                .report()
                .subject(session.user.as_str())
                .session(&session.id)
                .target(session.user.as_str());
            let change = self
                .stage_end_of_all(self.change(), &session.user, EndReason::Logout.cause())?
                .report(report, caller);
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Adds the end of all sessions of `user` to `change`, takes all their tokens back, and tells receivers of signals.
    pub(crate) fn stage_end_of_all<'p>(
        &self,
        mut change: Change<'p>,
        user: &UserId,
        cause: Cause,
    ) -> Result<Change<'p>, Fault> {
        // By version: a code redeemed meanwhile has written its session, and this change is tried again.
        for Versioned { record, version } in self.tenant.find::<Session>("user", user.as_str())? {
            change = change.delete::<Session>(Expected::Version(version), record.id.as_str());
        }
        for grant in self.tenant.find::<Grant>("user", user.as_str())? {
            change = self.delete_grant(change, &grant)?;
        }
        let change = change.revoke(Revoked::User(user.clone()));
        change.signal(&SignalEvent::SessionRevoked {
            user: user.clone(),
            session: None,
            cause,
        })
    }

    /// Makes the browser's former session unusable for further logins. It keeps what clients got from it.
    pub(crate) fn forget_cookie<'p>(
        &self,
        change: Change<'p>,
        cookie: Option<&str>,
    ) -> Result<Change<'p>, Fault> {
        let former = match cookie {
            Some(cookie) => self.session_by_cookie(cookie)?,
            None => None,
        };
        Ok(match former {
            Some(Versioned {
                mut record,
                version,
            }) => {
                record.cookie_digest = None;
                change.put(Expected::Version(version), &record)
            }
            None => change,
        })
    }

    /// Ends the oldest session of a user who has as many as allowed, but not `kept`.
    pub(crate) fn make_room_for_session<'p>(
        &self,
        mut change: Change<'p>,
        user: &UserId,
        kept: Option<&SessionId>,
    ) -> Result<Change<'p>, Fault> {
        let mut sessions = self.tenant.find::<Session>("user", user.as_str())?;
        sessions.sort_by_key(|session| session.record.authentication.at);
        let surplus = (sessions.len() + 1).saturating_sub(MAX_SESSIONS_PER_USER);
        let others = sessions
            .iter()
            .filter(|session| Some(&session.record.id) != kept);
        for Versioned { record, version } in others.take(surplus) {
            change = change.delete::<Session>(Expected::Version(*version), record.id.as_str());
            let grants = self.tenant.find::<Grant>("login", record.id.as_str())?;
            change = self.end_grants(change, &grants, &TOO_MANY)?;
        }
        Ok(change)
    }

    /// The same at once, with a change of its own.
    pub(crate) fn settle_room_for_session(
        &self,
        user: &UserId,
        kept: &SessionId,
    ) -> Result<(), Fault> {
        until_settled(|| {
            let change = self.make_room_for_session(self.change(), user, Some(kept))?;
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Ends the oldest grant of a session, and the one a user has not used for longest, if there are as many as allowed.
    pub(crate) fn make_room_for_grant<'p>(
        &self,
        change: Change<'p>,
        login: &SessionId,
        user: &UserId,
    ) -> Result<Change<'p>, Fault> {
        let grants = self.tenant.find::<Grant>("user", user.as_str())?;
        let surplus = (grants.len() + 1).saturating_sub(MAX_GRANTS_PER_USER);
        let (mut of_login, mut others): (Vec<_>, Vec<_>) = grants
            .into_iter()
            .partition(|grant| grant.record.login == *login);
        of_login.sort_by_key(|grant| grant.record.created_at);
        let surplus_of_login = (of_login.len() + 1).saturating_sub(MAX_GRANTS_PER_SESSION);
        let kept = of_login.split_off(surplus_of_login);
        let change = self.end_grants(change, &of_login, &TOO_MANY)?;
        others.extend(kept);
        others.sort_by_key(|grant| grant.record.used_at);
        let surplus = surplus.saturating_sub(surplus_of_login);
        self.end_grants(change, others.iter().take(surplus), &TOO_MANY)
    }

    /// Adds the end of `grants` to `change`: their tokens are taken back, and their clients and receivers of signals told.
    pub(crate) fn end_grants<'p, 'g>(
        &self,
        change: Change<'p>,
        grants: impl IntoIterator<Item = &'g Versioned<Grant>>,
        cause: &Cause,
    ) -> Result<Change<'p>, Fault> {
        grants.into_iter().try_fold(change, |change, grant| {
            let change = self.delete_grant(change, grant)?;
            let id = &grant.record.id;
            change
                .revoke(Revoked::Session(id.clone()))
                .signal(&SignalEvent::SessionRevoked {
                    user: grant.record.user.clone(),
                    session: Some(id.clone()),
                    cause: cause.clone(),
                })
        })
    }

    pub(crate) fn session_by_cookie(
        &self,
        cookie: &str,
    ) -> Result<Option<Versioned<Session>>, Fault> {
        let parsed = (cookie.len() <= MAX_COOKIE_BYTES)
            .then(|| cookie.split_once('.'))
            .flatten();
        let Some((id, cookie_secret)) = parsed else {
            return Ok(None);
        };
        let Ok(id) = id.parse::<SessionId>() else {
            return Ok(None);
        };
        let stored = self.tenant.get::<Session>(id.as_str())?;
        let now = self.clock.now();
        Ok(stored.filter(|stored| {
            let digest = stored.record.cookie_digest.as_ref();
            let known =
                digest.is_some_and(|digest| secret::matches(cookie_secret, digest.expose()));
            known && now < stored.record.expires_at
        }))
    }
}

impl SessionView {
    fn of_session(session: Session) -> Self {
        Self {
            id: session.id,
            authentication: session.authentication,
            source_ip: session.source_ip,
            expires_at: Some(session.expires_at),
            grants: Vec::new(),
        }
    }

    fn of_offline_grant(grant: &Grant) -> Self {
        Self {
            id: grant.login.clone(),
            authentication: grant.authentication.clone(),
            source_ip: None,
            expires_at: None,
            grants: Vec::new(),
        }
    }
}
