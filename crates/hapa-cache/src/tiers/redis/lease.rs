//! Leases: one server computes an answer, the others wait for it.
//!
//! A lease is a key that holds the token of its holder and runs out by itself. Tokens come from a counter beside it, so
//! each holder's is larger than the last one's. Storing under a lease compares the token with the counter: a holder
//! that was stopped past its time and wakes up cannot overwrite what a later one stored (a fencing token).
//!
//! All keys of one answer carry the same hash tag, so they live on one node of a cluster, where scripts may touch them
//! together.

use super::breaker::chance;
use super::{Inner, RedisTier};
use crate::tiers::record::Record;
use crate::tiers::tier::{Lease, LeaseGuard, TierFuture, add};
use crate::{CacheError, CacheKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Keys: lease, counter. Arguments: how long the lease runs, how long the counter is kept, in milliseconds.
const ACQUIRE: &str = "\
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local token = redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token";

/// Keys: lease. Arguments: token, milliseconds.
const RENEW: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0";

/// Keys: lease. Arguments: token.
const RELEASE: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Keys: record, counter, lease. Arguments: token, record, milliseconds. Gives the lease back too.
const STORE: &str = "\
if tonumber(redis.call('GET', KEYS[2]) or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
return 1";

/// How long counters are kept after their last use; any answer takes less.
const COUNTER_KEPT: Duration = Duration::from_secs(86_400);

/// How often a waiting server asks for the answer, half more or less by chance.
const POLL: Duration = Duration::from_millis(40);

impl RedisTier {
    pub(super) async fn acquire(&self, key: &CacheKey) -> Result<Lease, CacheError> {
        let inner = &self.inner;
        let Some(lease) = inner.options.lease else { return Ok(Lease::Unshared) };
        let mut command = redis::cmd("EVAL");
        command.arg(ACQUIRE).arg(2).arg(inner.lease_key(key)).arg(inner.counter_key(key));
        command.arg(millis(lease)).arg(millis(COUNTER_KEPT));
        let token: u64 =
            inner.run("taking a lease", inner.options.lookup_timeout, &command).await?;
        if token == 0 {
            return Ok(Lease::Elsewhere { retry_after: POLL.mul_f64(0.5 + chance()) });
        }
        let renewing = tokio::spawn(renew(Arc::clone(inner), *key, token, lease));
        Ok(Lease::Held(Box::new(RedisLease {
            inner: Arc::clone(inner),
            key: *key,
            token,
            renewing,
            is_over: AtomicBool::new(false),
        })))
    }
}

async fn renew(inner: Arc<Inner>, key: CacheKey, token: u64, lease: Duration) {
    loop {
        tokio::time::sleep(lease / 3).await;
        let mut command = redis::cmd("EVAL");
        command.arg(RENEW).arg(1).arg(inner.lease_key(&key)).arg(token).arg(millis(lease));
        let renewed = inner.run::<u64>("renewing a lease", inner.options.write_timeout, &command);
        // Lost to another: its token is larger, so storing will tell. Redis away: it may come back in time.
        if renewed.await == Ok(0) {
            return;
        }
    }
}

struct RedisLease {
    inner: Arc<Inner>,
    key: CacheKey,
    token: u64,
    renewing: tokio::task::JoinHandle<()>,
    /// Given back by storing.
    is_over: AtomicBool,
}

impl std::fmt::Debug for RedisLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLease").field("token", &self.token).finish_non_exhaustive()
    }
}

impl LeaseGuard for RedisLease {
    fn token(&self) -> u64 {
        self.token
    }

    fn put<'a>(&'a self, record: &'a Record) -> TierFuture<'a, bool> {
        Box::pin(async move {
            let inner = &self.inner;
            let Some(left) = inner.time_left(record) else { return Ok(false) };
            let mut command = redis::cmd("EVAL");
            command.arg(STORE).arg(3).arg(inner.record_key(&self.key));
            command.arg(inner.counter_key(&self.key)).arg(inner.lease_key(&self.key));
            command.arg(self.token).arg(inner.pack(&self.key, record)).arg(millis(left));
            let stored: u64 = inner.run("storing", inner.options.write_timeout, &command).await?;
            self.is_over.store(true, Ordering::Relaxed);
            add(if stored == 1 { &inner.tally.stored } else { &inner.tally.fenced }, 1);
            Ok(stored == 1)
        })
    }
}

impl Drop for RedisLease {
    fn drop(&mut self) {
        self.renewing.abort();
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        // Without a runtime the lease runs out by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (inner, key, token) = (Arc::clone(&self.inner), self.key, self.token);
            runtime.spawn(async move {
                let mut command = redis::cmd("EVAL");
                command.arg(RELEASE).arg(1).arg(inner.lease_key(&key)).arg(token);
                let timeout = inner.options.write_timeout;
                // If it fails, the lease runs out by itself.
                let _ = inner.run::<u64>("giving a lease back", timeout, &command).await;
            });
        }
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    crate::clock::millis(time).max(1)
}
