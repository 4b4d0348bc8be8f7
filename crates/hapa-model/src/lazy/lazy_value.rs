//! [`Lazy`], as its users see it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Result, SharedError};
use crate::lazy::keep_alive::KeepAlive;
use crate::lazy::keeper::{Keeper, Unloads};
use crate::lazy::lease::Lease;
use crate::lazy::machine::{Begun, Inner};
use crate::store::{LoadEvent, ProgressSink};

/// How a value is loaded. Any `Fn(&dyn ProgressSink) -> Result<T>` is one.
pub trait Loader<T>: Send + Sync + 'static {
    /// Loads the value, blocking. Reports to `progress` and gives up, freeing what it holds, when that says cancelled.
    ///
    /// # Errors
    /// Whatever prevents the load; told to all who wait.
    fn load(&self, progress: &dyn ProgressSink) -> Result<T>;
}

impl<T, F> Loader<T> for F
where
    F: Fn(&dyn ProgressSink) -> Result<T> + Send + Sync + 'static,
{
    fn load(&self, progress: &dyn ProgressSink) -> Result<T> {
        self(progress)
    }
}

/// What watchers see.
#[derive(Debug, Clone, PartialEq)]
pub enum LoadState {
    /// Nothing is loaded; the next caller loads.
    Unloaded,
    /// A load runs; this is the last thing that it said.
    Loading {
        /// Its last event.
        event: LoadEvent,
    },
    /// The value is loaded.
    Ready,
    /// The last load failed; the next caller loads again.
    Failed {
        /// Why.
        message: String,
    },
}

impl LoadState {
    pub(super) const NAMES: [&'static str; 4] = ["unloaded", "loading", "ready", "failed"];

    /// `unloaded`, `loading`, `ready` or `failed`.
    pub fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Unloaded => 0,
            Self::Loading { .. } => 1,
            Self::Ready => 2,
            Self::Failed { .. } => 3,
        }]
    }
}

/// What [`Lazy::unload`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unload {
    /// The value was dropped before the call returned.
    Done,
    /// It is in use or being loaded; it will be dropped when its last user is gone.
    WhenIdle,
    /// Nothing was loaded.
    NotLoaded,
}

/// A value that its first user loads. Cheap to clone; clones share the value.
pub struct Lazy<T: Send + Sync + 'static> {
    inner: Arc<Inner<T>>,
}

impl<T: Send + Sync + 'static> Clone for Lazy<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T: Send + Sync + 'static> std::fmt::Debug for Lazy<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lazy").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Lazy<T> {
    /// Makes the value known; loads nothing.
    pub fn with_loader(loader: impl Loader<T>, keep_alive: KeepAlive) -> Self {
        Self::with_keeper(loader, keep_alive, ())
    }

    /// As [`Lazy::with_loader`], with somebody who is told of the value's life.
    pub(super) fn with_keeper(
        loader: impl Loader<T>,
        keep_alive: KeepAlive,
        keeper: impl Keeper,
    ) -> Self {
        Self { inner: Arc::new(Inner::new(Box::new(loader), keep_alive, Box::new(keeper))) }
    }

    pub(super) fn inner(&self) -> &Arc<Inner<T>> {
        &self.inner
    }

    /// The value, loaded if need be. Dropping the future gives up waiting; when the last one that waits is dropped, the load
    /// is abandoned.
    ///
    /// # Errors
    /// What the load failed with, the same for all who waited for it.
    pub async fn get(&self) -> Result<Lease<T>, SharedError> {
        match self.inner.begin() {
            Begun::Ready(lease) => Ok(lease),
            Begun::Wait(waiter) => waiter.await,
        }
    }

    /// As [`Lazy::get`], blocking the thread. Not for threads of an async runtime.
    ///
    /// # Errors
    /// As [`Lazy::get`].
    pub fn blocking_get(&self) -> Result<Lease<T>, SharedError> {
        match self.inner.begin() {
            Begun::Ready(lease) => Ok(lease),
            Begun::Wait(waiter) => block_on(waiter),
        }
    }

    /// A lease if the value is loaded already, to look at it: never loads, never waits, and does not put off the unload
    /// of an idle value.
    pub fn loaded(&self) -> Option<Lease<T>> {
        self.inner.loaded()
    }

    /// Follows the state; the receiver sees the present one at once.
    pub fn subscribe(&self) -> watch::Receiver<LoadState> {
        self.inner.seen().subscribe()
    }

    /// The state now.
    pub fn state(&self) -> LoadState {
        self.inner.seen().borrow().clone()
    }

    /// Leases that live now.
    pub fn leases(&self) -> usize {
        self.inner.leases()
    }

    /// When work with the value began or ended last; `None` before the first.
    pub fn last_used(&self) -> Option<Instant> {
        self.inner.last_used()
    }

    /// How often the value was unloaded, and why.
    pub fn unloads(&self) -> Unloads {
        self.inner.unloads()
    }

    /// Bytes that the value holds, as far as its [`ModelPool`](crate::ModelPool) knows; 0 while none is loaded.
    pub fn held_bytes(&self) -> u64 {
        self.inner.held_bytes()
    }

    /// Gives the memory back: at once when nobody uses the value, else when the last user is gone.
    pub fn unload(&self) -> Unload {
        self.inner.unload()
    }
}

#[cfg(test)]
impl<T: Send + Sync + 'static> Lazy<T> {
    /// Callers that wait for a load now.
    pub(super) fn inner_waiters(&self) -> usize {
        self.inner.waiters()
    }
}

/// Waits for a future on this thread, without a runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            // Woken early or late, the poll decides; the limit is only a second belt.
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(1)),
        }
    }
}
