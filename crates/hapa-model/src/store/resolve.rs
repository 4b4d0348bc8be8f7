//! From a [`ModelRef`] to a verified file, in the order that [`crate::store`] gives.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use sha2::{Digest as _, Sha256};

use crate::catalog::CatalogModel;
use crate::error::{ModelError, Result};
use crate::gguf::FileStamp;
use crate::store::digest::{self, hex, of_file, remembered, sidecar};
use crate::store::hub::{Hub, cached_snapshot};
use crate::store::index::{IndexDownload, remove_work_folders};
use crate::store::layout::bytes_below;
use crate::store::lock::StoreLock;
use crate::store::options::Store;
use crate::store::part::Expected;
use crate::store::progress::{LoadEvent, ProgressSink, Route};
use crate::store::reference::{MAIN, ModelRef};
use crate::store::resolve_hub::HubRequest;
use crate::store::route::RouteError;
use crate::store::select::folder_files;
use crate::store::space::ensure_space;
use crate::store::stream::{Download, Report};

/// A model that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// The name that the model goes by: the catalogue's, the hub's, or the file's.
    pub name: String,
    /// A GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors weights.
    pub path: PathBuf,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits. Of a folder: the digest over the sorted lines
    /// `<digest of file>  <name>\n`, as `sha256sum` prints them.
    pub digest: String,
    /// Where it was found.
    pub origin: Origin,
    /// What the file was like before its digest was computed, so that a load can tell whether the digest is that of what
    /// it reads. `None` for folders, and for files that are only ever replaced by rename, which are HAPA's and the hub's.
    pub stamp: Option<FileStamp>,
}

/// Where a resolved model was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The user gave its path.
    Path,
    /// It was in HAPA's own store.
    Store,
    /// It was in the Hugging Face cache.
    HubCache,
    /// It was fetched just now.
    Fetched(Route),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::Store => f.write_str("store"),
            Self::HubCache => f.write_str("Hugging Face cache"),
            Self::Fetched(route) => write!(f, "fetched from the {route}"),
        }
    }
}

impl Store {
    /// Finds a model on this machine, or fetches it. Blocks.
    ///
    /// # Errors
    /// - [`ModelError::Io`] for a path that is not there, [`ModelError::UnknownModel`] for a repository that is not;
    /// - [`ModelError::Offline`] when it would have to be fetched and must not;
    /// - [`ModelError::NoSpace`], [`ModelError::Cancelled`], [`ModelError::Fetch`] (all routes failed),
    ///   [`ModelError::DigestMismatch`] when fetching fails.
    pub fn resolve(&self, model: &ModelRef, sink: &dyn ProgressSink) -> Result<ResolvedModel> {
        let name = model.to_string();
        sink.event(&LoadEvent::Resolving { name: name.clone() });
        match model {
            ModelRef::Path(path) => self.resolve_path(path, sink),
            ModelRef::Catalog(model) => self.resolve_catalog(model, sink),
            ModelRef::Hub { repo, file, revision } => {
                let request = HubRequest { name: &name, repo, file, revision };
                match self.present_hub(request, sink)? {
                    Some(found) => Ok(found),
                    None => self.fetch_hub(request, sink),
                }
            }
        }
    }

    /// Brings a model to this machine, and the newest state of a hub repository's branch. What is here already stays
    /// when the hub cannot be asked.
    ///
    /// # Errors
    /// As [`Store::resolve`].
    pub fn pull(&self, model: &ModelRef, sink: &dyn ProgressSink) -> Result<ResolvedModel> {
        let ModelRef::Hub { repo, file, revision } = model else {
            return self.resolve(model, sink);
        };
        if self.inner.offline {
            return self.resolve(model, sink);
        }
        let name = model.to_string();
        sink.event(&LoadEvent::Resolving { name: name.clone() });
        let request = HubRequest { name: &name, repo, file, revision };
        match self.fetch_hub(request, sink) {
            Err(ModelError::Fetch { name, attempts }) => match self.present_hub(request, sink)? {
                Some(found) => Ok(found),
                None => Err(ModelError::Fetch { name, attempts }),
            },
            result => result,
        }
    }

