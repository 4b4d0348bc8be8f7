//! Memory that several lazy values share: who may load, and who makes way.
//!
//! ```text
//! a load ─► queue (first come, first served) ─► enough room? ─ yes ─► loads
//!                    ▲                              │ no
//!                    └── looks again ◄── idle ones leave, least recently used first;
//!                                        not enough: after `patience` those in use take no new work
//! ```
//!
//! - Nobody who is in use is interrupted. One that is to leave serves those who hold a lease; who comes meanwhile waits, and
//!   has it loaded again behind those who came before. So a steady stream to one keeps no other one out.
//! - Nobody leaves for nothing: idle ones go only when that, or that and the room of those who have gone, is enough.
//! - One that has just been loaded keeps its place for `patience` at least.
//! - One that is larger than the budget is loaded when all others have left.
//!
//! Locks: the pool's is taken under a value's, never the other way round.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{ModelError, Result};
use crate::lazy::keep_alive::KeepAlive;
use crate::lazy::keeper::{Cause, Keeper};
use crate::lazy::lazy_value::{Lazy, LoadState};
use crate::lazy::machine::{Inner, Standing};
use crate::store::{LoadEvent, ProgressSink, Throttle};

/// How long a waiting load sleeps at most: a second belt, since whatever it waits for rings.
const BELT: Duration = Duration::from_secs(1);

/// What values of a pool may hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// Most bytes that loaded ones hold together; `None` for no bound. One that alone is larger is loaded alone.
    pub budget_bytes: Option<u64>,
    /// How long a load waits for others to become idle, before those that are to leave take no new work; and how long one
    /// that was loaded keeps its place at least (default one second).
    pub patience: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { budget_bytes: None, patience: Duration::from_secs(1) }
    }
}

/// What a pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Most bytes that may be held; `None` for no bound.
    pub budget_bytes: Option<u64>,
    /// Bytes held, those of loads under way included.
    pub held_bytes: u64,
    /// Loads that wait for room.
    pub waiting: usize,
}

/// Lazy values that share a budget. Clones share it too.
pub struct Pool<T: Send + Sync + 'static>(Arc<Shared<T>>);

struct Shared<T: Send + Sync + 'static> {
    options: PoolOptions,
    state: Mutex<State<T>>,
    rung: Condvar,
}

struct State<T: Send + Sync + 'static> {
    members: Vec<Member<T>>,
    /// Members whose load waits for room, in the order in which they came.
    queue: VecDeque<usize>,
    /// Counts what a waiting load may have waited for.
    rings: u64,
}

struct Member<T: Send + Sync + 'static> {
    value: Weak<Inner<T>>,
    /// What it holds now.
    held: u64,
    /// What it held when it was loaded last.
    known: Option<u64>,
}

impl<T: Send + Sync + 'static> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + Sync + 'static> std::fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.stats()).finish()
    }
}

impl<T: Send + Sync + 'static> Pool<T> {
    /// A pool of nobody yet.
    pub fn new(options: PoolOptions) -> Self {
        let state = State { members: Vec::new(), queue: VecDeque::new(), rings: 0 };
        Self(Arc::new(Shared { options, state: Mutex::new(state), rung: Condvar::new() }))
    }

    /// What is held.
    pub fn stats(&self) -> PoolStats {
        let state = self.0.state.lock();
        PoolStats {
            budget_bytes: self.0.options.budget_bytes,
            held_bytes: state.held(),
            waiting: state.queue.len(),
        }
    }

    /// Adds a value, whose load takes room at the [`Seat`] that it is given. `after_drop` is called each time after one was
    /// dropped.
    pub(super) fn add_with(
        &self,
        name: &Arc<str>,
        keep_alive: KeepAlive,
        after_drop: fn(),
        load: impl Fn(&Seat<T>, &dyn ProgressSink) -> Result<T> + Send + Sync + 'static,
    ) -> Lazy<T> {
        let number = {
            let mut state = self.0.state.lock();
            state.members.push(Member { value: Weak::new(), held: 0, known: None });
            state.members.len() - 1
        };
        let seat =
            || Seat { shared: Arc::clone(&self.0), number, name: Arc::clone(name), after_drop };
        let own = seat();
        let loader = move |progress: &dyn ProgressSink| load(&own, progress);
        let lazy = Lazy::with_keeper(loader, keep_alive, seat());
        self.0.state.lock().members[number].value = Arc::downgrade(lazy.inner());
        lazy
    }

    /// What each holds.
    #[cfg(test)]
    pub(super) fn held(&self) -> Vec<u64> {
        self.0.state.lock().members.iter().map(|member| member.held).collect()
    }
}

