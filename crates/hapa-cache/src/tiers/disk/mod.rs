//! The tier on disk: an embedded store in one file.
//!
//! - **Nothing is torn.** A [`put`](DiskTier::put) is one transaction, synced before it returns. Each record carries a
//!   checksum over itself and its key, so what the disk or another program altered is a miss, never a wrong answer.
//! - **Bounded.** Beyond `max_bytes` the oldest records leave; one that was read since it came gets another
//!   round (FIFO with reinsertion, as CLOCK does it; reads write nothing). Freed pages are used again, and
//!   given back to the file system when more than half of the file is free.
//! - **Opens in milliseconds**, after a crash too: no table is read at opening, no log replayed.
//! - **Never an error of a request.** A file that is broken or of another version is set aside as
//!   `FILE.broken` and a new one begun, with a warning. When the disk is full or refuses, the tier is left out for a
//!   while (one second, twice as long each time, at most five minutes) and tried again.
//! - **Shared.** One process writes; others that open the same file meanwhile read.
//!
//! A lookup is a walk of three or four pages: microseconds when they are in memory. A file that is asked often has the beginnings
//! of its keys in memory, and a miss needs no look at all. Store: [redb], see
//! `docs/decisions/disk-tier.md`.
//!
//! [redb]: https://www.redb.org

mod known;
mod options;
mod store;
#[cfg(feature = "tokio")]
mod tier;

pub use options::DiskOptions;

use super::record::{Record, Unreadable};
use super::tier::{TierStats, TierTally, add};
use crate::clock::millis;
use crate::{CacheError, CacheKey};
use known::{KnownKeys, short};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{Store, StoreError, guarded};

/// How long a lookup waits while the file is being opened or compacted; after that it is a miss. Whoever writes waits to
/// the end.
const PATIENCE: Duration = Duration::from_millis(50);
/// Keys whose use is remembered until they come up for eviction.
const MAX_USED: usize = 1 << 20;
/// Files smaller than this are not worth compacting.
const SMALLEST_TO_COMPACT: u64 = 16 << 20;

enum State {
    Closed,
    Open(Store),
    /// Not to be tried before `until`, of the monotonic clock.
    Resting {
        until: Duration,
    },
}

/// Records in a file. See the [module's documentation](crate::tiers::disk); all methods may be called from any
/// thread, and block for the disk. Clones share the file. Below a `TieredCache` its work runs on threads that may block.
#[derive(Clone)]
pub struct DiskTier {
    shared: Arc<Shared>,
}

struct Shared {
    options: DiskOptions,
    state: RwLock<State>,
    /// Failures in a row, for how long to rest.
    failures: AtomicU64,
    /// First bytes of keys that were read since they came.
    used: Mutex<HashSet<u64>>,
    known: KnownKeys,
    /// Records that lookups found to be over or broken, to be taken out with the next write.
    dead: Mutex<HashSet<CacheKey>>,
    tally: TierTally,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// When the oldest record was made, in milliseconds since 1970; 0 when unknown.
    oldest_ms: AtomicU64,
}

