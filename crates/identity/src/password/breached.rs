//! A list of passwords that were stolen somewhere, as Have I Been Pwned gives it: a line for each, `SHA-1:count`, sorted by the
//! hash. It has 40 GB and stays on the disk: a password is found by some thirty reads.

use std::{
    cmp::Ordering,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use testudo_trust::{hex, sha1_checksum};

/// Characters of a hash.
const HASH: usize = 40;
/// Longest line: the hash, a colon, a number, and the end of the line.
const MAX_LINE_BYTES: usize = 80;
/// Lines that are looked at when the list is opened.
const SAMPLES: u64 = 256;

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the list of stolen passwords {} cannot be used", path.display())]
pub struct BreachedListError {
    /// Which.
    path: PathBuf,
    /// Why.
    #[source]
    source: io::Error,
}

/// An open list.
#[derive(Debug)]
pub struct BreachedPasswords {
    file: File,
    length: u64,
}

/// A hash in hexadecimal, in upper case.
type Hash = [u8; HASH];

impl BreachedPasswords {
    /// Opens the list at `path`, and looks at some of its lines. What becomes of the path later does not matter.
    ///
    /// # Errors
    /// It cannot be read, has lines that are no hashes, or is not sorted by them.
    pub fn open(path: &Path) -> Result<Self, BreachedListError> {
        let opened = File::open(path).and_then(|file| {
            let length = file.metadata()?.len();
            let list = Self { file, length };
            list.look()?;
            Ok(list)
        });
        opened.map_err(|source| BreachedListError {
            path: path.to_owned(),
            source,
        })
    }

    /// Whether it has `password`.
    pub(crate) fn contains(&self, password: &str) -> io::Result<bool> {
        let digest = hex::encode(&sha1_checksum(password.as_bytes()));
        let wanted = hash_of(digest.as_bytes()).ok_or_else(|| malformed("no hash"))?;
        // Its line, if there is one, begins at or after `from` and before `to`.
        let (mut from, mut to) = (0, self.length);
        while from < to {
            let middle = from + (to - from) / 2;
            match self.line_from(middle)? {
                Some((start, hash)) if start < to => match hash.cmp(&wanted) {
                    Ordering::Equal => return Ok(true),
                    Ordering::Less => from = start + 1,
                    Ordering::Greater => to = middle,
                },
                _ => to = middle,
            }
        }
        Ok(false)
    }

    fn look(&self) -> io::Result<()> {
        let mut last: Option<(u64, Hash)> = None;
        for sample in 0..SAMPLES {
            let at = u128::from(self.length) * u128::from(sample) / u128::from(SAMPLES);
            let at = u64::try_from(at).unwrap_or(u64::MAX);
            let Some((start, hash)) = self.line_from(at)? else {
                break;
            };
            if let Some((before, least)) = last
                && start > before
                && hash <= least
            {
                return Err(malformed(
                    "it is not sorted by its hashes; take the list that is ordered by hash",
                ));
            }
            last = Some((start, hash));
        }
        match last {
            Some(_) => Ok(()),
            None => Err(malformed("it is empty")),
        }
    }

    /// The first line that begins at or after `at`: where, and its hash.
    fn line_from(&self, at: u64) -> io::Result<Option<(u64, Hash)>> {
        let start = if at == 0 {
            0
        } else {
            let before = at - 1;
            let bytes = self.read(before, MAX_LINE_BYTES)?;
            match bytes.iter().position(|&byte| byte == b'\n') {
                Some(end) => before + u64::try_from(end).unwrap_or(u64::MAX) + 1,
                None if bytes.len() < MAX_LINE_BYTES => return Ok(None),
                None => return Err(malformed("a line is too long")),
            }
        };
        let line = self.read(start, HASH + 1)?;
        if line.is_empty() {
            return Ok(None);
        }
        let (hash, after) = line.split_at_checked(HASH).unwrap_or((&line, &[]));
        let is_end = matches!(after.first(), None | Some(b':' | b'\r' | b'\n'));
        let hash = hash_of(hash).filter(|_| is_end);
        let hash = hash.ok_or_else(|| malformed("a line does not begin with a SHA-1 hash"))?;
        Ok(Some((start, hash)))
    }

    /// Up to `most` bytes from `at` on: fewer at the end alone. A list that has become shorter is none.
    fn read(&self, at: u64, most: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(most)];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

fn hash_of(text: &[u8]) -> Option<Hash> {
    let mut hash: Hash = text.try_into().ok()?;
    hash.make_ascii_uppercase();
    hash.iter().all(u8::is_ascii_hexdigit).then_some(hash)
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(password: &str, count: u32) -> String {
        let hash = hex::encode(&sha1_checksum(password.as_bytes())).to_uppercase();
        format!("{hash}:{count}")
    }

    fn list(folder: &tempfile::TempDir, lines: &[String], end: &str) -> PathBuf {
        let path = folder.path().join("pwned.txt");
        let text: Vec<String> = lines.iter().map(|line| format!("{line}{end}")).collect();
        std::fs::write(&path, text.concat()).unwrap();
        path
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_in_the_list_is_found_and_nothing_else(
            count in 1_usize..300,
            digits in proptest::collection::vec(0_u32..2_000_000_000, 300),
            windows: bool,
            ends: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let passwords: Vec<String> = (0..count).map(|number| format!("password {number}")).collect();
            let mut lines: Vec<String> =
                passwords.iter().zip(&digits).map(|(password, &count)| line(password, count)).collect();
            lines.sort();
            let path = list(&folder, &lines, if windows { "\r\n" } else { "\n" });
            if !ends {
                let text = std::fs::read_to_string(&path).unwrap();
                std::fs::write(&path, text.trim_end()).unwrap();
            }
            let list = BreachedPasswords::open(&path).unwrap();
            for password in &passwords {
                prop_assert!(list.contains(password).unwrap(), "{}", password);
            }
            for number in count..count + 50 {
                let password = format!("password {number}");
                prop_assert!(!list.contains(&password).unwrap(), "{}", password);
            }
        }
    }

    #[test]
    fn what_is_no_such_list_is_refused_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorted: Vec<String> = (0..100).map(|n| line(&n.to_string(), n)).collect();
        sorted.sort();
        let reversed: Vec<String> = sorted.iter().rev().cloned().collect();
        let long = vec![
            format!("{}{}", sorted[0], "0".repeat(10_000)),
            sorted[1].clone(),
        ];
        for (lines, why) in [
            (Vec::new(), "it is empty"),
            (reversed, "it is not sorted by its hashes"),
            (
                vec!["password".to_owned(); 9],
                "does not begin with a SHA-1 hash",
            ),
            (vec!["5".repeat(64)], "does not begin with a SHA-1 hash"),
            (long, "a line is too long"),
        ] {
            let error = BreachedPasswords::open(&list(&folder, &lines, "\n")).unwrap_err();
            assert!(error.source.to_string().contains(why), "{}", error.source);
        }
        assert!(BreachedPasswords::open(&folder.path().join("nowhere")).is_err());
        assert!(BreachedPasswords::open(folder.path()).is_err());
    }
}
