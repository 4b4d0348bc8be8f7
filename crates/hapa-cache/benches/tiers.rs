//! What a hit below memory costs: on disk, and (feature `redis`, with a `redis-server` here) in Redis beside a bare `GET`.
//!
//! `cargo bench -p hapa-cache --features redis --bench tiers`
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on should stop")]

use criterion::{Criterion, criterion_group, criterion_main};
use hapa_cache::{CacheKey, DiskOptions, Record, Tier};
use std::time::Duration;

const RECORDS: u64 = 10_000;

fn key(n: u64) -> CacheKey {
    CacheKey::of(&n.to_le_bytes())
}

/// A value of about 2 KiB of Python.
fn record(n: u64) -> Record {
    let text =
        format!("def answer_{n}(values):\n    return sum(values) / len(values)\n").repeat(34);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Record::of(&text, now.unwrap_or_default(), Duration::from_millis(900), None)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn disk(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = DiskOptions::new(folder.path().join("answers.redb")).build().expect("options");
    for first in (0..RECORDS).step_by(500) {
        let batch: Vec<_> = (first..first + 500).map(|n| (key(n), record(n))).collect();
        disk.put(&batch).expect("stored");
    }
    let keys: Vec<_> = (0..RECORDS).map(key).collect();
    let mut at = 0;
    let mut next = move || {
        at = (at + 7_919) % RECORDS as usize;
        at
    };
    let mut group = criterion.benchmark_group("disk");
    group.bench_function("hit", |bencher| {
        bencher.iter(|| disk.get(&keys[next()]).expect("read").expect("it is there"));
    });
    let absent = CacheKey::of(b"absent");
    group.bench_function("miss", |bencher| bencher.iter(|| disk.get(&absent).expect("read")));
    let runtime = runtime();
    group.bench_function("hit_async", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async { Tier::get(&disk, &keys[next()]).await.expect("read") })
        });
    });
    group.bench_function("store_64", |bencher| {
        let batch: Vec<_> = (0..64).map(|n| (key(n), record(n))).collect();
        bencher.iter(|| disk.put(&batch).expect("stored"));
    });
    let path = disk.path().to_owned();
    drop(disk);
    group.bench_function("open", |bencher| {
        bencher.iter(|| {
            let disk = DiskOptions::new(&path).build().expect("options");
            disk.open().expect("opened");
            disk
        });
    });
    group.finish();
}

#[cfg(feature = "redis")]
fn redis_tier(criterion: &mut Criterion) {
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("redis.sock");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let server = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--unixsocket"])
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut server) = server else {
        eprintln!("no redis-server here: the Redis tier is not measured");
        return;
    };
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let url = format!("redis://127.0.0.1:{port}");
    let runtime = runtime();
    // Uncompressed, so that both carry the same bytes; then as it is by default.
    let tier = |above| {
        let options = hapa_cache::RedisOptions::new(&url).compress_above(above);
        let tier = options.lookup_timeout(Duration::from_secs(5)).build().expect("options");
        runtime.block_on(tier.put(&[(key(1), record(1))])).expect("stored");
        tier
    };
    let name = format!("hapa:1:{{{}}}", key(1));
    let client = redis::Client::open(url.as_str()).expect("a client");
    let mut bare = runtime.block_on(client.get_multiplexed_async_connection()).expect("connected");
    let mut group = criterion.benchmark_group("redis");
    for (how, above) in [("plain", usize::MAX), ("zstd", 1024)] {
        let tier = tier(above);
        group.bench_function(format!("bare_get/{how}"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let mut command = redis::cmd("GET");
                    command.arg(&name).query_async::<Vec<u8>>(&mut bare).await.expect("read")
                })
            });
        });
        group.bench_function(format!("hit/{how}"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async { tier.get(&key(1)).await.expect("read").expect("there") })
            });
        });
    }
    group.finish();
    let _ = server.kill();
    let _ = server.wait();
}

#[cfg(not(feature = "redis"))]
fn redis_tier(_: &mut Criterion) {}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = disk, redis_tier }
criterion_main!(benches);
