//! One entry: the value and what the policies need to know about it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The most rounds of eviction that a dear entry may survive without being used.
pub(super) const MAX_CREDIT: u8 = 3;

/// `made` keeps the full credit in its top byte, the time below: 2 million years of milliseconds.
const TIME_BITS: u32 = 56;
/// `worth` keeps the credit in its top two bits, the cost below: 17 minutes of microseconds.
const COST_BITS: u32 = 30;
const COST_MASK: u32 = (1 << COST_BITS) - 1;

/// A value in the cache. Key and links live in the policy's table. Packed into 24 bytes beside the
/// value, as there is one for each entry.
#[derive(Debug)]
pub(super) struct Slot<V> {
    /// When the value was stored, in milliseconds of the cache's clock, and the credit that a hit
    /// sets the entry back to.
    made: u64,
    /// Charged bytes: key, value and overhead.
    pub(super) bytes: u32,
    /// Microseconds that computing the value took, and the rounds of eviction that the entry may
    /// still survive.
    worth: AtomicU32,
    /// Milliseconds to live; 0 is for ever.
    pub(super) ttl_ms: u32,
    /// Milliseconds from its making to its last use; kept only where an idle time is set.
    used_ms: AtomicU32,
    pub(super) value: V,
}

/// What a slot is made of, beside the value.
pub(super) struct SlotFacts {
    pub(super) created_ms: u64,
    pub(super) bytes: u32,
    pub(super) cost: Duration,
    pub(super) ttl_ms: u32,
    pub(super) credit: u8,
}

impl<V> Slot<V> {
    pub(super) fn new(value: V, facts: &SlotFacts) -> Self {
        let credit = facts.credit.min(MAX_CREDIT);
        let cost_us = u32::try_from(facts.cost.as_micros()).unwrap_or(COST_MASK).min(COST_MASK);
        Self {
            made: (u64::from(credit) << TIME_BITS) | (facts.created_ms & ((1 << TIME_BITS) - 1)),
            bytes: facts.bytes,
            worth: AtomicU32::new((u32::from(credit) << COST_BITS) | cost_us),
            ttl_ms: facts.ttl_ms,
            used_ms: AtomicU32::new(0),
            value,
        }
    }

    /// When the value was stored.
    pub(super) fn created_ms(&self) -> u64 {
        self.made & ((1 << TIME_BITS) - 1)
    }

    /// Microseconds that computing the value took, at most 17 minutes.
    #[inline]
    pub(super) fn cost_us(&self) -> u32 {
        self.worth.load(Ordering::Relaxed) & COST_MASK
    }

    /// Age at `now_ms`; zero if the clock ran backwards.
    pub(super) fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.created_ms())
    }

    pub(super) fn is_past_ttl(&self, now_ms: u64) -> bool {
        self.ttl_ms != 0 && self.age_ms(now_ms) >= u64::from(self.ttl_ms)
    }

    pub(super) fn is_idle(&self, now_ms: u64, idle_ms: u32) -> bool {
        let used = u64::from(self.used_ms.load(Ordering::Relaxed));
        idle_ms != 0 && self.age_ms(now_ms).saturating_sub(used) >= u64::from(idle_ms)
    }

    pub(super) fn touch(&self, now_ms: u64) {
        let used = u32::try_from(self.age_ms(now_ms)).unwrap_or(u32::MAX);
        self.used_ms.store(used, Ordering::Relaxed);
    }

    /// A hit fills the credit again, as GreedyDual does with an entry's priority.
    #[inline]
    pub(super) fn refill_credit(&self) {
        let credit = (self.made >> TIME_BITS) as u32;
        if credit != 0 {
            self.worth.store((credit << COST_BITS) | self.cost_us(), Ordering::Relaxed);
        }
    }

    /// Pays one round of eviction. Called under the shard's write lock only.
    pub(super) fn spend_credit(&self) -> bool {
        let worth = self.worth.load(Ordering::Relaxed);
        if worth >> COST_BITS == 0 {
            return false;
        }
        self.worth.store(worth - (1 << COST_BITS), Ordering::Relaxed);
        true
    }
}

/// A value found in the cache. It stays readable while this lives, also after it was evicted.
#[derive(Debug)]
pub struct Hit<V> {
    pub(super) slot: Arc<Slot<V>>,
}

impl<V> Hit<V> {
    /// What computing the value took, as it was told at insertion; 17 minutes at most.
    #[must_use]
    pub fn cost(&self) -> Duration {
        Duration::from_micros(u64::from(self.slot.cost_us()))
    }

    /// The bytes that the cache charges for the entry.
    #[must_use]
    pub fn charged_bytes(&self) -> u64 {
        u64::from(self.slot.bytes)
    }
}

impl<V> Clone for Hit<V> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot) }
    }
}

impl<V> Deref for Hit<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        &self.slot.value
    }
}

impl<V: PartialEq> PartialEq<V> for Hit<V> {
    fn eq(&self, other: &V) -> bool {
        **self == *other
    }
}
