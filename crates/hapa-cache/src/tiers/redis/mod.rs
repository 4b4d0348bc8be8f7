//! The tier in Redis (or Valkey): shared by servers, over one multiplexed connection.
//!
//! | key | holds |
//! | --- | --- |
//! | `NAMESPACE:FORMAT:{KEY}` | a record, compressed with zstd where that pays; `SET` with `PX` |
//! | `...:lease` | the token of the server that computes the answer; runs out by itself |
//! | `...:fence` | the last token given |
//!
//! - **Never an error, never a wait.** A lookup takes at most [`lookup_timeout`](RedisOptions::lookup_timeout). Three
//!   slow answers in a row, or one lost connection, and the tier is left out: lookups then cost nothing. A task of its
//!   own, and no request, tries again with growing, jittered waits until Redis answers; nothing needs a restart.
//!   [`TierStats`] tells: `breaker_open`, `skipped`, `last_error`.
//! - **Nothing torn, nothing foreign**: records carry a checksum over themselves and their key; those of another version
//!   are passed over.
//! - **One computation for all servers**: [`Tier::lease`], see the module `lease`.
//!
//! Redis bounds itself (`maxmemory`, best with `allkeys-lru` or `allkeys-lfu`); what it evicts is a miss.

mod breaker;
mod connection;
mod lease;
mod options;

pub use options::RedisOptions;

use super::record::{RECORD_FORMAT, Record, Unreadable};
use super::tier::{Lease, Tier, TierFuture, TierStats, TierTally, add};
use crate::{CacheError, CacheKey};
use breaker::{Breaker, Fault};
use connection::{Connection, Target};
use lease::millis;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, RedisResult};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// What a zstd frame begins with; a record begins otherwise.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_LEVEL: i32 = 3;
/// No record is larger, so nothing larger is unpacked.
const LARGEST: u64 = 256 << 20;
/// Keys that are looked at together when walking through all.
const SCAN_COUNT: usize = 500;

/// Records in Redis. See the [module's documentation](crate::tiers::redis).
pub struct RedisTier {
    inner: Arc<Inner>,
}

struct Inner {
    options: RedisOptions,
    target: Target,
    connection: Mutex<Option<Connection>>,
    /// Held while connecting for the first time, so that one connection is made.
    connecting: tokio::sync::Mutex<()>,
    breaker: Breaker,
    tally: TierTally,
}

