//! That somebody elsewhere is somebody here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use testudo_model::{SessionId, Timestamp, UserId, event::EventClass};
use testudo_store::{Expected, Record, Versioned};
use testudo_trust::{hex, sha256};

use crate::{
    AdminError, Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::MAX_LINKS_PER_USER,
    records::{PasswordCredential, Session, User},
    secret,
};

/// Which link: it follows from the authority and what that calls the user, so that there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LinkId(String);

/// Not the id of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a link has 32 hexadecimal digits")]
pub struct InvalidLinkId;

impl LinkId {
    pub(crate) fn of(authority: &str, subject: &str) -> Self {
        // Neither has a line break, so no two pairs are the same text.
        let digest = sha256(format!("{authority}\n{subject}").as_bytes());
        let half = digest.first_chunk::<16>();
        Self(hex::encode(half.map_or(&[], |half| half.as_slice())))
    }

    /// The same as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkId {
    type Err = InvalidLinkId;

    fn from_str(text: &str) -> Result<Self, InvalidLinkId> {
        match hex::decode(text) {
            Some(bytes) if bytes.len() == 16 => Ok(Self(text.to_owned())),
            _ => Err(InvalidLinkId),
        }
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An account elsewhere that logs a user in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) user: UserId,
    /// What the fleet called the authority when they were connected.
    pub(crate) source: String,
    /// The issuer.
    pub(crate) authority: String,
    /// What it calls the user, for ever.
    pub(crate) subject: String,
    /// The same for people.
    pub(crate) account: Option<String>,
    /// Whether the account here was made for this one, and follows what is said of it there.
    pub(crate) is_origin: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) last_login_at: Option<Timestamp>,
    /// Since when the authority knows them no more, and the account here is disabled for that.
    pub(crate) gone_at: Option<Timestamp>,
}

impl Record for Link {
    const COLLECTION: &'static str = "identity.link";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("user", self.user.to_string()),
            ("authority", self.authority.clone()),
        ]
    }
}

/// What an authority said of somebody who has just logged in there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Voucher {
    pub(crate) source: String,
    pub(crate) authority: String,
    pub(crate) subject: String,
    pub(crate) account: Option<String>,
    /// The event of a login with it.
    pub(crate) activity: String,
    /// `acr` and `amr` of a login with it.
    pub(crate) class: String,
    pub(crate) methods: Vec<String>,
    /// When they logged in there.
    pub(crate) at: Timestamp,
    /// `acr` there, for the record.
    pub(crate) said_class: Option<String>,
    /// The answer that said so, which counts once.
    pub(crate) used: Option<UsedAnswer>,
}

impl Voucher {
    pub(crate) fn link_id(&self) -> LinkId {
        LinkId::of(&self.authority, &self.subject)
    }

    pub(super) fn link(&self, user: &UserId, is_origin: bool, now: Timestamp) -> Link {
        Link {
            id: self.link_id(),
            user: user.clone(),
            source: self.source.clone(),
            authority: self.authority.clone(),
            subject: self.subject.clone(),
            account: self.account.clone(),
            is_origin,
            created_at: now,
            last_login_at: None,
            gone_at: None,
        }
    }

    /// What events say of it.
    pub(crate) fn describe(&self, report: Report) -> Report {
        let report = report
            .detail("upstream", self.source.as_str())
            .detail("upstream_subject", self.subject.as_str());
        match &self.said_class {
            Some(class) => report.detail("upstream_acr", class.as_str()),
            None => report,
        }
    }
}

/// A voucher that logs in, with what must be stored so that it does not again.
pub(crate) struct AcceptedVoucher {
    pub(crate) voucher: Voucher,
    version: u64,
    after: Link,
}

impl AcceptedVoucher {
    /// Uses it up; the change fails if somebody else did, or if the link is gone.
    pub(crate) fn use_up<'p>(&self, change: Change<'p>) -> Change<'p> {
        let change = change.put(Expected::Version(self.version), &self.after);
        use_up(change, &self.voucher)
    }

    pub(crate) const fn link(&self) -> &LinkId {
        &self.after.id
    }
}

fn use_up<'p>(change: Change<'p>, voucher: &Voucher) -> Change<'p> {
    match &voucher.used {
        Some(used) => change.put(Expected::Absent, used),
        None => change,
    }
}

/// An answer that must not be used again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UsedAnswer {
    /// SHA-256 of its `state`, hex.
    digest: String,
    expires_at: Timestamp,
}

impl UsedAnswer {
    pub(super) fn new(state: &str, expires_at: Timestamp) -> Self {
        Self {
            digest: secret::digest(state),
            expires_at,
        }
    }
}

