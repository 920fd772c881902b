//! Verifying an export: files and a public key, nothing else.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use testudo_trust::{NoteVerifier, TrustBundle, merkle::Hash};

use crate::{
    Defect, ExportError, Report,
    export::{CHECKPOINT, entries_path, read, tile_path},
    inspection::{Leaves, Source, inspect},
    leaf::MAX_LEAF_BYTES,
    proof::open_checkpoint,
    tile::{WIDTH, split_hashes},
};

/// Largest checkpoint file: three lines and room for many witnesses.
const MAX_CHECKPOINT_BYTES: u64 = 64 * 1024;

/// What else is known about a ledger, from elsewhere. Each makes it harder to have rewritten it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anchors<'a> {
    /// The trust domain's roots of all times: every block's certificate must lead to one of them at the time of
    /// sealing. Then not even the ledger's operator can have made up what a proxy reported.
    pub roots: Option<&'a TrustBundle>,
    /// A signed checkpoint from before: what it covers must still be there, unchanged. Without one nothing shows
    /// that the end was cut off, or the whole rewritten by somebody with the ledger's key.
    pub checkpoint: Option<&'a str>,
}

/// Verifies the export in `folder` with the log's verifier key: the checkpoint's signature, every entry, every
/// tile, every block's signature and events. What is wrong or missing is in the report, with the first bad leaf
/// where it can be said.
///
/// # Errors
/// The key is malformed, or a file cannot be read for reasons other than not being there.
pub fn verify_export(
    folder: &Path,
    verifier_key: &str,
    anchors: Anchors<'_>,
) -> Result<Report, ExportError> {
    let verifier = NoteVerifier::parse(verifier_key).map_err(|_| ExportError::VerifierKey)?;
    let open = |note: &str| {
        open_checkpoint(&verifier, verifier_key, note).map_err(|error| error.to_string())
    };
    let Ok(kept) = anchors.checkpoint.map(open).transpose() else {
        return Ok(Report::of_nothing(
            "the checkpoint that was kept is not signed by this ledger",
        ));
    };
    let files = Files { folder };
    let newest = match files.read(Path::new(CHECKPOINT), MAX_CHECKPOINT_BYTES)? {
        None => Err("it is missing".to_owned()),
        Some(note) => String::from_utf8(note)
            .map_err(|_| "it is not text".to_owned())
            .and_then(|note| open(&note)),
    };
    match newest {
        Ok(newest) => inspect(&newest, &files, anchors.roots, kept.as_ref()),
        Err(what) => Ok(Report::of_nothing(what)),
    }
}

struct Files<'a> {
    folder: &'a Path,
}

impl Files<'_> {
    /// A file's content; `None` if it is not there. Of a file beyond `limit` no more is read than shows it.
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ExportError> {
        let path = self.folder.join(path);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => read(&path, opened)?,
        };
        let mut content = Vec::new();
        read(&path, file.take(limit + 1).read_to_end(&mut content))?;
        Ok(Some(content))
    }
}

impl Source for Files<'_> {
    type Error = ExportError;

    fn leaves(&self, index: u64, width: u64) -> Result<Leaves, ExportError> {
        let limit = width * (MAX_LEAF_BYTES as u64 + 2);
        Ok(match self.read(&entries_path(index, width), limit)? {
            Some(bundle) => split_entries(&bundle, width),
            None => Leaves {
                leaves: Vec::new(),
                defect: Some("the file is missing".to_owned()),
            },
        })
    }

    fn tile(
        &self,
        level: u32,
        index: u64,
        width: u64,
    ) -> Result<Result<Vec<Hash>, Defect>, ExportError> {
        let defect = |what: &str| {
            let place = self.tile_name(level, index, width);
            Err(Defect {
                leaf: None,
                place,
                what: what.to_owned(),
            })
        };
        let Some(bytes) = self.read(&tile_path(level, index, width), WIDTH * 32)? else {
            return Ok(defect("the file is missing"));
        };
        Ok(match split_hashes(&bytes) {
            Some(hashes) if hashes.len() as u64 == width => Ok(hashes),
            _ => defect("the file has another length"),
        })
    }

    fn tile_name(&self, level: u32, index: u64, width: u64) -> String {
        tile_path(level, index, width).display().to_string()
    }

    fn leaves_name(&self, index: u64, width: u64) -> String {
        entries_path(index, width).display().to_string()
    }
}

/// Splits an entry bundle as far as its lengths allow.
fn split_entries(bundle: &[u8], width: u64) -> Leaves {
    let mut leaves = Vec::new();
    let mut rest = bundle;
    while (leaves.len() as u64) < width {
        let Some((length, behind)) = rest.split_first_chunk::<2>() else {
            break;
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((entry, behind)) = behind.split_at_checked(length) else {
            break;
        };
        leaves.push(entry.to_vec());
        rest = behind;
    }
    let defect = (leaves.len() as u64 != width || !rest.is_empty())
        .then(|| "the lengths of the entries do not add up to the file's".to_owned());
    Leaves { leaves, defect }
}
