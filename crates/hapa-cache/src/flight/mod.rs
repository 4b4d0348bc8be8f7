//! Single-flight: identical requests that run at the same time share one generation.
//!
//! Whoever [joins](Flights::join) first gets a [`Producer`] beside a [`Waiter`] and starts the work,
//! best detached from itself; everybody after that gets a [`Waiter`] alone. A waiter first sees what
//! has been produced so far, then the rest as it comes, at its own pace: the producer never waits
//! for anybody.
//!
//! ```text
//!            join            push*               finish / fail
//! nobody ----------> running -------> running -----------------> done
//!                     |   ^ \                                      (late joiners: the cache)
//!   producer dropped  |   |  \ last waiter leaves
//!   before any item   v   |   v
//!                  handed on  cancelled: the producer is told, new joiners start afresh
//! ```
//!
//! - **Replay is bounded** ([`FlightOptions::max_replay_items`]). Beyond that a flight takes no more
//!   joiners, forgets what all its waiters have seen, and a waiter that is further behind than the
//!   bound gets [`FlightError::Lagged`]; the others are not slowed.
//! - **The last waiter that leaves cancels**: [`Producer::is_cancelled`] turns true, in whatever
//!   stage the work is.
//! - **A failure reaches every waiter**, and nothing here stores anything.
//! - **A producer that is dropped** (its task was aborted, or panicked) before it pushed anything
//!   hands on: one waiter gets [`FlightEvent::Lead`] and may start the work again, a bounded number
//!   of times. After that, or once items were seen, waiters get [`FlightError::Abandoned`].
//!
//! No runtime is needed: waiters are plain futures with wakers of their own, and
//! [`Waiter::blocking_next`] serves threads. All of it runs under shuttle (`--features shuttle`).
//!
//! Cost: `join` and leaving take two short locks; `push` is O(waiters).

mod flights;
mod producer;
mod state;
mod waiter;

pub use flights::{FlightOptions, FlightStats, Flights, Join};
pub use producer::Producer;
pub use state::{FlightError, FlightEvent};
pub use waiter::Waiter;
