//! Segment files: an append-only run of frames, each `length u32 LE | checksum 8 bytes | payload`.
//!
//! The checksum tells a torn write (the process or the machine died) from tampering: what is behind the last
//! good frame of a file was never acknowledged and is ignored; a good frame whose payload does not open is
//! somebody's doing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use testudo_trust::sha256;

/// Size after which the next block starts a new file. Deletion works by file.
pub(super) const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Largest payload: a full block, JSON in JSON, sealed.
pub(super) const MAX_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"TDSPOOL1";
const CHECKSUM_BYTES: usize = 8;
const FRAME_HEAD_BYTES: usize = 4 + CHECKSUM_BYTES;
const EXTENSION: &str = "segment";

/// Where a payload lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// First byte of the payload.
    pub(super) offset: u64,
    /// Bytes of the payload.
    pub(super) length: usize,
}

/// The file being written.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
    length: u64,
}

impl SegmentWriter {
    /// Creates the file whose first block is `first_block`, durably: the folder knows it as well.
    pub(super) fn create(folder: &Path, first_block: u64) -> io::Result<Self> {
        let path = folder.join(format!("{first_block:020}.{EXTENSION}"));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(MAGIC)?;
        let metadata = file.metadata()?;
        sync_folder(folder)?;
        let length = u64::try_from(MAGIC.len()).unwrap_or(u64::MAX);
        Ok(Self {
            path,
            file,
            inode: (metadata.dev(), metadata.ino()),
            length,
        })
    }

    /// Appends a frame. When this returns, the frame is on disk.
    ///
    /// # Errors
    /// Whatever the disk says. The file may then hold half a frame; call [`SegmentWriter::abandon`].
    pub(super) fn append(&mut self, payload: &[u8]) -> io::Result<Frame> {
        let head = frame_head(payload)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&head)?;
        self.file.write_all(payload)?;
        self.file.sync_data()?;
        let offset = self.length + u64::try_from(FRAME_HEAD_BYTES).unwrap_or(u64::MAX);
        self.length = offset + u64::try_from(payload.len()).unwrap_or(u64::MAX);
        Ok(Frame {
            offset,
            length: payload.len(),
        })
    }

    /// Gives the file up after a failed append. After a failed `fsync` nobody knows which pages reached the
    /// disk, so the block goes to a new file and the tail of this one is cut, or ignored when read back.
    pub(super) fn abandon(self) {
        let empty = self.length <= u64::try_from(MAGIC.len()).unwrap_or(u64::MAX);
        let undone = if empty {
            fs::remove_file(&self.path)
        } else {
            self.file.set_len(self.length)
        };
        if let Err(error) = undone {
            tracing::warn!(path = %self.path.display(), %error, "could not undo a failed write to the spool");
        }
    }

    /// Whether the path still names the file that is being written. A file removed or replaced under us takes
    /// writes and loses them.
    pub(super) fn is_in_place(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode)
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// Segment files of `folder` with the number of their first block, in order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse().ok());
        if let (true, Some(first_block)) =
            (path.extension().is_some_and(|e| e == EXTENSION), number)
        {
            segments.push((first_block, path));
        }
    }
    segments.sort();
    Ok(segments)
}

/// The good frames of a file, in order, each with its payload.
///
/// # Errors
/// The file cannot be read, is larger than any of ours, or is not a segment.
pub(super) fn scan(path: &Path) -> io::Result<Vec<(Frame, Vec<u8>)>> {
    let limit = SEGMENT_BYTES + u64::try_from(MAX_PAYLOAD_BYTES + 4096).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "larger than any spool segment",
        ));
    }
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        return match MAGIC.starts_with(&bytes) {
            true => Ok(Vec::new()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a spool segment",
            )),
        };
    };
    let mut frames = Vec::new();
    while let Some((payload, behind)) = next_frame(rest) {
        let offset = bytes.len() - behind.len() - payload.len();
        let frame = Frame {
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            length: payload.len(),
        };
        frames.push((frame, payload.to_vec()));
        rest = behind;
    }
    Ok(frames)
}

/// One payload, read back.
pub(super) fn read(path: &Path, frame: Frame) -> io::Result<Vec<u8>> {
    let mut payload = vec![0; frame.length];
    File::open(path)?.read_exact_at(&mut payload, frame.offset)?;
    Ok(payload)
}

/// Makes creations and deletions in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a small file so that after a crash there is the old one or the new one, never half of one.
pub(crate) fn write_durably(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes.as_ref())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn frame_head(payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD_BYTES);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "block too large"))?;
    let mut head = length.to_le_bytes().to_vec();
    head.extend(sha256(payload).into_iter().take(CHECKSUM_BYTES));
    Ok(head)
}

fn next_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (payload, behind) = rest.split_at_checked(length)?;
    sha256(payload)
        .starts_with(checksum)
        .then_some((payload, behind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads(scanned: Vec<(Frame, Vec<u8>)>) -> Vec<Vec<u8>> {
        scanned.into_iter().map(|(_, payload)| payload).collect()
    }

    #[test]
    fn frames_are_read_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut segment = SegmentWriter::create(folder.path(), 7).unwrap();
        let frames: Vec<Frame> = [b"one".as_slice(), b"", b"three"]
            .iter()
            .map(|p| segment.append(p).unwrap())
            .collect();
        let listed = list(folder.path()).unwrap();
        assert_eq!(listed.len(), 1);
        let (first, path) = &listed[0];
        assert_eq!(*first, 7);
        assert_eq!(
            payloads(scan(path).unwrap()),
            [b"one".to_vec(), vec![], b"three".to_vec()]
        );
        assert_eq!(read(path, frames[2]).unwrap(), b"three");
    }

    #[test]
    fn a_removed_or_replaced_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let segment = SegmentWriter::create(folder.path(), 0).unwrap();
        assert!(segment.is_in_place());
        fs::rename(segment.path(), folder.path().join("elsewhere")).unwrap();
        assert!(!segment.is_in_place());
        fs::write(segment.path(), "another file").unwrap();
        assert!(!segment.is_in_place());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever byte a crash stops at, the frames before it survive and nothing else appears.
        #[test]
        fn a_torn_file_keeps_a_prefix(
            written in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
            cut in any::<prop::sample::Index>(),
            garbage in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut segment = SegmentWriter::create(folder.path(), 0).unwrap();
            let mut ends = Vec::new();
            for payload in &written {
                segment.append(payload).unwrap();
                ends.push(usize::try_from(segment.length()).unwrap());
            }
            let path = segment.path().to_owned();
            let mut bytes = fs::read(&path).unwrap();
            let keep = cut.index(bytes.len() + 1);
            bytes.truncate(keep);
            let torn_magic = keep < MAGIC.len();
            if !torn_magic {
                bytes.extend(garbage);
            }
            fs::write(&path, &bytes).unwrap();
            let survivors = ends.iter().filter(|end| **end <= keep).count();
            let found = payloads(scan(&path).unwrap());
            prop_assert!(found.len() >= survivors);
            prop_assert_eq!(&found[..survivors], &written[..survivors]);
            // A frame of garbage would need a matching 64-bit checksum.
            prop_assert!(found.len() <= survivors + 1);
        }
    }
}