impl std::fmt::Debug for RedisTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisTier").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl RedisTier {
    fn new(options: RedisOptions, target: Target) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                target,
                connection: Mutex::new(None),
                connecting: tokio::sync::Mutex::new(()),
                breaker: Breaker::default(),
                tally: TierTally::default(),
            }),
        }
    }

    /// Connects and asks the server for a sign of life: for a check at the start, if one is wanted.
    ///
    /// # Errors
    /// [`CacheError::Tier`] with what the server or the network said.
    pub async fn ping(&self) -> Result<(), CacheError> {
        let inner = &self.inner;
        inner.run("connecting", inner.options.connect_timeout, &redis::cmd("PING")).await
    }

    async fn look_up(&self, keys: &[CacheKey]) -> Result<Vec<Option<Record>>, CacheError> {
        let inner = &self.inner;
        let timeout = inner.options.lookup_timeout;
        let found: Result<Vec<Option<Vec<u8>>>, CacheError> = match keys {
            [] => return Ok(Vec::new()),
            [key] => {
                let mut command = redis::cmd("GET");
                command.arg(inner.record_key(key));
                inner.run("reading", timeout, &command).await.map(|bytes| vec![bytes])
            }
            keys => {
                let mut command = redis::cmd("MGET");
                for key in keys {
                    command.arg(inner.record_key(key));
                }
                inner.run("reading", timeout, &command).await
            }
        };
        match found {
            Ok(found) => {
                let found = keys.iter().zip(found).map(|(key, bytes)| {
                    let record = bytes.and_then(|bytes| inner.unpack(key, bytes));
                    inner.tally.looked_up(record.as_ref());
                    record
                });
                Ok(found.collect())
            }
            Err(error) => {
                keys.iter().for_each(|_| inner.tally.looked_up(None));
                Err(error)
            }
        }
    }

    async fn store(&self, records: &[(CacheKey, Record)]) -> Result<(), CacheError> {
        let inner = &self.inner;
        let mut commands = Vec::with_capacity(records.len());
        for (key, record) in records {
            let Some(left) = inner.time_left(record) else { continue };
            let mut command = redis::cmd("SET");
            command.arg(inner.record_key(key)).arg(inner.pack(key, record));
            command.arg("PX").arg(millis(left));
            commands.push(command);
        }
        let count = commands.len() as u64;
        let work = async |connection: &mut Connection| connection.commands(commands).await;
        inner.with("storing", inner.options.write_timeout, work).await?;
        add(&inner.tally.stored, count);
        Ok(())
    }

    /// Some keys of records, and where to go on; 0 is the begin and the end.
    async fn scan(&self, cursor: u64) -> Result<(u64, Vec<CacheKey>), CacheError> {
        let inner = &self.inner;
        let action = "walking through all keys";
        if inner.target.is_cluster() {
            return Err(inner.error(
                action,
                "a cluster has no such walk; let records run out, or use another namespace",
            ));
        }
        let prefix = inner.prefix();
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(format!("{prefix}{{*}}"));
        command.arg("COUNT").arg(SCAN_COUNT);
        let (next, names): (u64, Vec<String>) =
            inner.run(action, inner.options.write_timeout, &command).await?;
        let key = |name: &String| -> Option<CacheKey> {
            name.strip_prefix(&prefix)?.strip_prefix('{')?.strip_suffix('}')?.parse().ok()
        };
        Ok((next, names.iter().filter_map(key).collect()))
    }

    async fn delete(&self, keys: &[CacheKey]) -> Result<u64, CacheError> {
        let inner = &self.inner;
        if keys.is_empty() {
            return Ok(0);
        }
        let mut command = redis::cmd("UNLINK");
        for key in keys {
            command.arg(inner.record_key(key));
        }
        inner.run("removing", inner.options.write_timeout, &command).await
    }
}

impl Tier for RedisTier {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn get<'a>(&'a self, key: &'a CacheKey) -> TierFuture<'a, Option<Record>> {
        Box::pin(async move {
            let mut found = self.look_up(std::slice::from_ref(key)).await?;
            Ok(found.pop().flatten())
        })
    }

    fn get_many<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, Vec<Option<Record>>> {
        Box::pin(self.look_up(keys))
    }

    fn put<'a>(&'a self, records: &'a [(CacheKey, Record)]) -> TierFuture<'a, ()> {
        Box::pin(self.store(records))
    }

    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, ()> {
        Box::pin(async move { self.delete(keys).await.map(drop) })
    }

    fn clear(&self) -> TierFuture<'_, u64> {
        Box::pin(async move {
            let (mut gone, mut cursor) = (0, 0);
            loop {
                let (next, keys) = self.scan(cursor).await?;
                gone += self.delete(&keys).await?;
                if next == 0 {
                    return Ok(gone);
                }
                cursor = next;
            }
        })
    }

    fn newest(&self, limit: usize) -> TierFuture<'_, Vec<(CacheKey, Record)>> {
        Box::pin(async move {
            let (mut records, mut cursor) = (Vec::new(), 0);
            loop {
                let (next, keys) = self.scan(cursor).await?;
                let found = self.look_up(&keys).await?;
                let found = keys.into_iter().zip(found);
                records.extend(found.filter_map(|(key, record)| Some((key, record?))));
                if next == 0 || records.len() >= limit {
                    records.truncate(limit);
                    return Ok(records);
                }
                cursor = next;
            }
        })
    }

    fn stats(&self) -> TierStats {
        let inner = &self.inner;
        TierStats {
            breaker_open: inner.breaker.is_open(),
            breaker_opened: inner.breaker.opened(),
            ..inner.tally.snapshot("redis")
        }
    }

    fn lease<'a>(&'a self, key: &'a CacheKey) -> TierFuture<'a, Lease> {
        Box::pin(self.acquire(key))
    }
}

