//! What a scope costs here and in hotpath: the same function under both, in turns within one run.
//!
//! `cargo run --release --manifest-path benches/hotpath/Cargo.toml`

use std::hint::black_box;
use std::time::Instant;

const CALLS: u32 = 1_000_000;
const ROUNDS: usize = 15;

#[inline(never)]
fn plain(n: u64) -> u64 {
    black_box(n).wrapping_mul(3)
}

#[inline(never)]
fn hapa(n: u64) -> u64 {
    hapa_profiler::scope!("work");
    black_box(n).wrapping_mul(3)
}

#[hotpath::measure]
#[inline(never)]
fn hotpath(n: u64) -> u64 {
    black_box(n).wrapping_mul(3)
}

/// Nanoseconds a call.
fn time(work: fn(u64) -> u64) -> f64 {
    let began = Instant::now();
    for n in 0..u64::from(CALLS) {
        black_box(work(n));
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let guard = hotpath::HotpathGuardBuilder::new("compare").build();
    let (mut bare, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(time(plain));
        ours.push(time(hapa));
        theirs.push(time(hotpath));
    }
    let bare = median(bare);
    let (ours, theirs) = (median(ours) - bare, median(theirs) - bare);
    let calls = hapa_profiler::Profiler::global().report().scope("work").map_or(0, |s| s.calls);
    assert_eq!(calls, u64::from(CALLS) * ROUNDS as u64, "every call is counted");
    eprintln!("hapa-profiler {ours:.1} ns, hotpath {theirs:.1} ns a call: {:.2} of it", ours / theirs);
    drop(guard);
}
