//! What holds a [`crate::Lazy`] together: phases, waiters, leases, and the loading thread.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

use crate::error::{ModelError, Result, SharedError};
use crate::lazy::keep_alive::KeepAlive;
use crate::lazy::keeper::{Cause, Keeper, Unloads};
use crate::lazy::lazy_value::{LoadState, Loader, Unload};
use crate::lazy::lease::{Lease, Purpose};
use crate::lazy::reaper::{self, Idle, Wake};
use crate::store::{LoadEvent, ProgressSink};

pub(super) struct Inner<T: Send + Sync + 'static> {
    loader: Box<dyn Loader<T>>,
    keep_alive: KeepAlive,
    keeper: Box<dyn Keeper>,
    state: Mutex<State<T>>,
    seen: watch::Sender<LoadState>,
    wake: Arc<Wake>,
}

struct State<T: Send + Sync + 'static> {
    phase: Phase<T>,
    /// Who waits for the load, by number.
    waiters: Vec<(u64, oneshot::Sender<Outcome<T>>)>,
    next_waiter: u64,
    /// When work with the value began or ended last.
    last_used: Option<Instant>,
    unloads: Unloads,
    /// A reaper thread lives.
    reaper: bool,
}

enum Phase<T> {
    Unloaded,
    /// A loading thread lives. The flag tells the load that it runs now to give up.
    Loading {
        cancelled: Arc<AtomicBool>,
        unload_after: bool,
    },
    Ready {
        value: Arc<T>,
        leases: usize,
        since: Instant,
        unload_when_idle: bool,
        /// Others need its room: it takes no new work, and goes with its last lease.
        leaving: bool,
    },
    /// The value is being dropped, outside the lock. Nobody loads another one meanwhile.
    Unloading,
}

type Outcome<T> = Result<Lease<T>, SharedError>;

/// How a loaded value stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) leases: usize,
    /// When it was loaded.
    pub(super) since: Instant,
    pub(super) last_used: Instant,
}

pub(super) enum Begun<T: Send + Sync + 'static> {
    Ready(Lease<T>),
    Wait(Waiter<T>),
}

