//! Memory with tiers below it: reading through, promoting, writing behind, and tiers that fail.
#![cfg(all(feature = "tokio", feature = "disk"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use hapa_cache::{
    CacheError, CacheKey, Clock, DiskOptions, DiskTier, EntryOptions, Lead, Level, ManualClock,
    MemoryOptions, Record, Tier, TierFuture, TierStats, TieredCache, TieredOptions,
};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const COST: EntryOptions = EntryOptions { cost: Duration::from_millis(700), ttl: None };

fn key(n: u64) -> CacheKey {
    CacheKey::of(&n.to_le_bytes())
}

fn text(n: u64) -> Arc<str> {
    format!("answer {n}").into()
}

/// A tier in a map, that can be made to fail or to take its time.
#[derive(Debug, Default)]
struct Shelf {
    records: Mutex<HashMap<CacheKey, Record>>,
    is_broken: AtomicBool,
    puts: AtomicUsize,
    /// Each put takes one of these, if there are any to be had.
    gate: Option<Semaphore>,
}

#[derive(Debug, Clone, Default)]
struct ShelfTier(Arc<Shelf>);

impl ShelfTier {
    fn gated() -> Self {
        Self(Arc::new(Shelf { gate: Some(Semaphore::new(0)), ..Shelf::default() }))
    }

    fn answer<T: Send + 'static>(&self, found: T) -> TierFuture<'static, T> {
        let broken = self.0.is_broken.load(Ordering::Relaxed);
        let error =
            CacheError::Tier { tier: "shelf", action: "reaching", reason: "it fell".to_owned() };
        Box::pin(std::future::ready(if broken { Err(error) } else { Ok(found) }))
    }

    fn len(&self) -> usize {
        self.0.records.lock().unwrap().len()
    }
}

impl Tier for ShelfTier {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn get<'a>(&'a self, key: &'a CacheKey) -> TierFuture<'a, Option<Record>> {
        self.answer(self.0.records.lock().unwrap().get(key).cloned())
    }

    fn get_many<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, Vec<Option<Record>>> {
        let records = self.0.records.lock().unwrap();
        self.answer(keys.iter().map(|key| records.get(key).cloned()).collect())
    }

    fn put<'a>(&'a self, records: &'a [(CacheKey, Record)]) -> TierFuture<'a, ()> {
        Box::pin(async move {
            if let Some(gate) = &self.0.gate {
                gate.acquire().await.unwrap().forget();
            }
            self.answer(()).await?;
            self.0.puts.fetch_add(1, Ordering::Relaxed);
            self.0.records.lock().unwrap().extend(records.iter().cloned());
            Ok(())
        })
    }

    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, ()> {
        let mut records = self.0.records.lock().unwrap();
        keys.iter().for_each(|key| drop(records.remove(key)));
        self.answer(())
    }

    fn clear(&self) -> TierFuture<'_, u64> {
        let mut records = self.0.records.lock().unwrap();
        let gone = records.len() as u64;
        records.clear();
        self.answer(gone)
    }

    fn newest(&self, limit: usize) -> TierFuture<'_, Vec<(CacheKey, Record)>> {
        let records = self.0.records.lock().unwrap();
        let mut all: Vec<_> = records.iter().map(|(key, record)| (*key, record.clone())).collect();
        all.sort_by_key(|(_, record)| std::cmp::Reverse(record.created));
        all.truncate(limit);
        self.answer(all)
    }

    fn stats(&self) -> TierStats {
        TierStats::default()
    }
}

fn over(tier: impl Tier) -> TieredOptions {
    TieredOptions::new(MemoryOptions::new()).tier(tier).linger(Duration::from_millis(1))
}

fn disk(path: &Path) -> DiskTier {
    DiskOptions::new(path).max_bytes(8 << 20).build().unwrap()
}

fn cache(options: TieredOptions) -> TieredCache<Arc<str>> {
    options.build().unwrap()
}

