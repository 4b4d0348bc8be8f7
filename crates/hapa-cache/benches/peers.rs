//! The memory cache beside others: bare quick_cache, moka, lru behind a mutex. Requests follow Zipf's law; what is
//! missing is inserted, as a cache is used.
//!
//! `cargo bench -p hapa-cache --bench peers`; the figures in `docs/cache.md` are ratios within one run.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hapa_cache::{CacheKey, MemoryCache, MemoryOptions, Policy, RequestKey, Weigh};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// A value. Whoever hands out clones keeps it behind an `Arc`, as its users do; the others lend it.
struct Answer {
    tokens: u32,
    text: Box<str>,
}

impl Answer {
    fn new() -> Self {
        Self { tokens: 17, text: "def answer(): ...".into() }
    }
}

impl Weigh for Answer {
    fn heap_bytes(&self) -> usize {
        self.text.len()
    }
}

trait Cache: Sync {
    /// Looks the key up and reads from the value.
    fn read(&self, key: &CacheKey) -> Option<u32>;
    fn insert(&self, key: CacheKey, value: Answer);
}

struct Hapa(MemoryCache<CacheKey, Answer>);

impl Cache for Hapa {
    fn read(&self, key: &CacheKey) -> Option<u32> {
        self.0.get(key).map(|hit| hit.tokens)
    }

    fn insert(&self, key: CacheKey, value: Answer) {
        self.0.insert(key, value);
    }
}

impl Cache for quick_cache::sync::Cache<CacheKey, Arc<Answer>> {
    fn read(&self, key: &CacheKey) -> Option<u32> {
        self.get(key).map(|value| value.tokens)
    }

    fn insert(&self, key: CacheKey, value: Answer) {
        self.insert(key, Arc::new(value));
    }
}

impl Cache for moka::sync::Cache<CacheKey, Arc<Answer>> {
    fn read(&self, key: &CacheKey) -> Option<u32> {
        self.get(key).map(|value| value.tokens)
    }

    fn insert(&self, key: CacheKey, value: Answer) {
        self.insert(key, Arc::new(value));
    }
}

impl Cache for Mutex<lru::LruCache<CacheKey, Answer>> {
    fn read(&self, key: &CacheKey) -> Option<u32> {
        self.lock().ok()?.get(key).map(|value| value.tokens)
    }

    fn insert(&self, key: CacheKey, value: Answer) {
        if let Ok(mut cache) = self.lock() {
            cache.put(key, value);
        }
    }
}

#[expect(clippy::expect_used, reason = "a benchmark's own options")]
fn hapa(policy: Policy, entries: usize) -> Box<dyn Cache> {
    let options = MemoryOptions::new().policy(policy).max_entries(entries).max_bytes(4 << 30);
    Box::new(Hapa(options.build().expect("options")))
}

fn caches(entries: usize) -> [(&'static str, Box<dyn Cache>); 5] {
    let capacity = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
    [
        ("hapa", hapa(Policy::S3Fifo, entries)),
        ("hapa-lru", hapa(Policy::Lru, entries)),
        ("quick_cache", Box::new(quick_cache::sync::Cache::<CacheKey, Arc<Answer>>::new(entries))),
        ("moka", Box::new(moka::sync::Cache::<CacheKey, Arc<Answer>>::new(entries as u64))),
        ("lru-mutex", Box::new(Mutex::new(lru::LruCache::<CacheKey, Answer>::new(capacity)))),
    ]
}

fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

/// A million requests over `keys` keys.
fn trace(keys: usize, exponent: f64) -> Vec<CacheKey> {
    let mut sum = 0.0;
    let mut sums: Vec<f64> = Vec::with_capacity(keys);
    for rank in 1..=keys {
        sum += (rank as f64).powf(-exponent);
        sums.push(sum);
    }
    let mut state = 42;
    let mut draw = || {
        let at = random(&mut state) * sum;
        CacheKey::of(&sums.partition_point(|part| *part < at).to_le_bytes())
    };
    (0..1 << 20).map(|_| draw()).collect()
}

fn requests(cache: &dyn Cache, trace: &[CacheKey], from: usize, count: u64) {
    for at in from..from + count as usize {
        let key = &trace[at & (trace.len() - 1)];
        if black_box(cache.read(key)).is_none() {
            cache.insert(*key, Answer::new());
        }
    }
}

/// The time that `threads` take for `count` requests each.
fn timed(cache: &dyn Cache, trace: &[CacheKey], threads: usize, count: u64) -> Duration {
    if threads == 1 {
        let start = Instant::now();
        requests(cache, trace, 0, count);
        return start.elapsed();
    }
    let together = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                requests(cache, trace, thread * trace.len() / threads, count);
                together.wait();
            });
        }
        together.wait();
        let start = Instant::now();
        together.wait();
        start.elapsed()
    })
}

fn peers(criterion: &mut Criterion) {
    for (entries, keys) in [(10_000, 40_000), (1_000_000, 2_000_000)] {
        for exponent in [0.9, 1.1] {
            let trace = trace(keys, exponent);
            let mut group = criterion.benchmark_group(format!("peers/{entries}/zipf{exponent}"));
            group.throughput(Throughput::Elements(1));
            for (name, cache) in caches(entries) {
                timed(&*cache, &trace, 1, trace.len() as u64); // warm
                for threads in [1, 2] {
                    group.bench_function(format!("{name}/{threads}"), |bencher| {
                        bencher.iter_custom(|count| timed(&*cache, &trace, threads, count));
                    });
                }
            }
            group.finish();
        }
    }
}

/// Hits alone: the key is known and there.
fn hits(criterion: &mut Criterion) {
    let keys: Vec<CacheKey> = (0..8_192u64).map(|n| CacheKey::of(&n.to_le_bytes())).collect();
    let mut group = criterion.benchmark_group("hit");
    for (name, cache) in caches(10_000) {
        for key in &keys {
            cache.insert(*key, Answer::new());
        }
        group.bench_function(name, |bencher| {
            let mut at = 0usize;
            bencher.iter(|| {
                at = at.wrapping_add(7_919);
                black_box(cache.read(&keys[at & 8_191]))
            });
        });
    }
    group.finish();
}

/// What a request pays: the key of 4 KiB of prompt and 16 KiB of context, and the lookup. BLAKE3 takes kilobytes many at
/// once and what is left of a text one by one, so lengths just short of that cost more.
#[expect(clippy::expect_used, reason = "a benchmark's own options")]
fn request(criterion: &mut Criterion) {
    let text = "    total += values[index] * weights[index]  # running sum\n".repeat(290);
    let cache = MemoryOptions::new().build::<CacheKey, Answer>().expect("options");
    let mut group = criterion.benchmark_group("request");
    for (name, prompt, context) in [
        ("key_of_4k_and_16k_and_hit", 4_096, 16_384),
        ("key_of_odd_lengths_and_hit", 4_047, 16_359),
    ] {
        let key = RequestKey {
            model_digest: "6f85a640a97cf2bf5b8e764087b1e83da0fdb51d7c9fab7d0fece9385611df83",
            template: "generate/1",
            task: "generate",
            prompt: &text[..prompt],
            context: Some(&text[..context]),
            language: "python",
            max_tokens: 512,
            ..RequestKey::default()
        };
        cache.insert(key.digest().expect("finite").key, Answer::new());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let digest = black_box(&key).digest().expect("finite");
                cache.get(&digest.key).expect("it is there")
            });
        });
    }
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
}

criterion_group! { name = benches; config = quick(); targets = hits, request, peers }
criterion_main!(benches);
