//! The memory cache: one policy's table, the pinned entries, time and counters around them.

use super::ENTRY_OVERHEAD_BYTES;
use super::lru::Lru;
use super::options::{EntryOptions, MemoryOptions, Policy, Weigh};
use super::s3fifo::{Bounds, S3Fifo};
use super::slot::{Hit, MAX_CREDIT, Slot, SlotFacts};
use super::stats::{EvictionCause, MemoryStats, Tally};

use crate::Clock;
use crate::clock::millis;
use hashbrown::HashMap;
use parking_lot::RwLock;
use quick_cache::{DefaultHashBuilder, Equivalent};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

enum Table<K, V> {
    S3Fifo(S3Fifo<K, V>),
    Lru(Lru<K, V>),
}

/// Calls the same method on whichever policy there is.
macro_rules! on_table {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match &$self.table {
            Table::S3Fifo(table) => table.$method($($argument),*),
            Table::Lru(table) => table.$method($($argument),*),
        }
    };
}

/// Entries that eviction can't touch; they still expire.
struct Pinned<K, V> {
    entries: HashMap<K, Arc<Slot<V>>, DefaultHashBuilder>,
    bytes: u64,
}

/// A bounded cache from keys to values, shared by threads. Policies, bounds and costs are described
/// in the crate's documentation.
pub struct MemoryCache<K, V> {
    table: Table<K, V>,
    /// Writers hold this shared, pinning holds it alone, so a key has one entry in one place.
    pinned: RwLock<Pinned<K, V>>,
    pinned_entries: AtomicUsize,
    max_pinned_bytes: u64,
    max_pinned_entries: usize,
    tally: Arc<Tally>,
    clock: Arc<dyn Clock>,
    max_bytes: u64,
    max_entries: usize,
    ttl_ms: u32,
    idle_ms: u32,
    prefer_dear: bool,
    /// Running mean of cost density, in nanoseconds a byte; zero before the first entry.
    mean_density: AtomicU64,
    policy: Policy,
}

