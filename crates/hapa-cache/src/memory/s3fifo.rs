//! The S3-FIFO-like policy: quick_cache behind the cache's own rules.

use super::slot::{MAX_CREDIT, Slot};
use super::stats::{EvictionCause, Tally};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Equivalent, Lifecycle, OptionsBuilder, Weighter};
use std::cell::RefCell;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Share of the weight that frequently used entries may take; quick_cache's own default. It is
/// also the largest entry that a shard takes in.
const HOT_SHARE: f64 = 0.97;
/// Shards smaller than this are not made unless asked for.
const SMALLEST_SHARD_BYTES: u64 = 1 << 20;
/// Below this many entries a shard, 3 % would be less than one entry.
const FEW_ENTRIES: usize = 34;
/// Keys of evicted entries that are remembered, as a share of the entries. quick_cache's default
/// is 0.5; each costs as much table room as an entry.
const GHOST_SHARE: f64 = 0.15;

/// Entries weigh their bytes, but never less than their share of `max_entries`.
#[derive(Clone)]
struct BytesWithFloor {
    floor: u64,
}

impl<K, V> Weighter<K, Arc<Slot<V>>> for BytesWithFloor {
    #[inline]
    fn weight(&self, _key: &K, slot: &Arc<Slot<V>>) -> u64 {
        u64::from(slot.bytes).max(self.floor)
    }
}

/// Gives dear entries their extra rounds and sees to it that whatever leaves is counted.
struct Watch {
    tally: Arc<Tally>,
}

impl Clone for Watch {
    fn clone(&self) -> Self {
        Self { tally: Arc::clone(&self.tally) }
    }
}

/// What left during one operation; dropped after the shard's lock is released.
struct Left<K, V> {
    gone: Vec<(K, Arc<Slot<V>>)>,
    /// The caller finds out itself why each entry left. Otherwise it was for its room.
    classified_by_caller: bool,
}

impl<K, V> Default for Left<K, V> {
    fn default() -> Self {
        Self { gone: Vec::new(), classified_by_caller: false }
    }
}

impl<K, V> Lifecycle<K, Arc<Slot<V>>> for Watch {
    type RequestState = Left<K, V>;

    /// quick_cache asks this of each entry that it is about to evict (and of entries that are too
    /// large, which [`S3Fifo::insert`] refuses before).
    fn is_pinned(&self, _key: &K, slot: &Arc<Slot<V>>) -> bool {
        slot.spend_credit()
    }

    fn on_evict(&self, left: &mut Left<K, V>, key: K, slot: Arc<Slot<V>>) {
        if !left.classified_by_caller {
            self.tally.left(EvictionCause::Capacity, &slot);
        }
        left.gone.push((key, slot));
    }
}

/// quick_cache with both bounds in its one weight.
pub(super) struct S3Fifo<K, V> {
    cache: Cache<K, Arc<Slot<V>>, BytesWithFloor, DefaultHashBuilder, Watch>,
    tally: Arc<Tally>,
    floor: u64,
    hot_share: f64,
    full_shard_capacity: u64,
    /// Weight that each shard may hold now; less than full while entries are pinned.
    shard_capacity: AtomicU64,
    uses_credit: bool,
}

/// The bounds that a table is built for.
pub(super) struct Bounds {
    pub(super) max_bytes: u64,
    pub(super) max_entries: usize,
    pub(super) shards: Option<usize>,
    pub(super) uses_credit: bool,
}

impl<K: Eq + Hash + Clone, V> S3Fifo<K, V> {
    pub(super) fn new(bounds: &Bounds, tally: Arc<Tally>) -> Self {
        let shards = shard_count(bounds);
        // Per shard, so that rounding can't add up to more than was allowed.
        let entries = (bounds.max_entries / shards).max(1);
        let floor = (bounds.max_bytes / shards as u64 / entries as u64).max(1);
        let shard_capacity = floor * entries as u64;
        let hot_share = if entries < FEW_ENTRIES { 1.0 } else { HOT_SHARE };
        let mut options = OptionsBuilder::new();
        options
            .shards(shards)
            .estimated_items_capacity(entries * shards)
            .weight_capacity(shard_capacity * shards as u64)
            .hot_allocation(hot_share)
            .ghost_allocation(GHOST_SHARE);
        #[expect(clippy::expect_used, reason = "both capacities are set two lines above")]
        let options = options.build().expect("capacities are set");
        let watch = Watch { tally: Arc::clone(&tally) };
        let cache = Cache::with_options(
            options,
            BytesWithFloor { floor },
            DefaultHashBuilder::default(),
            watch,
        );
        debug_assert_eq!(cache.num_shards(), shards);
        // Growing by doubling would leave up to half of the tables unused. Memory that is reserved
        // but never filled is not touched, so it costs address space only.
        cache.reserve(entries * shards);
        Self {
            cache,
            tally,
            floor,
            hot_share,
            full_shard_capacity: shard_capacity,
            shard_capacity: AtomicU64::new(shard_capacity),
            uses_credit: bounds.uses_credit,
        }
    }

