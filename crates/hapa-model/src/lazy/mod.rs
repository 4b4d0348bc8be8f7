//! Values that are loaded by their first user, shared by all, and given back when idle.
//!
//! [`Lazy`] is the state machine, for any value and any way to load it; [`LazyModel`] is a [`Lazy`] of a model. Making
//! one touches nothing: no disk, no network, no thread. Its life:
//!
//! ```text
//!            first get()                     loaded
//! Unloaded ───────────────> Loading ─────────────────────> Ready ──┐ get(): a lease each
//!    ^  ^                    │   │ failed: every waiter is told,   │
//!    │  └────────────────────┘   │ the next get() loads again      │
//!    │      nobody waits any     v                                 │
//!    │      more: abandoned    Failed                              │
//!    └─────────────────────────────────────────────────────────────┘
//!         idle for `keep_alive`, `unload()`, or others need its room; never under a lease
//! ```
//!
//! A load runs on a thread of its own, one at a time. When its last waiter goes away, its [`ProgressSink`](crate::ProgressSink) says
//! cancelled, and what it holds is freed as soon as it notices. Who comes while a cancelled load winds down waits
//! for its end: should it have finished all the same, they get its value, else it is begun anew by the same
//! thread. Two copies of a model are therefore never in memory at once because of an impatient client.
//!
//! Several models share a budget of memory in a [`ModelPool`].

mod keep_alive;
mod keeper;
mod lazy_value;
mod lease;
mod machine;
mod model;
mod pool;
#[cfg(test)]
mod pool_tests;
mod reaper;
#[cfg(test)]
mod tests;

pub use keep_alive::KeepAlive;
pub use keeper::Unloads;
pub use lazy_value::{Lazy, LoadState, Loader, Unload};
pub use lease::Lease;
pub use model::{LazyModel, LazyOptions, ModelLease, ModelPool};
pub use pool::{Pool, PoolOptions, PoolStats};
