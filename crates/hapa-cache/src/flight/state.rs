//! What the producer and the waiters of one flight share.

use std::collections::VecDeque;
use std::task::Waker;

/// Why a flight brought no answer to a waiter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlightError<E> {
    /// The work failed; every waiter gets the same error.
    #[error("{0}")]
    Failed(E),
    /// The producer went away without an answer, and nobody could take over.
    #[error("the shared generation was abandoned by its producer; ask again")]
    Abandoned,
    /// This waiter was too far behind: items it had not seen were dropped.
    #[error("reader fell behind the shared generation and missed {missed} items; ask again")]
    Lagged {
        /// How many items it did not get.
        missed: u64,
    },
}

/// What a waiter sees next.
#[derive(Debug)]
pub enum FlightEvent<I, P> {
    /// The next item.
    Item(I),
    /// The producer went away before it produced anything: whoever gets this should start the work
    /// and drive the producer (or drop it, which hands on again).
    Lead(P),
}

pub(super) struct State<I, O, E> {
    /// Items that some waiter may still want; the first is number `dropped`.
    pub(super) log: VecDeque<I>,
    pub(super) dropped: u64,
    pub(super) outcome: Option<Result<O, FlightError<E>>>,
    pub(super) waiters: Vec<Option<Seat>>,
    pub(super) seated: usize,
    /// No producer at work; the next waiter that looks takes the lead.
    pub(super) orphaned: bool,
    pub(super) handed_on: u32,
    pub(super) cancelled: bool,
    /// The replay would not be whole any more.
    pub(super) closed: bool,
    pub(super) producer: Option<Waker>,
}

/// One waiter.
pub(super) struct Seat {
    /// Number of the next item it wants.
    pub(super) next: u64,
    pub(super) waker: Option<Waker>,
}

impl<I, O, E> State<I, O, E> {
    pub(super) fn new() -> Self {
        Self {
            log: VecDeque::new(),
            dropped: 0,
            outcome: None,
            waiters: Vec::new(),
            seated: 0,
            orphaned: false,
            handed_on: 0,
            cancelled: false,
            closed: false,
            producer: None,
        }
    }

    pub(super) fn produced(&self) -> u64 {
        self.dropped + self.log.len() as u64
    }

    /// Whether somebody who comes now would get a whole answer.
    pub(super) fn is_joinable(&self) -> bool {
        !self.cancelled && !self.closed && self.outcome.is_none()
    }

    pub(super) fn sit(&mut self) -> usize {
        let seat = Seat { next: 0, waker: None };
        self.seated += 1;
        if let Some(free) = self.waiters.iter().position(Option::is_none) {
            self.waiters[free] = Some(seat);
            free
        } else {
            self.waiters.push(Some(seat));
            self.waiters.len() - 1
        }
    }

    /// Checks what holds whenever the lock is free.
    pub(super) fn validate(&self, limit: usize) {
        let seats = self.waiters.iter().flatten();
        assert_eq!(self.seated, seats.clone().count(), "seats add up");
        assert!(seats.clone().all(|seat| seat.next <= self.produced()), "nobody reads ahead");
        assert!(self.log.len() <= limit, "{} items are kept", self.log.len());
        assert!(self.closed || self.dropped == 0, "a replay with a gap takes no joiners");
        assert!(!self.cancelled || self.seated == 0, "a cancelled flight has no reader");
        let goes_on = !self.cancelled && self.outcome.is_none();
        assert!(!goes_on || self.seated > 0, "a flight without a reader was not cancelled");
        assert!(!self.orphaned || (goes_on && self.produced() == 0), "a lead of what is over");
    }

    /// Takes the wakers of all waiters, to be called after the lock is released.
    pub(super) fn wakers(&mut self) -> Vec<Waker> {
        self.waiters.iter_mut().flatten().filter_map(|seat| seat.waker.take()).collect()
    }

    /// Forgets items beyond `limit`: first those that everybody has seen, then by force.
    pub(super) fn trim(&mut self, limit: usize) {
        if self.log.len() <= limit {
            return;
        }
        self.closed = true;
        let slowest = self.waiters.iter().flatten().map(|seat| seat.next).min();
        let seen = slowest.unwrap_or(self.produced()).saturating_sub(self.dropped);
        let excess = (self.log.len() - limit) as u64;
        let forget = usize::try_from(seen.max(excess)).unwrap_or(usize::MAX).min(self.log.len());
        self.log.drain(..forget);
        self.dropped += forget as u64;
    }
}

/// Wakes all; with the lock released, as a waker may run anything.
pub(super) fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}