impl<T: Send + Sync + 'static> State<T> {
    fn held(&self) -> u64 {
        self.members.iter().map(|member| member.held).fold(0, u64::saturating_add)
    }

    /// The others that hold something, and what.
    fn others(&self, number: usize) -> Vec<(Arc<Inner<T>>, u64)> {
        let members = self.members.iter().enumerate();
        let others = members.filter(|(other, member)| *other != number && member.held > 0);
        others.filter_map(|(_, member)| Some((member.value.upgrade()?, member.held))).collect()
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    fn ring(&self) {
        self.state.lock().rings += 1;
        self.rung.notify_all();
    }
}

/// The place of one value in its pool.
pub(super) struct Seat<T: Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
    number: usize,
    name: Arc<str>,
    after_drop: fn(),
}

impl<T: Send + Sync + 'static> Seat<T> {
    /// Waits until there is room for what `estimate` says, or for what the value held before, and takes it.
    ///
    /// # Errors
    /// Those of the estimate; [`ModelError::LoadAbandoned`] when nobody waits for the load any more.
    pub(super) fn take(
        &self,
        estimate: impl FnOnce() -> Result<u64>,
        progress: &dyn ProgressSink,
    ) -> Result<Taken<'_, T>> {
        let taken = Taken { seat: self, kept: false };
        let Some(budget) = self.shared.options.budget_bytes else { return Ok(taken) };
        let known = self.shared.state.lock().members[self.number].known;
        let needed = known.map_or_else(estimate, Ok)?;
        // Said once: it will be so at each load.
        if needed > budget && known.is_none() {
            tracing::warn!(
                model = &*self.name,
                needed,
                budget,
                "the model is larger than the memory that all may hold; it is loaded alone"
            );
        }
        let (mut turn, mut report) = (Turn::begin(self), Throttle::new());
        let mut state = self.shared.state.lock();
        loop {
            if progress.is_cancelled() {
                drop(state);
                return Err(ModelError::LoadAbandoned);
            }
            let seen = state.rings;
            let held = state.held();
            let is_first = state.queue.front() == Some(&self.number);
            if is_first && (held == 0 || held.saturating_add(needed) <= budget) {
                state.members[self.number].held = needed;
                drop(state);
                self.show_held(needed);
                return Ok(taken);
            }
            let others = if is_first { state.others(self.number) } else { Vec::new() };
            let missing = held.saturating_add(needed).saturating_sub(budget).min(held);
            let again = MutexGuard::unlocked(&mut state, || {
                if report.due() {
                    progress.event(&LoadEvent::MakingRoom { needed, held, budget });
                }
                match is_first {
                    true => turn.make_room(others, missing),
                    false => Instant::now() + BELT,
                }
            });
            if state.rings == seen {
                self.shared.rung.wait_until(&mut state, again);
            }
        }
    }

    /// What the value holds from now on.
    fn hold(&self, bytes: u64) {
        let mut state = self.shared.state.lock();
        state.members[self.number].held = bytes;
        state.rings += 1;
        drop(state);
        self.shared.rung.notify_all();
        self.show_held(bytes);
    }

    fn show_held(&self, bytes: u64) {
        metrics::gauge!("hapa_model_bytes", "model" => self.name.to_string()).set(bytes as f64);
    }

    /// Idle ones leave while more is held than may be: a value was larger than its estimate.
    fn trim(&self) {
        let Some(budget) = self.shared.options.budget_bytes else { return };
        let state = self.shared.state.lock();
        let over = state.held().saturating_sub(budget);
        let others = if over > 0 { state.others(self.number) } else { Vec::new() };
        drop(state);
        send_idle_away(&candidates(others, |_| false), over);
    }
}

impl<T: Send + Sync + 'static> Keeper for Seat<T> {
    fn changed(&self) {
        if self.shared.options.budget_bytes.is_some() {
            self.shared.ring();
        }
    }

    fn shown(&self, state: &'static str) {
        for known in LoadState::NAMES {
            let is = if known == state { 1.0 } else { 0.0 };
            metrics::gauge!("hapa_model_state", "model" => self.name.to_string(), "state" => known)
                .set(is);
        }
    }

    fn unloaded(&self, cause: Cause) {
        metrics::counter!("hapa_model_unloads_total", "cause" => cause.as_str()).increment(1);
    }

    fn dropped(&self) {
        (self.after_drop)();
        self.hold(0);
    }

    fn held_bytes(&self) -> u64 {
        self.shared.state.lock().members[self.number].held
    }
}