impl Inner {
    fn prefix(&self) -> String {
        format!("{}:{RECORD_FORMAT}:", self.options.namespace)
    }

    fn record_key(&self, key: &CacheKey) -> String {
        format!("{}:{RECORD_FORMAT}:{{{key}}}", self.options.namespace)
    }

    fn lease_key(&self, key: &CacheKey) -> String {
        self.record_key(key) + ":lease"
    }

    fn counter_key(&self, key: &CacheKey) -> String {
        self.record_key(key) + ":fence"
    }

    /// How long Redis is to keep a record; `None` when its time is over.
    fn time_left(&self, record: &Record) -> Option<Duration> {
        let left = record.remaining(self.options.clock.unix())?;
        Some(left.unwrap_or(self.options.ttl).min(self.options.ttl))
    }

    fn pack(&self, key: &CacheKey, record: &Record) -> Vec<u8> {
        let bytes = record.encode(key);
        if bytes.len() <= self.options.compress_above {
            return bytes;
        }
        match zstd::bulk::compress(&bytes, ZSTD_LEVEL) {
            Ok(packed) if packed.len() < bytes.len() => packed,
            _ => bytes,
        }
    }

    fn unpack(&self, key: &CacheKey, mut bytes: Vec<u8>) -> Option<Record> {
        if bytes.starts_with(&ZSTD_MAGIC) {
            let mut plain = Vec::with_capacity(bytes.len() * 4);
            let unpacked = zstd::stream::read::Decoder::new(&bytes[..])
                .and_then(|decoder| decoder.take(LARGEST).read_to_end(&mut plain));
            if unpacked.is_err() {
                add(&self.tally.corrupt, 1);
                return None;
            }
            bytes = plain;
        }
        match Record::parse(key, &bytes) {
            Ok(record) if record.remaining(self.options.clock.unix()).is_some() => Some(record),
            Ok(_) => {
                add(&self.tally.expired, 1);
                None
            }
            Err(fault) => {
                let foreign = fault == Unreadable::Foreign;
                add(if foreign { &self.tally.foreign } else { &self.tally.corrupt }, 1);
                None
            }
        }
    }

    async fn run<T: FromRedisValue>(
        self: &Arc<Self>,
        action: &'static str,
        timeout: Duration,
        command: &Cmd,
    ) -> Result<T, CacheError> {
        let work = async |connection: &mut Connection| connection.command(command).await;
        self.with(action, timeout, work).await
    }

    /// Runs `work` on the connection within `timeout`, connecting included, unless the tier is left out.
    async fn with<T>(
        self: &Arc<Self>,
        action: &'static str,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, CacheError> {
        if self.breaker.is_open() {
            add(&self.tally.skipped, 1);
            self.ensure_recovery();
            return Err(self.error(action, "Redis failed before and is left out until it answers"));
        }
        let attempt = async {
            let mut connection = self.connected().await?;
            work(&mut connection).await
        };
        let (fault, reason) = match tokio::time::timeout(timeout, attempt).await {
            Ok(Ok(done)) => {
                self.breaker.succeeded();
                return Ok(done);
            }
            Ok(Err(error)) => (Fault::of(&error), error.to_string()),
            Err(_) => (Fault::Slow, format!("no answer within {timeout:?}")),
        };
        let error = self.error(action, &reason);
        self.tally.failed(&error);
        self.note_failure(fault, &reason);
        Err(error)
    }

    async fn connected(&self) -> RedisResult<Connection> {
        let there = || self.connection.lock().clone();
        if let Some(connection) = there() {
            return Ok(connection);
        }
        let _one = self.connecting.lock().await;
        if let Some(connection) = there() {
            return Ok(connection);
        }
        let connection = self.target.connect(self.options.connect_timeout).await?;
        *self.connection.lock() = Some(connection.clone());
        Ok(connection)
    }

    fn error(&self, action: &'static str, reason: impl Into<String>) -> CacheError {
        CacheError::Tier { tier: "redis", action, reason: reason.into() }
    }
}
