//! Counters that many threads raise at once without sharing a cache line.
//!
//! Each live thread owns one of [`STRIPES`] stripes: it alone writes there, so a plain load and
//! store counts exactly and costs about a nanosecond. Threads beyond that share a last stripe with
//! atomic adds. A thread gives its stripe back when it ends; the registry's mutex orders its last
//! store before the next owner's first load.

use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that count without contention; each stripe takes 128 bytes a cache.
const STRIPES: usize = 64;
const SHARED: usize = STRIPES;

static FREE: Mutex<FreeStripes> = Mutex::new(FreeStripes { next: 0, returned: Vec::new() });

struct FreeStripes {
    next: usize,
    returned: Vec<usize>,
}

/// Gives the stripe back when its thread ends.
struct Owned(usize);

impl Drop for Owned {
    fn drop(&mut self) {
        STRIPE.set(SHARED);
        if self.0 < SHARED {
            FREE.lock().returned.push(self.0);
        }
    }
}

/// No stripe was asked for yet.
const UNKNOWN: usize = usize::MAX;

thread_local! {
    /// This thread's stripe. Apart from its owner, so that reading it is one load: what has a destructor is looked at first.
    static STRIPE: Cell<usize> = const { Cell::new(UNKNOWN) };
    static OWNED: Owned = Owned(take());
}

#[inline]
fn stripe() -> usize {
    let index = STRIPE.get();
    if index == UNKNOWN { claim() } else { index }
}

#[cold]
fn claim() -> usize {
    // After a thread's locals are gone (destructors may still use a cache), share.
    let index = OWNED.try_with(|owned| owned.0).unwrap_or(SHARED);
    STRIPE.set(index);
    index
}

fn take() -> usize {
    let mut free = FREE.lock();
    if let Some(index) = free.returned.pop() {
        return index;
    }
    if free.next < STRIPES {
        free.next += 1;
        return free.next - 1;
    }
    SHARED
}

/// `N` counters that belong together, striped by thread.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize> {
    stripes: Box<[Stripe<N>]>,
}

/// Two cache lines: the neighbour line is prefetched with this one.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        let stripe = || Stripe(std::array::from_fn(|_| AtomicU64::new(0)));
        Self { stripes: (0..=STRIPES).map(|_| stripe()).collect() }
    }
}

impl<const N: usize> Counters<N> {
    /// Adds to several counters with one look at the thread's stripe.
    #[inline]
    pub(crate) fn add(&self, changes: &[(usize, u64)]) {
        let index = stripe();
        let stripe = &self.stripes[index.min(SHARED)].0;
        for &(counter, by) in changes {
            if index < SHARED {
                let old = stripe[counter].load(Ordering::Relaxed);
                stripe[counter].store(old.wrapping_add(by), Ordering::Relaxed);
            } else {
                stripe[counter].fetch_add(by, Ordering::Relaxed);
            }
        }
    }

    /// The sum of one counter over all threads. Exact when nobody is counting.
    pub(crate) fn sum(&self, counter: usize) -> u64 {
        self.stripes
            .iter()
            .fold(0, |sum, stripe| sum.wrapping_add(stripe.0[counter].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn no_count_is_lost_with_more_threads_than_stripes() {
        let counters = Arc::new(Counters::<2>::default());
        // Waves of threads, so that stripes are handed from thread to thread too.
        for _ in 0..4 {
            std::thread::scope(|scope| {
                for _ in 0..STRIPES + 16 {
                    scope.spawn(|| {
                        for _ in 0..500 {
                            counters.add(&[(0, 1), (1, 3)]);
                        }
                    });
                }
            });
        }
        let adds = 4 * (STRIPES as u64 + 16) * 500;
        assert_eq!(counters.sum(0), adds);
        assert_eq!(counters.sum(1), 3 * adds);
    }
}
