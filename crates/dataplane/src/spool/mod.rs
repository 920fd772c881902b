//! The event spool: no event that was taken is lost while the control plane is away or when a process dies.
//!
//! Workers put events into a bounded ring ([`EventSink::record`], no system call). One thread takes them out,
//! makes blocks (Merkle root, hash chain, signature by the proxy's identity), seals them (events are personal
//! data) and writes them. An event is encoded once and hashed once. Only blocks that are on disk are shipped, and only a receipt of the ledger deletes
//! them. What is recorded and not yet on disk when a process is killed is at most what came in during
//! [`BLOCK_INTERVAL`](testudo_model::limits::BLOCK_INTERVAL) and one write; [`Spool::sync`] closes that
//! window.
//!
//! When events cannot be kept (disk full, limit reached, no valid identity to sign with, file removed) the
//! sink refuses, and so the request path refuses the call.

mod backlog;
mod block;
mod disk;
mod segment;
mod shared;
mod writer;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use testudo_model::{
    Clock, Entropy, InstanceId, SpiffeId, TenantName,
    event::{Event, Receipt},
};
use testudo_trust::{IdentitySource, Keyring, hex};

use crate::state::{EventSink, SinkFull};
pub(crate) use segment::write_durably;
use shared::Shared;
use writer::{Pending, Writer};

/// Bytes that may wait for the ledger unless told otherwise. About a day of 50 calls per second.
pub const DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

const INSTANCE_FILE: &str = "instance";
/// Binds the sealed instance file to its purpose.
const INSTANCE_CONTEXT: &[u8] = b"testudo event spool instance 1";
const REFUSED_FOLDER: &str = "refused";
/// Blocks set aside before the spool stops shipping.
const MAX_REFUSED: usize = 64;
const LOCK_FILE: &str = "lock";

/// What a spool needs.
#[derive(Clone)]
pub struct SpoolOptions {
    /// Its folder; created if it is missing. A new folder is a new [`InstanceId`].
    pub folder: PathBuf,
    /// Key the blocks are sealed with at rest. It must outlive the process, or what was not shipped is lost.
    pub keyring: Arc<Keyring>,
    /// Who signs the blocks.
    pub identity: IdentitySource,
    /// Tenant of the spool's own events.
    pub tenant: TenantName,
    /// Bytes that may wait for the ledger; beyond, events are refused. [`DEFAULT_MAX_BYTES`].
    pub max_bytes: u64,
    /// Events in the ring, [`testudo_model::limits::EVENT_RING`].
    pub ring: usize,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// Why a spool cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk says no.
    #[error("cannot {action} {} for the event spool", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error("the event spool {} is used by another process: give each proxy its own data folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder belongs to another workload: its events are not ours to sign for.
    #[error("the event spool {} belongs to {owner}: give each workload its own data folder", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// The folder was made under another state key.
    #[error(
        "{} does not open with this state key: use the one it was written with, or move the spool folder away \
         as evidence: the ledger will show the gap",
        path.display()
    )]
    Key {
        /// The file that does not open.
        path: PathBuf,
    },
    /// The ledger refused so many blocks that something is wrong with all of them.
    #[error(
        "{} holds {MAX_REFUSED} blocks that the ledger refused: look at the control plane's log, then move the \
         spool folder away",
        path.display()
    )]
    Refused {
        /// Where they are.
        path: PathBuf,
    },
    /// A block is not what was written.
    #[error(
        "block {block} in {} is damaged: {why}; use the state key it was written with, or move the spool folder \
         away as evidence: the ledger will show the gap",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the block.
        block: u64,
        /// What is wrong.
        why: String,
    },
}

impl SpoolError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// A receipt that does not fit the block it was given for. The block stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's receipt is for another block than the one shipped")]
pub struct ReceiptMismatch;

/// A block to ship.
#[derive(Debug, Clone)]
pub struct Unshipped {
    /// Its number.
    pub number: u64,
    /// A [`testudo_model::event::Block`], encoded.
    pub encoded: Bytes,
}

/// How the spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Why events are refused; `None` if they are taken.
    pub fault: Option<String>,
    /// Blocks on disk without a receipt.
    pub unshipped_blocks: usize,
    /// Their bytes.
    pub unshipped_bytes: u64,
    /// Events lost that no block has reported yet.
    pub lost: u64,
}