    fn resolve_path(&self, path: &Path, sink: &dyn ProgressSink) -> Result<ResolvedModel> {
        let metadata = std::fs::metadata(path).map_err(io("open", path))?;
        let digest = if metadata.is_dir() {
            self.folder_digest(&folder_files(path)?, sink)?
        } else {
            self.digest_outside(path, sink)?
        };
        let name = if metadata.is_dir() { path.file_name() } else { path.file_stem() };
        let name =
            name.map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        let stamp = (!metadata.is_dir()).then(|| FileStamp::of(&metadata));
        Ok(ResolvedModel { name, path: path.to_owned(), digest, origin: Origin::Path, stamp })
    }

    /// Digest of a file that is not the store's own.
    fn digest_outside(&self, path: &Path, sink: &dyn ProgressSink) -> Result<String> {
        of_file(path, &remembered(&self.inner.layout.digests(), path), sink)
    }

    pub(super) fn folder_digest(
        &self,
        files: &[PathBuf],
        sink: &dyn ProgressSink,
    ) -> Result<String> {
        let mut hasher = Sha256::new();
        for file in files {
            let digest = self.digest_outside(file, sink)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            hasher.update(format!("{digest}  {name}\n"));
        }
        Ok(hex(&hasher.finalize()))
    }

    fn resolve_catalog(
        &self,
        model: &CatalogModel,
        sink: &dyn ProgressSink,
    ) -> Result<ResolvedModel> {
        let mut wrong = None;
        if let Some(found) = self.present_catalog(model, &mut wrong, sink)? {
            return Ok(found);
        }
        if self.inner.offline {
            return Err(wrong.unwrap_or_else(|| ModelError::Offline { name: model.id.clone() }));
        }
        if let Some(error) = &wrong {
            tracing::warn!(%error, "a damaged file of the store was removed and is fetched again");
        }
        let target = self.inner.layout.catalog_file(model);
        let lock =
            self.lock(&model.id, &self.inner.layout.catalog_folder(model), model.bytes, sink)?;
        // The one that held the lock before may have fetched it.
        if let Some(found) = self.present_catalog(model, &mut wrong, sink)? {
            return Ok(found);
        }
        let fetched = self.fetch_catalog(model, &target, sink);
        drop(lock);
        let (route, sha256) = fetched?;
        digest::remember(&sidecar(&target), &target, &sha256);
        Ok(ResolvedModel {
            name: model.id.clone(),
            path: target,
            digest: sha256,
            origin: Origin::Fetched(route),
            stamp: None,
        })
    }

    /// A catalogue model in the own store or the Hugging Face cache. A file of the own store that is not what it should
    /// be is removed and told in `wrong`; one of the cache is left alone.
    fn present_catalog(
        &self,
        model: &CatalogModel,
        wrong: &mut Option<ModelError>,
        sink: &dyn ProgressSink,
    ) -> Result<Option<ResolvedModel>> {
        let mismatch = |path: &Path, actual| ModelError::DigestMismatch {
            path: path.to_owned(),
            expected: model.sha256.clone(),
            actual,
        };
        let found = |path, digest, origin| {
            let name = model.id.clone();
            ResolvedModel { name, path, digest, origin, stamp: None }
        };
        let own = self.inner.layout.catalog_file(model);
        if own.is_file() {
            let digest = of_file(&own, &sidecar(&own), sink)?;
            if digest == model.sha256 {
                return Ok(Some(found(own, digest, Origin::Store)));
            }
            let error = mismatch(&own, digest);
            std::fs::remove_file(&own).map_err(io("remove the damaged file", &own))?;
            let _ = std::fs::remove_file(sidecar(&own));
            *wrong = Some(error);
        }
        let Some(hub) = &model.hub else { return Ok(None) };
        let cached = cached_snapshot(&self.inner.hub.cache, &hub.repo, MAIN);
        let cached = cached.map(|snapshot| snapshot.folder.join(&hub.file)).filter(|f| f.is_file());
        let Some(path) = cached else { return Ok(None) };
        let digest = self.digest_outside(&path, sink)?;
        if digest == model.sha256 {
            return Ok(Some(found(path, digest, Origin::HubCache)));
        }
        tracing::warn!(error = %mismatch(&path, digest), "the file in the Hugging Face cache is not used");
        Ok(None)
    }

