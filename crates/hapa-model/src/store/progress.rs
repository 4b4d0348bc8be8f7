//! What a load reports while it runs, and how it is told to stop.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Who watches a load. Called from the loading thread: an implementation returns quickly.
pub trait ProgressSink: Send + Sync {
    /// Something happened. Events of the same kind come at most about ten times a second.
    fn event(&self, event: &LoadEvent);

    /// Whether the load should stop. Asked at least ten times a second while a load waits or fetches.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A sink that listens to nothing and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn event(&self, _event: &LoadEvent) {}
}

/// The way by which a model's bytes come to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// The Hugging Face hub (or the endpoint that stands in for it).
    Hub,
    /// The Python package index.
    PythonIndex,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hub => "Hugging Face hub",
            Self::PythonIndex => "Python package index",
        })
    }
}

/// A step of a load.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LoadEvent {
    /// The model is looked for on this machine.
    Resolving {
        /// The model.
        name: String,
    },
    /// Another process fetches the same model; this one waits and will use what it finds then.
    Waiting {
        /// The model.
        name: String,
        /// What the other process has so far, as far as can be seen.
        received_bytes: u64,
        /// Length of the whole; 0 when not known yet.
        total_bytes: u64,
    },
    /// Bytes arrive.
    Fetching {
        /// The model.
        name: String,
        /// Where they come from.
        route: Route,
        /// What is here, earlier tries included.
        received_bytes: u64,
        /// Length of the whole.
        total_bytes: u64,
    },
    /// The SHA-256 of a file is computed.
    Verifying {
        /// Bytes hashed.
        done_bytes: u64,
        /// Bytes to hash.
        total_bytes: u64,
    },
    /// The load waits until other models have left the memory that all share.
    MakingRoom {
        /// Bytes that the model needs.
        needed: u64,
        /// Bytes that others hold.
        held: u64,
        /// Bytes that all may hold together.
        budget: u64,
    },
    /// The file is mapped into memory and its header read.
    Mapping,
    /// Weights are brought into the layout that the kernels read.
    Packing {
        /// Tensors done.
        done: usize,
        /// All tensors.
        total: usize,
    },
    /// The model can be used.
    Ready {
        /// Time from the first event.
        elapsed: Duration,
    },
    /// The load failed.
    Failed {
        /// Why.
        message: String,
    },
}

/// Thins out progress reports to ten a second.
pub(crate) struct Throttle {
    last: Option<Instant>,
}

impl Throttle {
    const PERIOD: Duration = Duration::from_millis(100);

    pub(crate) fn new() -> Self {
        Self { last: None }
    }

    /// Whether it is time for a report: always the first time, then once a period.
    pub(crate) fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now.duration_since(last) >= Self::PERIOD);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
pub(crate) mod recording {
    //! A sink for tests that keeps what it is told.
    use std::sync::atomic::{AtomicBool, Ordering};

    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    pub(crate) struct Recording {
        pub(crate) events: Mutex<Vec<LoadEvent>>,
        pub(crate) cancelled: AtomicBool,
    }

    impl ProgressSink for Recording {
        fn event(&self, event: &LoadEvent) {
            self.events.lock().push(event.clone());
        }

        fn is_cancelled(&self) -> bool {
            self.cancelled.load(Ordering::Relaxed)
        }
    }
}
