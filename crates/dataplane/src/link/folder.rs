//! What a proxy keeps on disk between two runs, sealed.
//!
//! With a state key a restarted proxy continues: its certificate lives or is renewed late, its snapshot still
//! holds, and the events it had not shipped are readable. Without one it keeps nothing, and needs a new join token.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use testudo_model::{
    Entropy,
    limits::MAX_SNAPSHOT_BYTES,
    snapshot::{Endpoints, Revocation, Snapshot},
};
use testudo_trust::{IdentitySource, Keyring, RootKey, Svid, SvidKey, TrustBundle};

use crate::spool::write_durably;

const KEYRING_FILE: &str = "keyring";
const SPOOL_FOLDER: &str = "spool";
/// Processes of one folder that may be writing their last events at the same time, and the one that serves.
const MAX_SPOOLS: usize = 8;
/// Sealing adds an envelope; nothing we write is larger than a snapshot.
const MAX_FILE_BYTES: u64 = MAX_SNAPSHOT_BYTES as u64 + 64 * 1024;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFolderError {
    /// The disk says no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// The key file is not the one the folder was sealed with, or the file was changed.
    #[error(
        "{} does not open with this state key: give the key file it was written with, or a new data folder \
         and a new join token",
        path.display()
    )]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// It opens, and is still not what we write.
    #[error("{} holds something else than expected: delete it and join again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// A proxy's sealed state.
pub struct StateFolder {
    folder: PathBuf,
    keyring: Arc<Keyring>,
    entropy: Arc<dyn Entropy>,
}

#[derive(Serialize, Deserialize)]
struct StoredIdentity {
    #[serde(flatten)]
    pair: StoredKeyPair,
    bundle: String,
}

/// A certificate chain (DER, leaf first) with its key.
pub(super) type KeyPair = (Vec<Vec<u8>>, SvidKey);

/// A certificate chain with its key, as text.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredKeyPair {
    chain: Vec<String>,
    key: String,
}

impl StoredKeyPair {
    pub(super) fn new(chain: &[Vec<u8>], key: &SvidKey) -> Self {
        Self {
            chain: chain.iter().map(|der| STANDARD.encode(der)).collect(),
            key: STANDARD.encode(key.to_pkcs8().expose()),
        }
    }

    fn read(&self) -> Option<KeyPair> {
        let chain = self.chain.iter().map(|der| STANDARD.decode(der).ok());
        let key = SvidKey::from_pkcs8(&STANDARD.decode(&self.key).ok()?).ok()?;
        Some((chain.collect::<Option<_>>()?, key))
    }
}

impl StateFolder {
    /// Opens `folder`, or makes it, under the state key.
    ///
    /// # Errors
    /// The disk fails, or the key is another one than the folder was made with.
    pub fn open(
        folder: &Path,
        key: &RootKey,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StateFolderError> {
        fs::create_dir_all(folder).map_err(|source| io_error("create", folder, source))?;
        let path = folder.join(KEYRING_FILE);
        let keyring = match read(&path)? {
            Some(wrapped) => {
                Keyring::unwrap(key, &wrapped).map_err(|_| StateFolderError::WrongKey { path })?
            }
            None => {
                let keyring = Keyring::new(&*entropy);
                write_durably(&path, keyring.wrap(key, &*entropy))
                    .map_err(|source| io_error("write", &path, source))?;
                keyring
            }
        };
        Ok(Self {
            folder: folder.to_owned(),
            keyring: Arc::new(keyring),
            entropy,
        })
    }

    /// The key everything in the folder is sealed with; the event spool uses it too.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring)
    }

    /// Where event spools go, in order: the first is the usual one. One spool has one writer, so a process that takes
    /// over from another takes the next while that one still writes its last events.
    pub fn spools(&self) -> impl Iterator<Item = PathBuf> {
        let further = (2..=MAX_SPOOLS).map(|number| format!("{SPOOL_FOLDER}-{number}"));
        let names = std::iter::once(SPOOL_FOLDER.to_owned()).chain(further);
        names.map(|name| self.folder.join(name))
    }

    /// Keeps the current certificate, its key and the trust bundle.
    ///
    /// # Errors
    /// The disk fails.
    pub fn keep_identity(&self, identity: &IdentitySource) -> Result<(), StateFolderError> {
        let svid = identity.current();
        let stored = StoredIdentity {
            pair: StoredKeyPair::new(svid.chain(), svid.key()),
            bundle: identity.bundle().to_json(),
        };
        self.write("identity", &stored)
    }

