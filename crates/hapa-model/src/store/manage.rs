//! Listing, removing and cleaning up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::catalog::catalog;
use crate::error::{ModelError, Result};
use crate::store::digest::{known, remembered, sidecar};
use crate::store::hub::{Listing, cached_snapshot};
use crate::store::index::WORK_PREFIX;
use crate::store::layout::{PACKING_PREFIX, bytes_below};
use crate::store::lock::StoreLock;
use crate::store::options::Store;
use crate::store::reference::{HubFile, MAIN, ModelRef};
use crate::store::resolve::Origin;

/// A model of the store, or a catalogue model in the Hugging Face cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// A name that [`ModelRef`] accepts for it.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Length of the model's own files in bytes.
    pub bytes: u64,
    /// Bytes that packed weights and notes beside it take.
    pub beside_bytes: u64,
    /// SHA-256 if it is remembered; listing does not compute it.
    pub digest: Option<String>,
    /// [`Origin::Store`] or [`Origin::HubCache`].
    pub origin: Origin,
}

/// What an interrupted download or packing left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// A part, a folder of wheels, or unfinished packed weights.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Store {
    /// The models on this machine that can be used without fetching, catalogue first. Reads names and sizes only.
    pub fn list(&self) -> Vec<StoredModel> {
        let layout = &self.inner.layout;
        let mut models: Vec<StoredModel> = Vec::new();
        for model in catalog() {
            let own = layout.catalog_file(model);
            let stored = |path: PathBuf, origin, folder: Option<&Path>| {
                let bytes = std::fs::metadata(&path).ok()?.len();
                (bytes == model.bytes).then(|| StoredModel {
                    name: model.id.clone(),
                    digest: match origin {
                        Origin::HubCache => known(&remembered(&layout.digests(), &path), &path),
                        _ => known(&sidecar(&path), &path),
                    },
                    beside_bytes: folder.map_or(0, |f| bytes_below(f).saturating_sub(bytes)),
                    bytes,
                    path,
                    origin,
                })
            };
            let in_cache = || {
                let hub = model.hub.as_ref()?;
                let snapshot = cached_snapshot(&self.inner.hub.cache, &hub.repo, MAIN)?;
                stored(snapshot.folder.join(&hub.file), Origin::HubCache, None)
            };
            let folder = layout.catalog_folder(model);
            models.extend(stored(own, Origin::Store, Some(&folder)).or_else(in_cache));
        }
        for repo in folders(&layout.hub()) {
            models.extend(self.list_repo(&repo));
        }
        models
    }

    fn list_repo(&self, folder: &Path) -> Vec<StoredModel> {
        let mut models: Vec<StoredModel> = Vec::new();
        for listing in listings(folder) {
            let snapshot = folder.join(&listing.commit);
            let at = if listing.revision == MAIN {
                String::new()
            } else {
                format!("@{}", listing.revision)
            };
            for file in &listing.files {
                let path = snapshot.join(&file.path);
                let is_gguf = file.path.to_ascii_lowercase().ends_with(".gguf");
                let is_folder = file.path == "config.json";
                if !(is_gguf || is_folder) || !path.is_file() {
                    continue;
                }
                let (name, path, bytes) = if is_gguf {
                    let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
                    (format!("{}/{}{at}", listing.repo, file.path), path, bytes)
                } else {
                    (format!("{}{at}", listing.repo), snapshot.clone(), bytes_below(&snapshot))
                };
                if models.iter().any(|model| model.path == path) {
                    continue;
                }
                models.push(StoredModel {
                    name,
                    digest: known(&sidecar(&path), &path),
                    beside_bytes: if is_gguf { beside(&path).map(|p| size(&p)).sum() } else { 0 },
                    bytes,
                    path,
                    origin: Origin::Store,
                });
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// Removes a model from HAPA's own store with all that lies beside it. Returns the bytes that were freed.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`] when the store does not hold it (the Hugging Face cache and files elsewhere are
    /// never touched), [`ModelError::Busy`] while a process fetches it, [`ModelError::Io`].
    pub fn remove(&self, model: &ModelRef) -> Result<u64> {
        let name = model.to_string();
        let layout = &self.inner.layout;
        let absent = || ModelError::UnknownModel {
            name: name.clone(),
            help: format!(
                "it is not in the store at {}; `hapa model list` shows what is",
                layout.home.display()
            ),
        };
        let lock = |key: &str| {
            StoreLock::try_acquire(&layout.lock(key))
                .ok_or_else(|| ModelError::Busy { name: name.clone() })
        };
        match model {
            ModelRef::Path(_) => Err(absent()),
            ModelRef::Catalog(entry) => {
                let folder = layout.catalog_folder(entry);
                if !folder.exists() {
                    return Err(absent());
                }
                let _lock = lock(&entry.id)?;
                remove(&folder)
            }
            ModelRef::Hub { repo, file: HubFile::Auto, .. } => {
                let folder = layout.repo(repo);
                if !folder.exists() {
                    return Err(absent());
                }
                let _lock = lock(repo)?;
                remove(&folder)
            }
            ModelRef::Hub { repo, file, revision } => {
                let text = std::fs::read(layout.listing(repo, revision)).map_err(|_| absent())?;
                let listing: Listing = serde_json::from_slice(&text).map_err(|_| absent())?;
                let names: Vec<&str> =
                    listing.files.iter().map(|file| file.path.as_str()).collect();
                let chosen = crate::store::select::select(&names, file).map_err(|_| absent())?;
                let _lock = lock(repo)?;
                let mut freed = 0;
                for file in chosen.files() {
                    let path = layout.repo(repo).join(&listing.commit).join(file);
                    if path.exists() {
                        for neighbour in beside(&path) {
                            freed += remove(&neighbour)?;
                        }
                        freed += remove(&path)?;
                    }
                }
                if freed == 0 { Err(absent()) } else { Ok(freed) }
            }
        }
    }

    /// What interrupted downloads and packing left in the store.
    pub fn leftovers(&self) -> Vec<Leftover> {
        let mut found = Vec::new();
        collect_leftovers(&self.inner.layout.models(), &mut found);
        found
    }

    /// Removes what interrupted downloads left, except where a download is running. Returns the bytes that were freed.
    ///
    /// # Errors
    /// [`ModelError::Io`] when something cannot be removed.
    pub fn clean(&self) -> Result<u64> {
        let layout = &self.inner.layout;
        let mut freed = 0;
        let hub = layout.hub();
        let plain = folders(&layout.models()).into_iter().filter(|folder| *folder != hub);
        for folder in plain.chain(folders(&hub)) {
            let key = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(_lock) = StoreLock::try_acquire(&layout.lock(&key)) else { continue };
            let mut found = Vec::new();
            collect_leftovers(&folder, &mut found);
            for leftover in found {
                freed += remove(&leftover.path)?;
            }
        }
        Ok(freed)
    }
}

/// Folders right below `folder`, in order of name.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

/// The listings of a repository's folder.
fn listings(folder: &Path) -> impl Iterator<Item = Arc<Listing>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .map(Arc::new)
}

/// What lies beside a file and belongs to it: its digest, packed weights, parts.
fn beside(file: &Path) -> impl Iterator<Item = PathBuf> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = file.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).filter(move |path| {
        let other = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = other.trim_start_matches('.').strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.starts_with('.'))
    })
}

fn collect_leftovers(folder: &Path, found: &mut Vec<Leftover>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_part = name.starts_with('.')
            && ([".part", ".part.json", ".tmp"].iter().any(|end| name.ends_with(end))
                || name.starts_with(PACKING_PREFIX));
        if is_part || (is_dir && name.starts_with(WORK_PREFIX)) {
            found.push(Leftover { bytes: size(&path), path });
        } else if is_dir {
            collect_leftovers(&path, found);
        }
    }
}

fn size(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => bytes_below(path),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

/// Removes a file or folder; what is gone already is no failure.
fn remove(path: &Path) -> Result<u64> {
    let freed = size(path);
    let removed =
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ModelError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(freed),
    }
}
