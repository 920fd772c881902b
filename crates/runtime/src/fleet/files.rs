//! The files a fleet file names: read from its folder, or taken from a [`Bundle`](super::Bundle).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Most files in a policy folder.
const MAX_FILES: usize = 10_000;
/// Most folders in each other below a policy folder.
const MAX_FOLDER_DEPTH: usize = 8;
/// All files of a fleet together; a snapshot must hold the policies.
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("it does not exist")]
    Missing,
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    #[error("it is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("it is not UTF-8 text")]
    NotUtf8,
    #[error("the folder has more than {MAX_FILES} entries")]
    TooMany,
    #[error(
        "its folders are nested more than {MAX_FOLDER_DEPTH} deep; does a link lead back into it?"
    )]
    TooDeep,
    #[error("all files together have more than {MAX_TOTAL_BYTES} bytes")]
    TotalTooLarge,
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Missing
        } else {
            Self::Io(error)
        }
    }
}

/// Reads files and remembers what it read.
#[derive(Debug)]
pub(super) struct Files {
    /// The folder that paths are relative to. Without one there is nothing but what is in `texts`.
    base: Option<PathBuf>,
    texts: BTreeMap<String, String>,
}

impl Files {
    pub(super) const fn in_folder(base: PathBuf) -> Self {
        Self {
            base: Some(base),
            texts: BTreeMap::new(),
        }
    }

    pub(super) const fn in_memory(texts: BTreeMap<String, String>) -> Self {
        Self { base: None, texts }
    }

    /// A path of the fleet file as a path of this machine.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.base.as_deref().unwrap_or(Path::new("")).join(path)
    }

    pub(super) fn read(&mut self, path: &str, limit: usize) -> Result<String, FileError> {
        if let Some(text) = self.texts.get(path) {
            return if text.len() <= limit {
                Ok(text.clone())
            } else {
                Err(FileError::TooLarge { limit })
            };
        }
        if self.base.is_none() {
            return Err(FileError::Missing);
        }
        let text = read_text(&self.resolve(path), limit)?;
        let total: usize = self.texts.values().map(String::len).sum();
        if total + text.len() > MAX_TOTAL_BYTES {
            return Err(FileError::TotalTooLarge);
        }
        self.texts.insert(path.to_owned(), text.clone());
        Ok(text)
    }

    /// The files in `folder` and the folders below it, relative to it, in the order of their paths. Hidden folders, such as
    /// `.git`, are left out.
    pub(super) fn paths(&self, folder: &str) -> Result<BTreeSet<String>, FileError> {
        if self.base.is_some() {
            return paths_below(&self.resolve(folder));
        }
        let prefix = format!("{folder}/");
        let below = |path: &String| path.strip_prefix(&prefix).map(str::to_owned);
        let paths: BTreeSet<String> = self.texts.keys().filter_map(below).collect();
        if paths.is_empty() {
            Err(FileError::Missing)
        } else {
            Ok(paths)
        }
    }

    pub(super) fn into_texts(self) -> BTreeMap<String, String> {
        self.texts
    }
}

fn paths_below(folder: &Path) -> Result<BTreeSet<String>, FileError> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![(String::new(), 0)];
    let mut entries = 0;
    while let Some((parent, depth)) = folders.pop() {
        if depth > MAX_FOLDER_DEPTH {
            return Err(FileError::TooDeep);
        }
        for entry in fs::read_dir(folder.join(&parent)).map_err(FileError::from)? {
            let entry = entry.map_err(FileError::from)?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|_| FileError::NotUtf8)?;
            entries += 1;
            if entries > MAX_FILES {
                return Err(FileError::TooMany);
            }
            // Links are followed, as those of mounted configuration have to be; the depth ends a circle of them.
            let is_folder = fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir());
            let is_hidden = name.starts_with('.');
            let path = if parent.is_empty() {
                name
            } else {
                format!("{parent}/{name}")
            };
            match (is_folder, is_hidden) {
                (true, true) => {}
                (true, false) => folders.push((path, depth + 1)),
                (false, _) => drop(paths.insert(path)),
            }
        }
    }
    Ok(paths)
}

/// Reads a text file of at most `limit` bytes; never more, even if the file grows or is a device.
pub(super) fn read_text(path: &Path, limit: usize) -> Result<String, FileError> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(FileError::from)?;
    if bytes.len() > limit {
        return Err(FileError::TooLarge { limit });
    }
    String::from_utf8(bytes).map_err(|_| FileError::NotUtf8)
}
