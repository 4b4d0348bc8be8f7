//! The cache in memory (L1): bounded by entries and by bytes at the same time.
//!
//! # Policies
//!
//! - [`Policy::S3Fifo`] (the default) is [`quick_cache`]'s: a CLOCK-PRO variant close to S3-FIFO
//!   (Yang et al., SOSP 2023). It resists scans, reads take a shared lock, shards keep threads apart.
//!   Entries that were dear to compute can get extra rounds before they go
//!   ([`MemoryOptions::prefer_dear`]).
//! - [`Policy::Lru`] is exact least-recently-used order over the whole cache, behind one lock.
//!
//! # Bounds
//!
//! An entry is charged for its key, its value ([`Weigh`]) and [`ENTRY_OVERHEAD_BYTES`]. The sum of
//! these never exceeds `max_bytes`, and their number never exceeds `max_entries`. The S3-FIFO
//! policy knows one weight only, so there an entry weighs at least `max_bytes / max_entries`
//! divided over the shards: both bounds hold at once, and a cache of mixed sizes may hold fewer
//! entries than `max_entries` before its bytes are used up. Exact LRU counts the two apart.
//!
//! # Memory
//!
//! Over key and value, an entry takes at most [`ENTRY_OVERHEAD_BYTES`] at full load: 16 bytes of
//! reference counts and 24 of bookkeeping in the entry, the pointer to it, and the tables' slots.
//!
//! # Cost
//!
//! `get` is O(1) and allocates nothing: it hands out a reference-counted [`Hit`]. The clock is read
//! only where a time to live or an idle time is set. `insert` is O(1) amortised; eviction visits an
//! entry at most a constant number of times for each hit it had.

mod cache;
mod lru;
mod options;
mod s3fifo;
mod slot;
mod stats;

pub use cache::MemoryCache;
pub use options::{EntryOptions, MemoryOptions, Policy, Weigh};
pub use slot::Hit;
pub use stats::{EvictionCause, Evictions, MemoryStats};

/// What an entry is charged over its key and value, in bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 96;
