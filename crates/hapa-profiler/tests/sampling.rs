//! The sampler finds the function and the line that burn, and says so in every form.
#![cfg(all(feature = "sampling", target_os = "linux"))]

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use hapa_profiler::{CpuSampler, ProfilerError};

const BURNS_FROM: u32 = line!();
#[inline(never)]
fn burn_the_processor(until: Instant) -> u64 {
    let mut sum = 0_u64;
    while Instant::now() < until {
        for n in 0..20_000_u64 {
            sum = black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n));
        }
    }
    sum
}
const BURNS_TO: u32 = line!();

#[inline(never)]
fn caller(until: Instant) -> u64 {
    black_box(burn_the_processor(until)) + 1
}

#[test]
fn the_hot_function_and_its_line_are_found() {
    let sampler = CpuSampler::start(Duration::from_secs(2)).unwrap();
    assert!(matches!(CpuSampler::start(Duration::from_secs(1)), Err(ProfilerError::SamplerBusy)));
    let until = Instant::now() + Duration::from_millis(1_200);
    let other = thread::spawn(move || caller(until));
    black_box(caller(until));
    other.join().unwrap();
    let profile = sampler.stop();

    assert!(profile.samples() >= 20, "{}", profile.samples());
    let functions = profile.functions();
    let found = |name: &str| functions.iter().find(|hot| hot.function.ends_with(name)).unwrap();
    let (burns, calls) = (found("::burn_the_processor"), found("::caller"));
    // Nothing else in this process has work.
    assert!(burns.total_seconds > 0.8 * profile.cpu_seconds(), "{}", profile.to_table());
    assert!(calls.total_seconds >= burns.total_seconds * 0.9, "{}", profile.to_table());
    assert!(calls.self_seconds < 0.2 * profile.cpu_seconds(), "{}", profile.to_table());
    let own = profile.lines().into_iter().filter(|hot| hot.file.ends_with("sampling.rs"));
    let own: f64 = own
        .filter(|hot| (BURNS_FROM..BURNS_TO).contains(&hot.line))
        .map(|hot| hot.self_seconds)
        .sum();
    assert!(own > 0.3 * profile.cpu_seconds(), "{}", profile.to_table());

    let svg = profile.to_svg();
    assert!(svg.contains("<svg") && svg.contains("burn_the_processor"), "the flame graph names it");
    assert!(profile.to_folded().lines().any(|line| line.contains("caller;")));
    let json: serde_json::Value = serde_json::from_str(&profile.to_json()).unwrap();
    assert_eq!(json["samples"], profile.samples());

    // And once more in the same process, with nothing to do.
    let sampler = CpuSampler::start(Duration::from_secs(1)).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(sampler.stop().samples() < 20);
}