impl<T: Send + Sync + 'static> Inner<T> {
    pub(super) fn new(
        loader: Box<dyn Loader<T>>,
        keep_alive: KeepAlive,
        keeper: Box<dyn Keeper>,
    ) -> Self {
        let state = State {
            phase: Phase::Unloaded,
            waiters: Vec::new(),
            next_waiter: 0,
            last_used: None,
            unloads: Unloads::default(),
            reaper: false,
        };
        Self {
            loader,
            keep_alive,
            keeper,
            state: Mutex::new(state),
            seen: watch::Sender::new(LoadState::Unloaded),
            wake: Arc::default(),
        }
    }

    pub(super) fn seen(&self) -> &watch::Sender<LoadState> {
        &self.seen
    }

    pub(super) fn leases(&self) -> usize {
        match self.state.lock().phase {
            Phase::Ready { leases, .. } => leases,
            _ => 0,
        }
    }

    pub(super) fn last_used(&self) -> Option<Instant> {
        self.state.lock().last_used
    }

    pub(super) fn unloads(&self) -> Unloads {
        self.state.lock().unloads
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.keeper.held_bytes()
    }

    #[cfg(test)]
    pub(super) fn waiters(&self) -> usize {
        self.state.lock().waiters.len()
    }

    pub(super) fn loaded(self: &Arc<Self>) -> Option<Lease<T>> {
        self.lease(&mut self.state.lock(), Purpose::Look)
    }

    /// A lease on a value that is ready.
    fn lease(self: &Arc<Self>, state: &mut State<T>, purpose: Purpose) -> Option<Lease<T>> {
        let Phase::Ready { value, leases, .. } = &mut state.phase else { return None };
        *leases += 1;
        if purpose == Purpose::Work {
            state.last_used = Some(Instant::now());
        }
        Some(Lease::counted(Arc::clone(value), Arc::clone(self), purpose))
    }

    pub(super) fn unload(self: &Arc<Self>) -> Unload {
        let mut state = self.state.lock();
        match &mut state.phase {
            Phase::Unloaded | Phase::Unloading => Unload::NotLoaded,
            Phase::Loading { unload_after, .. } => {
                *unload_after = true;
                Unload::WhenIdle
            }
            Phase::Ready { leases: 0, .. } => {
                Self::drop_value(self, &mut state, Cause::Asked);
                Unload::Done
            }
            Phase::Ready { unload_when_idle, .. } => {
                *unload_when_idle = true;
                Unload::WhenIdle
            }
        }
    }

    /// How the value stands; `None` while none is loaded.
    pub(super) fn standing(&self) -> Option<Standing> {
        let state = self.state.lock();
        let Phase::Ready { leases, since, .. } = state.phase else { return None };
        Some(Standing { leases, since, last_used: state.last_used.unwrap_or(since) })
    }

    /// Drops a value that nobody uses, for others that need its room; returns whether it did. One in use takes no new work
    /// from now on, if `insist`, and is dropped with its last lease; until then [`stay`](Self::stay) takes that back.
    pub(super) fn give_way(self: &Arc<Self>, insist: bool) -> bool {
        let mut state = self.state.lock();
        match &mut state.phase {
            Phase::Ready { leases: 0, .. } => {
                Self::drop_value(self, &mut state, Cause::Room);
                true
            }
            Phase::Ready { leaving, .. } => {
                *leaving |= insist;
                false
            }
            _ => false,
        }
    }

    /// The room is not needed any more: those who came meanwhile get the value, if it is still there.
    pub(super) fn stay(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if let Phase::Ready { leaving, .. } = &mut state.phase
            && std::mem::replace(leaving, false)
        {
            self.serve_waiters(&mut state);
        }
    }

    /// Takes a lease, or joins those who wait, and starts the load if none runs.
    pub(super) fn begin(self: &Arc<Self>) -> Begun<T> {
        let mut state = self.state.lock();
        let leaving = matches!(state.phase, Phase::Ready { leaving: true, .. });
        if !leaving && let Some(lease) = self.lease(&mut state, Purpose::Work) {
            return Begun::Ready(lease);
        }
        let (sender, receiver) = oneshot::channel();
        let number = state.next_waiter;
        state.next_waiter += 1;
        state.waiters.push((number, sender));
        if matches!(state.phase, Phase::Unloaded) {
            self.start(&mut state);
        }
        Begun::Wait(Waiter { number, receiver, owner: Arc::clone(self) })
    }

    /// Starts the loading thread.
    fn start(self: &Arc<Self>, state: &mut State<T>) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let unload_after = false;
        state.phase = Phase::Loading { cancelled: Arc::clone(&cancelled), unload_after };
        self.show(LoadState::Loading { event: LoadEvent::Resolving { name: String::new() } });
        let owner = Arc::clone(self);
        let thread = std::thread::Builder::new().name("hapa-load".to_owned());
        if let Err(error) = thread.spawn(move || owner.load(cancelled)) {
            let problem = format!("no thread to load the model: {error}");
            self.fail(state, ModelError::Engine { problem });
        }
    }

    /// The loading thread: loads until someone has the value, everyone has the error, or nobody waits.
    fn load(self: Arc<Self>, mut cancelled: Arc<AtomicBool>) {
        loop {
            let sink = Sink { owner: &self, cancelled: &cancelled };
            let result = catch_unwind(AssertUnwindSafe(|| self.loader.load(&sink)));
            let result = result.unwrap_or_else(|panic| {
                let problem = format!("loading panicked: {}", panic_text(&*panic));
                Err(ModelError::Engine { problem })
            });
            let mut state = self.state.lock();
            let was_cancelled = cancelled.load(Ordering::Relaxed);
            match result {
                Ok(value) if state.waiters.is_empty() => {
                    // Freed before anyone may load again: never two in memory.
                    MutexGuard::unlocked(&mut state, || drop(value));
                }
                Ok(value) => return self.ready(&mut state, value),
                Err(error) if was_cancelled || state.waiters.is_empty() => {
                    tracing::debug!(%error, "an abandoned load ended");
                }
                Err(error) => return self.fail(&mut state, error),
            }
            MutexGuard::unlocked(&mut state, || self.keeper.dropped());
            // Abandoned. Those who came meanwhile get a load of their own.
            if state.waiters.is_empty() {
                state.phase = Phase::Unloaded;
                return self.show(LoadState::Unloaded);
            }
            cancelled = Arc::new(AtomicBool::new(false));
            if let Phase::Loading { cancelled: current, .. } = &mut state.phase {
                *current = Arc::clone(&cancelled);
            }
        }
    }

    /// The value can be used, first by those who wait for it.
    fn ready(self: &Arc<Self>, state: &mut MutexGuard<'_, State<T>>, value: T) {
        let unload_when_idle = matches!(state.phase, Phase::Loading { unload_after: true, .. });
        let (value, since) = (Arc::new(value), Instant::now());
        state.phase = Phase::Ready { value, leases: 0, since, unload_when_idle, leaving: false };
        state.last_used = Some(since);
        self.show(LoadState::Ready);
        self.keeper.changed();
        self.serve_waiters(state);
    }

    /// Gives every waiter a lease. The lock is released before they are told.
    fn serve_waiters(self: &Arc<Self>, state: &mut MutexGuard<'_, State<T>>) {
        let waiters = std::mem::take(&mut state.waiters).into_iter();
        let leases = waiters
            .filter_map(|(_, waiter)| Some((waiter, self.lease(state, Purpose::Work)?)))
            .collect::<Vec<_>>();
        MutexGuard::unlocked(state, || {
            for (waiter, lease) in leases {
                // A waiter that has just gone gives its lease back by dropping it here.
                let _ = waiter.send(Ok(lease));
            }
        });
    }

    /// Tells every waiter.
    fn fail(&self, state: &mut State<T>, error: ModelError) {
        state.phase = Phase::Unloaded;
        self.show(LoadState::Failed { message: error.to_string() });
        let error = Arc::new(error);
        for (_, waiter) in state.waiters.drain(..) {
            let _ = waiter.send(Err(Arc::clone(&error)));
        }
    }

    /// A waiter has gone. The last one to go cancels the load.
    fn leave(&self, number: u64) {
        let mut state = self.state.lock();
        state.waiters.retain(|(other, _)| *other != number);
        if state.waiters.is_empty()
            && let Phase::Loading { cancelled, .. } = &state.phase
        {
            cancelled.store(true, Ordering::Relaxed);
            // The load may wait for room.
            self.keeper.changed();
        }
    }

    pub(super) fn count_lease(&self) {
        if let Phase::Ready { leases, .. } = &mut self.state.lock().phase {
            *leases += 1;
        }
    }

    /// A lease has gone. After the last one the value is dropped at once, or the reaper watches it.
    pub(super) fn release(owner: &Arc<Self>, purpose: Purpose) {
        let mut state = owner.state.lock();
        let Phase::Ready { leases, unload_when_idle, leaving, .. } = &mut state.phase else {
            return;
        };
        *leases -= 1;
        let (left, asked, leaving) = (*leases, *unload_when_idle, *leaving);
        let now = Instant::now();
        if purpose == Purpose::Work {
            state.last_used = Some(now);
        }
        if left > 0 {
            return;
        }
        let cause = match owner.keep_alive {
            _ if leaving => Cause::Room,
            _ if asked => Cause::Asked,
            KeepAlive::For(idle) if idle.is_zero() => Cause::Idle,
            keep_alive => {
                if let KeepAlive::For(idle) = keep_alive
                    && !state.reaper
                {
                    let idle_for = state.last_used.map_or(idle, |used| now - used);
                    let left = idle.saturating_sub(idle_for);
                    state.reaper = reaper::start(owner, Arc::clone(&owner.wake), left);
                }
                return owner.keeper.changed();
            }
        };
        Self::drop_value(owner, &mut state, cause);
    }

    /// Drops a value that nobody uses. The lock is released meanwhile; who asks for the value then waits, and it is
    /// loaded again after it is gone: never two in memory.
    fn drop_value(owner: &Arc<Self>, state: &mut MutexGuard<'_, State<T>>, cause: Cause) {
        let phase = std::mem::replace(&mut state.phase, Phase::Unloading);
        MutexGuard::unlocked(state, || {
            // A value that panics while it is dropped must not leave everyone waiting.
            if catch_unwind(AssertUnwindSafe(|| drop(phase))).is_err() {
                tracing::error!("unloading panicked");
            }
            owner.keeper.dropped();
        });
        state.phase = Phase::Unloaded;
        state.unloads.count(cause);
        owner.keeper.unloaded(cause);
        owner.show(LoadState::Unloaded);
        if !state.waiters.is_empty() {
            owner.start(state);
        }
    }

    /// Unloads the value if it has been idle long enough; says when to look again.
    pub(super) fn reap(owner: &Arc<Self>) -> Idle {
        let mut state = owner.state.lock();
        let due: Option<Instant> = match (&state.phase, owner.keep_alive) {
            (Phase::Ready { leases: 0, since, .. }, KeepAlive::For(idle)) => {
                state.last_used.unwrap_or(*since).checked_add(idle)
            }
            _ => None,
        };
        match due {
            Some(due) if due > Instant::now() => Idle::Until(due),
            due => {
                state.reaper = false;
                if due.is_some() {
                    Self::drop_value(owner, &mut state, Cause::Idle);
                }
                Idle::No
            }
        }
    }

    /// Shows a state to watchers.
    fn show(&self, shown: LoadState) {
        let name = shown.name();
        let changed = self.seen.borrow().name() != name;
        self.seen.send_replace(shown);
        if changed {
            self.keeper.shown(name);
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Inner<T> {
    fn drop(&mut self) {
        self.wake.close();
        let phase = std::mem::replace(&mut self.state.get_mut().phase, Phase::Unloaded);
        if let Phase::Ready { value, .. } = phase {
            drop(value);
            self.keeper.dropped();
        }
    }
}

/// What a load reports to.
struct Sink<'a, T: Send + Sync + 'static> {
    owner: &'a Inner<T>,
    cancelled: &'a AtomicBool,
}

impl<T: Send + Sync + 'static> ProgressSink for Sink<'_, T> {
    fn event(&self, event: &LoadEvent) {
        self.owner.show(LoadState::Loading { event: event.clone() });
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Waits for a load. Dropped before its end, it gives up its place.
pub(super) struct Waiter<T: Send + Sync + 'static> {
    number: u64,
    receiver: oneshot::Receiver<Outcome<T>>,
    owner: Arc<Inner<T>>,
}

impl<T: Send + Sync + 'static> Future for Waiter<T> {
    type Output = Outcome<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        Pin::new(&mut self.receiver).poll(context).map(|outcome| {
            // The sender is dropped unanswered only if the loading thread itself died.
            outcome.unwrap_or_else(|_| {
                Err(Arc::new(ModelError::Engine { problem: "the loading thread died".to_owned() }))
            })
        })
    }
}

impl<T: Send + Sync + 'static> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.owner.leave(self.number);
        // A lease that came meanwhile and was not taken is dropped with the receiver, after the lock.
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
