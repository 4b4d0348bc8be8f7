//! Where things lie in HAPA's folder.
//!
//! ```text
//! $HAPA_HOME/
//!   models/<id>/<file>.gguf                      a catalogue model, whole and verified
//!   models/<id>/<file>.gguf.sha256.json          its digest, so that a start need not hash it
//!   models/<id>/.<file>.{hub,index}.part[.json]  an interrupted download and how to go on with it
//!   models/<id>/.pip-*                           wheels in flight
//!   models/<id>/<file>.gguf.packed               its weights in the kernels' layout; `.packing-*` while they are made
//!   models/hub/<owner>--<name>/<commit>/<file>   files of other hub repositories
//!   models/hub/<owner>--<name>/<revision>.json   what the hub said about a revision when it was last asked
//!   digests/                                     digests of files outside the store
//!   locks/                                       one empty file a model
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::catalog::CatalogModel;
use crate::error::{ModelError, Result};

/// How the names of packed weights in the making begin.
pub(crate) const PACKING_PREFIX: &str = ".packing-";

/// The folders of one store. Making one touches no disk.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) home: PathBuf,
}

impl Layout {
    /// `$HAPA_HOME`, or `hapa` in the platform's cache folder.
    ///
    /// # Errors
    /// [`ModelError::InvalidOption`] when neither is known.
    pub(crate) fn from_env() -> Result<Self> {
        let home = match std::env::var_os("HAPA_HOME") {
            Some(home) if !home.is_empty() => PathBuf::from(home),
            _ => dirs::cache_dir().map(|cache| cache.join("hapa")).ok_or(
                ModelError::InvalidOption {
                    option: "HAPA_HOME",
                    value: "unset, and this user has no cache folder".to_owned(),
                    expected: "the folder for HAPA's models",
                },
            )?,
        };
        Ok(Self { home })
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    pub(crate) fn digests(&self) -> PathBuf {
        self.home.join("digests")
    }

    pub(crate) fn catalog_folder(&self, model: &CatalogModel) -> PathBuf {
        self.models().join(&model.id)
    }

    pub(crate) fn catalog_file(&self, model: &CatalogModel) -> PathBuf {
        self.catalog_folder(model).join(model.file_name())
    }

    pub(crate) fn hub(&self) -> PathBuf {
        self.models().join("hub")
    }

    pub(crate) fn repo(&self, repo: &str) -> PathBuf {
        self.hub().join(repo.replace('/', "--"))
    }

    pub(crate) fn listing(&self, repo: &str, revision: &str) -> PathBuf {
        self.repo(repo).join(format!("{}.json", revision.replace('/', "--")))
    }

    pub(crate) fn lock(&self, name: &str) -> PathBuf {
        self.home.join("locks").join(format!("{}.lock", name.replace('/', "--")))
    }
}

/// The hidden name of an interrupted download of `file`.
pub(crate) fn part(file: &Path, route: &str) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.{route}.part"))
}

/// Writes a small file so that readers see all of it or none.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Makes a rename in `folder` survive a power cut, where the platform can.
pub(crate) fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(folder = %folder.display(), %error, "the folder could not be synced");
    }
    #[cfg(not(unix))]
    let _ = folder;
}

/// Bytes of all files below `folder`; what vanishes meanwhile counts nothing.
pub(crate) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
            Ok(_) => entry.metadata().map_or(0, |m| m.len()),
            Err(_) => 0,
        })
        .sum()
}
