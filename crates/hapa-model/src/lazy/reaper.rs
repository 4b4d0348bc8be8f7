//! Unloading what nobody has used for a while.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::lazy::machine::Inner;

/// Wakes the reaper before its time: when the owner goes away.
#[derive(Default)]
pub(super) struct Wake {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    pub(super) fn close(&self) {
        *self.closed.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until `end`. Returns true when closed before.
    fn wait_until(&self, end: Instant) -> bool {
        let mut closed = self.closed.lock();
        while !*closed {
            if self.changed.wait_until(&mut closed, end).timed_out() {
                return *closed;
            }
        }
        true
    }
}

/// What the reaper is to do next.
pub(super) enum Idle {
    /// Look again at this time.
    Until(Instant),
    /// Nothing is idle; the next release starts another reaper.
    No,
}

/// Starts the thread that unloads an idle value. It keeps neither the value nor its owner alive.
pub(super) fn start<T: Send + Sync + 'static>(
    owner: &Arc<Inner<T>>,
    wake: Arc<Wake>,
    idle: Duration,
) -> bool {
    let owner: Weak<Inner<T>> = Arc::downgrade(owner);
    let spawned = std::thread::Builder::new().name("hapa-idle".to_owned()).spawn(move || {
        // A time past the end of the clock never comes.
        let Some(mut end) = Instant::now().checked_add(idle) else { return };
        loop {
            if wake.wait_until(end) {
                return;
            }
            let Some(owner) = owner.upgrade() else { return };
            match Inner::reap(&owner) {
                Idle::Until(next) => end = next,
                Idle::No => return,
            }
        }
    });
    if let Err(error) = &spawned {
        tracing::warn!(%error, "no thread to unload an idle model; it stays loaded");
    }
    spawned.is_ok()
}
