//! A bounded response cache with single-flight, for answers that are dear to compute.
//!
//! The crate stands alone: it knows nothing of models, HTTP or JSON, and its default build needs no
//! async runtime. Its parts can be used one by one:
//!
//! | part | what it does | cost |
//! | --- | --- | --- |
//! | [`RequestKey`], [`KeyEncoder`] | a canonical, versioned, 256-bit key | one BLAKE3 pass over the text |
//! | [`MemoryCache`] | bounded by entries and by bytes at once; S3-FIFO-like or exact LRU; TTL, idle time, pinning | O(1), `get` allocates nothing |
//! | [`Flights`] | identical requests in flight share one (streaming) generation | O(waiters) a pushed item |
//! | [`CacheControl`], [`may_store`] | what may be looked up and what may be kept | pure functions |
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
