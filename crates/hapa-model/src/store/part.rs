//! A file that is still arriving.
//!
//! Bytes go to a hidden name beside the final one and are hashed as they come; the final name appears by a rename, after
//! the digest was checked and the bytes were synced to the disk. A killed process leaves the part, and the next one
//! hashes what is there and goes on from its end.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::error::{ModelError, Result};
use crate::store::digest::{self, hex};
use crate::store::layout::sync_folder;
use crate::store::progress::ProgressSink;
use crate::store::space::{Disk, is_full};

/// What a whole file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) bytes: u64,
    /// Pinned, or published by the hub for files in large-file storage.
    pub(crate) sha256: Option<String>,
    /// Published by the hub for small files: git's SHA-1 of the blob.
    pub(crate) git_sha1: Option<String>,
}

impl Expected {
    pub(crate) fn pinned(bytes: u64, sha256: &str) -> Self {
        Self { bytes, sha256: Some(sha256.to_owned()), git_sha1: None }
    }

    /// What a part must have been started for, in order to be continued.
    pub(crate) fn identity(&self) -> Option<&str> {
        self.sha256.as_deref().or(self.git_sha1.as_deref())
    }
}

/// An open part file, positioned at its end.
pub(crate) struct PartFile<'a> {
    file: File,
    path: PathBuf,
    len: u64,
    sha256: Sha256,
    git_sha1: Option<(Sha1, String)>,
    expected: Expected,
    disk: &'a dyn Disk,
}