impl Record for UsedAnswer {
    const COLLECTION: &'static str = "identity.used_answer";

    fn key(&self) -> String {
        self.digest.clone()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// What is shown of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkView {
    /// Its id.
    pub id: LinkId,
    /// What the fleet calls the authority.
    pub source: String,
    /// Its issuer.
    pub authority: String,
    /// What it calls the user.
    pub subject: String,
    /// The same for people, if it said so.
    pub account: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When somebody last logged in with it.
    pub last_login_at: Option<Timestamp>,
}

impl From<Link> for LinkView {
    fn from(link: Link) -> Self {
        Self {
            id: link.id,
            source: link.source,
            authority: link.authority,
            subject: link.subject,
            account: link.account,
            created_at: link.created_at,
            last_login_at: link.last_login_at,
        }
    }
}

/// Why an account elsewhere is not connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It is somebody's.
    #[error("it is connected to another account")]
    Taken,
    /// As many as allowed.
    #[error("there are {MAX_LINKS_PER_USER} connected accounts already")]
    TooMany,
    /// The user is disabled or deleted.
    #[error("this account cannot be changed")]
    NoUser,
    /// Our fault.
    #[error("the account could not be connected")]
    Unavailable(#[from] Fault),
}

impl Provider {
    /// The accounts elsewhere that log a user in, the oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn links_of(&self, user: &UserId) -> Result<Vec<LinkView>, Fault> {
        let links = self.stored_links(user)?.into_iter();
        let mut views: Vec<LinkView> = links.map(|stored| stored.record.into()).collect();
        views.sort_by_key(|link| link.created_at);
        Ok(views)
    }

    /// Those that the user may end: all but the one to the directory they came from.
    pub(crate) fn links_to_part_with(&self, user: &UserId) -> Result<Vec<LinkView>, Fault> {
        let directories: Vec<LinkId> = self
            .stored_links(user)?
            .into_iter()
            .filter(|stored| stored.record.is_of_directory())
            .map(|stored| stored.record.id)
            .collect();
        let mut links = self.links_of(user)?;
        links.retain(|link| !directories.contains(&link.id));
        Ok(links)
    }

    pub(crate) fn stored_links(&self, user: &UserId) -> Result<Vec<Versioned<Link>>, Fault> {
        Ok(self.tenant.find::<Link>("user", user.as_str())?)
    }

    pub(crate) fn link(&self, id: &LinkId) -> Result<Option<Versioned<Link>>, Fault> {
        Ok(self.tenant.get::<Link>(id.as_str())?)
    }

    pub(super) fn is_answer_used(&self, used: &UsedAnswer) -> Result<bool, Fault> {
        Ok(self.tenant.get::<UsedAnswer>(&used.digest)?.is_some())
    }

    /// What is to be written if `voucher` logs `user` in now.
    pub(crate) fn accept_voucher(
        &self,
        user: &UserId,
        voucher: &Voucher,
    ) -> Result<Option<AcceptedVoucher>, Fault> {
        if let Some(used) = &voucher.used
            && self.is_answer_used(used)?
        {
            return Ok(None);
        }
        let stored = self.link(&voucher.link_id())?;
        let own = stored.filter(|stored| stored.record.user == *user);
        Ok(own.map(|stored| AcceptedVoucher {
            version: stored.version,
            after: Link {
                source: voucher.source.clone(),
                account: voucher.account.clone(),
                last_login_at: Some(self.clock.now()),
                ..stored.record
            },
            voucher: voucher.clone(),
        }))
    }

