//! Options of the memory cache, validated in `build`.

use super::{ENTRY_OVERHEAD_BYTES, MemoryCache};
use crate::{CacheError, Clock, SystemClock};
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Which entry goes when the cache is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Policy {
    /// quick_cache's CLOCK-PRO variant, close to S3-FIFO: resists scans, scales over threads.
    #[default]
    S3Fifo,
    /// Exactly the least recently used entry.
    Lru,
}

impl Policy {
    /// The name used in settings: `s3-fifo` or `lru`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::S3Fifo => "s3-fifo",
            Self::Lru => "lru",
        }
    }
}

impl FromStr for Policy {
    type Err = CacheError;

    fn from_str(name: &str) -> Result<Self, CacheError> {
        match name {
            "s3-fifo" => Ok(Self::S3Fifo),
            "lru" => Ok(Self::Lru),
            other => Err(CacheError::bad_option(
                "policy",
                format!("`{other}` is not known: use `s3-fifo` or `lru`"),
            )),
        }
    }
}

/// How many bytes a value holds beside its own `size_of`.
pub trait Weigh {
    /// Bytes on the heap that belong to this value; cheap to ask.
    fn heap_bytes(&self) -> usize;
}

impl Weigh for String {
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl<T: Weigh> Weigh for Option<T> {
    fn heap_bytes(&self) -> usize {
        self.as_ref().map_or(0, Weigh::heap_bytes)
    }
}

impl Weigh for Arc<str> {
    fn heap_bytes(&self) -> usize {
        self.len() + 2 * size_of::<usize>()
    }
}

impl Weigh for Vec<u8> {
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl Weigh for Arc<[u8]> {
    fn heap_bytes(&self) -> usize {
        self.len() + 2 * size_of::<usize>()
    }
}

macro_rules! no_heap {
    ($($type:ty),*) => {$(
        impl Weigh for $type {
            fn heap_bytes(&self) -> usize {
                0
            }
        }
    )*};
}
no_heap!((), bool, u8, u16, u32, u64, usize, i32, i64, f32, f64);

/// What is special about one entry. The default is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct EntryOptions {
    /// What computing the value took: counted as saved on every hit, and, with
    /// [`MemoryOptions::prefer_dear`], a reason to keep the entry longer.
    pub cost: Duration,
    /// The entry's own time to live; the cache's applies where it is shorter.
    pub ttl: Option<Duration>,
}

/// Options of a [`MemoryCache`].
#[derive(Clone)]
pub struct MemoryOptions {
    pub(super) max_entries: usize,
    pub(super) max_bytes: u64,
    pub(super) policy: Policy,
    pub(super) ttl: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) prefer_dear: bool,
    pub(super) max_pinned_share: f64,
    pub(super) shards: Option<usize>,
    pub(super) clock: Option<Arc<dyn Clock>>,
}

impl std::fmt::Debug for MemoryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryOptions")
            .field("max_entries", &self.max_entries)
            .field("max_bytes", &self.max_bytes)
            .field("policy", &self.policy)
            .field("ttl", &self.ttl)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryOptions {
    /// 10,000 entries, 64 MiB, S3-FIFO, no time limits: a deterministic answer under a complete
    /// key does not go stale.
    #[must_use]
    pub fn new() -> Self {
        Self {
            max_entries: 10_000,
            max_bytes: 64 << 20,
            policy: Policy::default(),
            ttl: None,
            idle: None,
            prefer_dear: false,
            max_pinned_share: 0.25,
            shards: None,
            clock: None,
        }
    }

    /// The largest number of entries.
    #[must_use]
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.max_entries = entries;
        self
    }

    /// The largest sum of key, value and overhead bytes.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Which entry goes when the cache is full.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// No entry is served when older than this; at most 49 days.
    #[must_use]
    pub fn ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }

    /// No entry is served that nobody asked for during this long; at most 49 days.
    #[must_use]
    pub fn idle(mut self, idle: Option<Duration>) -> Self {
        self.idle = idle;
        self
    }

    /// Let entries that were dear to compute, by second and byte, survive up to three more rounds
    /// of eviction than cheap ones. S3-FIFO only: exact LRU has no room for it.
    #[must_use]
    pub fn prefer_dear(mut self, prefer: bool) -> Self {
        self.prefer_dear = prefer;
        self
    }

    /// How much of `max_bytes` and of `max_entries` pinned entries may take: 0 to 0.5.
    #[must_use]
    pub fn max_pinned_share(mut self, share: f64) -> Self {
        self.max_pinned_share = share;
        self
    }

    /// How many parts the S3-FIFO policy splits the cache into, each with a lock of its own;
    /// rounded up to a power of two. By default four for each CPU, fewer in small caches.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Where time comes from; the machine's clock by default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    /// [`CacheError::BadOption`] when nothing could be kept (no entries, or not the bytes for one),
    /// a time is zero or beyond 49 days, or options contradict each other.
    pub fn build<K, V>(mut self) -> Result<MemoryCache<K, V>, CacheError>
    where
        K: Eq + Hash + Clone,
        V: Weigh,
    {
        if self.max_entries == 0 || u32::try_from(self.max_entries).is_err() {
            return Err(CacheError::bad_option("max_entries", "must be 1 to 4,294,967,295"));
        }
        let smallest = (size_of::<K>() + size_of::<V>() + ENTRY_OVERHEAD_BYTES) as u64;
        if self.max_bytes < smallest * 2 {
            return Err(CacheError::bad_option(
                "max_bytes",
                format!("{} bytes can't hold two entries of {smallest}", self.max_bytes),
            ));
        }
        for (option, time) in [("ttl", self.ttl), ("idle", self.idle)] {
            if time.is_some_and(|time| {
                time < Duration::from_millis(1) || u32::try_from(time.as_millis()).is_err()
            }) {
                return Err(CacheError::bad_option(option, "must be 1 ms to 49 days"));
            }
        }
        if !(0.0..=0.5).contains(&self.max_pinned_share) {
            return Err(CacheError::bad_option("max_pinned_share", "must be 0 to 0.5"));
        }
        if self.shards == Some(0) {
            return Err(CacheError::bad_option("shards", "must be at least 1"));
        }
        if self.policy == Policy::Lru && self.prefer_dear {
            return Err(CacheError::bad_option(
                "prefer_dear",
                "exact LRU evicts by last use alone: use policy `s3-fifo`",
            ));
        }
        // More entries than the bytes can hold need no table room.
        let by_bytes = usize::try_from(self.max_bytes / smallest).unwrap_or(usize::MAX);
        self.max_entries = self.max_entries.min(by_bytes);
        Ok(MemoryCache::new(&self))
    }

    pub(super) fn clock_or_system(&self) -> Arc<dyn Clock> {
        self.clock.clone().unwrap_or_else(|| Arc::new(SystemClock::default()))
    }
}
