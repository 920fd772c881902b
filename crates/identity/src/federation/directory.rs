//! Logging in with a password that a directory knows (LDAP). It is asked by whoever runs the provider (`controlplane`).
//!
//! A name is asked about there only if nobody here has it, or if it came from there: a directory has no say about anybody
//! else. Who came from there has no other password, and is disabled here when they are gone there.

use std::sync::{Arc, PoisonError, RwLock};

use testudo_model::{Timestamp, UserId, Username, event::EventClass};
use testudo_store::Expected;

use super::{ForeignProfile, GroupMap, Link, LinkId, Voucher, profile::ForeignGroups};
use crate::{
    AdminError, Caller, Fault, LoggedIn, LoginError, Provider,
    change::{Report, until_settled},
    claims::{ASSURANCE_ONE_FACTOR, METHOD_PASSWORD},
    flow::Flow,
    login::{Means, Proven, for_purpose},
    records::{Holder, NameClaim, User},
    second_factor::FirstFactor,
    throttle::Attempt,
};

/// Begins the authority of links to directories; no issuer begins so.
const AUTHORITY: &str = "ldap:";

/// A directory whose people may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDirectory {
    /// What the fleet calls it.
    pub name: String,
    /// Whether its mail addresses are taken over.
    pub trusts_email: bool,
    /// What its groups are here, by their names in lower case; none if it says nothing about groups.
    pub groups: Option<GroupMap>,
}

/// What a directory says of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// What it calls them for ever.
    pub id: String,
    /// Login name.
    pub username: String,
    /// Name for people.
    pub display_name: Option<String>,
    /// Mail address.
    pub email: Option<String>,
    /// Groups, in lower case.
    pub groups: Vec<String>,
}

/// How a sent login form goes on.
#[derive(Debug)]
pub enum LoginStep {
    /// Logged in.
    LoggedIn(LoggedIn),
    /// A directory must say whether the password is right.
    AskDirectories(DirectoryLogin),
}

/// A login that waits for the word of a directory.
pub struct DirectoryLogin {
    flow: Flow,
    attempt: Attempt,
    username: Username,
    directories: Vec<String>,
}

impl std::fmt::Debug for DirectoryLogin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DirectoryLogin")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

impl DirectoryLogin {
    /// The name as typed.
    pub fn username(&self) -> &str {
        self.username.as_str()
    }

    /// The directories to ask, one after the other.
    pub fn directories(&self) -> &[String] {
        &self.directories
    }
}

/// Somebody of a directory who has an account here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryUser {
    /// Their link.
    pub link: LinkId,
    /// What the directory calls them.
    pub id: String,
}

/// Whose a name is.
pub(crate) enum Whose {
    /// Somebody's who has their password here.
    Ours,
    /// Somebody's of this directory.
    Directory(String),
    /// Nobody's.
    Nobody,
}

/// The directories in force.
#[derive(Default)]
pub(crate) struct UserDirectories(RwLock<Arc<[UserDirectory]>>);

impl Provider {
    /// Lets people of these directories log in, and of no others.
    pub fn trust_directories(&self, directories: Vec<UserDirectory>) {
        let all = &self.user_directories.0;
        *all.write().unwrap_or_else(PoisonError::into_inner) = directories.into();
    }

