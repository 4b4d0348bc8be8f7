//! Where packed bytes live: in a file that is mapped, or in memory where no file can be made.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::path::Path;

use fs4::FileExt;
use hapa_kernels::AlignedBytes;

use crate::error::{ModelError, Result};
use crate::gguf::map::{FileBytes, FileBytesMut};
use crate::store::PACKING_PREFIX;

/// Packed bytes, complete.
#[derive(Debug)]
pub(super) enum Storage {
    Mapped(FileBytes),
    Written(FileBytesMut),
    Memory(AlignedBytes),
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Written(bytes) => bytes,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl Storage {
    /// Maps a complete file.
    pub(super) fn map(path: &Path) -> io::Result<Self> {
        FileBytes::map(&File::open(path)?).map(Self::Mapped)
    }

    /// A part that will not be read again soon: the pages of a mapped file leave this process's memory.
    pub(super) fn forget(&self, range: Range<usize>) {
        if let Self::Mapped(bytes) = self {
            bytes.forget(range);
        }
    }
}

/// Packed bytes in the making.
pub(super) enum Draft {
    File { file: tempfile::NamedTempFile, bytes: FileBytesMut },
    Memory(AlignedBytes),
}

impl Draft {
    /// Room for `len` bytes: in a temporary file beside `target`, else (with a warning) in memory.
    ///
    /// # Errors
    /// When memory cannot be had either.
    pub(super) fn new(target: &Path, len: usize) -> Result<Self> {
        match Self::in_file(target, len) {
            Ok(draft) => Ok(draft),
            Err(error) => {
                tracing::warn!(
                    path = %target.display(), %error,
                    "the packed weights cannot be kept; they stay in memory and are made again at the next start"
                );
                AlignedBytes::zeroed(len).map(Self::Memory).ok_or_else(|| ModelError::Engine {
                    problem: format!("no memory for {len} bytes of packed weights"),
                })
            }
        }
    }

    fn in_file(target: &Path, len: usize) -> io::Result<Self> {
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(PACKING_PREFIX)
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        // Who may read the folder may share the pages; a temporary file is for its owner alone at first.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        // Real blocks, since a write through the mapping to a sparse file on a full disk would be a fatal signal.
        FileExt::allocate(file.as_file(), len as u64)?;
        let bytes = FileBytesMut::map(file.as_file())?;
        Ok(Self::File { file, bytes })
    }

    /// The finished bytes. A file gets its name at once and is not synced: that would take seconds, which a command that
    /// ends with its first answer does not have. What a power cut leaves fails the checksums and is made again.
    pub(super) fn finish(self, target: &Path) -> Storage {
        match self {
            Self::Memory(bytes) => Storage::Memory(bytes),
            Self::File { file, bytes } => {
                if let Err(error) = file.persist(target) {
                    tracing::warn!(path = %target.display(), error = %error.error, "the packed weights could not be kept");
                }
                Storage::Written(bytes)
            }
        }
    }
}

impl Deref for Draft {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::File { bytes, .. } => bytes,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::File { bytes, .. } => bytes,
            Self::Memory(bytes) => bytes,
        }
    }
}
