//! Records to keep and places to keep them in.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use testudo_model::{TenantName, Timestamp};
use testudo_store::{
    Backend, LogEntry, Record, Sqlite, SqliteOptions, Store, StoreError, StoreOptions, Tenant,
};
use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::{RootKey, SystemEntropy};

use crate::memory::Memory;

/// A record with indexes and, if told so, an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub mail: String,
    pub groups: Vec<String>,
    pub expires: Option<Timestamp>,
}

impl Account {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mail: format!("{name}@example.org"),
            groups: Vec::new(),
            expires: None,
        }
    }

    pub fn with_mail(self, mail: &str) -> Self {
        Self {
            mail: mail.to_owned(),
            ..self
        }
    }

    pub fn in_groups(self, groups: &[&str]) -> Self {
        Self {
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..self
        }
    }

    pub fn until(self, expires: Timestamp) -> Self {
        Self {
            expires: Some(expires),
            ..self
        }
    }
}

impl Record for Account {
    const COLLECTION: &'static str = "test.account";

    fn key(&self) -> String {
        self.name.clone()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let groups = self.groups.iter().map(|group| ("group", group.clone()));
        std::iter::once(("mail", self.mail.clone()))
            .chain(groups)
            .collect()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires
    }
}

/// Another collection, with the same keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub value: u64,
}

impl Record for Counter {
    const COLLECTION: &'static str = "test.counter";

    fn key(&self) -> String {
        self.name.clone()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line(pub String);

impl LogEntry for Line {
    const LOG: &'static str = "test.lines";
}

pub fn line(text: &str) -> Line {
    Line(text.to_owned())
}

pub fn root_key() -> RootKey {
    RootKey::from_bytes([7; 32])
}

/// Opens the embedded store of a folder as a program would.
pub fn open_folder(folder: &Path) -> Result<Store, StoreError> {
    Store::open(StoreOptions {
        path: folder.to_owned(),
        root_key: root_key(),
        clock: FakeClock::today(),
        entropy: Arc::new(SystemEntropy),
    })
}

pub fn tenant(store: &Store) -> Tenant {
    store.tenant(&TenantName::default_tenant())
}

/// A backend that outlives the stores on it.
pub trait Place {
    fn make() -> Self;
    fn backend(&self) -> Arc<dyn Backend>;
    /// Closes the backend; the next call of `backend` finds what it left.
    fn restart(&self);
}

pub struct InMemory(Arc<Memory>);

impl Place for InMemory {
    fn make() -> Self {
        Self(Arc::default())
    }

    fn backend(&self) -> Arc<dyn Backend> {
        Arc::<Memory>::clone(&self.0)
    }

    fn restart(&self) {}
}

pub struct OnDisk {
    folder: tempfile::TempDir,
    open: Mutex<Option<Arc<Sqlite>>>,
}

impl Place for OnDisk {
    fn make() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            open: Mutex::new(None),
        }
    }

    fn backend(&self) -> Arc<dyn Backend> {
        let mut open = self.open.lock().unwrap();
        let options = SqliteOptions {
            folder: self.folder.path().to_owned(),
            max_pages: None,
        };
        Arc::<Sqlite>::clone(open.get_or_insert_with(|| Arc::new(Sqlite::open(&options).unwrap())))
    }

    fn restart(&self) {
        self.open.lock().unwrap().take();
    }
}

/// A place, a clock, and stores to open on it.
pub struct Setup<P> {
    pub place: P,
    pub clock: Arc<FakeClock>,
    entropy: Arc<SeededEntropy>,
}

impl<P: Place> Setup<P> {
    pub fn new() -> Self {
        Self {
            place: P::make(),
            clock: FakeClock::today(),
            entropy: SeededEntropy::new(1),
        }
    }

    pub fn open_with(&self, root_key: RootKey) -> Result<Store, StoreError> {
        Store::open_on(
            self.place.backend(),
            root_key,
            self.clock.clone(),
            self.entropy.clone(),
        )
    }

    pub fn clock_now(&self) -> Timestamp {
        testudo_model::Clock::now(&*self.clock)
    }

    pub fn open(&self) -> Store {
        self.open_with(root_key()).unwrap()
    }
}