#[tokio::test]
async fn what_one_process_computed_the_next_finds_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    let first = cache(over(disk(&path)));
    assert!(first.get(&key(1)).await.is_none());
    first.insert(key(1), text(1), COST);
    assert_eq!(first.get(&key(1)).await.unwrap().level, Level::Memory, "there at once");
    first.flush().await;
    drop(first);

    // The file has one writer; the one before may still be closing it.
    let second = cache(over(disk(&path)));
    let found = second.get(&key(1)).await.unwrap();
    assert_eq!((found.value, found.level, found.cost), (text(1), Level::Below(0), COST.cost));
    assert_eq!(second.get(&key(1)).await.unwrap().level, Level::Memory, "promoted");
    let stats = second.stats();
    assert_eq!((stats.memory.hits, stats.memory.misses), (1, 1));
    assert_eq!((stats.tiers[0].hits, stats.tiers[0].misses), (1, 0));
    assert_eq!(stats.saved(), COST.cost * 2);
}

#[tokio::test]
async fn a_miss_leaves_nothing_behind() {
    let shelf = ShelfTier::default();
    let cache = cache(over(shelf.clone()));
    for _ in 0..3 {
        assert!(cache.get(&key(1)).await.is_none());
    }
    cache.flush().await;
    assert_eq!((cache.memory().len(), shelf.len()), (0, 0));
    // The review's fault: a miss that is remembered. It appears, so it is found.
    let record = Record::of(&text(1), Duration::ZERO, Duration::ZERO, None);
    shelf.put(&[(key(1), record)]).await.unwrap();
    assert_eq!(cache.get(&key(1)).await.unwrap().value, text(1));
}

#[tokio::test]
async fn a_lower_tier_fills_the_ones_above_it() {
    let (upper, lower) = (ShelfTier::default(), ShelfTier::default());
    let cache = cache(over(upper.clone()).tier(lower.clone()));
    let record = Record::of(&text(1), Duration::ZERO, Duration::ZERO, None);
    lower.put(&[(key(1), record)]).await.unwrap();
    assert_eq!(cache.get(&key(1)).await.unwrap().level, Level::Below(1));
    cache.flush().await;
    assert_eq!(upper.len(), 1);
    assert_eq!(lower.0.puts.load(Ordering::Relaxed), 1, "it had it already");
}

#[tokio::test]
async fn a_broken_tier_is_no_error_of_a_request() {
    let shelf = ShelfTier::default();
    let cache = cache(over(shelf.clone()));
    shelf.0.is_broken.store(true, Ordering::Relaxed);
    assert!(cache.get(&key(1)).await.is_none());
    cache.insert(key(1), text(1), COST);
    assert_eq!(cache.get(&key(1)).await.unwrap().level, Level::Memory);
    cache.flush().await;
    assert_eq!(cache.stats().queues[0].failed, 1);
    assert!(matches!(cache.lead(&key(2), Duration::from_secs(1)).await, Lead::Compute(_)));
    shelf.0.is_broken.store(false, Ordering::Relaxed);
    cache.insert(key(2), text(2), COST);
    cache.flush().await;
    assert_eq!(shelf.len(), 1, "well again");
}

#[tokio::test]
async fn a_slow_tier_delays_nobody_and_its_queue_is_bounded() {
    let shelf = ShelfTier::gated();
    let cache = cache(over(shelf.clone()).queue(10, 1 << 20));
    for n in 0..1_000 {
        cache.insert(key(n), text(n), COST);
        tokio::task::yield_now().await;
    }
    let queue = cache.stats().queues[0];
    assert!(queue.waiting <= 10 && queue.dropped >= 800, "{queue:?}");
    assert_eq!(cache.memory().len(), 1_000, "memory has all of them");
    shelf.0.gate.as_ref().unwrap().add_permits(1_000);
    cache.flush().await;
    let queue = cache.stats().queues[0];
    assert_eq!((queue.waiting, queue.waiting_bytes), (0, 0));
    assert_eq!(shelf.len() as u64 + queue.dropped, 1_000);
    assert!(shelf.0.puts.load(Ordering::Relaxed) < 100, "written in batches");
}

#[tokio::test]
async fn bytes_bound_the_queue_too() {
    let shelf = ShelfTier::gated();
    let cache = cache(over(shelf.clone()).queue(1_000, 10_000));
    let long: Arc<str> = "x".repeat(3_000).into();
    for n in 0..50 {
        cache.insert(key(n), Arc::clone(&long), COST);
    }
    let queue = cache.stats().queues[0];
    assert!(queue.waiting_bytes <= 10_000 && queue.dropped > 40, "{queue:?}");
    shelf.0.gate.as_ref().unwrap().add_permits(100);
    cache.flush().await;
}

