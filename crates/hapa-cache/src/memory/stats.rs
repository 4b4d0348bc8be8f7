//! What the memory cache counts.

use super::slot::Slot;
use crate::counters::Counters;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why an entry left the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvictionCause {
    /// Others needed the room.
    Capacity,
    /// It was past its time to live.
    Expired,
    /// Nobody asked for it for too long.
    Idle,
    /// A new value took its key.
    Replaced,
    /// It was too large, or nothing could make room for it.
    Rejected,
    /// Somebody removed it, or cleared the cache.
    Removed,
}

/// Entries that left, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Others needed the room.
    pub capacity: u64,
    /// Past their time to live.
    pub expired: u64,
    /// Unused for too long.
    pub idle: u64,
    /// Replaced by a new value.
    pub replaced: u64,
    /// Never taken in: too large, or no room.
    pub rejected: u64,
    /// Removed or cleared by the caller.
    pub removed: u64,
}

impl Evictions {
    /// All that left, whatever the cause.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { capacity, expired, idle, replaced, rejected, removed } = self;
        capacity + expired + idle + replaced + rejected + removed
    }
}

/// A memory cache's figures at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryStats {
    /// Lookups that found a value.
    pub hits: u64,
    /// Lookups that found nothing, or only something expired.
    pub misses: u64,
    /// Values taken in, or refused for their size.
    pub insertions: u64,
    /// Entries that left.
    pub evictions: Evictions,
    /// Entries now.
    pub entries: u64,
    /// Charged bytes now.
    pub bytes: u64,
    /// Pinned entries now; part of `entries`.
    pub pinned_entries: u64,
    /// The most bytes there may be.
    pub max_bytes: u64,
    /// The most entries there may be.
    pub max_entries: u64,
    /// Mean age of the entries.
    pub mean_age: Duration,
    /// The time that computing the served values would have taken.
    pub saved: Duration,
}

impl MemoryStats {
    /// Hits among lookups, 0 to 1; 0 before the first lookup.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        let lookups = self.hits + self.misses;
        if lookups == 0 { 0.0 } else { self.hits as f64 / lookups as f64 }
    }
}

const HITS: usize = 0;
const MISSES: usize = 1;
const SAVED_US: usize = 2;

/// Read-side counters are striped by thread; those of the write side are plain atomics.
#[derive(Debug, Default)]
pub(super) struct Tally {
    reads: Counters<3>,
    insertions: AtomicU64,
    causes: [AtomicU64; 6],
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Sum of the entries' `created_ms`, for the mean age.
    created_ms: AtomicU64,
}

impl Tally {
    #[inline]
    pub(super) fn hit(&self, cost_us: u32) {
        self.reads.add(&[(HITS, 1), (SAVED_US, u64::from(cost_us))]);
    }

    #[inline]
    pub(super) fn miss(&self) {
        self.reads.add(&[(MISSES, 1)]);
    }

    /// Counted before the entry is visible, so that nothing can be taken out first.
    pub(super) fn entered<V>(&self, slot: &Slot<V>) {
        self.insertions.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(slot.bytes), Ordering::Relaxed);
        self.created_ms.fetch_add(slot.created_ms(), Ordering::Relaxed);
    }

    pub(super) fn left<V>(&self, cause: EvictionCause, slot: &Slot<V>) {
        self.causes[cause as usize].fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(u64::from(slot.bytes), Ordering::Relaxed);
        self.created_ms.fetch_sub(slot.created_ms(), Ordering::Relaxed);
    }

    /// A value that never came in.
    pub(super) fn refused(&self) {
        self.insertions.fetch_add(1, Ordering::Relaxed);
        self.causes[EvictionCause::Rejected as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn created_ms(&self) -> u64 {
        self.created_ms.load(Ordering::Relaxed)
    }

    pub(super) fn snapshot(&self, now_ms: u64) -> MemoryStats {
        let cause = |cause: EvictionCause| self.causes[cause as usize].load(Ordering::Relaxed);
        let entries = self.entries();
        let mean_created = self.created_ms().checked_div(entries).unwrap_or(now_ms);
        MemoryStats {
            hits: self.reads.sum(HITS),
            misses: self.reads.sum(MISSES),
            saved: Duration::from_micros(self.reads.sum(SAVED_US)),
            insertions: self.insertions.load(Ordering::Relaxed),
            evictions: Evictions {
                capacity: cause(EvictionCause::Capacity),
                expired: cause(EvictionCause::Expired),
                idle: cause(EvictionCause::Idle),
                replaced: cause(EvictionCause::Replaced),
                rejected: cause(EvictionCause::Rejected),
                removed: cause(EvictionCause::Removed),
            },
            entries,
            bytes: self.bytes(),
            mean_age: Duration::from_millis(now_ms.saturating_sub(mean_created)),
            ..MemoryStats::default()
        }
    }
}
