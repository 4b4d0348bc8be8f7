//! From a hub repository, as [`crate::ModelRef`] names it, to its verified files.

use std::path::Path;

use crate::error::{ModelError, Result};
use crate::store::digest::{self, of_file, remembered, sidecar};
use crate::store::hub::{Hub, Listing, cached_snapshot};
use crate::store::layout::write_atomically;
use crate::store::options::Store;
use crate::store::progress::{ProgressSink, Route};
use crate::store::reference::{HubFile, is_file_name};
use crate::store::resolve::{Origin, ResolvedModel, io};
use crate::store::route::RouteError;
use crate::store::select::{Selection, folder_files, select};
use crate::store::stream::{Download, Report};

/// A hub repository as asked for.
#[derive(Clone, Copy)]
pub(super) struct HubRequest<'a> {
    pub(super) name: &'a str,
    pub(super) repo: &'a str,
    pub(super) file: &'a HubFile,
    pub(super) revision: &'a str,
}

impl Store {
    /// A hub model in the own store or the Hugging Face cache.
    pub(super) fn present_hub(
        &self,
        request: HubRequest<'_>,
        sink: &dyn ProgressSink,
    ) -> Result<Option<ResolvedModel>> {
        let layout = &self.inner.layout;
        let listed = std::fs::read(layout.listing(request.repo, request.revision)).ok();
        if let Some(listing) = listed.and_then(|text| serde_json::from_slice::<Listing>(&text).ok())
        {
            let names: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
            let folder = layout.repo(request.repo).join(&listing.commit);
            if let Ok(selection) = select(&names, request.file)
                && selection.files().iter().all(|file| folder.join(file).is_file())
            {
                return self
                    .hub_model(request, &folder, &selection, (Origin::Store, sink))
                    .map(Some);
            }
        }
        let Some(cached) = cached_snapshot(&self.inner.hub.cache, request.repo, request.revision)
        else {
            return Ok(None);
        };
        let names: Vec<&str> = cached.files.iter().map(String::as_str).collect();
        match select(&names, request.file) {
            Ok(Selection::Safetensors(_)) if folder_files(&cached.folder).is_err() => Ok(None),
            Ok(selection) => self
                .hub_model(request, &cached.folder, &selection, (Origin::HubCache, sink))
                .map(Some),
            Err(_) => Ok(None),
        }
    }

    fn hub_model(
        &self,
        request: HubRequest<'_>,
        folder: &Path,
        selection: &Selection,
        (origin, sink): (Origin, &dyn ProgressSink),
    ) -> Result<ResolvedModel> {
        let own = !matches!(origin, Origin::HubCache);
        let (path, digest) = match selection {
            Selection::Gguf(file) => {
                let path = folder.join(file);
                let record = if own {
                    sidecar(&path)
                } else {
                    remembered(&self.inner.layout.digests(), &path)
                };
                let digest = of_file(&path, &record, sink)?;
                (path, digest)
            }
            Selection::Safetensors(_) => {
                (folder.to_owned(), self.folder_digest(&folder_files(folder)?, sink)?)
            }
        };
        Ok(ResolvedModel { name: request.name.to_owned(), path, digest, origin, stamp: None })
    }

    /// Asks the hub and fetches what is missing.
    pub(super) fn fetch_hub(
        &self,
        request: HubRequest<'_>,
        sink: &dyn ProgressSink,
    ) -> Result<ResolvedModel> {
        if self.inner.offline {
            return Err(ModelError::Offline { name: request.name.to_owned() });
        }
        let failed = |error: RouteError| match error {
            RouteError::Stop(error) | RouteError::WrongBytes(error) => error,
            RouteError::Absent(help) => {
                ModelError::UnknownModel { name: request.name.to_owned(), help }
            }
            RouteError::Failed(why) => ModelError::Fetch {
                name: request.name.to_owned(),
                attempts: vec![format!("{}: {why}", Route::Hub)],
            },
        };
        let layout = &self.inner.layout;
        let repo_folder = layout.repo(request.repo);
        let hub = Hub::new(&self.inner.hub).map_err(failed)?;
        let listing = hub.listing(request.repo, request.revision, sink).map_err(failed)?;
        let names: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
        let selection =
            select(&names, request.file).map_err(|why| failed(RouteError::Absent(why)))?;
        let folder = repo_folder.join(&listing.commit);
        let mut wanted = Vec::new();
        for name in selection.files() {
            // The hub's answer must not lead out of the store either.
            if !name.split('/').all(is_file_name) {
                return Err(failed(RouteError::Failed(format!("the hub lists a file `{name}`"))));
            }
            if let Some(file) = listing.files.iter().find(|file| file.path == name) {
                wanted.push((file, hub.expected(&listing, file, sink).map_err(failed)?));
            }
        }
        let total_bytes = wanted.iter().map(|(_, expected)| expected.bytes).sum();
        let _lock = self.lock(request.repo, &folder, total_bytes, sink)?;
        let mut before_bytes = 0;
        let mut fetched = false;
        for (file, expected) in wanted {
            let target = folder.join(&file.path);
            let bytes = expected.bytes;
            if !target.is_file() {
                let parent = target.parent().unwrap_or(&folder);
                std::fs::create_dir_all(parent).map_err(io("create the folder", parent))?;
                let here = std::fs::metadata(Download::part_path(&target)).map_or(0, |m| m.len());
                self.ensure_space(&target, (total_bytes - before_bytes).saturating_sub(here))?;
                let download = Download {
                    hub: &hub,
                    repo: request.repo,
                    revision: &listing.commit,
                    file: &file.path,
                    expected,
                    target: &target,
                    disk: &*self.inner.disk,
                    report: Report { name: request.name, before_bytes, total_bytes },
                };
                let sha256 = download.run(sink).map_err(failed)?;
                let record = match selection {
                    Selection::Gguf(_) => sidecar(&target),
                    Selection::Safetensors(_) => remembered(&layout.digests(), &target),
                };
                digest::remember(&record, &target, &sha256);
                fetched = true;
            }
            before_bytes += bytes;
        }
        // Only now: a listing in the store says which of its files are the model.
        let path = layout.listing(request.repo, request.revision);
        serde_json::to_vec(&listing)
            .map_err(std::io::Error::from)
            .and_then(|text| write_atomically(&path, &text))
            .map_err(io("write", &path))?;
        let origin = if fetched { Origin::Fetched(Route::Hub) } else { Origin::Store };
        self.hub_model(request, &folder, &selection, (origin, sink))
    }
}
