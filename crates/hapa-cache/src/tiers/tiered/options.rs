//! Options of the tiered cache.

use super::super::record::Persist;
use super::super::tier::Tier;
use super::TieredCache;
use super::queue::QueueBounds;
use crate::{CacheError, Clock, MemoryOptions, SystemClock, Weigh};
use std::sync::Arc;
use std::time::Duration;

/// Options of a [`TieredCache`].
#[derive(Clone)]
pub struct TieredOptions {
    pub(super) memory: MemoryOptions,
    pub(super) tiers: Vec<Arc<dyn Tier>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bounds: QueueBounds,
}

impl std::fmt::Debug for TieredOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tiers: Vec<_> = self.tiers.iter().map(|tier| tier.name()).collect();
        f.debug_struct("TieredOptions")
            .field("memory", &self.memory)
            .field("tiers", &tiers)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

impl TieredOptions {
    /// Memory alone; add tiers below it.
    #[must_use]
    pub fn new(memory: MemoryOptions) -> Self {
        Self {
            memory,
            tiers: Vec::new(),
            clock: Arc::new(SystemClock::default()),
            bounds: QueueBounds {
                entries: 4096,
                bytes: 32 << 20,
                linger: Duration::from_millis(100),
            },
        }
    }

    /// Adds a tier below those that are there.
    #[must_use]
    pub fn tier(mut self, tier: impl Tier) -> Self {
        self.tiers.push(Arc::new(tier));
        self
    }

    /// Adds tiers, from the top, below those that are there.
    #[must_use]
    pub fn tiers(mut self, tiers: impl IntoIterator<Item = Arc<dyn Tier>>) -> Self {
        self.tiers.extend(tiers);
        self
    }

    /// The most values, and bytes of them, that may wait to be written to each tier; 4,096 and 32 MiB by default.
    /// What comes beyond is not written there.
    #[must_use]
    pub fn queue(mut self, entries: usize, bytes: u64) -> Self {
        self.bounds.entries = entries;
        self.bounds.bytes = bytes;
        self
    }

    /// How long a value waits for others to be written with it; 100 ms by default.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.bounds.linger = linger;
        self
    }

    /// Where stamps of records come from; the machine's clock by default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the cache. No tier is touched before its first use.
    ///
    /// # Errors
    /// [`CacheError::BadOption`] for memory options that bound nothing or contradict each other, and for a queue
    /// that holds nothing.
    pub fn build<V>(self) -> Result<TieredCache<V>, CacheError>
    where
        V: Persist + Weigh + Clone + Send + Sync + 'static,
    {
        if self.bounds.entries == 0 || self.bounds.bytes == 0 {
            return Err(CacheError::bad_option("queue", "must hold at least one entry and byte"));
        }
        TieredCache::new(self)
    }
}