    fn user_directories(&self) -> Arc<[UserDirectory]> {
        let all = &self.user_directories.0;
        Arc::clone(&all.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn user_directory(&self, name: &str) -> Option<UserDirectory> {
        let all = self.user_directories();
        all.iter().find(|known| known.name == name).cloned()
    }

    pub(crate) fn whose(&self, username: &Username) -> Result<Whose, Fault> {
        let claim = self
            .tenant
            .get::<NameClaim>(&NameClaim::user_key(username))?;
        let Some(Holder::User(id)) = claim.map(|claim| claim.record.holder) else {
            return Ok(Whose::Nobody);
        };
        let links = self.stored_links(&id)?;
        let mut names = links.iter().filter_map(|link| directory_of(&link.record));
        Ok(names
            .next()
            .map_or(Whose::Ours, |name| Whose::Directory(name.to_owned())))
    }

    /// The login that directories are to be asked about; `None` if there are none to ask.
    pub(crate) fn ask_directories(
        &self,
        whose: Whose,
        flow: Flow,
        attempt: Attempt,
        username: &Username,
    ) -> Result<DirectoryLogin, (Flow, Attempt)> {
        let known = self.user_directories();
        let names = known.iter().map(|directory| directory.name.clone());
        let directories: Vec<String> = match whose {
            Whose::Ours => Vec::new(),
            Whose::Directory(name) => names.filter(|known| *known == name).collect(),
            Whose::Nobody => names.collect(),
        };
        if directories.is_empty() {
            return Err((flow, attempt));
        }
        Ok(DirectoryLogin {
            flow,
            attempt,
            username: username.clone(),
            directories,
        })
    }

    /// Ends a login that no directory let through.
    ///
    /// # Errors
    /// Always; which one is nobody's business.
    pub fn refuse_directory_login(
        &self,
        asked: &DirectoryLogin,
        why: &str,
        caller: &Caller,
    ) -> LoginError {
        let report = refusal(asked, why).detail("directories", asked.directories.join(" "));
        match self.report(report, caller) {
            Ok(()) => LoginError::WrongCredentials,
            Err(fault) => fault.into(),
        }
    }

    /// Ends a login whose password the directory `name` knows.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub fn finish_directory_login(
        &self,
        asked: &DirectoryLogin,
        name: &str,
        entry: &DirectoryEntry,
        session: Option<&str>,
        caller: &Caller,
    ) -> Result<LoggedIn, LoginError> {
        let refuse = |why: &str| {
            let report = refusal(asked, why).detail("upstream", name);
            self.report(report, caller)?;
            Err(LoginError::WrongCredentials)
        };
        let Some(directory) = self.user_directory(name) else {
            return refuse("the directory is not known any more");
        };
        let voucher = voucher(&directory, entry, self.clock.now());
        let user = match self.directory_user(&directory, &voucher, entry, caller) {
            Ok(Some(user)) => user,
            Ok(None) => return refuse("the name is somebody else's here"),
            Err(AdminError::Unavailable(fault)) => return Err(fault.into()),
            Err(error) => return refuse(&error.to_string()),
        };
        if user.disabled {
            return refuse("user is disabled");
        }
        if self.needs_passkey(&user.id, asked.flow.purpose.least_class())? {
            self.settle_forgiveness(&asked.attempt)?;
            return Err(LoginError::PasskeyNeeded);
        }
        if self.second_factor(&user.id)?.is_some() {
            self.settle_forgiveness(&asked.attempt)?;
            let first = FirstFactor::Elsewhere(Box::new(voucher));
            let flow = self.half_login(asked.flow.clone(), &user.id, first)?;
            return Err(LoginError::SecondFactorNeeded { flow });
        }
        let proven = Proven {
            user,
            hash: None,
            rehashed: None,
        };
        let means = Means::Elsewhere(&voucher);
        self.start_session(&asked.flow, &proven, &asked.attempt, session, means, caller)
    }

    /// Whoever has the account of this person; one is made if nobody does. `None`: their name is somebody else's.
    fn directory_user(
        &self,
        directory: &UserDirectory,
        voucher: &Voucher,
        entry: &DirectoryEntry,
        caller: &Caller,
    ) -> Result<Option<User>, AdminError> {
        let profile = profile(directory, entry);
        if let Some(link) = self.link(&voucher.link_id())? {
            if link.record.gone_at.is_some() {
                self.bring_back(&link.record, caller)?;
            }
            let user = self.user(&link.record.user)?.record;
            return Ok(Some(match user.disabled {
                true => user,
                false => self.follow_profile(&link.record, &profile, caller)?,
            }));
        }
        if profile.username.is_none() {
            return Err(AdminError::invalid("name", "is none that a user can have"));
        }
        self.create_foreign_user(voucher, &profile, caller)
    }

    /// All who came from a directory.
    ///
    /// # Errors
    /// The store fails.
    pub fn directory_users(&self, name: &str) -> Result<Vec<DirectoryUser>, Fault> {
        let links = self.tenant.find::<Link>("authority", &authority(name))?;
        let users = links.into_iter().map(|stored| DirectoryUser {
            link: stored.record.id,
            id: stored.record.subject,
        });
        Ok(users.collect())
    }

    /// Brings somebody of a directory up to date with what it says of them now. Who is gone there is disabled here, and comes back
    /// when they do.
    ///
    /// # Errors
    /// The store fails.
    pub fn follow_directory(
        &self,
        name: &str,
        user: &DirectoryUser,
        entry: Option<&DirectoryEntry>,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let Some(directory) = self.user_directory(name) else {
            return Ok(());
        };
        let Some(stored) = self.link(&user.link)? else {
            return Ok(());
        };
        let link = stored.record;
        match entry {
            None if link.gone_at.is_some() => Ok(()),
            None => self.let_go(&link, caller),
            Some(entry) => {
                if link.gone_at.is_some() {
                    self.bring_back(&link, caller)?;
                }
                if !self.user(&link.user)?.record.disabled {
                    self.follow_profile(&link, &profile(&directory, entry), caller)?;
                }
                Ok(())
            }
        }
    }

    /// Whom an administrator has disabled stays so, whatever the directory says later.
    fn let_go(&self, link: &Link, caller: &Caller) -> Result<(), AdminError> {
        if self.user(&link.user)?.record.disabled {
            return Ok(());
        }
        self.mark(link, true)?;
        self.disable_user(&link.user, caller)
    }

    fn bring_back(&self, link: &Link, caller: &Caller) -> Result<(), AdminError> {
        self.mark(link, false)?;
        self.enable_user(&link.user, caller)
    }

    fn mark(&self, link: &Link, is_gone: bool) -> Result<(), Fault> {
        until_settled(|| {
            let Some(stored) = self.link(&link.id)? else {
                return Ok(Some(()));
            };
            let gone_at = is_gone.then(|| self.clock.now());
            let marked = Link {
                gone_at,
                ..stored.record
            };
            let change = self
                .change()
                .put(Expected::Version(stored.version), &marked);
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Whether a user came from a directory, which alone decides about their password.
    pub(crate) fn is_of_directory(&self, user: &UserId) -> Result<bool, Fault> {
        let links = self.stored_links(user)?;
        Ok(links
            .iter()
            .any(|link| directory_of(&link.record).is_some()))
    }
}

impl Link {
    /// Whether it is to a directory.
    pub(crate) fn is_of_directory(&self) -> bool {
        directory_of(self).is_some()
    }
}

fn authority(name: &str) -> String {
    format!("{AUTHORITY}{name}")
}

fn directory_of(link: &Link) -> Option<&str> {
    link.authority.strip_prefix(AUTHORITY)
}

fn voucher(directory: &UserDirectory, entry: &DirectoryEntry, now: Timestamp) -> Voucher {
    Voucher {
        source: directory.name.clone(),
        authority: authority(&directory.name),
        subject: entry.id.clone(),
        account: ForeignProfile::text(Some(&entry.username)),
        activity: "login.directory".to_owned(),
        class: ASSURANCE_ONE_FACTOR.to_owned(),
        methods: vec![METHOD_PASSWORD.to_owned()],
        at: now,
        said_class: None,
        used: None,
    }
}

fn profile(directory: &UserDirectory, entry: &DirectoryEntry) -> ForeignProfile {
    let email = entry.email.as_deref().filter(|email| email.contains('@'));
    let theirs = || entry.groups.iter().map(String::as_str);
    ForeignProfile {
        username: ForeignProfile::name(Some(&entry.username)),
        display_name: ForeignProfile::text(entry.display_name.as_deref()),
        email: ForeignProfile::text(email.filter(|_| directory.trusts_email)),
        groups: directory
            .groups
            .as_ref()
            .map(|map| ForeignGroups::new(map, theirs())),
    }
}

fn refusal(asked: &DirectoryLogin, why: &str) -> Report {
    let report = Report::new(EventClass::Authentication, "login.directory");
    for_purpose(report, &asked.flow.purpose)
        .denied(why)
        .target(asked.username.as_str())
}