impl<K, V> std::fmt::Debug for MemoryCache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryCache")
            .field("policy", &self.policy)
            .field("entries", &self.tally.entries())
            .field("bytes", &self.tally.bytes())
            .finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone, V: Weigh> MemoryCache<K, V> {
    pub(super) fn new(options: &MemoryOptions) -> Self {
        let tally = Arc::new(Tally::default());
        let clock = options.clock_or_system();
        let table = match options.policy {
            Policy::S3Fifo => {
                let bounds = Bounds {
                    max_bytes: options.max_bytes,
                    max_entries: options.max_entries,
                    shards: options.shards,
                    uses_credit: options.prefer_dear,
                };
                Table::S3Fifo(S3Fifo::new(&bounds, Arc::clone(&tally)))
            }
            Policy::Lru => {
                Table::Lru(Lru::new(options.max_bytes, options.max_entries, Arc::clone(&tally)))
            }
        };
        let short = |time: Option<Duration>| {
            time.map_or(0, |time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
        };
        Self {
            table,
            pinned: RwLock::new(Pinned { entries: HashMap::default(), bytes: 0 }),
            pinned_entries: AtomicUsize::new(0),
            max_pinned_bytes: (options.max_bytes as f64 * options.max_pinned_share) as u64,
            max_pinned_entries: (options.max_entries as f64 * options.max_pinned_share) as usize,
            tally,
            clock,
            max_bytes: options.max_bytes,
            max_entries: options.max_entries,
            ttl_ms: short(options.ttl),
            idle_ms: short(options.idle),
            prefer_dear: options.prefer_dear,
            mean_density: AtomicU64::new(0),
            policy: options.policy,
        }
    }

    /// The value under `key`, if it is there and not too old. Counts a hit or a miss, marks the
    /// entry as used, allocates nothing.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<Hit<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let found = on_table!(self.get(key)).or_else(|| self.pinned_slot(key));
        let Some(slot) = found else {
            self.tally.miss();
            return None;
        };
        if slot.ttl_ms | self.idle_ms != 0 && !self.is_live_or_remove(key, &slot) {
            self.tally.miss();
            return None;
        }
        slot.refill_credit();
        self.tally.hit(slot.cost_us());
        Some(Hit { slot })
    }

    /// The value under `key` without counting or marking anything.
    pub fn peek<Q>(&self, key: &Q) -> Option<Hit<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let slot = on_table!(self.peek(key)).or_else(|| self.pinned_slot(key))?;
        self.stale(&slot).is_none().then_some(Hit { slot })
    }

    /// Stores a value of unknown cost. See [`insert_with`](Self::insert_with).
    pub fn insert(&self, key: K, value: V) -> bool {
        self.insert_with(key, value, EntryOptions::default())
    }

    /// Stores a value, in place of an older one. False if it was refused: larger than
    /// [`largest_entry_bytes`](Self::largest_entry_bytes), or a time to live of zero. The older
    /// value is gone either way.
    pub fn insert_with(&self, key: K, value: V, entry: EntryOptions) -> bool {
        let heap = value.heap_bytes();
        let bytes = size_of::<K>() + size_of::<V>() + ENTRY_OVERHEAD_BYTES;
        let Ok(bytes) = u32::try_from(bytes.saturating_add(heap)) else {
            self.remove(&key);
            self.tally.refused();
            return false;
        };
        let ttl_ms = self.entry_ttl_ms(entry.ttl);
        if entry.ttl.is_some_and(|ttl| ttl < Duration::from_millis(1)) {
            self.remove(&key);
            self.tally.refused();
            return false;
        }
        let slot = Arc::new(Slot::new(
            value,
            &SlotFacts {
                created_ms: millis(self.clock.monotonic()),
                bytes,
                cost: entry.cost,
                ttl_ms,
                credit: if self.prefer_dear { self.credit(entry.cost, bytes) } else { 0 },
            },
        ));
        self.tally.entered(&slot);
        let pinned = self.pinned.read();
        if !pinned.entries.contains_key(&key) {
            return on_table!(self.insert(&key, &slot));
        }
        drop(pinned);
        let mut pinned = self.pinned.write();
        if let Some(old) = pinned.entries.remove(&key) {
            self.release(&mut pinned, &old, EvictionCause::Replaced);
            if self.has_pin_room(&pinned, &slot) {
                self.hold(&mut pinned, key, slot);
                return true;
            }
        }
        on_table!(self.insert(&key, &slot))
    }

    /// Takes a value out.
    pub fn remove<Q>(&self, key: &Q) -> Option<Hit<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let mut pinned = self.pinned.write();
        if let Some(slot) = pinned.entries.remove(key) {
            self.release(&mut pinned, &slot, EvictionCause::Removed);
            return Some(Hit { slot });
        }
        let (_, slot) = on_table!(self.remove_if(key, |_| true))?;
        self.tally.left(EvictionCause::Removed, &slot);
        Some(Hit { slot })
    }

    /// Takes everything out, pinned entries too; returns how many there were.
    pub fn clear(&self) -> usize {
        let mut pinned = self.pinned.write();
        let gone = on_table!(self.retain(|_| false));
        for slot in &gone {
            self.tally.left(EvictionCause::Removed, slot);
        }
        let held: Vec<_> = pinned.entries.drain().map(|(_, slot)| slot).collect();
        for slot in &held {
            self.release(&mut pinned, slot, EvictionCause::Removed);
        }
        gone.len() + held.len()
    }

    /// Takes out what is past its time; returns how many. `get` never serves such entries, so this
    /// only frees their room early.
    pub fn purge_expired(&self) -> usize {
        let mut pinned = self.pinned.write();
        let gone = on_table!(self.retain(|slot| self.stale(slot).is_none()));
        for slot in &gone {
            self.tally.left(self.stale(slot).unwrap_or(EvictionCause::Expired), slot);
        }
        let late: Vec<_> =
            pinned.entries.extract_if(|_, slot| self.stale(slot).is_some()).collect();
        for (_, slot) in &late {
            self.release(&mut pinned, slot, self.stale(slot).unwrap_or(EvictionCause::Expired));
        }
        gone.len() + late.len()
    }

    /// Keeps an entry from being evicted, until [`unpin`](Self::unpin). It can still expire, be
    /// replaced or removed. False if it is not there, or if pinned entries would take more than
    /// [`MemoryOptions::max_pinned_share`].
    pub fn pin(&self, key: &K) -> bool {
        let mut pinned = self.pinned.write();
        if pinned.entries.contains_key(key) {
            return true;
        }
        let Some(slot) = on_table!(self.peek(key)) else { return false };
        if !self.has_pin_room(&pinned, &slot) {
            return false;
        }
        // Announced before it is taken out: a reader that misses it in the table then waits for
        // this lock and finds it here.
        self.pinned_entries.store(pinned.entries.len() + 1, Ordering::Release);
        let taken = on_table!(self.remove_if(key, |now| Arc::ptr_eq(now, &slot)));
        match taken {
            Some((key, slot)) => {
                self.hold(&mut pinned, key, slot);
                true
            }
            None => {
                self.pinned_entries.store(pinned.entries.len(), Ordering::Release);
                false
            }
        }
    }

    /// Gives a pinned entry back to the policy; false if it was not pinned.
    pub fn unpin(&self, key: &K) -> bool {
        let mut pinned = self.pinned.write();
        let Some((key, slot)) = pinned.entries.remove_entry(key) else { return false };
        self.forget(&mut pinned, &slot);
        on_table!(self.insert(&key, &slot));
        true
    }

    /// Entries now.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.tally.entries()).unwrap_or(usize::MAX)
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Charged bytes now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tally.bytes()
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The most bytes that one entry may be charged: all of `max_bytes` with exact LRU, 97 % of a
    /// shard with S3-FIFO.
    #[must_use]
    pub fn largest_entry_bytes(&self) -> u64 {
        on_table!(self.largest())
    }

    /// Bytes that the tables themselves take, without the entries they point to.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        on_table!(self.table_bytes())
    }

    /// Live keys and values; with exact LRU the least recently used first. O(n).
    #[must_use]
    pub fn entries(&self) -> Vec<(K, Hit<V>)> {
        let pinned = self.pinned.read();
        let held = pinned.entries.iter().map(|(key, slot)| (key.clone(), Arc::clone(slot)));
        let mut all: Vec<_> = on_table!(self.entries());
        all.extend(held);
        all.retain(|(_, slot)| self.stale(slot).is_none());
        all.into_iter().map(|(key, slot)| (key, Hit { slot })).collect()
    }

    /// Milliseconds that an entry still has to live, if it has a time to live.
    #[must_use]
    pub fn remaining_ttl(&self, hit: &Hit<V>) -> Option<Duration> {
        let age = hit.slot.age_ms(millis(self.clock.monotonic()));
        (hit.slot.ttl_ms != 0)
            .then(|| Duration::from_millis(u64::from(hit.slot.ttl_ms).saturating_sub(age)))
    }

    /// The figures now.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        MemoryStats {
            pinned_entries: self.pinned_entries.load(Ordering::Relaxed) as u64,
            max_bytes: self.max_bytes,
            max_entries: self.max_entries as u64,
            ..self.tally.snapshot(millis(self.clock.monotonic()))
        }
    }

    /// Recomputes every counter and bound from the entries. For tests: nobody may be writing.
    ///
    /// # Panics
    /// When a counter is wrong or a bound is exceeded.
    #[doc(hidden)]
    pub fn validate(&self) {
        match &self.table {
            Table::S3Fifo(table) => table.validate(),
            Table::Lru(table) => table.validate(),
        }
        let pinned = self.pinned.read();
        let held: u64 = pinned.entries.values().map(|slot| u64::from(slot.bytes)).sum();
        assert_eq!(held, pinned.bytes, "pinned bytes add up");
        assert_eq!(pinned.entries.len(), self.pinned_entries.load(Ordering::Relaxed));
        assert!(held <= self.max_pinned_bytes && pinned.entries.len() <= self.max_pinned_entries);
        let table = on_table!(self.entries());
        let bytes: u64 = table.iter().map(|(_, slot)| u64::from(slot.bytes)).sum();
        let created: u64 = table.iter().map(|(_, slot)| slot.created_ms()).sum();
        let held_created: u64 = pinned.entries.values().map(|slot| slot.created_ms()).sum();
        assert_eq!(self.tally.entries() as usize, table.len() + pinned.entries.len());
        assert_eq!(self.tally.bytes(), bytes + held);
        assert_eq!(self.tally.created_ms(), created + held_created);
        assert!(self.tally.bytes() <= self.max_bytes, "{} bytes", self.tally.bytes());
        assert!(self.len() <= self.max_entries, "{} entries", self.len());
        let stats = self.stats();
        assert_eq!(stats.insertions, stats.entries + stats.evictions.total());
    }

    fn pinned_slot<Q>(&self, key: &Q) -> Option<Arc<Slot<V>>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        if self.pinned_entries.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.pinned.read().entries.get(key).map(Arc::clone)
    }

    /// Why an entry may not be served any more, if it may not.
    fn stale(&self, slot: &Slot<V>) -> Option<EvictionCause> {
        if slot.ttl_ms | self.idle_ms == 0 {
            return None;
        }
        let now = millis(self.clock.monotonic());
        if slot.is_past_ttl(now) {
            Some(EvictionCause::Expired)
        } else {
            slot.is_idle(now, self.idle_ms).then_some(EvictionCause::Idle)
        }
    }

    fn is_live_or_remove<Q>(&self, key: &Q, slot: &Arc<Slot<V>>) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let Some(cause) = self.stale(slot) else {
            if self.idle_ms != 0 {
                slot.touch(millis(self.clock.monotonic()));
            }
            return true;
        };
        if let Some((_, gone)) = on_table!(self.remove_if(key, |now| Arc::ptr_eq(now, slot))) {
            self.tally.left(cause, &gone);
        } else if self.pinned_entries.load(Ordering::Acquire) > 0 {
            let mut pinned = self.pinned.write();
            if pinned.entries.get(key).is_some_and(|now| Arc::ptr_eq(now, slot))
                && let Some(gone) = pinned.entries.remove(key)
            {
                self.release(&mut pinned, &gone, cause);
            }
        }
        false
    }

    fn has_pin_room(&self, pinned: &Pinned<K, V>, slot: &Slot<V>) -> bool {
        pinned.bytes + u64::from(slot.bytes) <= self.max_pinned_bytes
            && pinned.entries.len() < self.max_pinned_entries
    }

    /// Takes an entry into the pinned ones, its room out of the policy's.
    fn hold(&self, pinned: &mut Pinned<K, V>, key: K, slot: Arc<Slot<V>>) {
        pinned.bytes += u64::from(slot.bytes);
        pinned.entries.insert(key, slot);
        self.reserve_for(pinned);
    }

    /// After an entry was taken out of the pinned map: its room goes back.
    fn forget(&self, pinned: &mut Pinned<K, V>, slot: &Slot<V>) {
        pinned.bytes -= u64::from(slot.bytes);
        self.reserve_for(pinned);
    }

    fn release(&self, pinned: &mut Pinned<K, V>, slot: &Slot<V>, cause: EvictionCause) {
        self.forget(pinned, slot);
        self.tally.left(cause, slot);
    }

    fn reserve_for(&self, pinned: &Pinned<K, V>) {
        self.pinned_entries.store(pinned.entries.len(), Ordering::Release);
        on_table!(self.reserve(pinned.bytes, pinned.entries.len()));
    }

    fn entry_ttl_ms(&self, ttl: Option<Duration>) -> u32 {
        let own = ttl.map_or(0, |ttl| u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX));
        match (own, self.ttl_ms) {
            (0, limit) | (limit, 0) => limit,
            (own, limit) => own.min(limit),
        }
    }

    /// Extra rounds by cost density (time a byte) against the running mean: one for twice the mean,
    /// two for four times, three for eight times.
    fn credit(&self, cost: Duration, bytes: u32) -> u8 {
        let density = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX) / u64::from(bytes.max(1));
        let mean = self.mean_density.load(Ordering::Relaxed);
        // Racing updates lose a sample of a running mean, nothing more.
        let next = if mean == 0 { density } else { mean - mean / 16 + density / 16 };
        self.mean_density.store(next, Ordering::Relaxed);
        match density.checked_div(mean).unwrap_or(0) {
            0 | 1 => 0,
            2 | 3 => 1,
            4..=7 => 2,
            _ => MAX_CREDIT,
        }
    }
}
