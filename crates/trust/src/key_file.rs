//! A root key's file: 32 bytes in hex, mode 0600, made at the first start.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use testudo_model::{Entropy, Redacted};

use crate::{RootKey, hex};

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or made.
    #[error("the key file {} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is data sealed under the key, and no key.
    #[error(
        "the key file {} is missing, and what is in the data folder opens with it alone: put it back; nothing was \
         changed",
        path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("the key file {0} can be read by others (mode {mode:o}); run `chmod 600 {0}`", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else is in it.
    #[error("{} is not a key: it must hold 64 hexadecimal digits", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

/// Reads the key.
///
/// # Errors
/// See [`KeyFileError`]; [`KeyFileError::Missing`] if there is no file.
pub fn load_root_key(path: &Path) -> Result<RootKey, KeyFileError> {
    read(path)?.ok_or_else(|| KeyFileError::Missing {
        path: path.to_owned(),
    })
}

/// Reads the key, or makes one if there is no file. A file that is there is never overwritten.
///
/// # Errors
/// See [`KeyFileError`].
pub fn load_or_create_root_key(
    path: &Path,
    entropy: &dyn Entropy,
) -> Result<RootKey, KeyFileError> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let key = RootKey::generate(entropy);
    write(path, &key).map_err(|source| KeyFileError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(key)
}

/// The key, if there is a file.
fn read(path: &Path) -> Result<Option<RootKey>, KeyFileError> {
    let io_error = |source| KeyFileError::Io {
        path: path.to_owned(),
        source,
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => Redacted::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    let mode = fs::metadata(path).map_err(io_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let malformed = || KeyFileError::Malformed {
        path: path.to_owned(),
    };
    parse(&text).ok_or_else(malformed).map(Some)
}

fn parse(text: &Redacted<String>) -> Option<RootKey> {
    let bytes = hex::decode(text.expose().trim())?;
    Some(RootKey::from_bytes(bytes.try_into().ok()?))
}

/// The key must survive a crash before anything is sealed under it: synced, folder included.
fn write(path: &Path, key: &RootKey) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{}", hex::encode(key.expose_bytes().as_ref()))?;
    file.sync_all()?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use testudo_testkit::SeededEntropy;

    use super::*;

    #[test]
    fn a_missing_key_is_not_made_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nope/key");
        assert!(matches!(
            load_root_key(&path),
            Err(KeyFileError::Missing { .. })
        ));
        assert!(!folder.path().join("nope").exists());
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = load_or_create_root_key(&path, &*SeededEntropy::new(1)).unwrap();
        let read = load_or_create_root_key(&path, &*SeededEntropy::new(2)).unwrap();
        assert_eq!(made.check_value(), read.check_value());
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        load_or_create_root_key(&path, &*SeededEntropy::new(1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = load_or_create_root_key(&path, &*SeededEntropy::new(1));
        assert!(matches!(refused, Err(KeyFileError::Exposed { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        let refused = load_or_create_root_key(&path, &*SeededEntropy::new(1));
        assert!(matches!(refused, Err(KeyFileError::Malformed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }
}