    fn fetch_catalog(
        &self,
        model: &CatalogModel,
        target: &Path,
        sink: &dyn ProgressSink,
    ) -> Result<(Route, String)> {
        let folder = self.inner.layout.catalog_folder(model);
        std::fs::create_dir_all(&folder).map_err(io("create the folder", &folder))?;
        let mut attempts = Vec::new();
        let mut wrong = None;
        for route in [Route::Hub, Route::PythonIndex] {
            let result = match route {
                Route::Hub => self.catalog_from_hub(model, target, sink),
                Route::PythonIndex => self.catalog_from_index(model, target, sink),
            };
            match result {
                None => {}
                Some(Ok(sha256)) => {
                    // What the other route left half-way is of no use any more.
                    for part in [Download::part_path(target), IndexDownload::part_path(target)] {
                        let _ = std::fs::remove_file(part.with_added_extension("json"));
                        let _ = std::fs::remove_file(part);
                    }
                    remove_work_folders(&folder);
                    return Ok((route, sha256));
                }
                Some(Err(RouteError::Stop(error))) => return Err(error),
                Some(Err(error)) => {
                    let why = error.why();
                    tracing::info!(model = model.id, %route, why, "a route failed");
                    attempts.push(format!("{route}: {why}"));
                    if let RouteError::WrongBytes(error) = error {
                        wrong = Some(error);
                    }
                }
            }
        }
        match wrong {
            Some(error) if attempts.len() == 1 => Err(error),
            _ => Err(ModelError::Fetch { name: model.id.clone(), attempts }),
        }
    }

    fn catalog_from_hub(
        &self,
        model: &CatalogModel,
        target: &Path,
        sink: &dyn ProgressSink,
    ) -> Option<Result<String, RouteError>> {
        let source = model.hub.as_ref()?;
        let fetch = || {
            let hub = Hub::new(&self.inner.hub)?;
            let here = std::fs::metadata(Download::part_path(target)).map_or(0, |m| m.len());
            self.ensure_space(target, model.bytes.saturating_sub(here))?;
            let download = Download {
                hub: &hub,
                repo: &source.repo,
                revision: MAIN,
                file: &source.file,
                expected: Expected::pinned(model.bytes, &model.sha256),
                target,
                disk: &*self.inner.disk,
                report: Report { name: &model.id, before_bytes: 0, total_bytes: model.bytes },
            };
            download.run(sink)
        };
        Some(fetch())
    }

    fn catalog_from_index(
        &self,
        model: &CatalogModel,
        target: &Path,
        sink: &dyn ProgressSink,
    ) -> Option<Result<String, RouteError>> {
        if model.index.is_empty() {
            return None;
        }
        let fetch = || {
            let here = std::fs::metadata(IndexDownload::part_path(target)).map_or(0, |m| m.len());
            let needed = model.bytes.saturating_sub(here) + IndexDownload::working_bytes(model);
            self.ensure_space(target, needed)?;
            let download = IndexDownload {
                model,
                target,
                python: self.inner.python.as_deref(),
                network: &self.inner.hub.network,
                disk: &*self.inner.disk,
                reported: AtomicU64::new(0),
            };
            download.run(sink)
        };
        Some(fetch())
    }

    pub(super) fn ensure_space(&self, target: &Path, bytes: u64) -> Result<()> {
        ensure_space(&*self.inner.disk, target.parent().unwrap_or(target), bytes)
    }

    pub(super) fn lock(
        &self,
        name: &str,
        folder: &Path,
        total_bytes: u64,
        sink: &dyn ProgressSink,
    ) -> Result<StoreLock> {
        StoreLock::acquire(&self.inner.layout.lock(name), sink, || {
            sink.event(&LoadEvent::Waiting {
                name: name.to_owned(),
                received_bytes: bytes_below(folder).min(total_bytes),
                total_bytes,
            });
        })
    }
}

pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Io { action, path, source }
}
