//! Allocations by thread, and the global allocator that counts them.
//!
//! A binary opts in:
//!
//! ```
//! use hapa_profiler::ProfiledAlloc;
//!
//! #[global_allocator]
//! static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();
//! ```
//!
//! From then on each scope knows the bytes and allocations made inside it, and the most bytes that
//! lived above what lived when it began. The counters belong to the thread, so they cost no shared
//! memory traffic, and a future's polls add up its own allocations wherever they run.

mod global;

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

pub use global::ProfiledAlloc;

#[cfg(all(feature = "sampling", unix))]
use crate::sampling::heap::hook as sampled;

/// Nobody samples the heap.
#[cfg(not(all(feature = "sampling", unix)))]
mod sampled {
    #[inline]
    pub(super) fn allocated(_: *mut u8, _: usize) {}

    #[inline]
    pub(super) fn released(_: *mut u8) -> Option<()> {
        None
    }

    #[inline]
    pub(super) fn restored(_: *mut u8, _: Option<()>) {}
}

/// What one thread allocated since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AllocationStats {
    /// Allocations, reallocations that grew included.
    pub allocations: u64,
    /// Bytes asked for; a reallocation counts what it added.
    pub allocated_bytes: u64,
    /// Bytes allocated less bytes freed on this thread: negative when it frees what others made.
    pub live_bytes: i64,
}

struct Counters {
    allocations: Cell<u64>,
    allocated_bytes: Cell<u64>,
    live_bytes: Cell<i64>,
    /// Largest `live_bytes` since the innermost scope began.
    peak_bytes: Cell<i64>,
}

thread_local! {
    // No destructor and nothing lazy: it may be touched while a thread starts and ends.
    static COUNTERS: Counters = const {
        Counters {
            allocations: Cell::new(0),
            allocated_bytes: Cell::new(0),
            live_bytes: Cell::new(0),
            peak_bytes: Cell::new(0),
        }
    };
}

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Whether this process counts its allocations.
#[inline]
pub fn is_installed() -> bool {
    INSTALLED.load(Relaxed)
}

/// What the current thread allocated so far; zeros when [`ProfiledAlloc`] is not installed.
pub fn thread_stats() -> AllocationStats {
    COUNTERS
        .try_with(|counters| AllocationStats {
            allocations: counters.allocations.get(),
            allocated_bytes: counters.allocated_bytes.get(),
            live_bytes: counters.live_bytes.get(),
        })
        .unwrap_or_default()
}

#[inline]
#[expect(clippy::cast_possible_wrap, reason = "no allocation exceeds isize::MAX bytes")]
fn on_alloc(bytes: usize) {
    if !INSTALLED.load(Relaxed) {
        INSTALLED.store(true, Relaxed);
    }
    let _ = COUNTERS.try_with(|counters| {
        counters.allocations.set(counters.allocations.get() + 1);
        counters.allocated_bytes.set(counters.allocated_bytes.get() + bytes as u64);
        let live = counters.live_bytes.get() + bytes as i64;
        counters.live_bytes.set(live);
        if live > counters.peak_bytes.get() {
            counters.peak_bytes.set(live);
        }
    });
}

#[inline]
#[expect(clippy::cast_possible_wrap, reason = "no allocation exceeds isize::MAX bytes")]
fn on_dealloc(bytes: usize) {
    let _ = COUNTERS.try_with(|counters| {
        counters.live_bytes.set(counters.live_bytes.get() - bytes as i64);
    });
}

/// Where a scope's allocations begin.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AllocMark {
    start: AllocationStats,
    /// The enclosing scope's peak, put back when this scope ends.
    outer_peak: i64,
}

/// What a scope allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AllocDelta {
    pub(crate) allocations: u64,
    pub(crate) allocated_bytes: u64,
    /// Change of live bytes.
    pub(crate) live_bytes: i64,
    /// Most live bytes above those at the beginning.
    pub(crate) peak_bytes: u64,
}

impl AllocMark {
    #[inline]
    pub(crate) fn begin() -> Self {
        COUNTERS
            .try_with(|counters| {
                let start = AllocationStats {
                    allocations: counters.allocations.get(),
                    allocated_bytes: counters.allocated_bytes.get(),
                    live_bytes: counters.live_bytes.get(),
                };
                let outer_peak = counters.peak_bytes.replace(start.live_bytes);
                Self { start, outer_peak }
            })
            .unwrap_or_default()
    }

    #[inline]
    pub(crate) fn end(self) -> AllocDelta {
        COUNTERS
            .try_with(|counters| {
                let live = counters.live_bytes.get();
                let peak = counters.peak_bytes.get();
                counters.peak_bytes.set(peak.max(self.outer_peak));
                AllocDelta {
                    allocations: counters.allocations.get() - self.start.allocations,
                    allocated_bytes: counters.allocated_bytes.get() - self.start.allocated_bytes,
                    live_bytes: live - self.start.live_bytes,
                    peak_bytes: (peak - self.start.live_bytes).max(0).unsigned_abs(),
                }
            })
            .unwrap_or_default()
    }
}
