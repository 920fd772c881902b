//! Segment files: an append-only run of frames, each `length u32 LE | CRC-32 u32 LE | payload`.
//!
//! The checksum tells a torn write (the process or the machine died) from tampering: what is behind the last
//! good frame of a file was never acknowledged and is ignored; a good frame whose payload does not open is
//! somebody's doing. It is against accidents only, so a cheap one does: what an attacker writes with a good
//! checksum still lacks the seal of the payload (AES-GCM). It covers the length as well, because a file system
//! may leave zeros at the end of a file, and those must not read as empty frames.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use testudo_model::limits::MAX_BLOCK_BYTES;

/// Size after which the next block starts a new file. Deletion works by file.
pub(super) const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Largest payload: the largest block, sealed (term, nonce, tag).
const MAX_PAYLOAD_BYTES: usize = MAX_BLOCK_BYTES + 64;

const MAGIC: &[u8; 8] = b"TDSPOOL1";
const FRAME_HEAD_BYTES: usize = 8;
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
        let begun = file
            .write_all(MAGIC)
            .and_then(|()| sync_folder(folder))
            .and_then(|()| file.metadata());
        // Half a file (no room) would keep its name from the next attempt.
        let metadata = begun.inspect_err(|_| drop(fs::remove_file(&path)))?;
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
        let offset = self.length + u64::try_from(head.len()).unwrap_or(u64::MAX);
        self.file.write_all_at(&head, self.length)?;
        self.file.write_all_at(payload, offset)?;
        self.file.sync_data()?;
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

fn frame_head(payload: &[u8]) -> io::Result<[u8; FRAME_HEAD_BYTES]> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD_BYTES);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "block too large"))?;
    let length = length.to_le_bytes();
    let mut head = [0; FRAME_HEAD_BYTES];
    let fields = length.into_iter().chain(checksum(length, payload));
    head.iter_mut()
        .zip(fields)
        .for_each(|(byte, field)| *byte = field);
    Ok(head)
}

fn next_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let end = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (payload, behind) = rest.split_at_checked(end)?;
    (checksum(*length, payload) == *expected).then_some((payload, behind))
}

fn checksum(length: [u8; 4], payload: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize().to_le_bytes()
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

    #[test]
    fn zeros_behind_the_last_frame_are_no_frames() {
        let folder = tempfile::tempdir().unwrap();
        let mut segment = SegmentWriter::create(folder.path(), 0).unwrap();
        segment.append(b"one").unwrap();
        let path = segment.path().to_owned();
        let mut bytes = fs::read(&path).unwrap();
        bytes.resize(bytes.len() + 4096, 0);
        fs::write(&path, bytes).unwrap();
        assert_eq!(payloads(scan(&path).unwrap()), [b"one".to_vec()]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A disk may keep any part of an unfinished write: a frame of which one byte is wrong is not read.
        #[test]
        fn a_frame_with_a_wrong_byte_is_a_torn_one(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            at in any::<prop::sample::Index>(),
            change in 1u8..,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut segment = SegmentWriter::create(folder.path(), 0).unwrap();
            segment.append(b"before").unwrap();
            let start = usize::try_from(segment.length()).unwrap();
            segment.append(&payload).unwrap();
            let path = segment.path().to_owned();
            let mut bytes = fs::read(&path).unwrap();
            let at = start + at.index(bytes.len() - start);
            bytes[at] ^= change;
            fs::write(&path, &bytes).unwrap();
            prop_assert_eq!(payloads(scan(&path).unwrap()), [b"before".to_vec()]);
        }

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
            // A frame of garbage would need a matching checksum.
            prop_assert!(found.len() <= survivors + 1);
        }
    }
}
