//! The producing end of a flight.

use super::flights::{Flight, count};
use super::state::{FlightError, wake};
use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::Arc;
use std::task::Poll;

/// The producing end: push items, then finish or fail. Dropping it without either hands on, or
/// fails the waiters. Run it detached from any one request, so that the first client that leaves
/// does not take the others' answer with it.
pub struct Producer<K: Eq + Hash, I, O, E> {
    flight: Arc<Flight<K, I, O, E>>,
    ended: bool,
}

impl<K: Eq + Hash, I, O, E> fmt::Debug for Producer<K, I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash, I, O, E> Producer<K, I, O, E> {
    pub(super) fn new(flight: Arc<Flight<K, I, O, E>>) -> Self {
        Self { flight, ended: false }
    }

    /// The flight's key.
    pub fn key(&self) -> &K {
        &self.flight.key
    }

    /// Hands an item to every waiter; never waits. False when nobody is left to see it: stop.
    pub fn push(&self, item: I) -> bool {
        let mut state = self.flight.state.lock();
        if state.cancelled {
            return false;
        }
        state.log.push_back(item);
        state.trim(self.flight.table.options.max_replay_items);
        let wakers = state.wakers();
        drop(state);
        wake(wakers);
        true
    }

    /// Whether the last waiter has left.
    pub fn is_cancelled(&self) -> bool {
        self.flight.state.lock().cancelled
    }

    /// Resolves when the last waiter has left. Not before, so select it against the work.
    pub async fn cancelled(&self) {
        poll_fn(|context| {
            let mut state = self.flight.state.lock();
            if state.cancelled {
                return Poll::Ready(());
            }
            state.producer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the flight with its outcome. Store the outcome before: whoever comes after this looks
    /// into the cache.
    pub fn finish(mut self, outcome: O) {
        self.end(Ok(outcome));
    }

    /// Ends the flight with an error, which reaches every waiter.
    pub fn fail(mut self, error: E) {
        self.end(Err(FlightError::Failed(error)));
    }

    fn end(&mut self, outcome: Result<O, FlightError<E>>) {
        self.ended = true;
        let tally = &self.flight.table.tally;
        let mut state = self.flight.state.lock();
        if !state.cancelled {
            count(if outcome.is_ok() { &tally.finished } else { &tally.failed });
        }
        state.outcome = Some(outcome);
        let wakers = state.wakers();
        drop(state);
        self.flight.retire();
        wake(wakers);
    }
}

impl<K: Eq + Hash, I, O, E> Drop for Producer<K, I, O, E> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut state = self.flight.state.lock();
        let may_hand_on = state.produced() == 0
            && state.seated > 0
            && state.handed_on < self.flight.table.options.max_hand_ons;
        if may_hand_on {
            state.handed_on += 1;
            state.orphaned = true;
            // All of them: the first that looks takes the lead, whichever that is.
            let wakers = state.wakers();
            drop(state);
            wake(wakers);
        } else {
            drop(state);
            self.end(Err(FlightError::Abandoned));
        }
    }
}
