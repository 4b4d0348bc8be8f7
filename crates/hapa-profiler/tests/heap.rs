//! The heap profile names the lines that allocate, and its sums are those of the program.
#![cfg(all(feature = "sampling", target_os = "linux"))]

use std::{collections::HashMap, hint::black_box, sync::Mutex, thread};

use hapa_profiler::{
    CallSite, HeapMeasure, HeapProfile, HeapSampler, ProfiledAlloc, ProfilerError,
};

#[global_allocator]
static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();

/// One profile at a time in a process.
static ALONE: Mutex<()> = Mutex::new(());

const FILE: &str = "hapa-profiler/tests/heap.rs";

const KEEPS_FROM: u32 = line!();
#[inline(never)]
fn fill(kept: &mut Vec<Box<[u8]>>) {
    while kept.len() < kept.capacity() {
        kept.push(black_box(vec![7; 1000].into_boxed_slice()));
    }
}
const KEEPS_TO: u32 = line!();

/// Blocks of 1,000 bytes each; the vector itself is allocated here, outside of the lines that are looked at.
fn keeps(blocks: usize) -> Vec<Box<[u8]>> {
    let mut kept = Vec::with_capacity(blocks);
    fill(&mut kept);
    kept
}

const DROPS_FROM: u32 = line!();
#[inline(never)]
fn drops(blocks: usize) {
    for _ in 0..blocks {
        drop(black_box(vec![1_u8; 2_000]));
    }
}
const DROPS_TO: u32 = line!();

fn between(profile: &HeapProfile, lines: std::ops::Range<u32>) -> CallSite {
    let mut sum = profile.call_sites(HeapMeasure::Peak).swap_remove(0);
    (sum.live_bytes, sum.live_allocations, sum.allocated_bytes, sum.allocations, sum.peak_bytes) =
        (0, 0, 0, 0, 0);
    for site in profile.call_sites(HeapMeasure::Live) {
        if site.file == FILE && lines.contains(&site.line) {
            sum.live_bytes += site.live_bytes;
            sum.live_allocations += site.live_allocations;
            sum.allocated_bytes += site.allocated_bytes;
            sum.allocations += site.allocations;
            sum.peak_bytes += site.peak_bytes;
        }
    }
    sum
}

#[test]
fn every_allocation_of_a_line_is_counted_when_all_are_noted() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let sampler = HeapSampler::start(1).unwrap();
    assert!(matches!(HeapSampler::start(1), Err(ProfilerError::SamplerBusy)));
    let kept = keeps(300);
    drops(50);
    // Allocated here, released there.
    let (given, elsewhere) = (keeps(20), keeps(10));
    thread::spawn(move || drop(given)).join().unwrap();
    let first = HeapSampler::running().unwrap();
    drop(kept);
    let second = sampler.stop();
    assert!(HeapSampler::running().is_none());

    let keeping = between(&first, KEEPS_FROM..KEEPS_TO);
    assert_eq!(keeping.allocated_bytes, 330_000, "{}", first.to_table());
    assert_eq!((keeping.allocations, keeping.live_allocations), (330, 310));
    assert_eq!(keeping.live_bytes, 310_000);
    let dropping = between(&first, DROPS_FROM..DROPS_TO);
    assert_eq!((dropping.allocated_bytes, dropping.allocations), (100_000, 50));
    assert_eq!((dropping.live_bytes, dropping.live_allocations), (0, 0));
    assert!(keeping.peak_bytes >= 330_000, "all lived at once");

    let keeping = between(&second, KEEPS_FROM..KEEPS_TO);
    assert_eq!(keeping.live_allocations, 10, "{}", second.to_table());
    assert!(keeping.peak_bytes >= 330_000, "the peak stays");
    drop(elsewhere);

    let svg = second.to_svg(HeapMeasure::Peak);
    assert!(svg.contains("<svg") && svg.contains("::fill"), "the flame graph names it");
    let folded = second.to_folded(HeapMeasure::Allocated);
    assert!(folded.lines().any(|line| line.contains("::drops ")), "{folded}");
    let json: serde_json::Value = serde_json::from_str(&second.to_json()).unwrap();
    assert_eq!(json["peak_bytes"], second.bytes(HeapMeasure::Peak));
    assert!(second.to_table().contains(FILE), "{}", second.to_table());
}

#[test]
fn samples_stand_for_what_they_left_out() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let sampler = HeapSampler::start(4_096).unwrap();
    let kept = keeps(20_000);
    let profile = sampler.stop();
    let keeping = between(&profile, KEEPS_FROM..KEEPS_TO);
    drop(kept);
    // About 4,300 samples: within 1.5% in two of three runs, and never a sixth off.
    assert!((2_000..8_000).contains(&profile.samples()), "{}", profile.samples());
    assert!((16_700_000..23_500_000).contains(&keeping.live_bytes), "{keeping:?}");
    assert!((16_700..23_500).contains(&keeping.live_allocations), "{keeping:?}");
}

#[test]
fn threads_that_allocate_release_and_resize_leave_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let sampler = HeapSampler::start(200).unwrap();
    let workers: Vec<_> = (0_usize..4)
        .map(|seed| {
            thread::spawn(move || {
                let mut held: HashMap<usize, Vec<u8>> = HashMap::new();
                for step in 0..20_000_usize {
                    let key = step.wrapping_mul(31 + seed) % 97;
                    let grown = held.entry(key).or_default();
                    grown.extend_from_slice(&[1; 37]);
                    if step % 5 == 0 {
                        held.remove(&(step % 97));
                    } else if step % 7 == 0 {
                        held.get_mut(&key).unwrap().shrink_to_fit();
                    }
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let profile = sampler.stop();
    assert_eq!(profile.lost_samples(), 0);
    let sites = profile.call_sites(HeapMeasure::Live).into_iter();
    let left: Vec<_> = sites.filter(|site| site.file == FILE).collect();
    assert!(!left.is_empty(), "{}", profile.to_table());
    // Handles of the threads themselves are all that is held here.
    let bytes: u64 = left.iter().map(|site| site.live_bytes).sum();
    assert!(bytes < 20_000, "{left:#?}");
}
