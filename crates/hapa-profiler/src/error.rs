//! What can go wrong outside of recording, which never fails.

use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfilerError {
    /// A saved report could not be read or written.
    #[error("{action} the profile report {}: {source}", path.display())]
    File {
        /// `reading` or `writing`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A saved report is not one.
    #[error(
        "reading the profile report {}: {source}; expected the JSON that `Report::to_json` writes",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// A saved report is of a version that this program does not know.
    #[error("the profile report is of version {found}, this program reads version {known}")]
    Version {
        /// The report's version.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// Two samplers at once.
    #[error("the process is being sampled already; try again when that profile is done")]
    SamplerBusy,
    /// A heap profile of a program whose allocator tells nothing.
    #[error(
        "this program can take no heap profile: its global allocator is not `hapa_profiler::ProfiledAlloc`"
    )]
    NoAllocator,
    /// The system refuses to sample.
    #[error("starting to sample the process: {source}; does the system allow SIGPROF and timers?")]
    Sampler {
        /// What the system said.
        source: std::io::Error,
    },
}
