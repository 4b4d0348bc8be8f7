//! What a scope costs: on, off, nested, from two threads, around a future; beside it a bare clock read and a span of the
//! `tracing` crate. With `--no-default-features` the same benchmarks show scopes that are compiled out.

use std::future::ready;
use std::hint::black_box;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use hapa_profiler::{ProfileFuture, Profiler, TraceCollector, scope};

fn scopes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scope");
    // What the loop around a benchmark takes itself.
    group.bench_function("nothing", |bencher| bencher.iter(|| ()));
    group.bench_function("on", |bencher| {
        bencher.iter(|| {
            scope!("bench:on");
        });
    });
    group.bench_function("off", |bencher| {
        Profiler::global().set_enabled(false);
        bencher.iter(|| {
            scope!("bench:off");
        });
        Profiler::global().set_enabled(true);
    });
    group.bench_function("nested_4", |bencher| {
        bencher.iter(|| {
            scope!("bench:a");
            scope!("bench:b");
            scope!("bench:c");
            scope!("bench:d");
        });
    });
    // The name is looked up each time.
    group.bench_function("by_name", |bencher| {
        let profiler = Profiler::global();
        bencher.iter(|| drop(profiler.scope(black_box("bench:by-name"))));
    });
    // Time for one scope of each of two threads: each writes a tree of its own.
    group.bench_function("two_threads", |bencher| bencher.iter_custom(two_threads));
    group.bench_function("future", |bencher| {
        bencher.iter(|| {
            let mut future = Box::pin(ready(()).profiled("bench:future"));
            matches!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
        });
    });
    // One request's trace of a hundred scopes, from its start.
    group.bench_function("traced_100", |bencher| {
        let collector = TraceCollector::new(Profiler::global());
        bencher.iter(|| {
            let trace = collector.start("bench");
            let _entered = trace.enter();
            for _ in 0..100 {
                scope!("bench:traced");
            }
        });
    });
    group.bench_function("two_clock_reads", |bencher| {
        bencher.iter(|| black_box(Instant::now()).elapsed());
    });
    group.bench_function("tracing_span", |bencher| {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            bencher.iter(|| tracing::info_span!("bench:span").in_scope(|| ()));
        });
    });
    group.finish();
}

fn two_threads(iterations: u64) -> Duration {
    let together = Barrier::new(3);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                together.wait();
                for _ in 0..iterations {
                    scope!("bench:two-threads");
                }
                together.wait();
            });
        }
        together.wait();
        let start = Instant::now();
        together.wait();
        start.elapsed()
    })
}

fn reports(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("report");
    for names in [20, 200] {
        let profiler = Profiler::new();
        for outer in 0..names / 10 {
            let _outer = profiler.scope(&format!("stage {outer}"));
            for inner in 1..10 {
                profiler.time(&format!("stage {outer} part {inner}"), || ());
            }
        }
        group.bench_function(format!("take/{names}"), |bencher| {
            bencher.iter(|| profiler.report());
        });
        let report = profiler.report();
        group.bench_function(format!("table/{names}"), |bencher| {
            bencher.iter(|| report.to_table());
        });
        group.bench_function(format!("json/{names}"), |bencher| bencher.iter(|| report.to_json()));
    }
    group.finish();
}

/// The same allocation as in `allocation.rs`, by the plain allocator of the system.
fn allocations(criterion: &mut Criterion) {
    criterion.bench_function("allocation/plain", |bencher| {
        bencher.iter(|| black_box(Vec::<u8>::with_capacity(black_box(64))));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(20_000);
    targets = scopes, reports, allocations
}
criterion_main!(benches);
