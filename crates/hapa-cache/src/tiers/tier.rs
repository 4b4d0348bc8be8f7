//! What a tier below memory is, and what it counts.

use super::record::Record;
use crate::{CacheError, CacheKey};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a tier's methods give: tiers are used behind `dyn`, so their futures are boxed.
pub type TierFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, CacheError>> + Send + 'a>>;

/// A place below memory that keeps records: slower, larger, and still there after a restart.
///
/// An error of a tier is never an error of a request: whoever asks goes on as if nothing had been found, and
/// [`stats`](Self::stats) tells. A tier keeps only what was put; that something was not found is never kept.
pub trait Tier: std::fmt::Debug + Send + Sync + 'static {
    /// A word for logs and figures: `disk`, `redis`.
    fn name(&self) -> &'static str;

    /// The record under a key, if it is there, whole, and within its time.
    fn get<'a>(&'a self, key: &'a CacheKey) -> TierFuture<'a, Option<Record>>;

    /// Many at once, in the order of the keys.
    fn get_many<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, Vec<Option<Record>>>;

    /// Keeps records, in place of older ones under the same keys.
    fn put<'a>(&'a self, records: &'a [(CacheKey, Record)]) -> TierFuture<'a, ()>;

    /// Takes records out; keys that are not there are passed over.
    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, ()>;

    /// Takes everything out; how many there were.
    fn clear(&self) -> TierFuture<'_, u64>;

    /// Up to `limit` records, the newest first where the tier knows the order.
    fn newest(&self, limit: usize) -> TierFuture<'_, Vec<(CacheKey, Record)>>;

    /// The figures now; never waits for the tier itself.
    fn stats(&self) -> TierStats;

    /// Tries to become the one server that computes the answer of `key`. Tiers that no other server shares say
    /// [`Lease::Unshared`].
    fn lease<'a>(&'a self, _key: &'a CacheKey) -> TierFuture<'a, Lease> {
        Box::pin(std::future::ready(Ok(Lease::Unshared)))
    }
}

/// Who computes an answer when several servers share a tier.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lease {
    /// Nobody shares this tier: compute.
    Unshared,
    /// This server has the lease while the guard lives: compute, put, drop.
    Held(Box<dyn LeaseGuard>),
    /// Another server computes it; ask again after this long.
    Elsewhere {
        /// A time to wait, with jitter.
        retry_after: Duration,
    },
}

/// A lease that is held. Dropping it gives it back; a holder that dies loses it when its time is over.
pub trait LeaseGuard: std::fmt::Debug + Send + Sync {
    /// The fencing token: larger for each holder of the same key, so a holder whose time ran out unnoticed cannot
    /// overwrite what a later one stored.
    fn token(&self) -> u64;

    /// Stores the answer under the lease. False when a later holder is at work, and nothing was stored.
    fn put<'a>(&'a self, record: &'a Record) -> TierFuture<'a, bool>;
}

/// A tier's figures at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct TierStats {
    /// The tier's name.
    pub name: &'static str,
    /// Lookups that found a value.
    pub hits: u64,
    /// Lookups that found nothing, or nothing usable.
    pub misses: u64,
    /// Operations that failed or took too long. Each lookup among them is a miss too.
    pub errors: u64,
    /// Operations that were not tried since the tier had failed before.
    pub skipped: u64,
    /// Records stored.
    pub stored: u64,
    /// Records that left for room.
    pub evicted: u64,
    /// Records found past their time.
    pub expired: u64,
    /// Records that were torn or altered: set aside, never served.
    pub corrupt: u64,
    /// Records of another version, passed over.
    pub foreign: u64,
    /// Records that a holder of an outdated lease tried to store.
    pub fenced: u64,
    /// Records now, where the tier knows.
    pub entries: Option<u64>,
    /// Bytes that they take, where the tier knows.
    pub bytes: Option<u64>,
    /// The most bytes, where the tier bounds itself.
    pub max_bytes: Option<u64>,
    /// Age of the oldest record, where the tier knows.
    pub oldest: Option<Duration>,
    /// The time that computing the served values would have taken.
    pub saved: Duration,
    /// The tier is left out for now since it failed repeatedly.
    pub breaker_open: bool,
    /// How often it was left out.
    pub breaker_opened: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

impl TierStats {
    /// Hits among lookups, 0 to 1; 0 before the first lookup.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        let lookups = self.hits + self.misses;
        if lookups == 0 { 0.0 } else { self.hits as f64 / lookups as f64 }
    }
}

/// The counters behind [`TierStats`].
#[derive(Debug, Default)]
pub(crate) struct TierTally {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) foreign: AtomicU64,
    pub(crate) fenced: AtomicU64,
    saved_us: AtomicU64,
    last_error: parking_lot::Mutex<Option<String>>,
}

impl TierTally {
    /// What a lookup gave.
    pub(crate) fn looked_up(&self, found: Option<&Record>) {
        match found {
            Some(record) => {
                add(&self.hits, 1);
                let cost = u64::try_from(record.cost.as_micros()).unwrap_or(u64::MAX);
                add(&self.saved_us, cost);
            }
            None => add(&self.misses, 1),
        }
    }

    pub(crate) fn failed(&self, error: &CacheError) {
        add(&self.errors, 1);
        *self.last_error.lock() = Some(error.to_string());
    }

    pub(crate) fn snapshot(&self, name: &'static str) -> TierStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TierStats {
            name,
            hits: read(&self.hits),
            misses: read(&self.misses),
            errors: read(&self.errors),
            skipped: read(&self.skipped),
            stored: read(&self.stored),
            evicted: read(&self.evicted),
            expired: read(&self.expired),
            corrupt: read(&self.corrupt),
            foreign: read(&self.foreign),
            fenced: read(&self.fenced),
            saved: Duration::from_micros(read(&self.saved_us)),
            last_error: self.last_error.lock().clone(),
            ..TierStats::default()
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
