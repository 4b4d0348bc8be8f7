//! What counting allocations costs. A program has one global allocator, so this is a program of its own;
//! `allocation/plain` in `profiler.rs` is the same without counting.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use hapa_profiler::{ProfiledAlloc, scope};

#[global_allocator]
static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();

fn allocations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocation");
    group.bench_function("counted", |bencher| {
        bencher.iter(|| black_box(Vec::<u8>::with_capacity(black_box(64))));
    });
    group.bench_function("scope_with_counts", |bencher| {
        bencher.iter(|| {
            scope!("bench:counted");
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(20_000);
    targets = allocations
}
criterion_main!(benches);
