//! Memory with tiers below it, as one cache.
//!
//! ```text
//! get:     memory -> tier -> tier        what a tier has is promoted to memory and the tiers above it
//! insert:  memory at once; each tier behind, by a bounded queue and a task of its own
//! ```
//!
//! - A request never waits for a write. A full queue drops what comes, and counts it.
//! - A tier that fails is a tier that found nothing. No error of a tier reaches a caller of `get` or `insert`.
//! - Nothing is kept about what was not found.
//! - Values that were computed under a [`Lease`] are written under it.

mod carry;
mod options;
mod queue;

pub use carry::Imported;
pub use options::TieredOptions;
pub use queue::QueueStats;

use super::record::{Persist, Record};
use super::tier::{Lease, LeaseGuard, TierStats};
use crate::{CacheError, CacheKey, Clock, EntryOptions, MemoryCache, MemoryStats, Weigh};
use queue::{Pending, WriteBehind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// In memory.
    Memory,
    /// In the tier of this number below memory; the first is 0.
    Below(usize),
}

/// A value that was found.
#[derive(Debug, Clone)]
pub struct Found<V> {
    /// The value.
    pub value: V,
    /// Where it was.
    pub level: Level,
    /// What computing it took.
    pub cost: Duration,
}

/// What [`TieredCache::lead`] says to do.
#[derive(Debug)]
pub enum Lead<V> {
    /// Compute the value; store it with what is in here, or drop that when there is none.
    Compute(LeadGuard),
    /// Another server computed it meanwhile.
    Found(Found<V>),
}

/// The right to compute a value for all servers that share a tier; empty where nobody shares one.
#[derive(Debug, Default)]
pub struct LeadGuard(Option<(usize, Box<dyn LeaseGuard>)>);

impl LeadGuard {
    /// Whether a lease is held in a shared tier.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// Figures of a [`TieredCache`] at one moment.
#[derive(Debug, Clone, Default)]
pub struct TieredStats {
    /// Memory.
    pub memory: MemoryStats,
    /// The tiers below it, from the top.
    pub tiers: Vec<TierStats>,
    /// The queues before them.
    pub queues: Vec<QueueStats>,
}

impl TieredStats {
    /// The time that computing all served values would have taken.
    #[must_use]
    pub fn saved(&self) -> Duration {
        self.memory.saved + self.tiers.iter().map(|tier| tier.saved).sum::<Duration>()
    }
}

/// A memory cache with tiers below it. Clones share it. See `TieredOptions` for an example of making one.
///
/// Values are cloned when they are handed out, so make them cheap to clone (an `Arc`).
pub struct TieredCache<V: Persist + Weigh + Clone + Send + Sync + 'static> {
    shared: Arc<Shared<V>>,
}

struct Shared<V: Persist + Weigh + Clone + Send + Sync + 'static> {
    memory: MemoryCache<CacheKey, V>,
    below: Vec<Arc<WriteBehind<V>>>,
    clock: Arc<dyn Clock>,
}

impl<V: Persist + Weigh + Clone + Send + Sync + 'static> Drop for Shared<V> {
    fn drop(&mut self) {
        for queue in &self.below {
            queue.close();
        }
    }
}

impl<V: Persist + Weigh + Clone + Send + Sync + 'static> Clone for TieredCache<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V: Persist + Weigh + Clone + Send + Sync + 'static> std::fmt::Debug for TieredCache<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tiers: Vec<_> = self.shared.below.iter().map(|below| below.tier.name()).collect();
        f.debug_struct("TieredCache")
            .field("memory", &self.shared.memory)
            .field("tiers", &tiers)
            .finish()
    }
}

