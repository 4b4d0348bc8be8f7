//! Free space and writing, behind a trait so that tests can fill a disk without owning one.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::error::{ModelError, Result};

/// What the store asks of the disk that holds it.
pub(crate) trait Disk: Send + Sync {
    /// Bytes that this user may still write in `folder`, which exists.
    fn available_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// Writes all of `bytes` at the file's position.
    fn write_all(&self, file: &mut File, bytes: &[u8]) -> io::Result<()>;
}

/// The disk of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {
    fn available_bytes(&self, folder: &Path) -> io::Result<u64> {
        fs4::available_space(folder)
    }

    fn write_all(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }
}

/// Kept free beyond what a download needs: lock files, digests, and room for the system to breathe.
const MARGIN_BYTES: u64 = 16 << 20;

/// Refuses a download that cannot fit, before any byte of it is fetched.
///
/// A disk that cannot be asked is no reason to refuse: writing will tell.
///
/// # Errors
/// [`ModelError::NoSpace`].
pub(crate) fn ensure_space(disk: &dyn Disk, folder: &Path, bytes: u64) -> Result<()> {
    let needed_bytes = bytes.saturating_add(MARGIN_BYTES);
    match disk.available_bytes(folder) {
        Ok(available_bytes) if available_bytes < needed_bytes => {
            Err(ModelError::NoSpace { path: folder.to_owned(), needed_bytes, available_bytes })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(folder = %folder.display(), %error, "free space is unknown");
            Ok(())
        }
    }
}

/// Whether an operation failed for want of room: a full disk, or a user's quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A disk that fills up.
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Claims to have `claimed` bytes but takes only `room`.
    pub(crate) struct SmallDisk {
        pub(crate) claimed: u64,
        pub(crate) room: AtomicU64,
    }

    impl Disk for SmallDisk {
        fn available_bytes(&self, _folder: &Path) -> io::Result<u64> {
            Ok(self.claimed)
        }

        fn write_all(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
            let room = self.room.load(Ordering::Relaxed);
            let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            file.write_all(&bytes[..fits])?;
            self.room.store(room - fits as u64, Ordering::Relaxed);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }
}
