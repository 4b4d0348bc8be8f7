//! Memory-mapping of weight files: the only `unsafe` of this crate.
#![expect(unsafe_code, reason = "mapping a file cannot be expressed in safe Rust")]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

/// The bytes of a file: mapped, or held in memory.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Pages of the file itself, read when touched and shared between processes.
    Mapped(memmap2::Mmap),
    /// A copy, for files that are built in memory (tests, fuzzing).
    Owned(Box<[u8]>),
}

impl FileBytes {
    /// Maps a file for reading.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        // An empty file cannot be mapped on every platform.
        if file.metadata()?.len() == 0 {
            return Ok(Self::Owned(Box::default()));
        }
        // SAFETY: the mapping is read-only and private. What remains unsound in principle is another
        // process that changes or truncates the file meanwhile. Files of the store are complete before they
        // get their name and are replaced by rename, never written in place, so this does not happen to them;
        // for a user's own path it is the documented contract of `GgufFile::open`, which a model that is loaded does
        // not depend on any more. All reads through the slice
        // are of plain bytes, for which every bit pattern is valid, and every offset used with it was checked
        // against the length that was mapped.
        unsafe { memmap2::Mmap::map(file) }.map(Self::Mapped)
    }

    /// Takes the pages of a range out of this process's memory. They stay in the page cache for as long as there is
    /// room, and come back when they are touched. A range past the end is none, nor is one of a copy in memory.
    pub(crate) fn forget(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && self.get(range.clone()).is_some()
        {
            // SAFETY: this advice is unsafe for mappings whose pages have no other home, as they would be zeros
            // afterwards. This one is of a file and only read, so that all pages have the same bytes again.
            let advised = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            if let Err(error) = advised {
                tracing::debug!(%error, "mapped pages stay in memory");
            }
        }
        #[cfg(not(unix))]
        drop(range);
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The bytes of a file that is being written through a mapping.
#[derive(Debug)]
pub(crate) struct FileBytesMut(memmap2::MmapMut);

impl FileBytesMut {
    /// Maps a file for writing. The caller made the file for this purpose and nobody else knows its name.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: as in `FileBytes::map`: bytes have no invalid patterns, and the file is a temporary one of this
        // process, so that no other process changes or truncates it.
        unsafe { memmap2::MmapMut::map_mut(file) }.map(Self)
    }
}

impl Deref for FileBytesMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for FileBytesMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
