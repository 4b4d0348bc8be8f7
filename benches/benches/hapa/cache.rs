//! The response cache: keys, hits, inserts, one thread and two.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use hapa_cache::{CacheKey, EntryOptions, MemoryCache, MemoryOptions, Policy, RequestKey};

use crate::fixtures::{need, python};

type Cache = MemoryCache<CacheKey, Arc<str>>;

const ENTRIES: usize = 10_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    keys(criterion);
    memory(criterion);
}

fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cache_key");
    for (name, context) in [("question", None), ("question_and_16k", Some(python(16 << 10)))] {
        let request = RequestKey {
            model_digest: "6f85a640a97cf2bf5b8e764087b1e83da0fdb51d7c9fab7d0fece9385611df83",
            template: "generate/1",
            task: "generate",
            prompt: "write a function that merges two sorted lists",
            context,
            language: "python",
            max_tokens: 512,
            ..RequestKey::default()
        };
        group.throughput(Throughput::Bytes(
            (request.prompt.len() + context.map_or(0, str::len)) as u64,
        ));
        group.bench_function(name, |bencher| {
            bencher.iter(|| need("key", black_box(&request).digest()));
        });
    }
    group.finish();
}

fn memory(criterion: &mut Criterion) {
    // Twice as many keys as entries: walking through them inserts what is not there and evicts.
    let keys: Vec<CacheKey> =
        (0..2 * ENTRIES as u64).map(|n| CacheKey::of(&n.to_le_bytes())).collect();
    let answer: Arc<str> = Arc::from(python(1 << 10));
    let mut group = criterion.benchmark_group("cache");
    for policy in [Policy::S3Fifo, Policy::Lru] {
        let cache = || {
            let options = MemoryOptions::new().max_entries(ENTRIES).max_bytes(1 << 30);
            let cache: Cache = need("cache", options.policy(policy).build());
            for key in &keys[..ENTRIES] {
                cache.insert(*key, Arc::clone(&answer));
            }
            cache
        };
        let name = policy.name();
        group.bench_function(format!("hit/{name}"), |bencher| {
            let cache = cache();
            let mut next = walk(ENTRIES);
            bencher.iter(|| cache.get(&keys[next()]));
        });
        group.bench_function(format!("miss/{name}"), |bencher| {
            let cache = cache();
            let mut next = walk(ENTRIES);
            bencher.iter(|| cache.get(&keys[ENTRIES + next()]));
        });
        group.bench_function(format!("insert_evict/{name}"), |bencher| {
            let cache = cache();
            let mut next = walk(keys.len());
            let cost = EntryOptions { cost: Duration::from_millis(900), ..EntryOptions::default() };
            bencher.iter(|| cache.insert_with(keys[next()], Arc::clone(&answer), cost));
        });
        // Time for one hit of each of two threads.
        group.bench_function(format!("hit_two_threads/{name}"), |bencher| {
            let cache = cache();
            bencher.iter_custom(|iterations| {
                two_threads(|| {
                    let mut next = walk(ENTRIES);
                    for _ in 0..iterations {
                        black_box(cache.get(&keys[next()]));
                    }
                })
            });
        });
    }
    group.finish();
}

/// Places below `length` in an order that a processor cannot guess, each once a round.
fn walk(length: usize) -> impl FnMut() -> usize {
    // A prime that divides none of the lengths.
    const STEP: usize = 7_919;
    let mut at = 0;
    move || {
        at = (at + STEP) % length;
        at
    }
}

/// How long two threads take that do the same.
fn two_threads(work: impl Fn() + Sync) -> Duration {
    let start_together = Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start_together.wait();
                work();
                start_together.wait();
            });
        }
        start_together.wait();
        let start = Instant::now();
        start_together.wait();
        start.elapsed()
    })
}