/// An open spool. See the module.
pub struct Spool {
    instance: InstanceId,
    folder: PathBuf,
    keyring: Arc<Keyring>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

impl Spool {
    /// Opens the folder, continues its chain and starts the writer thread. Reads the whole backlog: takes a
    /// second per 100 MB.
    ///
    /// # Errors
    /// The folder is in use or cannot be written, or blocks in it were changed.
    pub fn open(options: SpoolOptions) -> Result<(Arc<Self>, Arc<SpoolSink>), SpoolError> {
        let folder = options.folder;
        fs::create_dir_all(&folder).map_err(|e| SpoolError::io("create", &folder, e))?;
        let lock = lock(&folder)?;
        let (instance, is_new) = instance(
            &folder,
            &options.keyring,
            options.identity.current().id(),
            &*options.clock,
            &*options.entropy,
        )?;
        let (chain, backlog) = disk::recover(&folder, &options.keyring, &instance)?;
        tracing::info!(
            %instance,
            next_block = chain.next_block(),
            next_sequence = chain.next_sequence(),
            unshipped = backlog.unshipped(),
            "event spool open"
        );
        let shared = Arc::new(Shared::default());
        *shared.backlog() = backlog;
        let was_clean = disk::take_clean_mark(&folder) || is_new;
        let (sender, ring) = mpsc::sync_channel(options.ring);
        let mut writer = Writer {
            ring,
            shared: Arc::clone(&shared),
            disk: disk::Disk {
                folder: folder.clone(),
                keyring: Arc::clone(&options.keyring),
                entropy: Arc::clone(&options.entropy),
                instance: instance.clone(),
                max_bytes: options.max_bytes,
                current: None,
            },
            chain,
            identity: options.identity,
            tenant: options.tenant,
            clock: options.clock,
            entropy: options.entropy,
            pending: Pending::default(),
        };
        if !was_clean {
            writer.report_unclean_stop();
        }
        let thread = thread::Builder::new()
            .name("testudo-spool".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| SpoolError::io("start the writer of", &folder, e))?;
        let sink = SpoolSink {
            ring: sender,
            shared: Arc::clone(&shared),
        };
        let thread = Mutex::new(Some(thread));
        let spool = Self {
            instance,
            folder,
            keyring: options.keyring,
            shared,
            thread,
            _lock: lock,
        };
        Ok((Arc::new(spool), Arc::new(sink)))
    }

    /// The spool's name in the ledger.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// How it is.
    pub fn status(&self) -> SpoolStatus {
        let fault = self.shared.fault();
        let backlog = self.shared.backlog();
        SpoolStatus {
            fault,
            unshipped_blocks: backlog.unshipped(),
            unshipped_bytes: backlog.bytes(),
            lost: self.shared.lost(),
        }
    }

    /// The oldest block without a receipt: from memory, or from disk if so many wait that it was not kept.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be read back.
    pub fn oldest(&self) -> Result<Option<Unshipped>, SpoolError> {
        let Some(stored) = self.shared.backlog().oldest().cloned() else {
            return Ok(None);
        };
        let encoded = match stored.encoded {
            Some(encoded) => encoded,
            None => disk::read(&self.keyring, &self.instance, &stored)?,
        };
        Ok(Some(Unshipped {
            number: stored.number,
            encoded,
        }))
    }

    /// The ledger has the oldest block: forgets it.
    ///
    /// # Errors
    /// [`ReceiptMismatch`] when the receipt is for anything else; nothing is forgotten.
    pub fn acknowledge(&self, receipt: &Receipt) -> Result<(), ReceiptMismatch> {
        let mut backlog = self.shared.backlog();
        let fits = backlog.oldest().is_some_and(|oldest| {
            receipt.instance == self.instance
                && receipt.block == oldest.number
                && receipt.head_hash == hex::encode(&oldest.head_hash)
        });
        if !fits {
            return Err(ReceiptMismatch);
        }
        let unneeded = backlog.pop();
        drop(backlog);
        delete(&unneeded);
        Ok(())
    }

