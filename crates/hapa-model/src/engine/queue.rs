//! The bounded queue between callers and the engine's thread, and the lock that puts that thread to sleep.
//!
//! One mutex guards everything that can wake the loop, so a wake-up cannot be missed: the loop looks for work with
//! the lock held, and whoever makes work (a submission, a reader that drained its channel, a reader that
//! went away) takes the lock before it notifies.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::driver::EngineOptions;
use super::fair_queue::{ANSWER_TOKEN, FairQueue, Flow};
use super::outlook::{Ahead, Speed, StepWork};
use super::request::Priority;
use super::sequence::{Job, Sequence};
use super::stats::{EngineStats, Instruments};
use crate::error::{ModelError, Result, SharedError};

/// Shared by the engine's thread, its handle, and every [`super::Generation`].
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    options: EngineOptions,
    pub(super) instruments: Instruments,
}

#[derive(Default)]
struct State {
    waiting: FairQueue<Job>,
    /// Places in the batch that are taken, by those who were put aside too.
    used_slots: usize,
    /// Tokens that those in the batch have still to read, and that each of them will likely write.
    unread: usize,
    unwritten: Vec<usize>,
    speed: Speed,
    sleeping: bool,
    closed: bool,
    next_id: u64,
    stats: EngineStats,
}

impl Shared {
    pub(super) fn new(options: EngineOptions, instruments: Instruments) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake: Condvar::new(), options, instruments })
    }

    /// Puts a job in the queue and returns its number, or refuses at once.
    pub(super) fn submit(&self, mut job: Job) -> Result<u64> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(ModelError::EngineClosed);
        }
        // Jobs that find a free slot at the next step are not really waiting.
        let free = self.options.slots(job.flow.priority).saturating_sub(state.used_slots);
        let limit = self.options.queue_limit;
        if state.waiting.len() >= limit + free {
            return Err(ModelError::QueueFull { limit });
        }
        let id = state.next_id;
        state.next_id += 1;
        job.id = id;
        state.waiting.push(job.flow, id, job.prompt.len(), job);
        self.show_waiting(&state);
        self.notify(&state);
        Ok(id)
    }

    /// A reader went away: its job leaves the queue now, or the batch at the next step.
    pub(super) fn cancelled(&self, id: u64) {
        let removed = {
            let mut state = self.state.lock();
            let removed = state.waiting.remove(id);
            if removed.is_some() {
                state.stats.cancelled_requests += 1;
                self.show_waiting(&state);
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

    fn show_waiting(&self, state: &State) {
        self.instruments.waiting(state.waiting.len(), state.waiting.tokens());
    }

    /// Takes the job that is next among those whose priority `has_room`, if it `fits`.
    pub(super) fn take_if(
        &self,
        has_room: impl Fn(Priority) -> bool,
        fits: impl FnOnce(&Job) -> bool,
    ) -> Option<Job> {
        let mut state = self.state.lock();
        if !state.waiting.front(&has_room).is_some_and(fits) {
            return None;
        }
        let job = state.waiting.take(has_room);
        state.used_slots += 1;
        self.show_waiting(&state);
        job
    }

    /// Sleeps until `ready` holds for the job that is next, or the engine is closed. False when closed.
    pub(super) fn sleep_until(
        &self,
        has_room: impl Fn(Priority) -> bool,
        ready: impl Fn(Option<&Job>) -> bool,
    ) -> bool {
        let mut state = self.state.lock();
        while !state.closed && !ready(state.waiting.front(&has_room)) {
            state.sleeping = true;
            self.wake.wait(&mut state);
        }
        state.sleeping = false;
        !state.closed
    }

    /// Tells how many places are taken, and changes the figures.
    pub(super) fn publish(&self, used_slots: usize, update: impl FnOnce(&mut EngineStats)) {
        let mut state = self.state.lock();
        state.used_slots = used_slots;
        update(&mut state.stats);
    }

    /// Takes in what a step did, with the tokens that each flow was given.
    pub(super) fn stepped(&self, work: StepWork, given: &[(Flow, usize)]) {
        let mut state = self.state.lock();
        state.speed.note_step(work);
        for &(flow, tokens) in given {
            state.waiting.charge(flow, tokens);
        }
    }

    /// An answer ended by itself.
    pub(super) fn answered(&self, priority: Priority, tokens: usize) {
        self.state.lock().speed.note_answer(priority, tokens);
    }

    /// Takes in what those in the batch have still to do.
    pub(super) fn publish_load<'a>(&self, sequences: impl Iterator<Item = &'a Sequence>) {
        let mut state = self.state.lock();
        let State { unread, unwritten, speed, .. } = &mut *state;
        *unread = 0;
        unwritten.clear();
        for sequence in sequences {
            if !sequence.decoding() {
                *unread += sequence.pending();
            }
            let room = sequence.room(self.options.context_tokens);
            let likely = speed.answer(sequence.flow.priority, room + sequence.generated());
            // Of one that is longer than others were, nothing is known but that it goes on.
            let left = likely.saturating_sub(sequence.generated()).max(likely / 4);
            unwritten.push(left.clamp(1, room.max(1)));
        }
    }

    /// See [`super::Engine::first_token_in`].
    pub(super) fn first_token_in(&self, flow: Flow, prompt_tokens: usize) -> Option<Duration> {
        let state = self.state.lock();
        let answer = |job: &Job| state.speed.answer(job.flow.priority, job.most_tokens());
        let cost = |job: &Job| job.prompt.len() as u64 + ANSWER_TOKEN * answer(job) as u64;
        let before = state.waiting.ahead(flow, cost);
        let waiting_prompts: usize = before.iter().map(|job| job.prompt.len()).sum();
        let ahead = Ahead {
            prompt_tokens: prompt_tokens + waiting_prompts + state.unread,
            chunk_tokens: self.options.prefill_chunk_tokens,
            slots: self.options.slots(flow.priority),
            running: state.unwritten.clone(),
            waiting: before.into_iter().map(answer).collect(),
        };
        ahead.takes(&state.speed)
    }

    pub(super) fn stats(&self) -> EngineStats {
        let state = self.state.lock();
        let width = state.used_slots.max(1);
        EngineStats {
            waiting: state.waiting.len(),
            waiting_tokens: state.waiting.tokens(),
            unread_tokens: state.unread,
            prompt_tokens_per_second: state.speed.prompt_token().map(f64::recip),
            generated_tokens_per_second: state.speed.round(width).map(|round| width as f64 / round),
            ..state.stats
        }
    }

    /// Refuses new jobs and wakes the loop, which ends.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.wake.notify_all();
    }

    /// Refuses new jobs and fails those that wait.
    pub(super) fn close_and_fail(&self, error: &SharedError) {
        let waiting: Vec<Job> = {
            let mut state = self.state.lock();
            state.closed = true;
            let waiting = state.waiting.drain().collect();
            self.show_waiting(&state);
            waiting
        };
        for job in waiting {
            job.fail(error);
        }
    }
}