    /// What [`StateFolder::keep_identity`] kept.
    ///
    /// # Errors
    /// The disk fails, or the file was changed.
    pub fn identity(&self) -> Result<Option<(Svid, TrustBundle)>, StateFolderError> {
        let Some(stored) = self.read::<StoredIdentity>("identity")? else {
            return Ok(None);
        };
        let malformed = || StateFolderError::Malformed {
            path: self.folder.join("identity"),
        };
        let (chain, key) = stored.pair.read().ok_or_else(malformed)?;
        let svid = Svid::new(chain, key).map_err(|_| malformed())?;
        let bundle = TrustBundle::from_json(svid.id().trust_domain(), &stored.bundle)
            .map_err(|_| malformed())?;
        Ok(Some((svid, bundle)))
    }

    /// Keeps the certificate of the public listener.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn keep_web(&self, pair: &StoredKeyPair) -> Result<(), StateFolderError> {
        self.write("web", pair)
    }

    /// What [`StateFolder::keep_web`] kept.
    ///
    /// # Errors
    /// The disk fails, or the file was changed.
    pub(super) fn web(&self) -> Result<Option<KeyPair>, StateFolderError> {
        let stored = self.read::<StoredKeyPair>("web")?;
        let path = self.folder.join("web");
        let read =
            |stored: StoredKeyPair| stored.read().ok_or(StateFolderError::Malformed { path });
        stored.map(read).transpose()
    }

    /// Keeps where the control plane is.
    ///
    /// # Errors
    /// The disk fails.
    pub fn keep_server(&self, server: &str) -> Result<(), StateFolderError> {
        self.write("server", &server)
    }

    /// What [`StateFolder::keep_server`] kept.
    ///
    /// # Errors
    /// The disk fails, or the file was changed.
    pub fn server(&self) -> Result<Option<String>, StateFolderError> {
        self.read("server")
    }

    /// Whether `folder` was ever opened: what is in it is sealed.
    pub fn exists(folder: &Path) -> bool {
        folder.join(KEYRING_FILE).exists()
    }

    /// Keeps the snapshot in force.
    ///
    /// # Errors
    /// The disk fails.
    pub fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), StateFolderError> {
        self.write("snapshot", snapshot)
    }

    /// What [`StateFolder::keep_snapshot`] kept.
    ///
    /// # Errors
    /// The disk fails, or the file was changed.
    pub fn snapshot(&self) -> Result<Option<Snapshot>, StateFolderError> {
        self.read("snapshot")
    }

    /// Keeps the addresses of the other proxies.
    ///
    /// # Errors
    /// The disk fails.
    pub fn keep_endpoints(&self, endpoints: &Endpoints) -> Result<(), StateFolderError> {
        self.write("endpoints", endpoints)
    }

    /// What [`StateFolder::keep_endpoints`] kept.
    ///
    /// # Errors
    /// The disk fails, or the file was changed.
    pub fn endpoints(&self) -> Result<Option<Endpoints>, StateFolderError> {
        self.read("endpoints")
    }

    /// Keeps the revocations in force.
    ///
    /// # Errors
    /// The disk fails.
    pub fn keep_revocations(&self, revocations: &[Revocation]) -> Result<(), StateFolderError> {
        self.write("revocations", &revocations)
    }

    /// What [`StateFolder::keep_revocations`] kept.
    ///
    /// # Errors
    /// The disk fails, or the file was changed.
    pub fn revocations(&self) -> Result<Option<Vec<Revocation>>, StateFolderError> {
        self.read("revocations")
    }

    fn write(&self, name: &'static str, value: &impl Serialize) -> Result<(), StateFolderError> {
        let path = self.folder.join(name);
        let plain = serde_json::to_vec(value)
            .map_err(|error| io_error("encode", &path, io::Error::other(error)))?;
        let sealed = self
            .keyring
            .seal(&*self.entropy, associated_data(name).as_bytes(), &plain);
        write_durably(&path, sealed).map_err(|source| io_error("write", &path, source))
    }

    fn read<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StateFolderError> {
        let path = self.folder.join(name);
        let Some(sealed) = read(&path)? else {
            return Ok(None);
        };
        let plain = self
            .keyring
            .open(associated_data(name).as_bytes(), &sealed)
            .map_err(|_| StateFolderError::WrongKey { path: path.clone() })?;
        serde_json::from_slice(&plain)
            .map(Some)
            .map_err(|_| StateFolderError::Malformed { path })
    }
}

/// Binds a file to its name, so that one cannot be put in the place of another.
fn associated_data(name: &str) -> String {
    format!("testudo proxy state 1|{name}")
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateFolderError> {
    match fs::metadata(path) {
        Ok(found) if found.len() > MAX_FILE_BYTES => Err(StateFolderError::Malformed {
            path: path.to_owned(),
        }),
        Ok(_) => fs::read(path)
            .map(Some)
            .map_err(|source| io_error("read", path, source)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StateFolderError {
    StateFolderError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
