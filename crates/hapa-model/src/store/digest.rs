//! SHA-256 of files, computed once and remembered for as long as the file stays the same.
//!
//! A start must not hash half a gigabyte. The digest of a file in the store is kept beside it
//! (`<file>.sha256.json`), the digest of any other file in the store's `digests` folder under its canonical path. Either
//! record holds length, modification time and inode number too; when one of them differs, the file is hashed anew.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{ModelError, Result};
use crate::gguf::FileStamp;
use crate::store::layout::write_atomically;
use crate::store::progress::{LoadEvent, ProgressSink, Throttle};

const BUFFER_BYTES: usize = 1 << 20;

/// A remembered digest and what the file was like when it was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DigestRecord {
    pub(crate) sha256: String,
    #[serde(flatten)]
    stamp: FileStamp,
}

/// Where the digest of a file in the store is kept.
pub(crate) fn sidecar(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".sha256.json");
    file.with_file_name(name)
}

/// Where the digest of a file outside the store is kept.
pub(crate) fn remembered(digests: &Path, file: &Path) -> PathBuf {
    let canonical = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let name = hex(&Sha256::digest(canonical.as_os_str().as_encoded_bytes()));
    digests.join(format!("{}.json", &name[..32]))
}

/// The digest in `record`, if it is there and `file` has not changed since.
pub(crate) fn known(record: &Path, file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(record).ok()?;
    let record: DigestRecord = serde_json::from_str(&text).ok()?;
    (record.stamp == FileStamp::of(&file.metadata().ok()?)).then_some(record.sha256)
}

/// Notes the digest of `file` in `record`. A store that cannot be written to is no failure: the next start hashes again.
pub(crate) fn remember(record: &Path, file: &Path, sha256: &str) {
    let noted = file.metadata().and_then(|metadata| {
        let stamp = FileStamp::of(&metadata);
        let text = serde_json::to_vec(&DigestRecord { sha256: sha256.to_owned(), stamp })?;
        write_atomically(record, &text)
    });
    if let Err(error) = noted {
        tracing::debug!(record = %record.display(), %error, "the digest is not remembered");
    }
}

/// The digest of `file`: from `record` when that is fresh, else computed and remembered.
///
/// # Errors
/// [`ModelError::Io`] when the file cannot be read, [`ModelError::Cancelled`] when the sink says so.
pub(crate) fn of_file(file: &Path, record: &Path, sink: &dyn ProgressSink) -> Result<String> {
    if let Some(sha256) = known(record, file) {
        return Ok(sha256);
    }
    let before = file.metadata().map_err(io("read", file))?;
    let mut hasher = Sha256::new();
    let mut reader = File::open(file).map_err(io("open", file))?;
    feed(&mut reader, file, before.len(), sink, |bytes| hasher.update(bytes))?;
    let sha256 = hex(&hasher.finalize());
    // A file written within the clock's last tick could be written again without its time changing: not remembered.
    let settled = before.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
    let same = file.metadata().is_ok_and(|after| FileStamp::of(&after) == FileStamp::of(&before));
    if same && settled.is_some_and(|age| age > Duration::from_secs(1)) {
        remember(record, file, &sha256);
    }
    Ok(sha256)
}

/// Hands the next `total` bytes (or fewer, at the end of the file) of `reader` to `take`, reporting as verification.
pub(crate) fn feed(
    reader: &mut File,
    path: &Path,
    total: u64,
    sink: &dyn ProgressSink,
    mut take: impl FnMut(&[u8]),
) -> Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    let mut throttle = Throttle::new();
    loop {
        if sink.is_cancelled() {
            return Err(ModelError::Cancelled);
        }
        let want = usize::try_from(total - done).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let read = match reader.read(&mut buffer[..want]) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(io("read", path)(source)),
        };
        done += read as u64;
        let finished = read == 0 || done == total;
        take(&buffer[..read]);
        if throttle.due() || finished {
            sink.event(&LoadEvent::Verifying { done_bytes: done, total_bytes: total });
        }
        if finished {
            return Ok(done);
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::progress::NoProgress;
    use crate::store::progress::recording::Recording;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn age(file: &Path) {
        let past = SystemTime::now() - Duration::from_secs(60);
        File::options()
            .write(true)
            .open(file)
            .and_then(|f| f.set_modified(past))
            .expect("set time");
    }

    #[test]
    fn computed_once_and_anew_when_the_file_changes() {
        let dir = tempfile::tempdir().expect("dir");
        let (file, record) = (dir.path().join("f"), dir.path().join("digests/r.json"));
        std::fs::write(&file, "abc").expect("write");
        age(&file);
        let sink = Recording::default();
        assert_eq!(of_file(&file, &record, &sink).expect("hash"), ABC);
        let hashed = sink.events.lock().len();
        assert!(hashed > 0);
        assert_eq!(of_file(&file, &record, &sink).expect("known"), ABC);
        assert_eq!(sink.events.lock().len(), hashed, "the second time nothing is read");
        std::fs::write(&file, "abd").expect("write");
        assert_ne!(of_file(&file, &record, &sink).expect("hash"), ABC);
    }

    #[test]
    fn a_file_that_was_just_written_is_not_trusted_to_stay() {
        let dir = tempfile::tempdir().expect("dir");
        let (file, record) = (dir.path().join("f"), dir.path().join("r.json"));
        std::fs::write(&file, "abc").expect("write");
        assert_eq!(of_file(&file, &record, &NoProgress).expect("hash"), ABC);
        assert!(!record.exists());
    }

    #[test]
    fn a_record_that_is_damaged_or_cannot_be_written_is_no_failure() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("f");
        std::fs::write(&file, "abc").expect("write");
        age(&file);
        let record = dir.path().join("r.json");
        std::fs::write(&record, "{\"sha256\":").expect("write");
        assert_eq!(of_file(&file, &record, &NoProgress).expect("hash"), ABC);
        assert!(known(&record, &file).is_some(), "the damaged record was replaced");
        // A record below a file: its folder can never be made.
        assert_eq!(of_file(&file, &file.join("x/r.json"), &NoProgress).expect("hash"), ABC);
    }

    #[test]
    fn hashing_stops_when_cancelled() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("f");
        std::fs::write(&file, "abc").expect("write");
        let sink = Recording::default();
        sink.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(of_file(&file, &dir.path().join("r"), &sink), Err(ModelError::Cancelled)));
    }
}
