//! LDAP directories (RFC 4511): whether a password is right there, and what they say of whose it is.
//!
//! A client of our own: it is little, every answer has a limit, and nothing a server sends makes it recurse, also before TLS,
//! when whoever is on the way can send anything.

mod ber;
mod connection;
mod message;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::ClientConfig;
use testudo_identity::DirectoryEntry;
use testudo_model::Redacted;
use testudo_runtime::fleet::{Directory, LdapFilter, LdapPart};
use testudo_trust::{hex, web_client_config};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use self::{
    ber::Malformed,
    connection::Connection,
    message::{Entry, Page, Search, Values},
};
use crate::outbound::system_authorities;

/// Groups of one person that are read.
const MAX_GROUPS: usize = 1_000;
/// People of one directory that are read.
const MAX_PEOPLE: usize = 200_000;
/// Pages of them; some may be empty.
const MAX_PAGES: usize = 20_000;
/// Begins ids that are no text.
const BINARY: &str = "0x";
/// For filters without places.
const NOBODY: Values<'_> = Values {
    username: "",
    dn: "",
};
/// Longest id; an `objectGUID` has 32 digits.
const MAX_ID_BYTES: usize = 128;

/// Why a directory was not asked. The text is for the ledger and the log.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Nobody there, or gone.
    #[error("no connection: {0}")]
    Connection(#[from] io::Error),
    /// Not who they should be.
    #[error("no TLS: {0}")]
    Tls(#[source] io::Error),
    /// The certificate authorities cannot be used.
    #[error("the certificate authorities to trust cannot be read: {0}")]
    Roots(#[source] io::Error),
    /// StartTLS was refused. Nothing is said without it.
    #[error("it refuses StartTLS (result {0})")]
    NoTls(i32),
    /// `plain` leads away from this machine.
    #[error("it is not on this machine, and is to be asked without TLS")]
    NotThisMachine,
    /// Not LDAP.
    #[error("an answer is not as RFC 4511 says")]
    Malformed,
    /// More than is read.
    #[error("an answer is too large")]
    TooLarge,
    /// The same.
    #[error("it has more entries than are read")]
    TooMany,
    /// We are not known there.
    #[error("`bind_dn` and `bind_password` are not accepted")]
    NotAccepted,
    /// A bind was answered with this result.
    #[error("a bind has the result {0}")]
    Bind(i32),
    /// A search was answered with this result; 10 is a referral.
    #[error("a search has the result {0}")]
    Search(i32),
    /// There is nothing there.
    #[error("there is no such base")]
    NoBase,
    /// Nobody can tell who is meant.
    #[error("the filter holds for several people")]
    Ambiguous,
    /// The entry does not say who it is.
    #[error("the entry has no usable id or name")]
    Nameless,
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// All connections are in use for as long.
    #[error("all connections are in use")]
    Busy,
}

impl From<Malformed> for DirectoryError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A directory with its connections.
pub struct DirectoryClient {
    declared: Directory,
    tls: OnceCell<Arc<ClientConfig>>,
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl DirectoryClient {
    /// One that nobody has asked yet.
    pub fn new(declared: Directory) -> Self {
        Self {
            places: Semaphore::new(usize::from(declared.section.max_connections)),
            tls: OnceCell::new(),
            idle: Mutex::default(),
            declared,
        }
    }

    /// As declared.
    pub const fn declared(&self) -> &Directory {
        &self.declared
    }

    /// Whoever the name and the password are of; `None` if there is nobody, or the password is another one.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub async fn log_in(
        &self,
        username: &str,
        password: &Redacted<String>,
    ) -> Result<Option<DirectoryEntry>, DirectoryError> {
        // A bind without a password is one of nobody, and goes well (RFC 4513 section 5.1.2).
        if password.expose().is_empty() || username.is_empty() {
            return Ok(None);
        }
        self.in_time(async {
            let _place = self
                .places
                .acquire()
                .await
                .map_err(|_| DirectoryError::Busy)?;
            let mut connection = self.connection().await?;
            let Some(entry) = self.find(&mut connection, username).await? else {
                self.keep(connection);
                return Ok(None);
            };
            let found = self.person(&mut connection, &entry).await?;
            let is_right = connection.bind(&entry.dn, password).await?;
            self.keep(connection);
            Ok(is_right.then_some(found))
        })
        .await
    }

    /// What it says now of the person of this id; `None` if it knows nobody of it any more.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub async fn look_up(&self, id: &str) -> Result<Option<DirectoryEntry>, DirectoryError> {
        let value = match id.strip_prefix(BINARY) {
            Some(digits) => hex::decode(digits).ok_or(DirectoryError::Nameless)?,
            None => id.as_bytes().to_vec(),
        };
        let attribute = self.declared.section.id_attribute.clone();
        let filter = LdapFilter::And(vec![
            self.declared.user_filter.for_everybody(),
            LdapFilter::Equal(attribute, vec![LdapPart::Literal(value)]),
        ]);
        self.in_time(async {
            let _place = self
                .places
                .acquire()
                .await
                .map_err(|_| DirectoryError::Busy)?;
            let mut connection = self.connection().await?;
            let filter = message::filter(&filter, NOBODY);
            let found = match self.only(&mut connection, filter).await? {
                Some(entry) => Some(self.person(&mut connection, &entry).await?),
                None => None,
            };
            self.keep(connection);
            Ok(found)
        })
        .await
    }

    /// The ids of all people there, page by page.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub async fn ids(&self) -> Result<Vec<String>, DirectoryError> {
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| DirectoryError::Busy)?;
        let mut connection = self.in_time(self.connection()).await?;
        let section = &self.declared.section;
        let everybody = self.declared.user_filter.for_everybody();
        let search = Search {
            base: &section.base,
            filter: message::filter(&everybody, NOBODY),
            attributes: &[&section.id_attribute],
            size_limit: 0,
            seconds: self.seconds(),
        };
        let (mut ids, mut cookie) = (Vec::new(), Vec::new());
        for _ in 0..MAX_PAGES {
            let page = Page {
                size: section.page_size,
                cookie: &cookie,
            };
            let room = MAX_PEOPLE.saturating_sub(ids.len());
            let room = room.min(usize::from(section.page_size));
            let found = self
                .in_time(connection.search(&search, Some(&page), room))
                .await?;
            if found.is_cut {
                return Err(DirectoryError::TooMany);
            }
            ids.extend(found.entries.iter().filter_map(|entry| self.id_of(entry)));
            cookie = found.cookie;
            if cookie.is_empty() {
                self.keep(connection);
                return Ok(ids);
            }
        }
        Err(DirectoryError::TooMany)
    }

    async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, DirectoryError>>,
    ) -> Result<T, DirectoryError> {
        match timeout(self.limit(), asking).await {
            Ok(answered) => answered,
            Err(_) => Err(DirectoryError::Timeout),
        }
    }

    fn limit(&self) -> Duration {
        self.declared.section.timeout.duration()
    }

    fn seconds(&self) -> i32 {
        i32::try_from(self.limit().as_secs().max(1)).unwrap_or(1)
    }

    /// A connection that is bound as who searches: one that is there, if it still works, or a new one.
    async fn connection(&self) -> Result<Connection, DirectoryError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(mut connection) = idle {
            // Always: it may have been bound as somebody, and a server that has gone is noticed before a question is asked.
            match self.bind_searcher(&mut connection).await {
                Ok(()) => return Ok(connection),
                Err(DirectoryError::NotAccepted) => return Err(DirectoryError::NotAccepted),
                Err(_) => {}
            }
        }
        let Directory {
            host,
            port,
            security,
            ..
        } = &self.declared;
        let tls = self
            .tls
            .get_or_try_init(|| tls(self.declared.ca_pem.clone()));
        let mut connection = Connection::open(host, *port, *security, tls.await?).await?;
        self.bind_searcher(&mut connection).await?;
        Ok(connection)
    }

    async fn bind_searcher(&self, connection: &mut Connection) -> Result<(), DirectoryError> {
        let (dn, password) = (&self.declared.section.bind_dn, &self.declared.bind_password);
        match connection.bind(dn, password).await? {
            true => Ok(()),
            false => Err(DirectoryError::NotAccepted),
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < usize::from(self.declared.section.max_connections) {
            idle.push(connection);
        }
    }

    /// The one entry of who types this name.
    async fn find(
        &self,
        connection: &mut Connection,
        username: &str,
    ) -> Result<Option<Entry>, DirectoryError> {
        let values = Values { username, dn: "" };
        let filter = message::filter(&self.declared.user_filter, values);
        self.only(connection, filter).await
    }

    async fn only(
        &self,
        connection: &mut Connection,
        filter: Vec<u8>,
    ) -> Result<Option<Entry>, DirectoryError> {
        let section = &self.declared.section;
        let search = Search {
            base: &section.base,
            filter,
            attributes: &[
                &section.id_attribute,
                &section.username_attribute,
                &section.name_attribute,
                &section.email_attribute,
            ],
            size_limit: 2,
            seconds: self.seconds(),
        };
        let mut found = connection.search(&search, None, 2).await?;
        match (found.entries.pop(), found.entries.is_empty(), found.is_cut) {
            (None, ..) => Ok(None),
            (Some(entry), true, false) if !entry.dn.is_empty() => Ok(Some(entry)),
            (Some(_), true, false) => Err(DirectoryError::Nameless),
            _ => Err(DirectoryError::Ambiguous),
        }
    }

    /// What is said of them, with their groups.
    async fn person(
        &self,
        connection: &mut Connection,
        entry: &Entry,
    ) -> Result<DirectoryEntry, DirectoryError> {
        let section = &self.declared.section;
        let text = |name: &str| entry.text(name).map(str::to_owned);
        let name = text(&section.username_attribute).ok_or(DirectoryError::Nameless)?;
        Ok(DirectoryEntry {
            id: self.id_of(entry).ok_or(DirectoryError::Nameless)?,
            display_name: text(&section.name_attribute),
            email: text(&section.email_attribute),
            groups: self.groups(connection, &name, &entry.dn).await?,
            username: name,
        })
    }

    async fn groups(
        &self,
        connection: &mut Connection,
        username: &str,
        dn: &str,
    ) -> Result<Vec<String>, DirectoryError> {
        let groups = self.declared.section.groups.as_ref();
        let Some((groups, filter)) = groups.zip(self.declared.group_filter.as_ref()) else {
            return Ok(Vec::new());
        };
        let search = Search {
            base: &groups.base,
            filter: message::filter(filter, Values { username, dn }),
            attributes: &[&groups.name_attribute],
            size_limit: 0,
            seconds: self.seconds(),
        };
        let found = connection.search(&search, None, MAX_GROUPS).await?;
        if found.is_cut {
            return Err(DirectoryError::TooMany);
        }
        let names = found.entries.iter();
        Ok(names
            // Names in a directory have no case.
            .filter_map(|group| group.text(&groups.name_attribute).map(str::to_lowercase))
            .collect())
    }

    /// An id as text: as it is, or the bytes of it.
    fn id_of(&self, entry: &Entry) -> Option<String> {
        let bytes = entry.bytes(&self.declared.section.id_attribute)?;
        let is_plain = bytes.iter().all(u8::is_ascii_graphic);
        let id = match std::str::from_utf8(bytes) {
            Ok(text) if is_plain => text.to_owned(),
            _ => format!("{BINARY}{}", hex::encode(bytes)),
        };
        (1..=MAX_ID_BYTES).contains(&id.len()).then_some(id)
    }
}

/// The client's side of TLS, which trusts the authorities given, or else those of the system.
async fn tls(given: Option<String>) -> Result<Arc<ClientConfig>, DirectoryError> {
    let making = spawn_blocking(move || {
        let pem = match given {
            Some(pem) => pem.into_bytes(),
            None => system_authorities()?,
        };
        web_client_config(&pem, &[]).map_err(io::Error::other)
    });
    let made = making
        .await
        .map_err(|error| DirectoryError::Roots(io::Error::other(error)))?;
    made.map_err(DirectoryError::Roots)
}
