//! Tells one version of a file from another, without reading it.

use std::path::Path;
use std::time::{Duration, SystemTime};

/// How often files that a server follows are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    /// The stamp of a file; `None` where it cannot be seen.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&found);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: found.modified().ok(), bytes: found.len(), inode })
    }
}
