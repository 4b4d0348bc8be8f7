//! The memory cache against a plain map with the rule written out: what `tests/memory.rs` and the fuzz target `memory` run.

use hapa_cache::{EntryOptions, ManualClock, MemoryCache, MemoryOptions, Policy, Weigh};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A value that says how heavy it is and which insertion it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value {
    pub(crate) stamp: u64,
    pub(crate) heap: usize,
}

impl Weigh for Value {
    fn heap_bytes(&self) -> usize {
        self.heap
    }
}

/// What the smallest entry is charged.
pub(crate) const SMALL: usize =
    size_of::<u16>() + size_of::<Value>() + hapa_cache::ENTRY_OVERHEAD_BYTES;

/// One operation, with times in milliseconds.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Get(u16),
    Peek(u16),
    Insert { key: u16, heap: usize, cost_ms: u64, ttl_ms: Option<u64> },
    Remove(u16),
    Pin(u16),
    Unpin(u16),
    Advance(u64),
    ClockBack(u64),
    Purge,
    Clear,
}

/// What the caller may rely on, whatever the policy: a hit is the value last inserted, never
/// removed since, never older than its time to live, never idle too long.
#[derive(Default)]
struct Model {
    last: HashMap<u16, ModelEntry>,
    now_ms: u64,
}

struct ModelEntry {
    stamp: u64,
    created_ms: u64,
    used_ms: u64,
    ttl_ms: Option<u64>,
}

impl Model {
    fn may_hit(&self, key: u16, stamp: u64, idle_ms: Option<u64>) -> bool {
        self.last.get(&key).is_some_and(|entry| {
            entry.stamp == stamp
                && entry.ttl_ms.is_none_or(|ttl| self.now_ms.saturating_sub(entry.created_ms) < ttl)
                && idle_ms.is_none_or(|idle| self.now_ms.saturating_sub(entry.used_ms) < idle)
        })
    }
}

/// How the cache is built.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) policy: Policy,
    pub(crate) max_entries: usize,
    pub(crate) max_bytes: u64,
    pub(crate) idle_ms: Option<u64>,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) prefer_dear: bool,
    pub(crate) shards: usize,
}

/// Applies the operations one by one; after each, the rule and the cache's own invariants must hold.
pub(crate) fn run(setup: &Setup, ops: &[Op]) {
    let clock = Arc::new(ManualClock::at(Duration::from_secs(10)));
    let options = MemoryOptions::new()
        .policy(setup.policy)
        .max_entries(setup.max_entries)
        .max_bytes(setup.max_bytes)
        .idle(setup.idle_ms.map(Duration::from_millis))
        .ttl(setup.ttl_ms.map(Duration::from_millis))
        .prefer_dear(setup.prefer_dear)
        .shards(setup.shards)
        .clock(Arc::clone(&clock) as Arc<dyn hapa_cache::Clock>);
    #[expect(clippy::unwrap_used, reason = "a test's helper")]
    let cache: MemoryCache<u16, Value> = options.build().unwrap();
    let mut model = Model { now_ms: 10_000, ..Model::default() };
    let (mut hits, mut misses) = (0, 0);
    for (stamp, op) in ops.iter().enumerate() {
        let stamp = stamp as u64;
        match *op {
            Op::Get(key) => match cache.get(&key) {
                Some(hit) => {
                    hits += 1;
                    assert!(model.may_hit(key, hit.stamp, setup.idle_ms), "{key} gave {hit:?}");
                    if let Some(entry) = model.last.get_mut(&key) {
                        entry.used_ms = model.now_ms.max(entry.created_ms);
                    }
                }
                None => misses += 1,
            },
            Op::Peek(key) => {
                if let Some(hit) = cache.peek(&key) {
                    assert!(model.may_hit(key, hit.stamp, setup.idle_ms), "{key} peeked {hit:?}");
                }
            }
            Op::Insert { key, heap, cost_ms, ttl_ms } => {
                let options = EntryOptions {
                    cost: Duration::from_millis(cost_ms),
                    ttl: ttl_ms.map(Duration::from_millis),
                };
                let kept = cache.insert_with(key, Value { stamp, heap }, options);
                assert_eq!(kept, cache.peek(&key).is_some(), "kept means that it is there");
                model.last.remove(&key);
                if kept {
                    let ttl_ms = match (ttl_ms, setup.ttl_ms) {
                        (Some(own), Some(limit)) => Some(own.min(limit)),
                        (own, limit) => own.or(limit),
                    };
                    let (created_ms, used_ms) = (model.now_ms, model.now_ms);
                    model.last.insert(key, ModelEntry { stamp, created_ms, used_ms, ttl_ms });
                }
            }
            Op::Remove(key) => {
                cache.remove(&key);
                model.last.remove(&key);
            }
            Op::Pin(key) => {
                let there = cache.peek(&key).is_some();
                if cache.pin(&key) && there {
                    assert!(cache.peek(&key).is_some(), "a pinned entry is there");
                }
            }
            Op::Unpin(key) => {
                cache.unpin(&key);
            }
            Op::Advance(ms) => {
                clock.advance(Duration::from_millis(ms));
                model.now_ms += ms;
            }
            Op::ClockBack(ms) => {
                model.now_ms = model.now_ms.saturating_sub(ms);
                clock.set_monotonic(Duration::from_millis(model.now_ms));
            }
            Op::Purge => {
                cache.purge_expired();
            }
            Op::Clear => {
                cache.clear();
                model.last.clear();
                assert!(cache.is_empty());
            }
        }
        cache.validate();
    }
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (hits, misses));
    assert_eq!(cache.clear() as u64, stats.entries);
    cache.validate();
}
