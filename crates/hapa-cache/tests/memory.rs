//! The memory cache against a plain map with the rule written out, and its invariants under random
//! operations, moving clocks and threads.

#[path = "model/memory.rs"]
mod model;

use hapa_cache::{EntryOptions, ManualClock, MemoryCache, MemoryOptions, Policy};
use model::{Op, SMALL, Setup, Value, run};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn op() -> impl Strategy<Value = Op> {
    let key = 0u16..40;
    let heap = prop_oneof![4 => Just(0usize), 2 => 1usize..400, 1 => 400usize..6_000];
    let ttl = prop_oneof![3 => Just(None), 1 => (0u64..200).prop_map(Some)];
    prop_oneof![
        12 => key.clone().prop_map(Op::Get),
        2 => key.clone().prop_map(Op::Peek),
        10 => (key.clone(), heap, 0u64..2_000, ttl)
            .prop_map(|(key, heap, cost_ms, ttl_ms)| Op::Insert { key, heap, cost_ms, ttl_ms }),
        2 => key.clone().prop_map(Op::Remove),
        2 => key.clone().prop_map(Op::Pin),
        1 => key.prop_map(Op::Unpin),
        2 => (0u64..150).prop_map(Op::Advance),
        1 => (0u64..500).prop_map(Op::ClockBack),
        1 => Just(Op::Purge),
        1 => (0u8..8).prop_map(|n| if n == 0 { Op::Clear } else { Op::Purge }),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    (
        prop::bool::ANY,
        1usize..80,
        (2 * SMALL as u64)..12_000,
        prop_oneof![Just(None), (50u64..300).prop_map(Some)],
        prop_oneof![Just(None), (50u64..300).prop_map(Some)],
        prop::bool::ANY,
        1usize..4,
    )
        .prop_map(|(lru, max_entries, max_bytes, idle_ms, ttl_ms, prefer_dear, shards)| {
            Setup {
                policy: if lru { Policy::Lru } else { Policy::S3Fifo },
                max_entries,
                max_bytes,
                idle_ms,
                ttl_ms,
                prefer_dear: prefer_dear && !lru,
                shards,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_operations_keep_the_rule_and_the_bounds(
        setup in setup(),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        run(&setup, &ops);
    }

    /// Exact LRU against the rule itself: a list in order of use.
    #[test]
    fn lru_is_exact(
        max_entries in 1usize..12,
        keys in prop::collection::vec((0u16..20, prop::bool::ANY), 1..300),
    ) {
        let cache: MemoryCache<u16, u64> =
            MemoryOptions::new().policy(Policy::Lru).max_entries(max_entries).build().unwrap();
        let mut order: Vec<u16> = Vec::new();
        for (key, insert) in keys {
            let known = order.iter().position(|k| *k == key);
            if insert {
                known.map(|at| order.remove(at));
                order.push(key);
                if order.len() > max_entries {
                    order.remove(0);
                }
                cache.insert(key, u64::from(key));
            } else {
                prop_assert_eq!(cache.get(&key).is_some(), known.is_some());
                if let Some(at) = known {
                    let key = order.remove(at);
                    order.push(key);
                }
            }
            let kept: Vec<u16> = cache.entries().into_iter().map(|(key, _)| key).collect();
            prop_assert_eq!(&kept, &order);
        }
    }
}

/// With equal small entries both policies fill up to the number allowed, and no further.
#[test]
fn entries_fill_up_to_the_bound() {
    for policy in [Policy::S3Fifo, Policy::Lru] {
        let cache: MemoryCache<u64, u64> =
            MemoryOptions::new().policy(policy).max_entries(1_000).build().unwrap();
        for key in 0..5_000 {
            cache.insert(key, key);
        }
        cache.validate();
        assert!(cache.len() > 960, "{policy:?} kept only {}", cache.len());
    }
}

#[test]
fn bytes_fill_up_to_the_bound() {
    for policy in [Policy::S3Fifo, Policy::Lru] {
        let cache: MemoryCache<u64, Vec<u8>> =
            MemoryOptions::new().policy(policy).max_bytes(1 << 20).shards(1).build().unwrap();
        for key in 0..5_000 {
            cache.insert(key, vec![0; 1_000]);
        }
        cache.validate();
        assert!(cache.bytes() > (1 << 20) * 99 / 100, "{policy:?} kept {} bytes", cache.bytes());
    }
}

#[test]
fn pinned_entries_stay_through_a_scan() {
    for policy in [Policy::S3Fifo, Policy::Lru] {
        let cache: MemoryCache<u64, u64> =
            MemoryOptions::new().policy(policy).max_entries(100).build().unwrap();
        (0..20).for_each(|key| {
            cache.insert(key, key);
            assert!(cache.pin(&key), "{key}");
        });
        (100..10_000).for_each(|key| {
            cache.insert(key, key);
        });
        cache.validate();
        assert!((0..20).all(|key| cache.get(&key).is_some()), "{policy:?}");
        assert_eq!(cache.stats().pinned_entries, 20);
        // The share for pinned entries is a quarter.
        let more = (10_000..10_010).filter(|key| cache.insert(*key, *key) && cache.pin(key));
        assert_eq!(more.count(), 5);
        cache.validate();
        assert_eq!(cache.stats().pinned_entries, 25);
        assert!(cache.unpin(&3) && !cache.unpin(&3));
        (20_000..30_000).for_each(|key| {
            cache.insert(key, key);
        });
        assert!(cache.peek(&3).is_none(), "an unpinned entry can go");
        cache.validate();
    }
}

/// Of two equally used classes, the one that was dear to compute survives a scan longer.
#[test]
fn dear_answers_stay_longer() {
    let survivors = |prefer: bool| {
        let cache: MemoryCache<u64, u64> =
            MemoryOptions::new().max_entries(1_000).shards(1).prefer_dear(prefer).build().unwrap();
        let cost = |key: u64| if key.is_multiple_of(10) { 20_000 } else { 100 };
        for key in 0..1_000 {
            let cost = Duration::from_millis(cost(key));
            cache.insert_with(key, key, EntryOptions { cost, ttl: None });
        }
        for key in 1_000..2_500 {
            let cost = Duration::from_millis(100);
            cache.insert_with(key, key, EntryOptions { cost, ttl: None });
            cache.get(&key);
        }
        cache.validate();
        (0..1_000u64).filter(|key| cost(*key) > 100 && cache.peek(key).is_some()).count()
    };
    let (with, without) = (survivors(true), survivors(false));
    assert!(with > without + 20, "{with} dear entries with preference, {without} without");
}

#[test]
fn times_are_kept_and_the_cause_is_counted() {
    let clock = Arc::new(ManualClock::at(Duration::from_secs(100)));
    for policy in [Policy::S3Fifo, Policy::Lru] {
        let cache: MemoryCache<&str, u64> = MemoryOptions::new()
            .policy(policy)
            .ttl(Some(Duration::from_secs(60)))
            .idle(Some(Duration::from_secs(20)))
            .clock(Arc::clone(&clock) as Arc<dyn hapa_cache::Clock>)
            .build()
            .unwrap();
        let short = EntryOptions { ttl: Some(Duration::from_secs(5)), ..Default::default() };
        cache.insert("limit", 1);
        cache.insert("idle", 2);
        cache.insert_with("short", 3, short);
        assert_eq!(
            cache.remaining_ttl(&cache.peek("short").unwrap()),
            Some(Duration::from_secs(5))
        );
        clock.advance(Duration::from_secs(5));
        assert!(cache.get("short").is_none(), "its own time is over");
        assert!(cache.get("limit").is_some());
        for _ in 0..3 {
            clock.advance(Duration::from_secs(15));
            assert!(cache.get("limit").is_some(), "used often enough");
        }
        assert!(cache.get("idle").is_none(), "unused for 50 seconds");
        clock.advance(Duration::from_secs(10)); // unused for 10 seconds only
        assert!(cache.get("limit").is_none(), "60 seconds are over, used or not");
        let evictions = cache.stats().evictions;
        assert_eq!((evictions.expired, evictions.idle), (2, 1));
        cache.validate();
    }
}

#[test]
fn figures_tell_what_was_saved() {
    let cache: MemoryCache<u64, u64> = MemoryOptions::new().build().unwrap();
    let cost = Duration::from_millis(1_500);
    cache.insert_with(1, 1, EntryOptions { cost, ttl: None });
    assert!(cache.get(&1).is_some_and(|hit| hit.cost() == cost && *hit == 1));
    cache.get(&1);
    cache.get(&2);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.saved), (2, 1, 2 * cost));
    assert!((stats.hit_ratio() - 2.0 / 3.0).abs() < 1e-9);
}

#[test]
fn options_that_bound_nothing_are_refused() {
    let refused = |options: MemoryOptions| options.build::<u64, u64>().is_err();
    assert!(refused(MemoryOptions::new().max_entries(0)));
    assert!(refused(MemoryOptions::new().max_bytes(100)));
    assert!(refused(MemoryOptions::new().ttl(Some(Duration::ZERO))));
    assert!(refused(MemoryOptions::new().idle(Some(Duration::from_secs(86_400 * 50)))));
    assert!(refused(MemoryOptions::new().max_pinned_share(0.9)));
    assert!(refused(MemoryOptions::new().max_pinned_share(f64::NAN)));
    assert!(refused(MemoryOptions::new().shards(0)));
    assert!(refused(MemoryOptions::new().policy(Policy::Lru).prefer_dear(true)));
    assert!("lfu".parse::<Policy>().is_err());
    for policy in [Policy::Lru, Policy::S3Fifo] {
        assert_eq!(policy.name().parse::<Policy>().unwrap(), policy);
    }
}

#[test]
fn get_allocates_nothing() {
    for policy in [Policy::S3Fifo, Policy::Lru] {
        let cache: MemoryCache<u64, Vec<u8>> = MemoryOptions::new()
            .policy(policy)
            .ttl(Some(Duration::from_secs(60)))
            .idle(Some(Duration::from_secs(60)))
            .build()
            .unwrap();
        cache.insert(1, vec![7; 1_000]);
        cache.get(&1); // the thread's stripe is taken here
        let info = allocation_counter::measure(|| {
            for _ in 0..1_000 {
                assert!(cache.get(&1).is_some_and(|hit| hit.len() == 1_000));
                assert!(cache.get(&2).is_none());
            }
        });
        assert_eq!(info.count_total, 0, "{policy:?}");
    }
}

/// Bytes over key and value, measured with every allocation counted.
#[test]
fn an_entry_takes_no_more_than_the_documented_overhead() {
    for (policy, entries) in [(Policy::S3Fifo, 100_000u64), (Policy::Lru, 100_000)] {
        let mut bytes = 0.0;
        let mut kept = None;
        let info = allocation_counter::measure(|| {
            let cache: MemoryCache<[u8; 32], u64> = MemoryOptions::new()
                .policy(policy)
                .max_entries(entries as usize)
                .max_bytes(1 << 30)
                .build()
                .unwrap();
            for key in 0..entries * 2 {
                let mut digest = [0; 32];
                digest[..8].copy_from_slice(&key.to_le_bytes());
                cache.insert(digest, key);
            }
            bytes = cache.len() as f64;
            kept = Some(cache);
        });
        let each = info.bytes_current as f64 / bytes - 40.0;
        assert!(
            each <= hapa_cache::ENTRY_OVERHEAD_BYTES as f64,
            "{policy:?}: {each:.1} bytes, {bytes} kept"
        );
    }
}

#[test]
fn threads_keep_the_bounds() {
    for policy in [Policy::S3Fifo, Policy::Lru] {
        let prefer_dear = policy == Policy::S3Fifo;
        let cache: MemoryCache<u64, Value> = MemoryOptions::new()
            .policy(policy)
            .prefer_dear(prefer_dear)
            .max_entries(200)
            .max_bytes(100_000)
            .shards(2)
            .build()
            .unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let cache = &cache;
                scope.spawn(move || {
                    let mut random = thread + 1;
                    for stamp in 0..20_000 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let key = (random >> 33) % 500;
                        match (random >> 20) % 16 {
                            0..9 => drop(cache.get(&key)),
                            9..13 => {
                                let cost = Duration::from_millis(random % 3_000);
                                let heap = (random >> 40) as usize % 2_000;
                                let entry = EntryOptions { cost, ttl: None };
                                cache.insert_with(key, Value { stamp, heap }, entry);
                            }
                            13 => drop(cache.remove(&key)),
                            14 => drop(cache.pin(&key)),
                            _ => drop(cache.unpin(&key)),
                        }
                    }
                });
            }
        });
        cache.validate();
    }
}