/// Room that a load took. Dropped, it is given back; kept, it is the value's.
pub(super) struct Taken<'a, T: Send + Sync + 'static> {
    seat: &'a Seat<T>,
    kept: bool,
}

impl<T: Send + Sync + 'static> Taken<'_, T> {
    /// The value is loaded and holds this much.
    pub(super) fn keep(mut self, bytes: u64) {
        self.kept = true;
        self.seat.shared.state.lock().members[self.seat.number].known = Some(bytes);
        self.seat.hold(bytes);
        self.seat.trim();
    }
}

impl<T: Send + Sync + 'static> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if !self.kept {
            self.seat.hold(0);
        }
    }
}

/// A load's place in the queue, and whom it has told to leave.
struct Turn<'a, T: Send + Sync + 'static> {
    seat: &'a Seat<T>,
    began: Instant,
    told: Vec<Arc<Inner<T>>>,
}

impl<'a, T: Send + Sync + 'static> Turn<'a, T> {
    fn begin(seat: &'a Seat<T>) -> Self {
        seat.shared.state.lock().queue.push_back(seat.number);
        Self { seat, began: Instant::now(), told: Vec::new() }
    }

    fn is_told(&self, value: &Arc<Inner<T>>) -> bool {
        self.told.iter().any(|told| Arc::ptr_eq(told, value))
    }

    /// Has others leave that hold `missing` bytes together, or waits until they may be told to; returns when to look again.
    fn make_room(&mut self, others: Vec<(Arc<Inner<T>>, u64)>, missing: u64) -> Instant {
        let now = Instant::now();
        // Who was told stays told: work that ends must not make it look more recently used than others.
        let candidates = candidates(others, |value| self.is_told(value));
        let idle = candidates.iter().filter(|candidate| candidate.standing.leases == 0);
        if idle.map(|candidate| candidate.bytes).sum::<u64>() >= missing {
            send_idle_away(&candidates, missing);
            return now;
        }
        let (mut again, mut covered, mut told) = (now + BELT, 0_u64, Vec::new());
        for Candidate { value, bytes, standing } in candidates {
            if covered >= missing {
                break;
            }
            covered = covered.saturating_add(bytes);
            if standing.leases == 0 {
                continue;
            }
            let due = self.began.max(standing.since) + self.seat.shared.options.patience;
            if due > now {
                again = again.min(due);
            } else {
                value.give_way(true);
                told.push(value);
            }
        }
        let before = std::mem::replace(&mut self.told, told);
        before.iter().filter(|value| !self.is_told(value)).for_each(Inner::stay);
        again
    }
}

impl<T: Send + Sync + 'static> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.seat.shared.state.lock().queue.retain(|number| *number != self.seat.number);
        self.seat.shared.ring();
        self.told.iter().for_each(Inner::stay);
    }
}

/// A value that is loaded and may leave.
struct Candidate<T: Send + Sync + 'static> {
    value: Arc<Inner<T>>,
    bytes: u64,
    standing: Standing,
}

/// Those of the others that may leave, in the order in which they are to: idle ones, then those that were told, then those in
/// use; of each kind the least recently used first.
fn candidates<T: Send + Sync + 'static>(
    others: Vec<(Arc<Inner<T>>, u64)>,
    is_told: impl Fn(&Arc<Inner<T>>) -> bool,
) -> Vec<Candidate<T>> {
    let standing = |(value, bytes): (Arc<Inner<T>>, u64)| {
        let standing = value.standing()?;
        Some(Candidate { value, bytes, standing })
    };
    let mut candidates: Vec<_> = others.into_iter().filter_map(standing).collect();
    candidates.sort_by_key(|Candidate { value, standing, .. }| {
        (standing.leases > 0, !is_told(value), standing.last_used)
    });
    candidates
}

/// Unloads idle ones until they gave `missing` bytes back.
fn send_idle_away<T: Send + Sync + 'static>(candidates: &[Candidate<T>], missing: u64) {
    let mut left = missing;
    for Candidate { value, bytes, standing } in candidates {
        if left == 0 || standing.leases > 0 {
            return;
        }
        if value.give_way(false) {
            left = left.saturating_sub(*bytes);
        }
    }
}
