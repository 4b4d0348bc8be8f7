//! The bounded queue between callers and the engine's thread, and the lock that puts that thread to sleep.
//!
//! One mutex guards everything that can wake the loop, so a wake-up cannot be missed: the loop looks for work with
//! the lock held, and whoever makes work (a submission, a reader that drained its channel, a reader that
//! went away) takes the lock before it notifies.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::sequence::Job;
use super::stats::{EngineStats, Instruments};
use crate::error::{ModelError, Result, SharedError};

/// Shared by the engine's thread, its handle, and every [`super::Generation`].
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    queue_limit: usize,
    pub(super) instruments: Instruments,
}

struct State {
    waiting: VecDeque<Job>,
    /// Sequences that the engine could take up right now without refusing anybody.
    free_slots: usize,
    sleeping: bool,
    closed: bool,
    next_id: u64,
    stats: EngineStats,
}

impl Shared {
    pub(super) fn new(
        queue_limit: usize,
        max_sequences: usize,
        instruments: Instruments,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                waiting: VecDeque::with_capacity(queue_limit.min(1024)),
                free_slots: max_sequences,
                sleeping: false,
                closed: false,
                next_id: 0,
                stats: EngineStats::default(),
            }),
            wake: Condvar::new(),
            queue_limit,
            instruments,
        })
    }

    /// Puts a job in the queue and returns its number, or refuses at once.
    pub(super) fn submit(&self, mut job: Job) -> Result<u64> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(ModelError::EngineClosed);
        }
        // Jobs that find a free slot at the next step are not really waiting.
        if state.waiting.len() >= self.queue_limit + state.free_slots {
            return Err(ModelError::QueueFull { limit: self.queue_limit });
        }
        let id = state.next_id;
        state.next_id += 1;
        job.id = id;
        state.waiting.push_back(job);
        self.instruments.waiting(state.waiting.len());
        self.notify(&state);
        Ok(id)
    }

    /// A reader went away: its job leaves the queue now, or the batch at the next step.
    pub(super) fn cancelled(&self, id: u64) {
        let removed = {
            let mut state = self.state.lock();
            let at = state.waiting.iter().position(|job| job.id == id);
            let removed = at.and_then(|at| state.waiting.remove(at));
            if removed.is_some() {
                state.stats.cancelled_requests += 1;
                self.instruments.waiting(state.waiting.len());
            }
            self.notify(&state);
            removed
        };
        drop(removed);
    }

    /// A reader took an event: a sequence may have room again.
    pub(super) fn drained(&self) {
        self.notify(&self.state.lock());
    }

    fn notify(&self, state: &State) {
        if state.sleeping {
            self.wake.notify_one();
        }
    }

    /// Takes the first job if there is one that `fits`.
    pub(super) fn take_if(&self, fits: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let mut state = self.state.lock();
        if !state.waiting.front().is_some_and(fits) {
            return None;
        }
        let job = state.waiting.pop_front();
        state.free_slots = state.free_slots.saturating_sub(1);
        self.instruments.waiting(state.waiting.len());
        job
    }

    /// Sleeps until `ready` holds for the first waiting job, or the engine is closed. False when closed.
    pub(super) fn sleep_until(&self, ready: impl Fn(Option<&Job>) -> bool) -> bool {
        let mut state = self.state.lock();
        while !state.closed && !ready(state.waiting.front()) {
            state.sleeping = true;
            self.wake.wait(&mut state);
        }
        state.sleeping = false;
        !state.closed
    }

    /// Tells how many sequences could be taken up, and changes the figures.
    pub(super) fn publish(&self, free_slots: usize, update: impl FnOnce(&mut EngineStats)) {
        let mut state = self.state.lock();
        state.free_slots = free_slots;
        update(&mut state.stats);
    }

    pub(super) fn stats(&self) -> EngineStats {
        let state = self.state.lock();
        EngineStats { waiting: state.waiting.len(), ..state.stats }
    }

    /// Refuses new jobs and wakes the loop, which ends.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.wake.notify_all();
    }

    /// Refuses new jobs and fails those that wait.
    pub(super) fn close_and_fail(&self, error: &SharedError) {
        let waiting = {
            let mut state = self.state.lock();
            state.closed = true;
            self.instruments.waiting(0);
            std::mem::take(&mut state.waiting)
        };
        for job in waiting {
            job.fail(error);
        }
    }
}