    #[inline]
    pub(super) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<Arc<Slot<V>>> {
        self.cache.get(key)
    }

    pub(super) fn peek<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<Arc<Slot<V>>> {
        self.cache.peek(key)
    }

    /// The weight of the largest entry that can be taken in.
    pub(super) fn largest(&self) -> u64 {
        (self.shard_capacity.load(Ordering::Relaxed) as f64 * self.hot_share) as u64
    }

    fn weight_of(&self, slot: &Slot<V>) -> u64 {
        u64::from(slot.bytes).max(self.floor)
    }

    /// Puts an entry in and counts what left for it. False if the entry was refused.
    pub(super) fn insert(&self, key: &K, slot: &Arc<Slot<V>>) -> bool {
        if self.weight_of(slot) > self.largest() {
            // The old value under this key must not outlive the attempt to replace it.
            if let Some((_, old)) = self.cache.remove(key) {
                self.tally.left(EvictionCause::Replaced, &old);
            }
            self.tally.left(EvictionCause::Rejected, slot);
            return false;
        }
        let mut left = Left { gone: Vec::new(), classified_by_caller: true };
        self.cache.insert_with_lifecycle(key.clone(), Arc::clone(slot), &mut left);
        let mut kept = true;
        for (gone_key, gone) in &left.gone {
            let cause = if Arc::ptr_eq(gone, slot) {
                kept = false;
                EvictionCause::Rejected
            } else if gone_key == key {
                EvictionCause::Replaced
            } else {
                EvictionCause::Capacity
            };
            self.tally.left(cause, gone);
        }
        if self.uses_credit && kept {
            self.settle();
            kept = self.cache.peek(key).is_some_and(|now| Arc::ptr_eq(&now, slot));
        }
        kept
    }

    /// Entries with credit may have left a shard over its weight. Each further round costs every
    /// entry that it passes one credit, so a few rounds end it.
    fn settle(&self) {
        for _ in 0..2 * MAX_CREDIT {
            let capacity = self.capacity();
            if self.cache.weight() <= capacity {
                return;
            }
            self.cache.set_capacity(capacity);
        }
    }

    fn capacity(&self) -> u64 {
        self.shard_capacity.load(Ordering::Relaxed) * self.cache.num_shards() as u64
    }

    /// Gives `bytes` of pinned entries, `entries` of them, out of the bounds.
    pub(super) fn reserve(&self, bytes: u64, entries: usize) {
        let shards = self.cache.num_shards() as u64;
        let weight = bytes.max(self.floor * entries as u64).div_ceil(shards);
        let capacity = self.full_shard_capacity.saturating_sub(weight).max(1);
        self.shard_capacity.store(capacity, Ordering::Relaxed);
        self.cache.set_capacity(capacity * shards);
        self.settle();
    }

    /// Takes an entry out if `condition` holds; the caller counts it.
    pub(super) fn remove_if<Q: Hash + Equivalent<K> + ?Sized>(
        &self,
        key: &Q,
        condition: impl FnOnce(&Arc<Slot<V>>) -> bool,
    ) -> Option<(K, Arc<Slot<V>>)> {
        self.cache.remove_if(key, condition)
    }

    /// Takes out the entries that `keep` does not want; the caller counts them.
    pub(super) fn retain(&self, keep: impl Fn(&Slot<V>) -> bool) -> Vec<Arc<Slot<V>>> {
        let gone = RefCell::new(Vec::new());
        self.cache.retain(|_, slot| {
            let keep = keep(slot);
            if !keep {
                gone.borrow_mut().push(Arc::clone(slot));
            }
            keep
        });
        gone.into_inner()
    }

    /// Keys and entries, in no order.
    pub(super) fn entries(&self) -> Vec<(K, Arc<Slot<V>>)> {
        self.cache.iter().collect()
    }

    /// Bytes of the tables.
    pub(super) fn table_bytes(&self) -> usize {
        self.cache.memory_used().total()
    }

    /// Checks that the table is within its weight; only when nobody is writing.
    pub(super) fn validate(&self) {
        let entries = self.entries();
        let weight: u64 = entries.iter().map(|(_, slot)| self.weight_of(slot)).sum();
        assert_eq!(weight, self.cache.weight(), "weights add up");
        assert_eq!(entries.len(), self.cache.len(), "entries add up");
        assert!(weight <= self.capacity(), "weight {weight} over {}", self.capacity());
    }
}

/// Four shards for each CPU, but none so small that large answers would not fit or that quick_cache
/// would join it to others (it wants 32 entries each).
fn shard_count(bounds: &Bounds) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = bounds.shards.unwrap_or_else(|| {
        let by_bytes = usize::try_from(bounds.max_bytes / SMALLEST_SHARD_BYTES).unwrap_or(1);
        (4 * cpus).min(by_bytes).max(1)
    });
    let mut shards = wanted.next_power_of_two();
    while shards > 1 && bounds.max_entries / shards < 32 {
        shards /= 2;
    }
    shards
}
