//! The crate's one error type.

use std::path::PathBuf;

/// Why a load test could not be run, or a file not be used. What happens to single requests is no error: it is counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The address of the server can't be used.
    #[error("the server address `{url}`: {reason}")]
    BadUrl {
        /// The address as given.
        url: String,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// An option that contradicts itself or another.
    #[error("load test option `{option}`: {reason}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// Why it was refused, and what to set instead.
        reason: String,
    },
    /// A line of a prompt file or trace can't be used.
    #[error("{}, line {line}: {reason}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A file can't be read or written.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The problems of HumanEval can't be had.
    #[error("could not get the HumanEval problems: {reason}")]
    Dataset {
        /// The cause, and what would help.
        reason: String,
    },
    /// Programs can't be run here.
    #[error("could not run a program: {reason}")]
    Judge {
        /// The cause, and what would help.
        reason: String,
    },
    /// A report of another program or of a version that this one does not know.
    #[error("{}: not a report that this version can read: {reason}", path.display())]
    BadReport {
        /// The file.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
    /// A thread or its runtime could not be started.
    #[error("could not start a worker thread of the load generator: {0}")]
    Start(std::io::Error),
    /// A thread of the generator ended before its time.
    #[error("a worker thread of the load generator ended early; please report this")]
    WorkerLost,
    /// A chart could not be drawn.
    #[error("could not draw the chart `{chart}`: {reason}")]
    Chart {
        /// Its title.
        chart: &'static str,
        /// The cause.
        reason: String,
    },
}

impl LoadError {
    pub(crate) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::BadOption { option, reason: reason.into() }
    }
}
