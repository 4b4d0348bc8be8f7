//! The one handle on a run from outside: how far it is, and how to end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::load::Limit;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// All was done.
    #[default]
    Finished,
    /// Somebody asked for it, Ctrl-C for example.
    Interrupted,
    /// The first request failed in a way that all others would, too.
    FirstRequestFailed,
    /// So many requests failed one after another that going on is pointless.
    TooManyFailures,
}

/// Progress and the end of a run. Clones are handles on the same run.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: watch::Sender<Option<Ended>>,
    sent: AtomicU64,
    succeeded: AtomicU64,
    refused: AtomicU64,
    others: AtomicU64,
    output_tokens: AtomicU64,
    in_a_row: AtomicU64,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
struct Phase {
    name: String,
    began: Instant,
    limit: Limit,
    /// Requests that were done before it.
    base: u64,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// What is going on.
    pub phase: String,
    /// Since that began.
    pub elapsed: Duration,
    /// When it ends.
    pub limit: Limit,
    /// Requests of this phase that have ended.
    pub done_in_phase: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Whole answers, warm-up included.
    pub succeeded: u64,
    /// 429 and 503.
    pub refused: u64,
    /// Errors and incomplete answers.
    pub failed: u64,
    /// Tokens that came.
    pub output_tokens: u64,
}

impl Snapshot {
    /// How much of the phase is done, 0 to 1.
    pub fn share(&self) -> f64 {
        let by_time = self
            .limit
            .duration
            .map_or(0.0, |all| self.elapsed.as_secs_f64() / all.as_secs_f64().max(1e-9));
        let by_count =
            self.limit.requests.map_or(0.0, |all| self.done_in_phase as f64 / all.max(1) as f64);
        by_time.max(by_count).min(1.0)
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl Control {
    /// A handle on a run that has not begun.
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let phase = Phase {
            name: "starting".to_owned(),
            began: Instant::now(),
            limit: Limit::default(),
            base: 0,
        };
        Self {
            shared: Arc::new(Shared {
                stop: watch::channel(None).0,
                sent: zero(),
                succeeded: zero(),
                refused: zero(),
                others: zero(),
                output_tokens: zero(),
                in_a_row: zero(),
                phase: Mutex::new(phase),
            }),
        }
    }

    /// Breaks the run off; what is under way is dropped, what was measured is kept.
    pub fn stop(&self) {
        self.end(Ended::Interrupted);
    }

    /// Where the run stands.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let phase = shared.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let (succeeded, refused, failed) = (
            shared.succeeded.load(Relaxed),
            shared.refused.load(Relaxed),
            shared.others.load(Relaxed),
        );
        let done = succeeded + refused + failed;
        Snapshot {
            phase: phase.name.clone(),
            elapsed: phase.began.elapsed(),
            limit: phase.limit,
            done_in_phase: done.saturating_sub(phase.base),
            in_flight: shared.sent.load(Relaxed).saturating_sub(done),
            succeeded,
            refused,
            failed,
            output_tokens: shared.output_tokens.load(Relaxed),
        }
    }

    /// Why the run ended; `None` while nothing has ended it.
    pub(crate) fn ended(&self) -> Option<Ended> {
        *self.shared.stop.borrow()
    }

    pub(crate) fn end(&self, why: Ended) {
        self.shared.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(why);
            }
            first
        });
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Ended>> {
        self.shared.stop.subscribe()
    }

    /// Names what begins now, for [`Control::snapshot`].
    pub fn begin(&self, name: String, limit: Limit) {
        let base = self.done();
        // What was dropped when a phase was broken off is not under way any more.
        self.shared.sent.store(base, Relaxed);
        let mut phase = self.shared.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *phase = Phase { name, began: Instant::now(), limit, base };
    }

    pub(crate) fn sent(&self) {
        self.shared.sent.fetch_add(1, Relaxed);
    }

    pub(crate) fn succeeded(&self, tokens: u64) {
        self.shared.succeeded.fetch_add(1, Relaxed);
        self.shared.output_tokens.fetch_add(tokens, Relaxed);
        if self.shared.in_a_row.load(Relaxed) != 0 {
            self.shared.in_a_row.store(0, Relaxed);
        }
    }

    /// A refusal is an answer of a server that works.
    pub(crate) fn refused(&self) {
        self.shared.refused.fetch_add(1, Relaxed);
        self.shared.in_a_row.store(0, Relaxed);
    }

    /// Failed requests in a row, this one included.
    pub(crate) fn failed(&self) -> u64 {
        self.shared.others.fetch_add(1, Relaxed);
        self.shared.in_a_row.fetch_add(1, Relaxed) + 1
    }

    fn done(&self) -> u64 {
        let shared = &self.shared;
        shared.succeeded.load(Relaxed) + shared.refused.load(Relaxed) + shared.others.load(Relaxed)
    }
}
