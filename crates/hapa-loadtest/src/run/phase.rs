//! One stretch of a run: one load against one target.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::control::Control;
use crate::load::{Limit, Load};
use crate::prompt::{Bodies, Workload};
use crate::report::Objectives;
use crate::target::Target;

/// A target with the bodies made for it; `id` tells the connections of different targets apart.
#[derive(Debug)]
pub(super) struct Goal {
    pub(super) id: usize,
    pub(super) target: Target,
    pub(super) bodies: Bodies,
    pub(super) workload: Workload,
}

impl Goal {
    pub(super) fn new(id: usize, target: Target, workload: &Workload) -> Arc<Self> {
        let bodies = workload.bodies(&target);
        Arc::new(Self { id, target, bodies, workload: workload.clone() })
    }
}

/// What workers need to know.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) goal: Arc<Goal>,
    pub(super) load: Load,
    pub(super) limit: Limit,
    pub(super) timeout: Duration,
    pub(super) objectives: Objectives,
    /// Failed requests in a row after which the run ends; 0 is never.
    pub(super) give_up_after: u64,
    pub(super) control: Control,
    /// When it begins.
    pub(super) start: Instant,
    /// Number of the first request, by which its prompt is chosen.
    pub(super) first_request: u64,
    /// Requests that were begun.
    pub(super) begun: AtomicU64,
}

impl Phase {
    /// The number of the next request of a closed loop, unless the phase is over.
    pub(super) fn next(&self) -> Option<u64> {
        if self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        let number = self.begun.fetch_add(1, Relaxed);
        if self.limit.requests.is_some_and(|limit| number >= limit) {
            self.begun.fetch_sub(1, Relaxed);
            return None;
        }
        Some(self.first_request + number)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.limit.duration.map(|duration| self.start + duration)
    }
}