impl<V: Persist + Weigh + Clone + Send + Sync + 'static> TieredCache<V> {
    fn new(options: TieredOptions) -> Result<Self, CacheError> {
        let TieredOptions { memory, tiers, clock, bounds } = options;
        let below = tiers.into_iter().map(|tier| WriteBehind::new(tier, bounds)).collect();
        Ok(Self { shared: Arc::new(Shared { memory: memory.build()?, below, clock }) })
    }

    /// The memory part, for what only it can do (pinning, peeking, removing).
    #[must_use]
    pub fn memory(&self) -> &MemoryCache<CacheKey, V> {
        &self.shared.memory
    }

    /// Whether there are tiers below memory.
    #[must_use]
    pub fn has_tiers(&self) -> bool {
        !self.shared.below.is_empty()
    }

    /// The value under `key`: from memory, else from the first tier that has it.
    pub async fn get(&self, key: &CacheKey) -> Option<Found<V>> {
        match self.get_memory(key) {
            Some(found) => Some(found),
            None => self.get_below(key).await,
        }
    }

    /// The value under `key`, if memory has it.
    #[must_use]
    pub fn get_memory(&self, key: &CacheKey) -> Option<Found<V>> {
        let hit = self.shared.memory.get(key)?;
        Some(Found { value: V::clone(&hit), level: Level::Memory, cost: hit.cost() })
    }

    /// The value under `key`, if a tier below memory has it. It is promoted.
    pub async fn get_below(&self, key: &CacheKey) -> Option<Found<V>> {
        for (number, below) in self.shared.below.iter().enumerate() {
            if let Ok(Some(record)) = below.tier.get(key).await
                && let Some(value) = self.promote(key, &record, number)
            {
                return Some(Found { value, level: Level::Below(number), cost: record.cost });
            }
        }
        None
    }

    /// Takes a record of tier `number` into memory and the tiers above it.
    fn promote(&self, key: &CacheKey, record: &Record, number: usize) -> Option<V> {
        let left = record.remaining(self.shared.clock.unix())?;
        let value = record.decode::<V>()?;
        let entry = EntryOptions { cost: record.cost, ttl: left };
        self.shared.memory.insert_with(*key, value.clone(), entry);
        for above in &self.shared.below[..number] {
            above.push(Pending {
                key: *key,
                value: value.clone(),
                created: record.created,
                cost: record.cost,
                ttl: record.ttl,
                lease: None,
            });
        }
        Some(value)
    }

    /// Stores a value: in memory at once, in the tiers soon. See [`flush`](Self::flush).
    pub fn insert(&self, key: CacheKey, value: V, entry: EntryOptions) {
        self.insert_led(key, value, entry, LeadGuard::default());
    }

    /// [`insert`](Self::insert) of a value that was computed under a lease.
    pub fn insert_led(&self, key: CacheKey, value: V, entry: EntryOptions, lead: LeadGuard) {
        let created = self.shared.clock.unix();
        let mut lease = lead.0;
        // A time to live of zero is kept nowhere.
        let is_kept = entry.ttl != Some(Duration::ZERO);
        for (number, below) in self.shared.below.iter().enumerate().filter(|_| is_kept) {
            let own = lease.take_if(|(tier, _)| *tier == number).map(|(_, guard)| guard);
            below.push(Pending {
                key,
                value: value.clone(),
                created,
                cost: entry.cost,
                ttl: entry.ttl,
                lease: own,
            });
        }
        self.shared.memory.insert_with(key, value, entry);
    }

    /// Becomes the one that computes the value of `key` for all servers that share a tier, or waits at most `patience`
    /// for the one that is at it. Where no tier is shared, or the shared one is away: compute, at once.
    pub async fn lead(&self, key: &CacheKey, patience: Duration) -> Lead<V> {
        let began = Instant::now();
        for (number, below) in self.shared.below.iter().enumerate() {
            loop {
                match below.tier.lease(key).await {
                    Err(_) | Ok(Lease::Unshared) => break,
                    Ok(Lease::Held(guard)) => {
                        // The last holder may have stored it since this caller looked.
                        return match self.get_below(key).await {
                            Some(found) => Lead::Found(found),
                            None => Lead::Compute(LeadGuard(Some((number, guard)))),
                        };
                    }
                    Ok(Lease::Elsewhere { retry_after }) => {
                        let Some(left) = patience.checked_sub(began.elapsed()) else { break };
                        tokio::time::sleep(retry_after.min(left)).await;
                        if let Ok(Some(record)) = below.tier.get(key).await
                            && let Some(value) = self.promote(key, &record, number)
                        {
                            let level = Level::Below(number);
                            return Lead::Found(Found { value, level, cost: record.cost });
                        }
                    }
                }
            }
        }
        Lead::Compute(LeadGuard::default())
    }

    /// Waits until everything that was inserted is in the tiers, or was refused by them.
    pub async fn flush(&self) {
        for below in &self.shared.below {
            below.flush().await;
        }
    }

    /// Takes a value out everywhere.
    pub async fn remove(&self, key: &CacheKey) {
        self.shared.memory.remove(key);
        for below in &self.shared.below {
            below.flush().await;
            // A tier that is away keeps it until its time is over: the tier's figures tell.
            let _ = below.tier.remove(std::slice::from_ref(key)).await;
        }
    }

    /// Takes everything out everywhere; how many values there were in memory and in each tier, as far as the tier
    /// could be asked.
    pub async fn clear(&self) -> (usize, Vec<Result<u64, CacheError>>) {
        let mut tiers = Vec::new();
        for below in &self.shared.below {
            below.clear();
            below.flush().await;
            tiers.push(below.tier.clear().await);
        }
        (self.shared.memory.clear(), tiers)
    }

    /// Fills memory with up to `limit` of the newest values of the tiers, the uppermost first; how many came. Counts
    /// no lookups.
    pub async fn warm(&self, limit: usize) -> usize {
        let mut taken = 0;
        for (number, below) in self.shared.below.iter().enumerate() {
            let Ok(mut newest) = below.tier.newest(limit - taken).await else { continue };
            // The newest last, so that it is the last to leave.
            newest.reverse();
            for (key, record) in &newest {
                if self.shared.memory.peek(key).is_none()
                    && self.promote(key, record, number).is_some()
                {
                    taken += 1;
                }
            }
            if taken >= limit {
                break;
            }
        }
        taken
    }

    /// The figures now.
    #[must_use]
    pub fn stats(&self) -> TieredStats {
        let Shared { memory, below, .. } = &*self.shared;
        TieredStats {
            memory: memory.stats(),
            tiers: below.iter().map(|below| below.tier.stats()).collect(),
            queues: below.iter().map(|below| below.stats()).collect(),
        }
    }
}
