//! The Redis tier against a real `redis-server` that goes away, hangs, fills up, and comes back.
//!
//! `cargo xtask test` installs the server (`apt-get install redis-server`) and runs this with the features.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use hapa_cache::{
    CacheKey, EntryOptions, Lead, Lease, Level, MemoryOptions, Record, RedisOptions, RedisTier,
    Tier, TieredCache, TieredOptions,
};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A server of the test's own, ended with it.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
    extra: Vec<String>,
}

impl Server {
    /// On a Unix socket, or on a free port where the test says so.
    fn start(extra: &[&str]) -> Self {
        Self::start_on(0, extra)
    }

    fn start_on(port: u16, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let extra: Vec<String> = extra.iter().map(|text| (*text).to_owned()).collect();
        let child = Self::spawn(&folder, port, &extra);
        Self { child, folder, port, extra }
    }

    fn spawn(folder: &tempfile::TempDir, port: u16, extra: &[String]) -> Child {
        let socket = folder.path().join("redis.sock");
        let _ = std::fs::remove_file(&socket);
        let mut child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .arg("--unixsocket")
            .arg(&socket)
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(folder.path())
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts; `cargo xtask test` installs it (Debian: redis-server)");
        for _ in 0..1_000 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return child;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("redis-server did not open its socket");
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.folder, self.port, &self.extra);
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    async fn raw<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        command.query_async(&mut connection).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn key(n: u64) -> CacheKey {
    CacheKey::of(&n.to_le_bytes())
}

fn text(n: u64) -> String {
    format!("def answer_{n}():\n    return {n}\n").repeat(1 + n as usize % 90)
}

fn record(n: u64) -> Record {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Record::of(&text(n), now, Duration::from_millis(900), None)
}

/// Timeouts so long that a busy machine does not reach them, where slowness is not the point.
fn options(url: &str) -> RedisOptions {
    RedisOptions::new(url)
        .lookup_timeout(Duration::from_secs(10))
        .write_timeout(Duration::from_secs(10))
        .connect_timeout(Duration::from_secs(10))
        .backoff(Duration::from_millis(20), Duration::from_millis(100))
}

fn tier(server: &Server) -> RedisTier {
    options(&server.url()).build().unwrap()
}

async fn look_up(tier: &RedisTier, n: u64) -> Option<String> {
    tier.get(&key(n)).await.ok()??.decode()
}

/// Waits, as long as it may take, for something that will happen.
async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if happened().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn records_come_back_as_they_were_alone_and_many_at_once() {
    let server = Server::start(&[]);
    let tier = tier(&server);
    tier.ping().await.unwrap();
    let records: Vec<_> = (0..300).map(|n| (key(n), record(n))).collect();
    tier.put(&records).await.unwrap();
    for n in [0, 7, 299] {
        assert_eq!(tier.get(&key(n)).await.unwrap(), Some(record_of(&records, n as usize)));
    }
    let keys: Vec<_> = (0..310).map(key).collect();
    let found = tier.get_many(&keys).await.unwrap();
    assert_eq!(found.iter().flatten().count(), 300);
    assert_eq!(found[5], Some(record_of(&records, 5)));
    assert!(found[305].is_none());
    assert!(tier.get_many(&[]).await.unwrap().is_empty());

    tier.remove(&[key(5), key(4_000)]).await.unwrap();
    assert_eq!(look_up(&tier, 5).await, None);
    let newest = tier.newest(50).await.unwrap();
    assert_eq!(newest.len(), 50);
    // Another program's keys stay.
    server.raw::<()>(redis::cmd("SET").arg("hapa:other").arg("1")).await;
    assert_eq!(tier.clear().await.unwrap(), 299);
    assert_eq!(server.raw::<u64>(&redis::cmd("DBSIZE")).await, 1);
    let stats = tier.stats();
    assert_eq!((stats.stored, stats.errors, stats.corrupt), (300, 0, 0));
}

fn record_of(records: &[(CacheKey, Record)], n: usize) -> Record {
    let mut record = records[n].1.clone();
    // Stored in whole milliseconds.
    record.created = Duration::from_millis(record.created.as_millis() as u64);
    record
}

#[tokio::test]
async fn large_records_are_compressed_small_ones_are_not_and_all_run_out() {
    let server = Server::start(&[]);
    let tier = options(&server.url()).ttl(Duration::from_secs(100)).build().unwrap();
    let short = Record { ttl: Some(Duration::from_secs(30)), ..record(0) };
    tier.put(&[(key(0), short), (key(89), record(89))]).await.unwrap();
    let name = |n| format!("hapa:1:{{{}}}", key(n));
    let length = async |n| server.raw::<usize>(redis::cmd("STRLEN").arg(name(n))).await;
    assert_eq!(length(0).await, 48 + text(0).len());
    assert!(length(89).await * 4 < text(89).len());
    let left = async |n| server.raw::<u64>(redis::cmd("PTTL").arg(name(n))).await;
    assert!((1..=30_000).contains(&left(0).await), "its own time");
    assert!((30_001..=100_000).contains(&left(89).await), "the tier's time");
    assert_eq!(look_up(&tier, 89).await, Some(text(89)));
}

#[tokio::test]
async fn damage_and_other_versions_are_misses() {
    let server = Server::start(&[]);
    let tier = tier(&server);
    tier.put(&[(key(1), record(1)), (key(2), record(2)), (key(89), record(89))]).await.unwrap();
    let name = |n| format!("hapa:1:{{{}}}", key(n));
    let bytes: Vec<u8> = server.raw(redis::cmd("GET").arg(name(1))).await;
    let put = async |n, bytes: &[u8]| {
        server.raw::<()>(redis::cmd("SET").arg(name(n)).arg(bytes)).await;
    };
    let mut newer = bytes.clone();
    newer[2] += 1; // the record's format
    put(1, &newer).await;
    assert_eq!(look_up(&tier, 1).await, None);
    assert_eq!(tier.stats().foreign, 1);
    put(2, &bytes).await; // whole, but another key's
    assert_eq!(look_up(&tier, 2).await, None);
    let packed: Vec<u8> = server.raw(redis::cmd("GET").arg(name(89))).await;
    put(89, &packed[..packed.len() - 9]).await;
    assert_eq!(look_up(&tier, 89).await, None);
    assert_eq!(tier.stats().corrupt, 2);
    // A newer server's schema: the record is whole, the value is not for us.
    let cache: TieredCache<String> =
        TieredOptions::new(MemoryOptions::new()).tier(tier).build().unwrap();
    let theirs = options(&server.url()).build().unwrap();
    theirs.put(&[(key(3), Record { schema: 9, ..record(3) })]).await.unwrap();
    assert!(cache.get(&key(3)).await.is_none());
}

#[tokio::test]
async fn a_server_that_goes_away_costs_nothing_and_comes_back_by_itself() {
    let mut server = Server::start(&[]);
    let tier = tier(&server);
    tier.put(&[(key(1), record(1))]).await.unwrap();
    assert_eq!(look_up(&tier, 1).await, Some(text(1)));

    server.stop();
    until("the breaker opens", async || {
        let _ = tier.get(&key(1)).await;
        tier.stats().breaker_open
    })
    .await;
    let errors = tier.stats().errors;
    for _ in 0..1_000 {
        assert!(tier.get(&key(1)).await.is_err());
    }
    let stats = tier.stats();
    assert_eq!(stats.errors, errors, "nothing more was tried by requests");
    assert!(stats.skipped >= 1_000 && stats.last_error.is_some(), "{stats:?}");

    server.start_again();
    until("it is back", async || !tier.stats().breaker_open).await;
    tier.put(&[(key(2), record(2))]).await.unwrap();
    assert_eq!(look_up(&tier, 2).await, Some(text(2)));
    assert_eq!(tier.stats().breaker_opened, 1);
}

#[tokio::test]
async fn a_server_that_was_never_there_is_waited_for() {
    let mut server = Server::start(&[]);
    server.stop();
    let tier = tier(&server);
    assert!(tier.get(&key(1)).await.is_err());
    assert!(tier.stats().breaker_open, "refused at once");
    server.start_again();
    until("it is there", async || !tier.stats().breaker_open).await;
    tier.put(&[(key(1), record(1))]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_costs_three_timeouts_and_no_more() {
    let server = Server::start(&[]);
    let tier = options(&server.url())
        .lookup_timeout(Duration::from_millis(150))
        .connect_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    tier.put(&[(key(1), record(1))]).await.unwrap();
    until("a quick answer", async || look_up(&tier, 1).await.is_some()).await;

    server.signal("-STOP");
    let before = tier.stats();
    for _ in 0..500 {
        assert!(tier.get(&key(1)).await.is_err());
    }
    let stats = tier.stats();
    assert!(stats.breaker_open);
    assert!(stats.errors - before.errors <= 3, "three waits, then none: {stats:?}");
    assert!(stats.skipped - before.skipped >= 497);

    server.signal("-CONT");
    until("it is back", async || !tier.stats().breaker_open).await;
    until("the old value", async || look_up(&tier, 1).await == Some(text(1))).await;
}

#[tokio::test]
async fn a_cache_over_a_dead_server_works_on() {
    let mut server = Server::start(&[]);
    server.stop();
    let cache: TieredCache<String> =
        TieredOptions::new(MemoryOptions::new()).tier(tier(&server)).build().unwrap();
    assert!(cache.get(&key(1)).await.is_none());
    assert!(matches!(cache.lead(&key(1), Duration::from_secs(60)).await, Lead::Compute(_)));
    cache.insert(key(1), text(1), EntryOptions::default());
    assert_eq!(cache.get(&key(1)).await.unwrap().level, Level::Memory);
    cache.flush().await;
    assert_eq!(cache.stats().queues[0].failed, 1);
    server.start_again();
    until("it is back", async || !cache.stats().tiers[0].breaker_open).await;
    cache.insert(key(2), text(2), EntryOptions::default());
    cache.flush().await;
    let other: TieredCache<String> =
        TieredOptions::new(MemoryOptions::new()).tier(tier(&server)).build().unwrap();
    assert_eq!(other.get(&key(2)).await.unwrap().level, Level::Below(0));
}

#[tokio::test]
async fn a_full_server_evicts_or_refuses_and_both_are_well() {
    let server = Server::start(&["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"]);
    let evicting = options(&server.url()).compress_above(usize::MAX).build().unwrap();
    for first in (0..6_000).step_by(200) {
        let batch: Vec<_> = (first..first + 200).map(|n| (key(n), record(n))).collect();
        evicting.put(&batch).await.unwrap();
    }
    let keys: Vec<_> = (0..6_000).map(key).collect();
    let mut there = 0;
    for chunk in keys.chunks(500) {
        there += evicting.get_many(chunk).await.unwrap().iter().flatten().count();
    }
    assert!(there > 0 && there < 6_000, "{there} of 6,000 are left");
    assert_eq!(evicting.stats().corrupt, 0);

    let server = Server::start(&["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"]);
    let refusing = options(&server.url()).compress_above(usize::MAX).build().unwrap();
    let mut refused = 0;
    for first in (0..4_000).step_by(200) {
        let batch: Vec<_> = (first..first + 200).map(|n| (key(n), record(n))).collect();
        refused += usize::from(refusing.put(&batch).await.is_err());
    }
    let stats = refusing.stats();
    assert!(refused > 0 && !stats.breaker_open, "a refusal closes nothing: {stats:?}");
    assert_eq!(look_up(&refusing, 1).await, Some(text(1)), "it is read on");
}

#[tokio::test]
async fn a_wrong_password_leaves_the_tier_out_until_it_is_right() {
    let mut server = Server::start(&["--requirepass", "right"]);
    let socket = server.socket();
    for url in [server.url(), format!("redis+unix://{}?pass=wrong", socket.display())] {
        let tier = options(&url).build().unwrap();
        until("it is left out", async || {
            assert!(tier.get(&key(1)).await.is_err());
            tier.stats().breaker_open
        })
        .await;
        assert!(tier.stats().last_error.is_some());
        assert!(!format!("{tier:?}").contains("wrong"), "no password in what is printed");
    }
    let tier = options(&format!("redis+unix://{}?pass=right", socket.display())).build().unwrap();
    tier.put(&[(key(1), record(1))]).await.unwrap();
    assert_eq!(look_up(&tier, 1).await, Some(text(1)));

    // The operator takes the password away: the tier that had none recovers.
    let waiting = options(&server.url()).build().unwrap();
    assert!(waiting.get(&key(1)).await.is_err());
    server.stop();
    server.extra.clear();
    server.start_again();
    until("it is let in", async || !waiting.stats().breaker_open).await;
    waiting.put(&[(key(1), record(1))]).await.unwrap();
}

fn shared(server: &Server) -> TieredCache<String> {
    let tier = options(&server.url()).lease(Some(Duration::from_secs(60))).build().unwrap();
    TieredOptions::new(MemoryOptions::new())
        .tier(tier)
        .linger(Duration::from_millis(1))
        .build()
        .unwrap()
}

#[tokio::test]
async fn two_servers_compute_the_same_answer_once() {
    let server = Server::start(&[]);
    let computed = Arc::new(AtomicUsize::new(0));
    let mut requests = Vec::new();
    for _ in 0..4 {
        let (cache, computed) = (shared(&server), Arc::clone(&computed));
        requests.push(tokio::spawn(async move {
            match cache.lead(&key(1), Duration::from_secs(60)).await {
                Lead::Found(found) => found.value,
                Lead::Compute(lead) => {
                    assert!(lead.is_held());
                    computed.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    cache.insert_led(key(1), text(1), EntryOptions::default(), lead);
                    cache.flush().await;
                    text(1)
                }
            }
        }));
    }
    for request in requests {
        assert_eq!(request.await.unwrap(), text(1));
    }
    assert_eq!(computed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_computation_that_fails_hands_the_lease_on() {
    let server = Server::start(&[]);
    let (first, second) = (shared(&server), shared(&server));
    let Lead::Compute(lead) = first.lead(&key(1), Duration::ZERO).await else { panic!("nobody") };
    let waiting = tokio::spawn(async move { second.lead(&key(1), Duration::from_secs(60)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(lead); // it failed: nothing is stored
    let Lead::Compute(lead) = waiting.await.unwrap() else { panic!("nothing was stored") };
    assert!(lead.is_held());
}

#[tokio::test]
async fn a_holder_that_slept_past_its_time_cannot_overwrite() {
    let server = Server::start(&[]);
    let tier = options(&server.url()).lease(Some(Duration::from_secs(60))).build().unwrap();
    let Lease::Held(slow) = tier.lease(&key(1)).await.unwrap() else { panic!("nobody has it") };
    assert!(matches!(tier.lease(&key(1)).await.unwrap(), Lease::Elsewhere { .. }));
    // Its time runs out: another takes over, stores, and gives the lease back.
    server.raw::<u64>(redis::cmd("DEL").arg(format!("hapa:1:{{{}}}:lease", key(1)))).await;
    let Lease::Held(quick) = tier.lease(&key(1)).await.unwrap() else { panic!("it ran out") };
    assert!(quick.token() > slow.token());
    assert!(quick.put(&record(1)).await.unwrap());
    assert!(!slow.put(&record(2)).await.unwrap(), "fenced");
    assert_eq!(look_up(&tier, 1).await, Some(text(1)));
    assert_eq!(tier.stats().fenced, 1);
    assert!(matches!(tier.lease(&key(1)).await.unwrap(), Lease::Held(_)), "it was given back");
}

#[tokio::test]
async fn a_lease_is_renewed_while_its_holder_lives_and_runs_out_when_it_dies() {
    let server = Server::start(&[]);
    let tier = options(&server.url()).lease(Some(Duration::from_millis(600))).build().unwrap();
    let Lease::Held(lease) = tier.lease(&key(1)).await.unwrap() else { panic!("nobody has it") };
    let token = lease.token();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let name = format!("hapa:1:{{{}}}:lease", key(1));
    let holder = async || server.raw::<Option<u64>>(redis::cmd("GET").arg(&name)).await;
    // A stalled machine may have let it run out; it then is nobody's, never another's.
    assert!(holder().await.is_none_or(|holder| holder == token));
    std::mem::forget(lease); // dies without giving it back...
    server.raw::<()>(redis::cmd("SET").arg(&name).arg(99).arg("PX").arg(50)).await;
    until("it runs out", async || matches!(tier.lease(&key(1)).await, Ok(Lease::Held(_)))).await;
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    assert!(RedisOptions::new("http://example.org").build().is_err());
    assert!(RedisOptions::new("redis://127.0.0.1").namespace("a*").build().is_err());
    assert!(RedisOptions::new("redis://127.0.0.1").ttl(Duration::ZERO).build().is_err());
    let error = RedisOptions::new("redis://:secret@127.0.0.1:bad").build().unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    #[cfg(feature = "redis-tls")]
    assert!(RedisOptions::new("rediss://127.0.0.1").build().is_ok());
}

#[cfg(feature = "redis-cluster")]
#[tokio::test]
async fn a_cluster_of_three_keeps_records_and_leases() {
    let flags = ["--cluster-enabled", "yes", "--cluster-node-timeout", "15000"];
    // A node's bus listens on its port + 10,000, so a free port must leave room for that.
    let ports: Vec<u16> =
        std::iter::repeat_with(free_port).filter(|p| *p < 50_000).take(3).collect();
    let nodes: Vec<Server> = ports.iter().map(|port| Server::start_on(*port, &flags)).collect();
    let mut create = Command::new("redis-cli");
    create.args(["--cluster", "create"]);
    create.args(ports.iter().map(|port| format!("127.0.0.1:{port}")));
    let created = create.args(["--cluster-yes"]).stdin(Stdio::null()).output().unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));

    let urls = ports.iter().map(|port| format!("redis://127.0.0.1:{port}"));
    let tier = RedisOptions::cluster(urls)
        .lookup_timeout(Duration::from_secs(20))
        .write_timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(20))
        .backoff(Duration::from_millis(20), Duration::from_millis(200))
        .build()
        .unwrap();
    until("the cluster takes records", async || tier.put(&[(key(0), record(0))]).await.is_ok())
        .await;
    tier.put(&(0..60).map(|n| (key(n), record(n))).collect::<Vec<_>>()).await.unwrap();
    let found = tier.get_many(&(0..60).map(key).collect::<Vec<_>>()).await.unwrap();
    for (n, found) in found.into_iter().enumerate() {
        assert_eq!(found.unwrap().decode::<String>().unwrap(), text(n as u64));
    }
    let Lease::Held(lease) = tier.lease(&key(100)).await.unwrap() else { panic!("nobody has it") };
    assert!(matches!(tier.lease(&key(100)).await.unwrap(), Lease::Elsewhere { .. }));
    assert!(lease.put(&record(100)).await.unwrap());
    assert_eq!(look_up(&tier, 100).await, Some(text(100)));
    let mut sizes = Vec::new();
    for node in &nodes {
        sizes.push(node.raw::<u64>(&redis::cmd("DBSIZE")).await);
    }
    assert!(sizes.iter().all(|size| *size > 0), "records are on all three: {sizes:?}");
    assert!(tier.clear().await.is_err(), "a cluster has no walk through all keys");
}
