//! Exporting: plain files in the layout of c2sp.org/tlog-tiles.
//!
//! `checkpoint`, `tile/<level>/<index>` and `tile/entries/<index>`, with `.p/<width>` behind partial ones. Any
//! verifier of tiled logs reads them. The files are in the clear: who exports answers for where they go.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use testudo_trust::merkle::Hash;

use crate::{
    ExportError, Ledger, LedgerError,
    ledger::StoredLeaf,
    tile::{Tile, WIDTH, tiles_of},
};

/// Name of the signed checkpoint's file.
pub(crate) const CHECKPOINT: &str = "checkpoint";

impl Ledger {
    /// Writes the ledger as of the newest checkpoint into `folder`, which must be new or empty; returns the
    /// number of leaves. Files are readable by their owner alone.
    ///
    /// # Errors
    /// The folder has something in it, a file cannot be written, or the store fails. What was written so far
    /// has no `checkpoint` and so verifies as nothing.
    pub fn export(&self, folder: &Path) -> Result<u64, ExportError> {
        make_folder(folder)?;
        if read(folder, fs::read_dir(folder))?.next().is_some() {
            return Err(ExportError::NotEmpty {
                folder: folder.to_owned(),
            });
        }
        let head = self.head()?.record;
        for (level, index, width) in tiles_of(head.size) {
            let hashes = self.exported_tile(level, index, width)?;
            write_file(
                &folder.join(tile_path(level, index, width)),
                hashes.as_flattened(),
            )?;
            if level == 0 {
                let entries = self.exported_entries(index, width)?;
                write_file(&folder.join(entries_path(index, width)), &entries)?;
            }
        }
        write_file(&folder.join(CHECKPOINT), head.checkpoint.as_bytes())?;
        Ok(head.size)
    }

    fn exported_tile(&self, level: u32, index: u64, width: u64) -> Result<Vec<Hash>, LedgerError> {
        let damaged = LedgerError::Damaged {
            what: "a tile is missing",
        };
        let mut hashes = Tile::load(&self.tenant, level, index)?.ok_or(damaged)?;
        // The ledger may have grown since the checkpoint.
        hashes.truncate(usize::try_from(width).unwrap_or(usize::MAX));
        Ok(hashes)
    }

    /// Entries with their lengths before them, 16 bits each, big-endian.
    fn exported_entries(&self, index: u64, width: u64) -> Result<Vec<u8>, LedgerError> {
        let count = usize::try_from(width).unwrap_or(0);
        let mut bundle = Vec::new();
        for (_, stored) in self.tenant.read_log::<StoredLeaf>(index * WIDTH, count)? {
            let length = u16::try_from(stored.leaf.len()).map_err(|_| LedgerError::Damaged {
                what: "a leaf is too long",
            })?;
            bundle.extend_from_slice(&length.to_be_bytes());
            bundle.extend_from_slice(stored.leaf.as_bytes());
        }
        Ok(bundle)
    }
}

/// Where a tile is, under the export folder.
pub(crate) fn tile_path(level: u32, index: u64, width: u64) -> PathBuf {
    PathBuf::from(format!("tile/{level}/{}", numbered(index, width)))
}

/// Where 256 entries are, under the export folder.
pub(crate) fn entries_path(index: u64, width: u64) -> PathBuf {
    PathBuf::from(format!("tile/entries/{}", numbered(index, width)))
}

/// An index in groups of three digits, all but the last behind an `x`; `.p/<width>` if the tile is partial.
fn numbered(index: u64, width: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width < WIDTH {
        path.push_str(&format!(".p/{width}"));
    }
    path
}

fn make_folder(folder: &Path) -> Result<(), ExportError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    written(folder, made)
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), ExportError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    written(path, file.and_then(|mut file| file.write_all(content)))
}

fn written<T>(path: &Path, result: std::io::Result<T>) -> Result<T, ExportError> {
    result.map_err(|source| ExportError::File {
        path: path.to_owned(),
        action: "written",
        source,
    })
}

pub(crate) fn read<T>(path: &Path, result: std::io::Result<T>) -> Result<T, ExportError> {
    result.map_err(|source| ExportError::File {
        path: path.to_owned(),
        action: "read",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(
            tile_path(0, 1_234_067, 256),
            Path::new("tile/0/x001/x234/067")
        );
        assert_eq!(tile_path(1, 0, 17), Path::new("tile/1/000.p/17"));
        assert_eq!(entries_path(273, 112), Path::new("tile/entries/273.p/112"));
        assert_eq!(entries_path(1_000, 256), Path::new("tile/entries/x001/000"));
    }
}