impl std::fmt::Debug for DiskTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskTier").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl DiskTier {
    fn new(options: DiskOptions) -> Self {
        let shared = Shared {
            options,
            state: RwLock::new(State::Closed),
            failures: AtomicU64::new(0),
            used: Mutex::new(HashSet::new()),
            known: KnownKeys::default(),
            dead: Mutex::new(HashSet::new()),
            tally: TierTally::default(),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            oldest_ms: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.options.path
    }

    /// Opens the file now instead of at the first use; a broken one is set aside. Harmless when it is open.
    ///
    /// # Errors
    /// [`CacheError::File`] when the folder can't be made or the file can't be opened.
    pub fn open(&self) -> Result<(), CacheError> {
        let mut state = self.shared.state.write();
        self.open_into(&mut state)
    }

    /// Whether another process writes to the file, so that this one only reads.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(&*self.shared.state.read(), State::Open(store) if store.is_read_only())
    }

    /// The record under a key, if it is whole and within its time.
    ///
    /// # Errors
    /// [`CacheError::File`] when the file can't be read; the caller goes on as with a miss.
    pub fn get(&self, key: &CacheKey) -> Result<Option<Record>, CacheError> {
        if self.lacks(key) {
            return Ok(None);
        }
        let found = self.look(|store| {
            if !store.is_read_only() {
                self.shared.known.looked_up(|| store.keys(short))?;
            }
            store.get(key)
        });
        let record = match found {
            Ok(Some(Ok(record))) => self.within_time(key, record),
            Ok(Some(Err(fault))) => {
                self.note_fault(key, fault);
                None
            }
            Ok(None) => None,
            Err(error) => {
                self.shared.tally.looked_up(None);
                return Err(error);
            }
        };
        if record.is_some() {
            self.note_use(key);
        }
        self.shared.tally.looked_up(record.as_ref());
        Ok(record)
    }

    /// Whether a key is known not to be in the file, which is a miss then. Asks memory only.
    fn lacks(&self, key: &CacheKey) -> bool {
        let lacks = self.shared.known.lacks(key);
        if lacks {
            self.shared.tally.looked_up(None);
        }
        lacks
    }

    /// Stores records in one synced transaction, in place of older ones under their keys; the oldest of others leave
    /// for them.
    ///
    /// # Errors
    /// [`CacheError::File`] when nothing was stored: another process writes to the file, or the disk refuses.
    pub fn put(&self, records: &[(CacheKey, Record)]) -> Result<(), CacheError> {
        self.change(records, &[]).map(drop)
    }

    /// Takes records out; returns how many there were.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn remove(&self, keys: &[CacheKey]) -> Result<u64, CacheError> {
        self.change(&[], keys)
    }

    fn change(
        &self,
        records: &[(CacheKey, Record)],
        remove: &[CacheKey],
    ) -> Result<u64, CacheError> {
        let mut gone: Vec<CacheKey> = self.shared.dead.lock().drain().collect();
        gone.extend_from_slice(remove);
        let mut used = std::mem::take(&mut *self.shared.used.lock());
        let written = self.reading("writing", |store| {
            store.put(records, &gone, self.shared.options.max_bytes, |key| used.remove(&short(key)))
        });
        self.shared.used.lock().extend(used);
        let written = written?;
        self.shared.known.add(records.iter().map(|(key, _)| key), written.sums.entries);
        self.note_size(written.sums.entries, written.sums.bytes);
        add(&self.shared.tally.stored, written.stored);
        add(&self.shared.tally.evicted, written.evicted);
        if written.evicted > 0
            || written.removed > 0
            || self.shared.oldest_ms.load(Ordering::Relaxed) == 0
        {
            self.find_oldest();
        }
        self.compact_if_worth()?;
        Ok(written.removed)
    }

    /// Takes everything out and gives the room back to the file system; how many records there were.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn clear(&self) -> Result<u64, CacheError> {
        let cleared = self.reading("clearing", Store::clear)?;
        self.shared.used.lock().clear();
        self.shared.known.forget();
        self.shared.dead.lock().clear();
        self.note_size(0, 0);
        self.shared.oldest_ms.store(0, Ordering::Relaxed);
        self.compact()?;
        Ok(cleared)
    }

    /// Shortens the file to what its records need. Lookups meanwhile are misses. False if there was nothing to do.
    ///
    /// # Errors
    /// [`CacheError::File`] when the file can't be written.
    pub fn compact(&self) -> Result<bool, CacheError> {
        let mut state = self.shared.state.write();
        let State::Open(store) = &mut *state else { return Ok(false) };
        let outcome = guarded(|| store.compact());
        outcome.map_err(|error| self.failed(&mut state, "compacting", error))
    }

    /// Calls `see` with every usable record, the oldest first, or the youngest, until it says stop.
    ///
    /// # Errors
    /// [`CacheError::File`] when the file can't be read.
    pub fn walk(
        &self,
        youngest_first: bool,
        mut see: impl FnMut(CacheKey, Record) -> bool,
    ) -> Result<(), CacheError> {
        let now = self.shared.options.clock.unix();
        self.reading("reading", |store| {
            store.walk(youngest_first, |key, record| match record {
                Ok(record) if record.remaining(now).is_some() => see(key, record),
                _ => true,
            })
        })
    }

    /// Up to `limit` records, the youngest first.
    ///
    /// # Errors
    /// [`CacheError::File`] when the file can't be read.
    pub fn newest(&self, limit: usize) -> Result<Vec<(CacheKey, Record)>, CacheError> {
        let mut records = Vec::new();
        if limit > 0 {
            self.walk(true, |key, record| {
                records.push((key, record));
                records.len() < limit
            })?;
        }
        Ok(records)
    }

    /// The figures now. Those of the content are known once the file is open.
    #[must_use]
    pub fn stats(&self) -> TierStats {
        let known = |value: &AtomicU64| Some(value.load(Ordering::Relaxed));
        let is_open =
            self.shared.state.try_read().is_none_or(|state| matches!(*state, State::Open(_)));
        let resting = self
            .shared
            .state
            .try_read()
            .is_some_and(|state| matches!(*state, State::Resting { .. }));
        let oldest = match self.shared.oldest_ms.load(Ordering::Relaxed) {
            0 => None,
            made => {
                Some(self.shared.options.clock.unix().saturating_sub(Duration::from_millis(made)))
            }
        };
        TierStats {
            entries: is_open.then(|| known(&self.shared.entries)).flatten(),
            bytes: is_open.then(|| known(&self.shared.bytes)).flatten(),
            max_bytes: Some(self.shared.options.max_bytes),
            oldest,
            breaker_open: resting,
            ..self.shared.tally.snapshot("disk")
        }
    }

    /// Recomputes what is kept beside the records. For tests.
    ///
    /// # Errors
    /// [`CacheError::File`] that tells what does not add up.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), CacheError> {
        self.reading("validating", Store::validate)
    }

    fn within_time(&self, key: &CacheKey, record: Record) -> Option<Record> {
        if record.remaining(self.shared.options.clock.unix()).is_some() {
            return Some(record);
        }
        add(&self.shared.tally.expired, 1);
        self.shared.dead.lock().insert(*key);
        None
    }

    fn note_fault(&self, key: &CacheKey, fault: Unreadable) {
        match fault {
            Unreadable::Foreign => add(&self.shared.tally.foreign, 1),
            Unreadable::Corrupt => {
                add(&self.shared.tally.corrupt, 1);
                tracing::warn!(file = %self.shared.options.path.display(), %key, "a cached record is damaged; it is passed over and removed");
            }
        }
        self.shared.dead.lock().insert(*key);
    }

    fn note_use(&self, key: &CacheKey) {
        let mut used = self.shared.used.lock();
        if used.len() >= MAX_USED {
            used.clear();
        }
        used.insert(short(key));
    }

    fn note_size(&self, entries: u64, bytes: u64) {
        self.shared.entries.store(entries, Ordering::Relaxed);
        self.shared.bytes.store(bytes, Ordering::Relaxed);
    }

    fn find_oldest(&self) {
        let mut oldest = 0;
        let found = self.walk(false, |_, record| {
            oldest = millis(record.created);
            false
        });
        if found.is_ok() {
            self.shared.oldest_ms.store(oldest, Ordering::Relaxed);
        }
    }

    fn compact_if_worth(&self) -> Result<(), CacheError> {
        let file = std::fs::metadata(&self.shared.options.path).map_or(0, |file| file.len());
        let live = self.shared.bytes.load(Ordering::Relaxed);
        if file > SMALLEST_TO_COMPACT && file / 2 > live {
            self.compact()?;
        }
        Ok(())
    }

    /// Runs `work` on the open file, opening it if need be, and puts failures right.
    fn reading<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, CacheError> {
        let state = self.shared.state.read();
        let state = if matches!(*state, State::Open(_)) {
            state
        } else {
            drop(state);
            self.opened(self.shared.state.write())?
        };
        self.on_open(state, action, work)
    }

    /// [`reading`](Self::reading) for a lookup, which would rather miss than wait.
    fn look<T>(&self, work: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, CacheError> {
        let busy = || self.error("reading", "the file is being opened or compacted");
        let state = self.shared.state.try_read_for(PATIENCE).ok_or_else(busy)?;
        let state = if matches!(*state, State::Open(_)) {
            state
        } else {
            drop(state);
            self.opened(self.shared.state.try_write_for(PATIENCE).ok_or_else(busy)?)?
        };
        self.on_open(state, "reading", work)
    }

    fn on_open<T>(
        &self,
        state: RwLockReadGuard<'_, State>,
        action: &'static str,
        work: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, CacheError> {
        let State::Open(store) = &*state else { return Err(self.resting()) };
        let outcome = guarded(|| work(store));
        drop(state);
        outcome.map_err(|error| self.failed(&mut self.shared.state.write(), action, error))
    }

    fn opened<'a>(
        &self,
        mut state: RwLockWriteGuard<'a, State>,
    ) -> Result<RwLockReadGuard<'a, State>, CacheError> {
        if let State::Resting { until } = *state
            && self.shared.options.clock.monotonic() < until
        {
            return Err(self.resting());
        }
        self.open_into(&mut state)?;
        Ok(RwLockWriteGuard::downgrade(state))
    }

    fn open_into(&self, state: &mut State) -> Result<(), CacheError> {
        if matches!(state, State::Open(_)) {
            return Ok(());
        }
        let path = &self.shared.options.path;
        let folder = path.parent().unwrap_or(Path::new("."));
        if let Err(error) = std::fs::create_dir_all(folder) {
            let error = StoreError::Trouble(format!("its folder can't be made: {error}"));
            return Err(self.failed(state, "opening", error));
        }
        let open = || guarded(|| Store::open(path, self.shared.options.cache_bytes));
        let store = match open() {
            Err(StoreError::Unusable(reason)) => {
                self.set_aside(&reason);
                open()
            }
            other => other,
        };
        let sums = store.and_then(|store| guarded(|| store.sums()).map(|sums| (store, sums)));
        match sums {
            Ok((store, sums)) => {
                self.note_size(sums.entries, sums.bytes);
                self.shared.failures.store(0, Ordering::Relaxed);
                *state = State::Open(store);
                Ok(())
            }
            Err(error) => Err(self.failed(state, "opening", error)),
        }
    }

    /// Renames a file that can't be used, over one that was set aside before.
    fn set_aside(&self, reason: &str) {
        let path = &self.shared.options.path;
        let mut aside = path.clone().into_os_string();
        aside.push(".broken");
        let renamed = std::fs::rename(path, &aside);
        add(&self.shared.tally.corrupt, 1);
        tracing::warn!(
            file = %path.display(), reason, renamed = renamed.is_ok(),
            "the cache file can't be used; it is set aside and a new one begun"
        );
    }

    fn failed(&self, state: &mut State, action: &'static str, error: StoreError) -> CacheError {
        self.shared.known.forget();
        let reason = match error {
            StoreError::Unusable(reason) => {
                *state = State::Closed;
                self.set_aside(&reason);
                reason
            }
            StoreError::Trouble(reason) if matches!(&*state, State::Open(store) if store.is_read_only()) =>
            {
                // The writer may be gone by now: the next use opens the file as writer.
                *state = State::Closed;
                reason
            }
            StoreError::Trouble(reason) => {
                let failures = self.shared.failures.fetch_add(1, Ordering::Relaxed).min(9);
                let rest = Duration::from_secs(1 << failures).min(Duration::from_secs(300));
                *state = State::Resting { until: self.shared.options.clock.monotonic() + rest };
                tracing::warn!(file = %self.shared.options.path.display(), action, reason, ?rest, "the disk cache is left out for a while");
                reason
            }
        };
        let error = self.error(action, reason);
        self.shared.tally.failed(&error);
        error
    }

    fn resting(&self) -> CacheError {
        add(&self.shared.tally.skipped, 1);
        self.error("using", "it failed before and rests for a while")
    }

    fn error(&self, action: &'static str, reason: impl Into<String>) -> CacheError {
        CacheError::File { path: self.shared.options.path.clone(), action, reason: reason.into() }
    }
}
