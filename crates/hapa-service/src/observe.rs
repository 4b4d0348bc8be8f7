//! Metrics and profiler scopes of the pipeline.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hapa_cache::{TierStats, TieredStats};
use hapa_metrics::labels::{Rejection, Task as TaskLabel, Tier};
use hapa_metrics::names;
use hapa_profiler::ProfileFuture;

use crate::answer::CacheOutcome;
use crate::error::{ErrorKind, ServiceError};
use crate::request::Task;

/// Requests by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Answered out of the cache.
    pub hits: u64,
    /// Generated.
    pub misses: u64,
    /// Joined the generation of an identical request.
    pub shared: u64,
    /// Generated without asking the cache.
    pub bypassed: u64,
    /// Cancelled by a newer request of the same document.
    pub superseded: u64,
    /// Cancelled by their deadline.
    pub deadline_passed: u64,
    /// Ended in an error, for whatever other reason.
    pub failed: u64,
}

/// Counters of one service, and the process-wide metrics.
#[derive(Debug, Default)]
pub(crate) struct Observe {
    hits: AtomicU64,
    misses: AtomicU64,
    shared: AtomicU64,
    bypassed: AtomicU64,
    superseded: AtomicU64,
    deadline_passed: AtomicU64,
    failed: AtomicU64,
}

impl Observe {
    pub(crate) fn counts(&self) -> RequestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            hits: read(&self.hits),
            misses: read(&self.misses),
            shared: read(&self.shared),
            bypassed: read(&self.bypassed),
            superseded: read(&self.superseded),
            deadline_passed: read(&self.deadline_passed),
            failed: read(&self.failed),
        }
    }

    pub(crate) fn outcome(&self, outcome: CacheOutcome) {
        let counter = match outcome {
            CacheOutcome::HitL1 | CacheOutcome::HitL2 => &self.hits,
            CacheOutcome::Miss => &self.misses,
            CacheOutcome::Shared => {
                names::CACHE_SHARED_TOTAL.handle().increment(1);
                &self.shared
            }
            CacheOutcome::Bypass => &self.bypassed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// One look into a tier.
    pub(crate) fn lookup(&self, tier: Tier, hit: bool) {
        if hit {
            names::CACHE_HITS_TOTAL.with(tier).increment(1);
        } else {
            names::CACHE_MISSES_TOTAL.with(tier).increment(1);
        }
    }

    /// What memory and the tiers hold. Those below memory are one tier to the metrics; `/stats` tells them apart.
    pub(crate) fn cache(&self, stats: &TieredStats) {
        let TieredStats { memory, tiers, .. } = stats;
        names::CACHE_BYTES.with(Tier::L1).set(memory.bytes as f64);
        names::CACHE_ENTRIES.with(Tier::L1).set(memory.entries as f64);
        names::CACHE_EVICTIONS_TOTAL.with(Tier::L1).absolute(memory.evictions.total());
        if tiers.is_empty() {
            return;
        }
        let sum = |of: fn(&TierStats) -> u64| tiers.iter().map(of).sum::<u64>();
        names::CACHE_BYTES.with(Tier::L2).set(sum(|tier| tier.bytes.unwrap_or(0)) as f64);
        names::CACHE_ENTRIES.with(Tier::L2).set(sum(|tier| tier.entries.unwrap_or(0)) as f64);
        let evicted = sum(|tier| tier.evicted + tier.expired + tier.corrupt);
        names::CACHE_EVICTIONS_TOTAL.with(Tier::L2).absolute(evicted);
        let open = tiers.iter().any(|tier| tier.breaker_open);
        names::CACHE_BREAKER_OPEN.with(Tier::L2).set(if open { 1.0 } else { 0.0 });
    }

    pub(crate) fn failure(&self, error: &ServiceError) {
        let counter = match error.kind() {
            ErrorKind::Superseded => &self.superseded,
            ErrorKind::DeadlinePassed => &self.deadline_passed,
            _ => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let reason = match error.kind() {
            ErrorKind::Invalid => Rejection::Validation,
            ErrorKind::Overloaded if matches!(error, ServiceError::TooSlow { .. }) => {
                Rejection::TooSlow
            }
            ErrorKind::Overloaded => Rejection::Overloaded,
            ErrorKind::DeadlinePassed => Rejection::Deadline,
            ErrorKind::ModelLoading => Rejection::ModelLoading,
            _ => return,
        };
        names::REJECTED_TOTAL.with(reason).increment(1);
    }

    pub(crate) fn inference(&self, task: &Task, took: Duration) {
        let label = match task {
            Task::Generate { .. } => TaskLabel::Generate,
            Task::Complete { .. } => TaskLabel::Complete,
            Task::Chat { .. } => TaskLabel::Chat,
            Task::Raw { .. } => TaskLabel::Raw,
        };
        names::AI_INFERENCE_DURATION_SECONDS.with(label).record(took.as_secs_f64());
    }

    /// The scope `model_loading` around waiting for the model.
    pub(crate) async fn loading<T>(&self, work: impl Future<Output = T>) -> T {
        work.profiled("model_loading").await
    }

    /// The scope `ai_prediction` around one generation.
    pub(crate) async fn prediction<T>(&self, work: impl Future<Output = T>) -> T {
        work.profiled("ai_prediction").await
    }
}
