//! Options of the Redis tier.

use super::RedisTier;
use super::connection::Target;
use crate::{CacheError, Clock, SystemClock};
use std::sync::Arc;
use std::time::Duration;

/// Options of a [`RedisTier`].
#[derive(Clone)]
pub struct RedisOptions {
    pub(super) urls: Vec<String>,
    pub(super) cluster: bool,
    pub(super) namespace: String,
    pub(super) ttl: Duration,
    pub(super) compress_above: usize,
    pub(super) lookup_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) min_backoff: Duration,
    pub(super) max_backoff: Duration,
    pub(super) lease: Option<Duration>,
    pub(super) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for RedisOptions {
    /// Without the addresses: they may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("cluster", &self.cluster)
            .field("namespace", &self.namespace)
            .field("ttl", &self.ttl)
            .field("lookup_timeout", &self.lookup_timeout)
            .finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// One server: `redis://[user:password@]host[:port][/database]`, `rediss://` over TLS (feature `redis-tls`), or
    /// `redis+unix:///path/of/socket`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            cluster: false,
            namespace: "hapa".to_owned(),
            ttl: Duration::from_secs(7 * 86_400),
            compress_above: 1024,
            lookup_timeout: Duration::from_millis(50),
            write_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            min_backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(30),
            lease: Some(Duration::from_secs(5)),
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// A Redis Cluster, by some of its nodes.
    #[cfg(feature = "redis-cluster")]
    #[must_use]
    pub fn cluster<S: Into<String>>(nodes: impl IntoIterator<Item = S>) -> Self {
        let urls = nodes.into_iter().map(Into::into).collect();
        Self { urls, cluster: true, ..Self::new("") }
    }

    /// What keys begin with, `hapa` by default. Programs with different kinds of values in one Redis need different
    /// ones.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How long Redis keeps a record at most; 7 days by default.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Records of more bytes are compressed with zstd; 1 KiB by default.
    #[must_use]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.compress_above = bytes;
        self
    }

    /// How long a lookup may take, connecting included; 50 ms by default. Three that take longer in a row leave
    /// the tier out, so this is what a Redis that hangs costs a request at most.
    #[must_use]
    pub fn lookup_timeout(mut self, timeout: Duration) -> Self {
        self.lookup_timeout = timeout;
        self
    }

    /// How long a write may take; 1 s by default. No request waits for one.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How long connecting again may take; 2 s by default. No request waits for it.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait before trying a server again that failed: from `min`, twice as long each time, up to `max`,
    /// each time half more or less by chance. 250 ms to 30 s by default.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.min_backoff = min;
        self.max_backoff = max;
        self
    }

    /// How long a server that computes an answer may be silent before another may take over; it renews the lease while
    /// it lives. 5 s by default; `None` turns leases off, so that servers may compute the same answer at once.
    #[must_use]
    pub fn lease(mut self, lease: Option<Duration>) -> Self {
        self.lease = lease;
        self
    }

    /// Where time comes from; the machine's clock by default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the tier. Nothing is connected before its first use.
    ///
    /// # Errors
    /// [`CacheError::BadOption`] for an address that is none, an empty namespace, or a time of zero.
    pub fn build(self) -> Result<RedisTier, CacheError> {
        if self.namespace.is_empty() || self.namespace.contains(['{', '}', '*', '?', '[', '\\']) {
            return Err(CacheError::bad_option(
                "namespace",
                "must not be empty or hold any of `{}*?[\\`",
            ));
        }
        let times = [
            ("ttl", self.ttl),
            ("lookup_timeout", self.lookup_timeout),
            ("write_timeout", self.write_timeout),
            ("connect_timeout", self.connect_timeout),
            ("backoff", self.min_backoff),
            ("lease", self.lease.unwrap_or(Duration::from_secs(1))),
        ];
        for (option, time) in times {
            if time < Duration::from_millis(1) {
                return Err(CacheError::bad_option(option, "must be at least 1 ms"));
            }
        }
        if self.max_backoff < self.min_backoff {
            return Err(CacheError::bad_option("backoff", "the longest is shorter than the first"));
        }
        let target = Target::new(&self.urls, self.cluster)
            .map_err(|error| CacheError::bad_option("url", error.to_string()))?;
        Ok(RedisTier::new(self, target))
    }
}
