//! Opening a store, its tenants, its keys, its changes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use testudo_model::{Clock, Entropy, TenantName, Timestamp};
use testudo_trust::RootKey;

use crate::{
    StoreError,
    backend::{Backend, SealedChange},
    change::{Change, SealedForm},
    core::Core,
    limits,
    sqlite::{Sqlite, SqliteOptions},
    tenant::Tenant,
    unit::decode,
    watch::{Subscription, Watch},
    writer::Writer,
};

/// Expired records removed in one transaction.
const SWEEP_STEP: usize = 500;

/// How to open an embedded store.
pub struct StoreOptions {
    /// The data folder. Made if missing.
    pub path: PathBuf,
    /// The key that opens the store's keyring. A new store takes it as its own.
    pub root_key: RootKey,
    /// Decides what is expired.
    pub clock: Arc<dyn Clock>,
    /// Makes keys and nonces.
    pub entropy: Arc<dyn Entropy>,
}

/// An open store. Clones are the same store; it closes with the last of them and of its tenants.
#[derive(Clone)]
pub struct Store(Arc<Open>);

struct Open {
    /// First, so that the writer is done before the rest goes.
    writer: Writer,
    core: Arc<Core>,
    watch: Arc<Watch>,
}

impl Store {
    /// Whether there is an embedded store in `folder`: it opens with its own root key alone.
    pub fn exists(folder: &Path) -> bool {
        Sqlite::exists(folder)
    }

    /// Opens the embedded store of a folder, or makes it.
    ///
    /// # Errors
    /// [`StoreError::WrongRootKey`], [`StoreError::InUse`], [`StoreError::UnknownFormat`],
    /// [`StoreError::Corrupt`], or what the file system says. The folder is as before then.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions {
            path,
            root_key,
            clock,
            entropy,
        } = options;
        let sqlite = Sqlite::open(&SqliteOptions {
            folder: path,
            max_pages: None,
        })?;
        Self::open_on(Arc::new(sqlite), root_key, clock, entropy)
    }

    /// Opens the store that `backend` keeps, or makes it. Several may be open on one backend, in several
    /// processes if the backend allows that.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(
        backend: Arc<dyn Backend>,
        root_key: RootKey,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let core = Arc::new(Core::open(backend, root_key, clock, entropy)?);
        let watch = Arc::new(Watch::default());
        let listener = Arc::downgrade(&watch);
        core.backend.on_commit(Box::new(move |newest| {
            listener.upgrade().is_some_and(|watch| {
                watch.hear(newest);
                true
            })
        }));
        // Heard of after listening began: no commit falls between.
        watch.hear(core.backend.reader()?.newest_change()?);
        let writer = Writer::start(Arc::clone(&core))?;
        Ok(Self(Arc::new(Open {
            writer,
            core,
            watch,
        })))
    }

    /// The records of one tenant.
    pub fn tenant(&self, name: &TenantName) -> Tenant {
        Tenant::new(self.clone(), name)
    }

    /// Starts a new term of the keyring: what is written from now on is sealed under a new key. What is there
    /// stays readable; [`reseal_step`](Self::reseal_step) seals it anew. A term is good for 2^32 seals.
    ///
    /// # Errors
    /// As any write.
    pub fn rotate(&self) -> Result<u32, StoreError> {
        self.0.writer.submit(|unit| unit.rotate())
    }

    /// Seals at most `max` values of older terms under the current one, beside the running work, and answers
    /// how many. 0 means that none was left; that call drops the older keys from the
    /// keyring.
    ///
    /// # Errors
    /// As any write; [`StoreError::Corrupt`] when a value does not open.
    pub fn reseal_step(&self, max: usize) -> Result<usize, StoreError> {
        let max = max.clamp(1, limits::MAX_OPERATIONS);
        self.0.writer.submit(move |unit| unit.reseal(max))
    }

    /// Removes the records that expired until `now`, and answers how many.
    ///
    /// # Errors
    /// As any write; [`StoreError::Corrupt`] when a record does not open.
    pub fn sweep_expired(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut removed = 0;
        loop {
            match self
                .0
                .writer
                .submit(move |unit| unit.sweep(now, SWEEP_STEP))?
            {
                0 => return Ok(removed),
                some => removed += some,
            }
        }
    }

    /// At most `limit` changes after number `sequence`, in order, over all tenants.
    ///
    /// # Errors
    /// [`StoreError::Forgotten`] when the changes after `sequence` are not all known any more, or when the
    /// store is older than `sequence` (it was restored from a backup): load the present state and follow from
    /// [`Subscription::told`]. [`StoreError::Corrupt`] when a change does not open or is missing.
    pub fn changes_since(&self, sequence: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        let limit = limit.clamp(1, limits::MAX_PAGE);
        self.0.core.read(|reads, keys| {
            // Asked first: there may be a commit between the two questions.
            let newest = reads.newest_change()?;
            let sealed = reads.changes(sequence, limit)?;
            check_dense(sequence, newest, &sealed)?;
            sealed
                .iter()
                .map(|change| {
                    let form: SealedForm = decode("a change", &keys.open(change)?)?;
                    Ok(form.numbered(change.sequence))
                })
                .collect()
        })
    }

    /// Tells of changes from now on. Subscribe first, then load, then follow: nothing falls between.
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(Arc::clone(&self.0.watch))
    }

    pub(crate) fn core(&self) -> &Core {
        &self.0.core
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.0.writer
    }
}

fn check_dense(after: u64, newest: u64, changes: &[SealedChange]) -> Result<(), StoreError> {
    let Some(first) = changes.first() else {
        let in_step = newest == after;
        return if in_step {
            Ok(())
        } else {
            Err(StoreError::Forgotten { oldest: newest })
        };
    };
    if first.sequence != after + 1 {
        return Err(StoreError::Forgotten {
            oldest: first.sequence,
        });
    }
    if (first.sequence..)
        .zip(changes)
        .any(|(number, change)| change.sequence != number)
    {
        return Err(StoreError::corrupt("the list of changes, which has a gap,"));
    }
    Ok(())
}