    /// The ledger will never take the oldest block: puts it aside, sealed as it is, and goes on with the next
    /// one. The ledger shows the gap. Blocks.
    ///
    /// # Errors
    /// The disk fails, or too many were put aside before; the block stays.
    pub fn set_aside(&self) -> Result<(), SpoolError> {
        let Some(stored) = self.shared.backlog().oldest().cloned() else {
            return Ok(());
        };
        let refused = self.folder.join(REFUSED_FOLDER);
        disk::copy_aside(&stored, &refused, MAX_REFUSED)?;
        let unneeded = self.shared.backlog().pop();
        delete(&unneeded);
        Ok(())
    }

    /// Waits until a block reached the disk since the last call.
    pub async fn sealed(&self) {
        self.shared.sealed.notified().await;
    }

    /// Waits until everything recorded before the call is on disk; `false` if it is not after `timeout`.
    /// Blocks.
    pub fn sync(&self, timeout: Duration) -> bool {
        let ticket = self.shared.request_flush();
        self.wake_writer();
        self.shared.wait_flushed(ticket, timeout)
    }

    /// Takes no further events, writes what there is and ends the thread; `false` if that was not possible
    /// within `timeout`. To be called after the last request has ended. Blocks.
    pub fn close(&self, timeout: Duration) -> bool {
        self.shared.stop();
        let ticket = self.shared.request_flush();
        self.wake_writer();
        let flushed = self.shared.wait_flushed(ticket, timeout);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let (true, Some(thread)) = (flushed, thread) {
            thread.thread().unpark();
            return thread.join().is_ok();
        }
        flushed
    }

    /// The spool's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn wake_writer(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.thread().unpark();
        }
    }
}

impl Drop for Spool {
    /// Writes what there is: a thread that still signed while the process ends would be cut off in the middle.
    fn drop(&mut self) {
        self.shared.stop();
        self.wake_writer();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // Its panic has been told where it happened.
            drop(thread.join());
        }
    }
}

/// The workers' end of the ring.
pub struct SpoolSink {
    ring: mpsc::SyncSender<Box<Event>>,
    shared: Arc<Shared>,
}

impl EventSink for SpoolSink {
    fn record(&self, event: Event) -> Result<(), SinkFull> {
        if !self.shared.is_refusing() && self.ring.try_send(Box::new(event)).is_ok() {
            return Ok(());
        }
        self.shared.count_lost();
        Err(SinkFull)
    }
}

fn lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| SpoolError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(SpoolError::Locked {
            path: folder.to_owned(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(SpoolError::io("lock", &path, error)),
    }
}

/// The instance the folder belongs to; a new one for a new folder.
/// The spool's name and whether it has just been given. Kept with whose it is, sealed: an identity names a service.
fn instance(
    folder: &Path,
    keyring: &Keyring,
    reporter: &SpiffeId,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<(InstanceId, bool), SpoolError> {
    let path = folder.join(INSTANCE_FILE);
    match fs::read(&path) {
        Ok(sealed) => {
            let text = keyring
                .open(INSTANCE_CONTEXT, &sealed)
                .map_err(|_| SpoolError::Key { path: path.clone() })?;
            let (instance, owner) = read_instance(&text).ok_or_else(|| {
                let malformed = io::Error::new(io::ErrorKind::InvalidData, "not an instance file");
                SpoolError::io("use", &path, malformed)
            })?;
            if owner == reporter.as_str() {
                Ok((instance, false))
            } else {
                Err(SpoolError::Foreign {
                    path: folder.to_owned(),
                    owner,
                })
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let instance = InstanceId::generate(clock, entropy);
            let text = format!("{instance} {reporter}");
            let sealed = keyring.seal(entropy, INSTANCE_CONTEXT, text.as_bytes());
            segment::write_durably(&path, sealed).map_err(|e| SpoolError::io("write", &path, e))?;
            Ok((instance, true))
        }
        Err(error) => Err(SpoolError::io("read", &path, error)),
    }
}

fn read_instance(text: &[u8]) -> Option<(InstanceId, String)> {
    let (instance, owner) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some((instance.parse().ok()?, owner.to_owned()))
}

fn delete(segments: &[PathBuf]) {
    for path in segments {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "could not delete a shipped spool segment");
        }
    }
}

#[cfg(test)]
mod tests;
