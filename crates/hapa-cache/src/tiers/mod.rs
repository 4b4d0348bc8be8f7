//! Tiers below memory: slower, larger, and still there after a restart.
//!
//! A [`Tier`] keeps [`Record`]s under keys. [`DiskTier`] is one file on this machine, usable from plain threads too;
//! `RedisTier` (feature `redis`) is shared by servers. `TieredCache` (feature `tokio`) puts them below a
//! [`MemoryCache`](crate::MemoryCache): it reads through and promotes, and writes behind.

#![cfg_attr(
    not(any(feature = "disk", feature = "redis")),
    allow(dead_code, reason = "records and counters of tiers that are not built")
)]

#[cfg(feature = "disk")]
pub mod disk;
mod record;
#[cfg(feature = "redis")]
pub mod redis;
mod snapshot;
mod tier;
#[cfg(feature = "tokio")]
mod tiered;

#[cfg(feature = "disk")]
pub use disk::{DiskOptions, DiskTier};
pub use record::{Persist, Record};
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisTier};
pub use snapshot::{SnapshotReader, SnapshotWriter};
pub use tier::{Lease, LeaseGuard, Tier, TierFuture, TierStats};
#[cfg(feature = "tokio")]
pub use tiered::{
    Found, Imported, Lead, LeadGuard, Level, QueueStats, TieredCache, TieredOptions, TieredStats,
};
