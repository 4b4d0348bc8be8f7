//! The receiving end of a flight.

use super::flights::{Flight, count};
use super::producer::Producer;
use super::state::{FlightError, FlightEvent};
use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// One request's view of a flight, at its own pace. Dropping it leaves the flight; the last one to
/// leave cancels the work.
pub struct Waiter<K: Eq + Hash, I, O, E> {
    flight: Arc<Flight<K, I, O, E>>,
    seat: usize,
    ended: bool,
}

impl<K: Eq + Hash, I, O, E> fmt::Debug for Waiter<K, I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// What a waiter gets next: an event, or how the flight ended.
pub(crate) type Next<K, I, O, E> =
    Result<FlightEvent<I, Producer<K, I, O, E>>, Result<O, FlightError<E>>>;

impl<K: Eq + Hash, I, O, E> Waiter<K, I, O, E> {
    pub(super) fn new(flight: Arc<Flight<K, I, O, E>>, seat: usize) -> Self {
        Self { flight, seat, ended: false }
    }

    /// The flight's key.
    pub fn key(&self) -> &K {
        &self.flight.key
    }
}

impl<K: Eq + Hash, I: Clone, O: Clone, E: Clone> Waiter<K, I, O, E> {
    /// The next event: `Ok` while the flight goes on, `Err` with its end (an outcome or an error)
    /// after the last item. The end comes again if it is asked for again. Cancel-safe.
    pub async fn next(&mut self) -> Next<K, I, O, E> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`next`](Self::next) for threads: waits without a runtime.
    pub fn blocking_next(&mut self) -> Next<K, I, O, E> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match self.poll_next(&mut context) {
                Poll::Ready(next) => return next,
                Poll::Pending => thread::park(),
            }
        }
    }

    /// Reads to the end and returns the outcome; items are passed over. A lead that is handed on
    /// is dropped, so use this only where somebody else leads.
    ///
    /// # Errors
    /// Whatever ended the flight without an outcome.
    pub async fn outcome(mut self) -> Result<O, FlightError<E>> {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }

    /// One step of [`next`](Self::next), for those who write futures and streams by hand.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next<K, I, O, E>> {
        let flight = &self.flight;
        let mut state = flight.state.lock();
        let (dropped, produced) = (state.dropped, state.produced());
        let Some(seat) = state.waiters[self.seat].as_mut() else {
            // Only `drop` empties a seat.
            return Poll::Ready(Err(Err(FlightError::Abandoned)));
        };
        if seat.next < dropped {
            let missed = dropped - seat.next;
            if !std::mem::replace(&mut self.ended, true) {
                count(&flight.table.tally.lagged);
            }
            return Poll::Ready(Err(Err(FlightError::Lagged { missed })));
        }
        if seat.next < produced {
            let at = usize::try_from(seat.next - dropped).unwrap_or(usize::MAX);
            seat.next += 1;
            if let Some(item) = state.log.get(at) {
                return Poll::Ready(Ok(FlightEvent::Item(item.clone())));
            }
        }
        if let Some(outcome) = &state.outcome {
            self.ended = true;
            return Poll::Ready(Err(outcome.clone()));
        }
        if std::mem::take(&mut state.orphaned) {
            drop(state);
            count(&flight.table.tally.handed_on);
            return Poll::Ready(Ok(FlightEvent::Lead(Producer::new(Arc::clone(flight)))));
        }
        if let Some(seat) = state.waiters[self.seat].as_mut() {
            match &mut seat.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl<K: Eq + Hash, I, O, E> Drop for Waiter<K, I, O, E> {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        let seat = state.waiters[self.seat].take();
        state.seated -= 1;
        if state.seated > 0 || state.outcome.is_some() {
            // If a lead waits to be taken, every other waiter was woken for it too.
            drop(state);
            drop(seat);
            return;
        }
        state.orphaned = false;
        state.cancelled = true;
        let producer = state.producer.take();
        drop(state);
        drop(seat);
        count(&self.flight.table.tally.cancelled);
        self.flight.retire();
        if let Some(producer) = producer {
            producer.wake();
        }
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