    /// Adds to `change` that `voucher` is about `user`. It writes the password record, as every login and whatever excludes
    /// them does: a user who is disabled or deleted at the same moment gets none.
    pub(crate) fn stage_link<'p>(
        &self,
        change: Change<'p>,
        user: &UserId,
        voucher: &Voucher,
    ) -> Result<Change<'p>, LinkError> {
        let (change, credential) = self.stage_link_alone(change, user, voucher)?;
        Ok(change.put(Expected::Version(credential.version), &credential.record))
    }

    /// The same where a login is added too, which writes that record itself.
    pub(crate) fn stage_link_alone<'p>(
        &self,
        change: Change<'p>,
        user: &UserId,
        voucher: &Voucher,
    ) -> Result<(Change<'p>, Versioned<PasswordCredential>), LinkError> {
        let account = self.tenant.get::<User>(user.as_str());
        let is_enabled = account
            .map_err(Fault::from)?
            .is_some_and(|account| !account.record.disabled);
        let credential = self.tenant.get::<PasswordCredential>(user.as_str());
        let credential = credential.map_err(Fault::from)?.filter(|_| is_enabled);
        let credential = credential.ok_or(LinkError::NoUser)?;
        if self.link(&voucher.link_id())?.is_some() {
            return Err(LinkError::Taken);
        }
        if self.stored_links(user)?.len() >= MAX_LINKS_PER_USER {
            return Err(LinkError::TooMany);
        }
        let link = voucher.link(user, false, self.clock.now());
        let change = change.put(Expected::Absent, &link);
        Ok((use_up(change, voucher), credential))
    }

    /// Connects an account elsewhere for its user, who cannot prove themselves here: an administrator knows who they are.
    ///
    /// # Errors
    /// There is no such identity provider or user, or the account there is somebody's already.
    pub fn connect_user(
        &self,
        user: &UserId,
        source: &str,
        subject: &str,
        caller: &Caller,
    ) -> Result<LinkId, AdminError> {
        let at = self.identity_provider(source);
        let at = at.ok_or_else(|| AdminError::NotFound {
            kind: "identity provider",
            name: source.to_owned(),
        })?;
        if !is_subject(subject) {
            let why = "has 1 to 255 characters of ASCII, and no spaces";
            return Err(AdminError::invalid("subject", why));
        }
        let now = self.clock.now();
        let link = Link {
            id: LinkId::of(&at.issuer, subject),
            user: user.clone(),
            source: at.name.clone(),
            authority: at.issuer.clone(),
            subject: subject.to_owned(),
            account: None,
            is_origin: false,
            created_at: now,
            last_login_at: None,
            gone_at: None,
        };
        until_settled(|| {
            let stored = self.user(user)?;
            if self.link(&link.id)?.is_some() {
                return Err(AdminError::Taken {
                    kind: "user",
                    name: subject.to_owned(),
                });
            }
            if self.stored_links(user)?.len() >= MAX_LINKS_PER_USER {
                let why = format!("has {MAX_LINKS_PER_USER} connected accounts already");
                return Err(AdminError::invalid("user", why));
            }
            let report = self.account_report("upstream.link", stored.record.id.as_str());
            let report = describe(report, &link);
            let change = self.exclude_logins(self.change(), user)?;
            let change = change.put(Expected::Absent, &link).report(report, caller);
            Ok(change.commit()?.then_some(()))
        })?;
        Ok(link.id)
    }

    /// Parts an account elsewhere from its user. Who is logged in by it is logged out.
    ///
    /// # Errors
    /// The user has no such link.
    pub fn disconnect_user(
        &self,
        user: &UserId,
        link: &LinkId,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let report = self.account_report("upstream.unlink", user.as_str());
        match self.unlink(user, link, None, report, caller)? {
            true => Ok(()),
            false => Err(AdminError::NotFound {
                kind: "connected account",
                name: link.to_string(),
            }),
        }
    }

    /// Ends a link, and the sessions by it but `kept`.
    pub(super) fn unlink(
        &self,
        user: &UserId,
        id: &LinkId,
        kept: Option<&SessionId>,
        report: Report,
        caller: &Caller,
    ) -> Result<bool, Fault> {
        let mut report = Some(report);
        let removed = until_settled(|| {
            let stored = self.link(id)?.filter(|stored| stored.record.user == *user);
            let Some(stored) = stored else {
                return Ok(Some(None));
            };
            let version = Expected::Version(stored.version);
            let change = self.change().delete::<Link>(version, id.as_str());
            Ok::<_, Fault>(change.commit()?.then_some(Some(stored.record)))
        })?;
        let Some(link) = removed else {
            return Ok(false);
        };
        if let Some(report) = report.take() {
            self.report(describe(report, &link), caller)?;
        }
        for Versioned { record, .. } in self.tenant.find::<Session>("user", user.as_str())? {
            if record.link.as_ref() == Some(id) && Some(&record.id) != kept {
                self.end_session(&record.id, crate::EndReason::Disconnected, caller)?;
            }
        }
        Ok(true)
    }
}

fn describe(report: Report, link: &Link) -> Report {
    report
        .detail("upstream", link.source.as_str())
        .detail("upstream_subject", link.subject.as_str())
}

/// The event of a link that its user makes while they log in.
pub(crate) fn link_report(user: &User, voucher: &Voucher) -> Report {
    let report = Report::new(EventClass::AccountChange, "upstream.link")
        .subject(user.id.as_str())
        .target(user.id.as_str());
    voucher.describe(report)
}

/// OpenID Connect Core section 2: `sub`.
pub(super) fn is_subject(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
