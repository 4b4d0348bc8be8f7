//! Single-flight: what sharing one computation costs.

use criterion::{Criterion, Throughput};
use hapa_cache::{CacheKey, Flights, Waiter};

use crate::fixtures::need;

type Table = Flights<CacheKey, u32, u64, &'static str>;

/// Pieces of a streamed answer.
const PIECES: u32 = 64;

pub(crate) fn bench(criterion: &mut Criterion) {
    let key = CacheKey::of(b"the same question");
    let mut group = criterion.benchmark_group("flight");
    group.bench_function("alone", |bencher| {
        let flights = Table::default();
        bencher.iter(|| run(&flights, key, (1, 0)));
    });
    for waiters in [1, 100] {
        group.throughput(Throughput::Elements(waiters));
        group.bench_function(format!("stream_{PIECES}/{waiters}"), |bencher| {
            let flights = Table::default();
            bencher.iter(|| run(&flights, key, (waiters, PIECES)));
        });
    }
    group.finish();
}

/// One flight that `waiters` callers join, with `pieces` items, read to its end by all.
fn run(flights: &Table, key: CacheKey, (waiters, pieces): (u64, u32)) -> u64 {
    let mut lead = flights.join(key);
    let producer = need("join", lead.producer.take().ok_or("a flight was left over"));
    let others: Vec<_> = (1..waiters).map(|_| flights.join(key).waiter).collect();
    for piece in 0..pieces {
        producer.push(piece);
    }
    producer.finish(7);
    std::iter::once(lead.waiter).chain(others).map(read).sum()
}

fn read(mut waiter: Waiter<CacheKey, u32, u64, &'static str>) -> u64 {
    loop {
        if let Err(end) = waiter.blocking_next() {
            return need("flight", end);
        }
    }
}