impl<'a> PartFile<'a> {
    /// Opens the part at `path` and keeps its first `keep` bytes at most; what is kept is hashed.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Cancelled`] while hashing.
    pub(crate) fn open(
        path: &Path,
        keep: u64,
        expected: &Expected,
        disk: &'a dyn Disk,
        sink: &dyn ProgressSink,
    ) -> Result<Self> {
        let io = |action| io(action, path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io("create the folder of"))?;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io("open"))?;
        let there = file.metadata().map_err(io("read"))?.len();
        let mut part = Self {
            file,
            path: path.to_owned(),
            len: 0,
            sha256: Sha256::new(),
            git_sha1: None,
            expected: expected.clone(),
            disk,
        };
        part.clear_hashes();
        let keep = keep.min(there).min(expected.bytes);
        part.file.set_len(keep).map_err(io("shorten"))?;
        if keep > 0 {
            let Self { file, sha256, git_sha1, .. } = &mut part;
            part.len = digest::feed(file, path, keep, sink, |bytes| {
                sha256.update(bytes);
                if let Some((sha1, _)) = git_sha1 {
                    sha1.update(bytes);
                }
            })?;
        }
        Ok(part)
    }

    fn clear_hashes(&mut self) {
        self.sha256 = Sha256::new();
        self.git_sha1 = self.expected.git_sha1.clone().map(|expected| {
            (Sha1::new_with_prefix(format!("blob {}\0", self.expected.bytes)), expected)
        });
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.len == self.expected.bytes
    }

    /// Bytes that are still to come.
    pub(crate) fn missing(&self) -> u64 {
        self.expected.bytes - self.len
    }

    /// Appends bytes; never more than [`Self::missing`], which the caller checks.
    ///
    /// # Errors
    /// [`ModelError::NoSpace`] when the disk is full; the part is gone then, so that the disk is not left full.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(source) = self.disk.write_all(&mut self.file, bytes) {
            if !is_full(&source) {
                return Err(io("write", &self.path)(source));
            }
            let folder = self.path.parent().unwrap_or(&self.path).to_owned();
            let needed_bytes = self.missing();
            let _ = self.file.set_len(0);
            let _ = std::fs::remove_file(&self.path);
            let available_bytes = self.disk.available_bytes(&folder).unwrap_or(0);
            let needed_bytes = needed_bytes.max(self.expected.bytes);
            return Err(ModelError::NoSpace { path: folder, needed_bytes, available_bytes });
        }
        self.sha256.update(bytes);
        if let Some((sha1, _)) = &mut self.git_sha1 {
            sha1.update(bytes);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Throws away everything and starts at the first byte.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(io("shorten", &self.path))?;
        self.len = 0;
        self.clear_hashes();
        Ok(())
    }

    /// Checks the whole file and gives it its final name. Returns its SHA-256.
    ///
    /// # Errors
    /// [`ModelError::DigestMismatch`], and the part is gone; [`ModelError::Io`] when syncing or renaming fails.
    pub(crate) fn finish(self, target: &Path) -> Result<String> {
        let sha256 = hex(&self.sha256.finalize());
        let published = match (&self.expected.sha256, self.git_sha1) {
            (Some(expected), _) => Some((expected.clone(), sha256.clone())),
            (None, Some((sha1, expected))) => Some((expected, hex(&sha1.finalize()))),
            (None, None) => None,
        };
        if let Some((expected, actual)) = published
            && !expected.eq_ignore_ascii_case(&actual)
        {
            drop(self.file);
            let _ = std::fs::remove_file(&self.path);
            return Err(ModelError::DigestMismatch { path: target.to_owned(), expected, actual });
        }
        if let Err(source) = self.file.sync_all() {
            let folder = self.path.parent().unwrap_or(&self.path).to_owned();
            if is_full(&source) {
                let _ = std::fs::remove_file(&self.path);
                let available_bytes = self.disk.available_bytes(&folder).unwrap_or(0);
                let needed_bytes = self.expected.bytes;
                return Err(ModelError::NoSpace { path: folder, needed_bytes, available_bytes });
            }
            return Err(io("sync", &self.path)(source));
        }
        drop(self.file);
        std::fs::rename(&self.path, target).map_err(io("give its final name to", &self.path))?;
        if let Some(folder) = target.parent() {
            sync_folder(folder);
        }
        Ok(sha256)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::store::progress::NoProgress;
    use crate::store::space::SystemDisk;
    use crate::store::space::testing::SmallDisk;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn abc() -> Expected {
        Expected::pinned(3, ABC)
    }

    #[test]
    fn goes_on_from_what_is_there() {
        let dir = tempfile::tempdir().expect("dir");
        let (path, target) = (dir.path().join(".f.part"), dir.path().join("f"));
        std::fs::write(&path, "ab").expect("write");
        let mut part =
            PartFile::open(&path, u64::MAX, &abc(), &SystemDisk, &NoProgress).expect("open");
        assert_eq!((part.len(), part.missing()), (2, 1));
        part.append(b"c").expect("append");
        assert!(part.is_whole());
        assert_eq!(part.finish(&target).expect("finish"), ABC);
        assert_eq!(std::fs::read(&target).expect("read"), b"abc");
        assert!(!path.exists());
    }

    #[test]
    fn keeps_only_what_it_is_told_to() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(".f.part");
        std::fs::write(&path, "aXYZ").expect("write");
        let mut part = PartFile::open(&path, 1, &abc(), &SystemDisk, &NoProgress).expect("open");
        part.append(b"bc").expect("append");
        assert_eq!(part.finish(&dir.path().join("f")).expect("finish"), ABC);
    }

    #[test]
    fn wrong_bytes_never_get_the_name() {
        let dir = tempfile::tempdir().expect("dir");
        let (path, target) = (dir.path().join(".f.part"), dir.path().join("f"));
        let mut part = PartFile::open(&path, 0, &abc(), &SystemDisk, &NoProgress).expect("open");
        part.append(b"abd").expect("append");
        let error = part.finish(&target).expect_err("wrong");
        assert!(
            matches!(error, ModelError::DigestMismatch { ref expected, .. } if expected == ABC),
            "{error}"
        );
        assert!(!path.exists() && !target.exists());
    }

    #[test]
    fn small_files_are_checked_by_gits_digest() {
        let dir = tempfile::tempdir().expect("dir");
        // `printf abc | git hash-object --stdin`
        let sha1 = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        for (content, good) in [("abc", true), ("abd", false)] {
            let expected = Expected { bytes: 3, sha256: None, git_sha1: Some(sha1.to_owned()) };
            let path = dir.path().join(".f.part");
            let mut part =
                PartFile::open(&path, 0, &expected, &SystemDisk, &NoProgress).expect("open");
            part.append(b"zzz").expect("append");
            part.restart().expect("restart");
            part.append(content.as_bytes()).expect("append");
            assert_eq!(part.finish(&dir.path().join("f")).is_ok(), good, "{content}");
        }
    }

    #[test]
    fn a_disk_that_fills_up_is_said_and_not_left_full() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(".f.part");
        let disk = SmallDisk { claimed: 1 << 40, room: AtomicU64::new(2) };
        let mut part = PartFile::open(&path, 0, &abc(), &disk, &NoProgress).expect("open");
        part.append(b"a").expect("fits");
        let error = part.append(b"bc").expect_err("full");
        assert!(matches!(error, ModelError::NoSpace { needed_bytes: 3, .. }), "{error}");
        drop(part);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0, "nothing is left");
    }
}
