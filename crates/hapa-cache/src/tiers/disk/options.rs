//! Options of the disk tier.

use super::DiskTier;
use crate::{CacheError, Clock, SystemClock};
use std::path::PathBuf;
use std::sync::Arc;

/// Options of a [`DiskTier`].
#[derive(Clone)]
pub struct DiskOptions {
    pub(super) path: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) cache_bytes: usize,
    pub(super) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for DiskOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskOptions")
            .field("path", &self.path)
            .field("max_bytes", &self.max_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

impl DiskOptions {
    /// A file at `path`, with 1 GiB of records and 8 MiB of its pages in memory.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: 1 << 30,
            cache_bytes: 8 << 20,
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// The most bytes of records, at least 1 MiB. The file is about as large; see [`DiskTier`].
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The file's pages that are held in memory; the operating system caches others anyway.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Where time comes from; the machine's clock by default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the tier. Nothing is opened before its first use, or [`DiskTier::open`].
    ///
    /// # Errors
    /// [`CacheError::BadOption`] for fewer than 1 MiB.
    pub fn build(self) -> Result<DiskTier, CacheError> {
        if self.max_bytes < 1 << 20 {
            return Err(CacheError::bad_option("max_bytes", "the disk tier needs at least 1 MiB"));
        }
        Ok(DiskTier::new(self))
    }
}
