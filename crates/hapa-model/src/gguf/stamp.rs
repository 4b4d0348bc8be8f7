//! What tells that a file was changed.

use std::fs::Metadata;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// The state of a file as far as it can be seen without reading it: its length, the time of its last change, and which
/// file it is, so that another one of the same name differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    bytes: u64,
    modified_ns: u64,
    inode: u64,
}

impl FileStamp {
    /// The state that the system tells of.
    pub fn of(metadata: &Metadata) -> Self {
        Self { bytes: metadata.len(), modified_ns: modified_ns(metadata), inode: inode(metadata) }
    }
}

fn modified_ns(metadata: &Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &Metadata) -> u64 {
    0
}