#[tokio::test]
async fn what_waits_is_written_when_the_cache_is_dropped() {
    let shelf = ShelfTier::default();
    let slow = over(shelf.clone()).linger(Duration::from_secs(3_600));
    let cache = cache(slow);
    cache.insert(key(1), text(1), COST);
    drop(cache);
    while shelf.len() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_cache_outlives_the_runtime_that_wrote_for_it() {
    let shelf = ShelfTier::default();
    let cache = cache(over(shelf.clone()));
    cache.insert(key(0), text(0), COST); // no runtime at all: it waits
    for n in 1..4 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            cache.insert(key(n), text(n), COST);
            cache.flush().await;
        });
        assert_eq!(shelf.len() as u64, n + 1);
    }
}

#[tokio::test]
async fn times_to_live_go_with_the_value() {
    let clock = Arc::new(ManualClock::at(Duration::from_secs(1_000)));
    let (shelf, dynamic) = (ShelfTier::default(), Arc::clone(&clock) as Arc<dyn Clock>);
    let memory = || MemoryOptions::new().clock(Arc::clone(&dynamic));
    let options = TieredOptions::new(memory()).tier(shelf.clone()).clock(Arc::clone(&dynamic));
    let first = cache(options.linger(Duration::from_millis(1)));
    let minute = EntryOptions { ttl: Some(Duration::from_secs(60)), ..COST };
    first.insert(key(1), text(1), minute);
    first.insert(key(2), text(2), EntryOptions { ttl: Some(Duration::ZERO), ..COST });
    first.flush().await;
    assert_eq!(shelf.len(), 1, "a time to live of zero is kept nowhere");

    clock.advance(Duration::from_secs(50));
    let options = TieredOptions::new(memory()).tier(shelf.clone()).clock(Arc::clone(&dynamic));
    let second = cache(options);
    assert!(second.get(&key(1)).await.is_some());
    clock.advance(Duration::from_secs(11));
    assert!(second.get(&key(1)).await.is_none(), "promotion does not begin its time anew");
}

#[tokio::test]
async fn a_start_is_warm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    let first = cache(over(disk(&path)));
    (0..100).for_each(|n| first.insert(key(n), text(n), COST));
    first.flush().await;
    drop(first);
    let second = cache(over(disk(&path)));
    assert_eq!(second.warm(30).await, 30);
    assert_eq!(second.memory().len(), 30);
    assert_eq!(second.get_memory(&key(99)).unwrap().value, text(99), "the newest are there");
    assert!(second.get_memory(&key(10)).is_none());
    assert_eq!(second.warm(1_000).await, 70, "what is there does not count");
}

#[tokio::test]
async fn an_export_is_taken_in_by_another_cache() {
    let first = cache(over(ShelfTier::default()));
    (0..600).for_each(|n| first.insert(key(n), text(n), COST));
    let mut file = Vec::new();
    assert_eq!(first.export(&mut file).unwrap(), 600);

    let shelf = ShelfTier::default();
    let second = cache(over(shelf.clone()));
    let imported = second.import(&file[..]).await.unwrap();
    assert_eq!((imported.taken, imported.passed_over), (600, 0));
    assert_eq!((second.memory().len(), shelf.len()), (600, 600));
    assert_eq!(second.get(&key(7)).await.unwrap().cost, COST.cost);
    assert!(second.import(&file[..file.len() - 1]).await.is_err(), "a cut file");
    assert!(second.import(&b"something else"[..]).await.is_err());
}

#[tokio::test]
async fn clearing_and_removing_reach_every_tier() {
    let shelf = ShelfTier::default();
    let cache = cache(over(shelf.clone()));
    (0..10).for_each(|n| cache.insert(key(n), text(n), COST));
    cache.flush().await;
    cache.remove(&key(3)).await;
    assert_eq!((cache.memory().len(), shelf.len()), (9, 9));
    let (memory, tiers) = cache.clear().await;
    assert_eq!((memory, tiers[0].clone().unwrap()), (9, 9));
    assert!(cache.get(&key(1)).await.is_none());
}

#[tokio::test]
async fn values_of_another_version_are_passed_over() {
    let shelf = ShelfTier::default();
    let cache = cache(over(shelf.clone()));
    let mut newer = Record::of(&text(1), Duration::ZERO, Duration::ZERO, None);
    newer.schema += 1;
    shelf.put(&[(key(1), newer)]).await.unwrap();
    assert!(cache.get(&key(1)).await.is_none());
    assert_eq!(cache.memory().len(), 0);
}
