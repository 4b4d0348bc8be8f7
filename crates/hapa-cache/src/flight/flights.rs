//! The table of running flights.

use super::producer::Producer;
use super::state::State;
use super::waiter::Waiter;
use crate::CacheError;
use crate::shim::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds of a [`Flights`] table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlightOptions {
    /// Items that are kept for late joiners and slow waiters of one flight; 16,384 by default,
    /// which is more than the tokens of the longest answers.
    pub max_replay_items: usize,
    /// How often a flight may be handed on after its producer went away; 1 by default.
    pub max_hand_ons: u32,
}

impl Default for FlightOptions {
    fn default() -> Self {
        Self { max_replay_items: 16_384, max_hand_ons: 1 }
    }
}

impl FlightOptions {
    /// Sets the items kept for late joiners and slow waiters.
    #[must_use]
    pub fn max_replay_items(mut self, items: usize) -> Self {
        self.max_replay_items = items;
        self
    }

    /// Sets how often a flight may be handed on.
    #[must_use]
    pub fn max_hand_ons(mut self, times: u32) -> Self {
        self.max_hand_ons = times;
        self
    }
}

/// What the flights did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlightStats {
    /// Flights that were started.
    pub led: u64,
    /// Requests that joined a running flight.
    pub shared: u64,
    /// Flights that ended with an answer.
    pub finished: u64,
    /// Flights that ended in an error, abandoned ones too.
    pub failed: u64,
    /// Flights whose last waiter left before the end.
    pub cancelled: u64,
    /// Times a flight was handed on to a waiter.
    pub handed_on: u64,
    /// Waiters that were too far behind.
    pub lagged: u64,
    /// Flights that are running now.
    pub in_flight: u64,
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) led: AtomicU64,
    pub(super) shared: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) handed_on: AtomicU64,
    pub(super) lagged: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One flight; the table, its producer and its waiters hold it.
pub(super) struct Flight<K, I, O, E> {
    pub(super) key: K,
    pub(super) state: Mutex<State<I, O, E>>,
    pub(super) table: Arc<Table<K, I, O, E>>,
}

type Running<K, I, O, E> = HashMap<K, Arc<Flight<K, I, O, E>>>;

pub(super) struct Table<K, I, O, E> {
    running: Mutex<Running<K, I, O, E>>,
    pub(super) options: FlightOptions,
    pub(super) tally: Tally,
}

impl<K: Eq + Hash, I, O, E> Flight<K, I, O, E> {
    /// Another waiter; `None` when it is too late for one.
    fn share(self: &Arc<Self>) -> Option<Waiter<K, I, O, E>> {
        let mut state = self.state.lock();
        if !state.is_joinable() {
            return None;
        }
        let seat = state.sit();
        drop(state);
        count(&self.table.tally.shared);
        Some(Waiter::new(Arc::clone(self), seat))
    }

    /// Takes the flight out of the table, unless another has its key by now.
    pub(super) fn retire(self: &Arc<Self>) {
        let mut running = self.table.running.lock();
        if running.get(&self.key).is_some_and(|now| Arc::ptr_eq(now, self)) {
            running.remove(&self.key);
        }
    }
}

/// Flights by key: `I` is what is streamed, `O` the outcome, `E` the error; all are cloned for each
/// waiter, so make them cheap to clone. A `Flights` is a handle: clones share one table.
pub struct Flights<K, I, O, E> {
    table: Arc<Table<K, I, O, E>>,
}

impl<K, I, O, E> Clone for Flights<K, I, O, E> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

impl<K, I, O, E> std::fmt::Debug for Flights<K, I, O, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").field("options", &self.table.options).finish_non_exhaustive()
    }
}

/// What [`Flights::join`] gave.
#[derive(Debug)]
pub struct Join<K: Eq + Hash, I, O, E> {
    /// Where the answer arrives.
    pub waiter: Waiter<K, I, O, E>,
    /// For the first who came: start the work with it.
    pub producer: Option<Producer<K, I, O, E>>,
}

impl<K: Eq + Hash, I, O, E> Default for Flights<K, I, O, E> {
    fn default() -> Self {
        Self::with_options(FlightOptions::default())
    }
}

impl<K: Eq + Hash, I, O, E> Flights<K, I, O, E> {
    fn with_options(options: FlightOptions) -> Self {
        Self {
            table: Arc::new(Table {
                running: Mutex::new(HashMap::new()),
                options,
                tally: Tally::default(),
            }),
        }
    }

    /// An empty table.
    ///
    /// # Errors
    /// [`CacheError::BadOption`] when nothing could be replayed.
    pub fn new(options: FlightOptions) -> Result<Self, CacheError> {
        if options.max_replay_items == 0 {
            return Err(CacheError::bad_option("max_replay_items", "must be at least 1"));
        }
        Ok(Self::with_options(options))
    }

    /// The figures now.
    #[must_use]
    pub fn stats(&self) -> FlightStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { led, shared, finished, failed, cancelled, handed_on, lagged } =
            &self.table.tally;
        FlightStats {
            led: read(led),
            shared: read(shared),
            finished: read(finished),
            failed: read(failed),
            cancelled: read(cancelled),
            handed_on: read(handed_on),
            lagged: read(lagged),
            in_flight: self.table.running.lock().len() as u64,
        }
    }

    /// Checks every running flight, for tests; others may go on meanwhile.
    ///
    /// # Panics
    /// When something is wrong.
    #[doc(hidden)]
    pub fn validate(&self) {
        for (key, flight) in self.table.running.lock().iter() {
            assert!(*key == flight.key, "a flight stands under its key");
            flight.state.lock().validate(self.table.options.max_replay_items);
        }
    }
}

impl<K: Eq + Hash + Clone, I, O, E> Flights<K, I, O, E> {
    /// Joins the flight of `key`, or starts one.
    ///
    /// Whoever leads should look into the cache once more before it computes: an earlier flight may
    /// have stored the answer and ended between this caller's lookup and its join. If the answer is
    /// there, [`finish`](Producer::finish) with it.
    pub fn join(&self, key: K) -> Join<K, I, O, E> {
        let mut running = self.table.running.lock();
        let flight = match running.entry(key) {
            Entry::Occupied(mut occupied) => {
                if let Some(waiter) = occupied.get().share() {
                    return Join { waiter, producer: None };
                }
                let fresh = self.flight(occupied.key().clone());
                occupied.insert(Arc::clone(&fresh));
                fresh
            }
            Entry::Vacant(vacant) => {
                let fresh = self.flight(vacant.key().clone());
                Arc::clone(vacant.insert(fresh))
            }
        };
        let seat = flight.state.lock().sit();
        drop(running);
        count(&self.table.tally.led);
        Join {
            producer: Some(Producer::new(Arc::clone(&flight))),
            waiter: Waiter::new(flight, seat),
        }
    }

    /// Joins the flight of `key` if there is one; starts none.
    pub fn join_running<Q>(&self, key: &Q) -> Option<Waiter<K, I, O, E>>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let flight = Arc::clone(self.table.running.lock().get(key)?);
        flight.share()
    }

    /// Whether somebody computes the answer of `key` now, so that a caller who joins need not look elsewhere before.
    pub fn is_running<Q>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.table.running.lock().contains_key(key)
    }

    fn flight(&self, key: K) -> Arc<Flight<K, I, O, E>> {
        Arc::new(Flight { key, state: Mutex::new(State::new()), table: Arc::clone(&self.table) })
    }
}
