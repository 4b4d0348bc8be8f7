//! A bounded response cache with single-flight and tiers, for answers that are dear to compute.
//!
//! The crate stands alone: it knows nothing of models, HTTP or JSON, and its default build needs no
//! async runtime. Its parts can be used one by one:
//!
//! | part | what it does | cost |
//! | --- | --- | --- |
//! | [`RequestKey`], [`KeyEncoder`] | a canonical, versioned, 256-bit key | one BLAKE3 pass over the text |
//! | [`MemoryCache`] | bounded by entries and by bytes at once; S3-FIFO-like or exact LRU; TTL, idle time, pinning | O(1), `get` allocates nothing |
//! | [`Flights`] | identical requests in flight share one (streaming) generation | O(waiters) a pushed item |
//! | [`TypedThrough`] | completions that answer requests while they are typed | one BLAKE3 pass over the text |
//! | [`DiskTier`] | records in one file: nothing torn, bounded, opens in milliseconds | a walk of three or four pages |
//! | `RedisTier` (feature `redis`) | records shared by servers; circuit breaker, leases | one round trip |
//! | `TieredCache` (feature `tokio`) | memory with tiers below it: read through, written behind | that of the tier that answers |
//! | [`CacheControl`], [`may_store`] | what may be looked up and what may be kept | pure functions |
//!
//! Features: `disk` (default) is the file, usable from plain threads; `tokio` puts tiers below memory; `redis`, with
//! `redis-tls` and `redis-cluster`, is Redis or Valkey. Without any, the crate is synchronous and in memory.
//!
//! # Memory
//!
//! `bytes = entries * (size_of::<K>() + size_of::<V>() + heap of the value + 96)` at most: 16 bytes of reference
//! counts, 24 of bookkeeping, the pointer, and the tables' slots at full load ([`ENTRY_OVERHEAD_BYTES`]). Counters take
//! 8 KiB a cache, the typed-through index what [`TypedOptions`] allows, each tier's queue at most what
//! `TieredOptions::queue` allows, the disk tier its page cache ([`DiskOptions::cache_bytes`]) and 8 bytes for each record
//! used since it came.
//!
//! # Example
//!
//! ```
//! use hapa_cache::{MemoryCache, MemoryOptions, RequestKey};
//! use std::time::Duration;
//!
//! let cache: MemoryCache<hapa_cache::CacheKey, String> =
//!     MemoryOptions::new().max_entries(10_000).max_bytes(64 << 20).build()?;
//!
//! let request = RequestKey { model_digest: "sha256:ab12", prompt: "add two numbers", ..RequestKey::default() };
//! let digest = request.digest()?;
//! if cache.get(&digest.key).is_none() {
//!     let answer = "def add(a, b):\n    return a + b\n".to_owned();
//!     cache.insert_with(digest.key, answer, hapa_cache::EntryOptions {
//!         cost: Duration::from_millis(900), // what computing it took: dear answers stay longer
//!         ..Default::default()
//!     });
//! }
//! assert!(cache.get(&digest.key).is_some_and(|answer| answer.starts_with("def add")));
//! # Ok::<(), hapa_cache::CacheError>(())
//! ```

mod clock;
mod control;
mod counters;
mod error;
mod flight;
mod key;
mod memory;
mod shim;
pub mod tiers;
mod typed;

pub use clock::{Clock, ManualClock, SystemClock};
pub use control::{AnswerFacts, CacheControl, Refusal, may_read, may_store};
pub use error::CacheError;
pub use flight::{
    FlightError, FlightEvent, FlightOptions, FlightStats, Flights, Join, Producer, Waiter,
};
pub use key::{
    CacheKey, Digest, KEY_VERSION, KeyDigest, KeyEncoder, RequestKey, SamplingKey, StreamShape,
};
pub use memory::{
    ENTRY_OVERHEAD_BYTES, EntryOptions, EvictionCause, Evictions, Hit, MemoryCache, MemoryOptions,
    MemoryStats, Policy, Weigh,
};
#[cfg(feature = "disk")]
pub use tiers::{DiskOptions, DiskTier};
#[cfg(feature = "tokio")]
pub use tiers::{
    Found, Imported, Lead, LeadGuard, Level, QueueStats, TieredCache, TieredOptions, TieredStats,
};
pub use tiers::{
    Lease, LeaseGuard, Persist, Record, SnapshotReader, SnapshotWriter, Tier, TierFuture, TierStats,
};
#[cfg(feature = "redis")]
pub use tiers::{RedisOptions, RedisTier};
pub use typed::{Typed, TypedOptions, TypedStats, TypedThrough};
