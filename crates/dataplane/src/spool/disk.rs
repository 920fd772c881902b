//! Sealed blocks on disk: written before they are shipped, read back after a restart.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use testudo_model::{Entropy, InstanceId};
use testudo_trust::Keyring;

use super::{
    SpoolError,
    backlog::{Backlog, Stored},
    block::{Chain, SealedBlock},
    segment::{self, Frame, SEGMENT_BYTES, SegmentWriter},
};

/// File that says: everything recorded was written.
const CLEAN_MARK: &str = "clean";

/// Why the spool takes no events at the moment. All but [`Fault::Removed`] heal by themselves.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(
        "the event spool holds {held} of {limit} bytes: bring the control plane back, or raise the spool's limit"
    )]
    Limit { held: u64, limit: u64 },
    #[error("cannot write the event spool at {}: {source}; free space or repair the disk", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{} was removed or replaced while in use: events in it may be lost; \
         put the file back or move the spool folder away, and restart",
        path.display()
    )]
    Removed { path: PathBuf },
    #[error(transparent)]
    Seal(#[from] super::block::SealError),
}

/// The folder of segment files, for writing.
pub(super) struct Disk {
    pub(super) folder: PathBuf,
    pub(super) keyring: Arc<Keyring>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) instance: InstanceId,
    pub(super) max_bytes: u64,
    pub(super) current: Option<SegmentWriter>,
}

impl Disk {
    /// Writes `block`, given what is on disk already. When this returns, the block is on disk.
    pub(super) fn write(&mut self, block: &SealedBlock, held: u64) -> Result<Stored, Fault> {
        let payload = self.keyring.seal(
            &*self.entropy,
            &associated_data(&self.instance, block.number),
            &block.encoded,
        );
        let wanted = held.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        if wanted > self.max_bytes {
            return Err(Fault::Limit {
                held,
                limit: self.max_bytes,
            });
        }
        let mut segment = self.segment_for(block.number)?;
        let path = segment.path().to_owned();
        match segment.append(&payload) {
            Ok(frame) => {
                self.current = Some(segment);
                Ok(Stored {
                    number: block.number,
                    head_hash: block.head_hash,
                    path,
                    frame,
                    encoded: Some(block.encoded.clone()),
                })
            }
            Err(source) => {
                segment.abandon();
                Err(Fault::Write { path, source })
            }
        }
    }

    /// Whether the file being written is still where it belongs.
    pub(super) fn check_in_place(&self) -> Result<(), Fault> {
        match &self.current {
            Some(segment) if !segment.is_in_place() => Err(Fault::Removed {
                path: segment.path().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Leaves the mark that [`take_clean_mark`] looks for.
    pub(super) fn mark_clean(&self) {
        if let Err(error) = segment::write_durably(&self.folder.join(CLEAN_MARK), "") {
            tracing::warn!(%error, "could not note that the event spool was closed");
        }
    }

    fn segment_for(&mut self, block: u64) -> Result<SegmentWriter, Fault> {
        self.check_in_place()?;
        match self.current.take() {
            Some(segment) if segment.length() < SEGMENT_BYTES => Ok(segment),
            _ => SegmentWriter::create(&self.folder, block).map_err(|source| Fault::Write {
                path: self.folder.clone(),
                source,
            }),
        }
    }
}

/// Whether the last run of the spool ended by itself. Takes the mark away.
pub(super) fn take_clean_mark(folder: &Path) -> bool {
    fs::remove_file(folder.join(CLEAN_MARK)).is_ok()
}

/// Reads the folder back: the chain to continue and the blocks to ship.
pub(super) fn recover(
    folder: &Path,
    keyring: &Keyring,
    instance: &InstanceId,
) -> Result<(Chain, Backlog), SpoolError> {
    let mut chain = Chain::new(instance.clone());
    let mut backlog = Backlog::default();
    let segments = segment::list(folder).map_err(|e| SpoolError::io("list", folder, e))?;
    for (first_block, path) in segments {
        let frames = segment::scan(&path).map_err(|e| SpoolError::io("read", &path, e))?;
        if frames.is_empty() {
            // The process died while it wrote the first block of this file; the name must become free.
            fs::remove_file(&path).map_err(|e| SpoolError::io("remove", &path, e))?;
            continue;
        }
        for (number, (frame, payload)) in (first_block..).zip(frames) {
            let encoded = open(keyring, instance, number, &payload, &path)?;
            let is_oldest = backlog.oldest().is_none();
            let followed = chain
                .follow(encoded, is_oldest)
                .map_err(|why| SpoolError::Damaged {
                    path: path.clone(),
                    block: number,
                    why: why.to_string(),
                })?;
            if let Some(block) = followed {
                backlog.push(Stored {
                    number: block.number,
                    head_hash: block.head_hash,
                    path: path.clone(),
                    frame,
                    encoded: Some(block.encoded),
                });
            }
        }
    }
    Ok((chain, backlog))
}

/// One block, read back: a [`testudo_model::event::Block`], encoded.
pub(super) fn read(
    keyring: &Keyring,
    instance: &InstanceId,
    stored: &Stored,
) -> Result<Bytes, SpoolError> {
    let payload = read_frame(&stored.path, stored.frame)?;
    open(keyring, instance, stored.number, &payload, &stored.path)
}

/// Copies a block, sealed as it is, into the folder `aside`, which may hold `limit` of them.
pub(super) fn copy_aside(stored: &Stored, aside: &Path, limit: usize) -> Result<(), SpoolError> {
    fs::create_dir_all(aside).map_err(|e| SpoolError::io("create", aside, e))?;
    let held = fs::read_dir(aside)
        .map_err(|e| SpoolError::io("list", aside, e))?
        .count();
    if held >= limit {
        return Err(SpoolError::Refused {
            path: aside.to_owned(),
        });
    }
    let payload = read_frame(&stored.path, stored.frame)?;
    let path = aside.join(format!("{:020}.block", stored.number));
    segment::write_durably(&path, payload).map_err(|e| SpoolError::io("write", &path, e))
}

fn read_frame(path: &Path, frame: Frame) -> Result<Vec<u8>, SpoolError> {
    segment::read(path, frame).map_err(|e| SpoolError::io("read", path, e))
}

fn open(
    keyring: &Keyring,
    instance: &InstanceId,
    block: u64,
    payload: &[u8],
    path: &Path,
) -> Result<Bytes, SpoolError> {
    keyring
        .open(&associated_data(instance, block), payload)
        .map(Bytes::from)
        .map_err(|_| SpoolError::Damaged {
            path: path.to_owned(),
            block,
            why: "it does not open: it was changed, or sealed under another state key".to_owned(),
        })
}

/// Binds a sealed block to its place, so that files cannot be swapped.
fn associated_data(instance: &InstanceId, block: u64) -> Vec<u8> {
    format!("testudo spool 1|{instance}|{block}").into_bytes()
}
