//! Guards of synchronous scopes.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use super::{
    profiler::{self, Inner, Profiler},
    tree::{Ended, Frame},
};
use crate::memory;

/// A scope's place in the source: looks its name up once. Made by [`crate::scope!`].
#[derive(Debug)]
pub struct Site {
    name: &'static str,
    /// The name's number in the global profiler; `u32::MAX` before it is known.
    number: AtomicU32,
}

impl Site {
    /// A place in the source with that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, number: AtomicU32::new(u32::MAX) }
    }

    /// Opens the scope in the global profiler.
    #[inline]
    pub fn enter(&'static self) -> ScopeGuard<'static> {
        if !cfg!(feature = "profiling") {
            return ScopeGuard::inert();
        }
        let profiler = Profiler::global();
        if !profiler.is_enabled() {
            return ScopeGuard::inert();
        }
        let mut number = self.number.load(Relaxed);
        if number == u32::MAX {
            number = profiler.inner.names.number(self.name);
            self.number.store(number, Relaxed);
        }
        ScopeGuard::enter(&profiler.inner, number)
    }
}

/// Runs `work` in a scope of the global profiler.
pub fn time<T>(name: &str, work: impl FnOnce() -> T) -> T {
    if !cfg!(feature = "profiling") {
        return work();
    }
    Profiler::global().time(name, work)
}

/// An open scope; it ends when this is dropped, on the thread that opened it.
#[derive(Debug)]
#[must_use = "the scope ends when the guard is dropped; bind it to a name that starts with `_`"]
pub struct ScopeGuard<'p> {
    /// `None` when off.
    inner: Option<&'p Arc<Inner>>,
    frame: Frame,
    resident_before: Option<u64>,
    /// Not `Send`: the tree is the thread's.
    thread: PhantomData<*const ()>,
}

impl<'p> ScopeGuard<'p> {
    #[inline]
    pub(crate) fn inert() -> Self {
        let frame = Frame::default();
        Self { inner: None, frame, resident_before: None, thread: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn enter(inner: &'p Arc<Inner>, name: u32) -> Self {
        match profiler::enter(inner, name) {
            Some(frame) => {
                Self { inner: Some(inner), frame, resident_before: None, thread: PhantomData }
            }
            None => Self::inert(),
        }
    }

    /// Also records how the resident memory of the process changes until the scope ends. Reading
    /// it takes tens of microseconds, and other threads change it too.
    pub fn with_memory(mut self) -> Self {
        if self.inner.is_some() {
            self.resident_before = Some(memory::resident_bytes_now());
        }
        self
    }
}

impl Drop for ScopeGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if !cfg!(feature = "profiling") {
            return;
        }
        if let Some(inner) = self.inner {
            // Read first, so that the work of ending is not measured.
            let end_raw = inner.clock.raw();
            let resident_delta = self.resident_before.map(resident_delta);
            let panicked = std::thread::panicking();
            let ended = Ended::Call { panicked, resident_delta };
            profiler::exit_call(inner, std::mem::take(&mut self.frame), end_raw, ended);
        }
    }
}

#[cold]
fn resident_delta(before: u64) -> i64 {
    let after = memory::resident_bytes_now();
    let difference = i64::try_from(after.abs_diff(before)).unwrap_or(i64::MAX);
    if after >= before { difference } else { -difference }
}
