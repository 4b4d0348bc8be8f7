//! What metrics cost: a record from one thread and from two at once, a look-up by labels, the exposition of 2,000 series.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hapa_metrics::labels::{Endpoint, Method, Status, Tier};
use hapa_metrics::{Exporter, Format, SeriesValue, names};

/// An exporter of at least that many lines of series, as a server has them: counters and histograms by route.
fn exporter_with(lines: usize) -> Exporter {
    let exporter = Exporter::local();
    let methods = [Method::Get, Method::Post];
    let lines_of = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    exporter.run(|| {
        for route in 0.. {
            if lines_of(&exporter.render()) >= lines {
                break;
            }
            let endpoint = Endpoint::of(&format!("/api/v1/route/{}", route % 60));
            let status = Status(200 + u16::try_from(route / 60).unwrap_or(0));
            for method in methods {
                names::API_REQUESTS_TOTAL.with((method, endpoint, status)).increment(7);
                names::API_REQUEST_DURATION_SECONDS.with((method, endpoint)).record(0.03);
            }
        }
    });
    exporter
}

fn exposition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics/render");
    let exporter = exporter_with(2_000);
    for (name, format) in [("prometheus", Format::Prometheus), ("openmetrics", Format::OpenMetrics)]
    {
        group.bench_function(BenchmarkId::new(name, 2_000), |bencher| {
            bencher.iter(|| exporter.render_as(format));
        });
    }
    group.bench_function(BenchmarkId::new("snapshot", 2_000), |bencher| {
        bencher.iter(|| exporter.snapshot());
    });
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics/record");
    group.throughput(Throughput::Elements(1));
    let exporter = Exporter::local();
    let counter = exporter.run(|| names::GENERATED_TOKENS_TOTAL.handle());
    let histogram = exporter.run(|| names::INTER_TOKEN_LATENCY_SECONDS.handle());
    group.bench_function("counter", |bencher| bencher.iter(|| counter.increment(black_box(1))));
    group.bench_function("histogram", |bencher| bencher.iter(|| histogram.record(black_box(0.02))));
    group.bench_function("counter_by_label", |bencher| {
        exporter.run(|| {
            bencher.iter(|| names::CACHE_HITS_TOTAL.with(black_box(Tier::L1)).increment(1));
        });
    });
    // Each iteration is one record by each of two threads, so two elements; none may be lost.
    group.throughput(Throughput::Elements(2));
    group.bench_function("counter_two_threads", |bencher| {
        bencher.iter_custom(|iterations| {
            let before = value(&exporter, names::GENERATED_TOKENS_TOTAL.spec().name);
            let took = two_threads(iterations, || counter.increment(1));
            let after = value(&exporter, names::GENERATED_TOKENS_TOTAL.spec().name);
            assert_eq!(after - before, 2 * iterations, "every record is counted");
            took
        });
    });
    group.bench_function("histogram_two_threads", |bencher| {
        bencher.iter_custom(|iterations| {
            let before = value(&exporter, names::INTER_TOKEN_LATENCY_SECONDS.spec().name);
            let took = two_threads(iterations, || histogram.record(0.02));
            let after = value(&exporter, names::INTER_TOKEN_LATENCY_SECONDS.spec().name);
            assert_eq!(after - before, 2 * iterations, "every record is counted");
            took
        });
    });
    group.finish();
}

/// A counter's value, or how many observations a histogram has.
fn value(exporter: &Exporter, name: &str) -> u64 {
    let all = exporter.snapshot();
    match all.iter().find(|series| series.name == name).map(|series| &series.value) {
        Some(SeriesValue::Histogram { counts, .. }) => counts.iter().sum(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        Some(value) => value.number() as u64,
        None => 0,
    }
}

fn two_threads(iterations: u64, record: impl Fn() + Sync) -> Duration {
    let together = Barrier::new(3);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                together.wait();
                (0..iterations).for_each(|_| record());
                together.wait();
            });
        }
        together.wait();
        let start = Instant::now();
        together.wait();
        start.elapsed()
    })
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(20_000);
    targets = exposition, records
}
criterion_main!(benches);
