//! Response times by endpoint: one log line each, and percentiles.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::histogram::{Distribution, Histogram};

/// How many endpoints a logger keeps apart; later ones are `(other)`.
const MAX_ENDPOINTS: usize = 256;

/// What one endpoint took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointStats {
    /// The HTTP method.
    pub method: String,
    /// The route pattern.
    pub endpoint: String,
    /// Responses.
    pub count: u64,
    /// Mean time.
    pub avg_seconds: f64,
    /// Shortest time.
    pub min_seconds: f64,
    /// Median time; this and the next two are within 3.2%.
    pub p50_seconds: f64,
    /// 90% are no slower.
    pub p90_seconds: f64,
    /// 99% are no slower.
    pub p99_seconds: f64,
    /// Longest time.
    pub max_seconds: f64,
}

#[derive(Debug)]
struct Entry {
    times: Histogram,
    total_ns: AtomicU64,
}

/// Method and route pattern.
/// By method, then by endpoint: both are looked up as they come.
type Entries = BTreeMap<Box<str>, BTreeMap<Box<str>, Arc<Entry>>>;

/// Logs each response as `[API_RESPONSE_TIME] METHOD endpoint: 0.1234s` through `tracing` (target
/// `hapa::response_time`, level info), and keeps percentiles for each endpoint.
///
/// Give it route patterns, not raw paths. Cheap to clone; clones share everything.
///
/// ```
/// use std::time::Duration;
/// use hapa_profiler::ResponseTimeLogger;
///
/// let logger = ResponseTimeLogger::new();
/// logger.log("POST", "/api/v1/code/generate", Duration::from_micros(123_400));
/// let timer = logger.start("GET", "/health");
/// drop(timer); // logs
/// assert_eq!(logger.stats().len(), 2);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ResponseTimeLogger {
    entries: Arc<RwLock<Entries>>,
}

impl ResponseTimeLogger {
    /// A logger that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The log line of a response.
    pub fn line(method: &str, endpoint: &str, time: Duration) -> String {
        format!("[API_RESPONSE_TIME] {method} {endpoint}: {:.4}s", time.as_secs_f64())
    }

    /// Logs one response and counts it.
    pub fn log(&self, method: &str, endpoint: &str, time: Duration) {
        tracing::info!(target: "hapa::response_time", "{}", Self::line(method, endpoint, time));
        self.record(method, endpoint, time);
    }

    /// Counts one response without a line in the log.
    pub fn record(&self, method: &str, endpoint: &str, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let entry = self.entry(method, endpoint);
        entry.times.add_shared(nanos);
        entry.total_ns.fetch_add(nanos, Relaxed);
    }

    /// Starts to measure a response that ends when the timer is dropped.
    pub fn start(&self, method: &str, endpoint: &str) -> ResponseTimer {
        ResponseTimer {
            logger: self.clone(),
            method: method.to_owned(),
            endpoint: endpoint.to_owned(),
            started: Instant::now(),
        }
    }

    fn entry(&self, method: &str, endpoint: &str) -> Arc<Entry> {
        let find = |entries: &Entries| entries.get(method)?.get(endpoint).cloned();
        if let Some(entry) = find(&self.entries.read()) {
            return entry;
        }
        let mut entries = self.entries.write();
        if let Some(entry) = find(&entries) {
            return entry;
        }
        let full = entries.values().map(BTreeMap::len).sum::<usize>() >= MAX_ENDPOINTS;
        let (method, endpoint) = if full { ("*", "(other)") } else { (method, endpoint) };
        let new = || Arc::new(Entry { times: Histogram::new(), total_ns: AtomicU64::new(0) });
        let of_method = entries.entry(method.into()).or_default();
        of_method.entry(endpoint.into()).or_insert_with(new).clone()
    }

    /// Every endpoint, the one with the most time in all first.
    pub fn stats(&self) -> Vec<EndpointStats> {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds up to 2^53 are 104 days")]
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let stats = |method: &str, endpoint: &str, entry: &Entry| {
            let times = Distribution::merged(std::iter::once(&entry.times));
            let count = times.count();
            #[expect(clippy::cast_precision_loss, reason = "a mean")]
            let avg = seconds(entry.total_ns.load(Relaxed)) / count.max(1) as f64;
            EndpointStats {
                method: method.to_string(),
                endpoint: endpoint.to_string(),
                count,
                avg_seconds: avg,
                min_seconds: seconds(times.min.unwrap_or(0)),
                p50_seconds: seconds(times.quantile(0.5)),
                p90_seconds: seconds(times.quantile(0.9)),
                p99_seconds: seconds(times.quantile(0.99)),
                max_seconds: seconds(times.max),
            }
        };
        let mut all = Vec::new();
        for (method, endpoints) in self.entries.read().iter() {
            all.extend(endpoints.iter().map(|(endpoint, entry)| stats(method, endpoint, entry)));
        }
        #[expect(clippy::cast_precision_loss, reason = "for sorting")]
        let total = |stats: &EndpointStats| stats.avg_seconds * stats.count as f64;
        all.sort_by(|a, b| total(b).total_cmp(&total(a)));
        all
    }
}

/// Measures one response; see [`ResponseTimeLogger::start`].
#[derive(Debug)]
#[must_use = "the response ends when the timer is dropped"]
pub struct ResponseTimer {
    logger: ResponseTimeLogger,
    method: String,
    endpoint: String,
    started: Instant,
}

impl Drop for ResponseTimer {
    fn drop(&mut self) {
        self.logger.log(&self.method, &self.endpoint, self.started.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_reviews() {
        let line = ResponseTimeLogger::line(
            "POST",
            "/api/v1/code/generate",
            Duration::from_nanos(123_449_999),
        );
        assert_eq!(line, "[API_RESPONSE_TIME] POST /api/v1/code/generate: 0.1234s");
    }

    #[test]
    fn percentiles_by_endpoint() {
        let logger = ResponseTimeLogger::new();
        for millis in 1..=100 {
            logger.record("GET", "/a", Duration::from_millis(millis));
        }
        logger.record("GET", "/b", Duration::from_secs(60));
        let stats = logger.stats();
        assert_eq!(stats[0].endpoint, "/b", "the most time in all first");
        let a = &stats[1];
        assert_eq!((a.count, a.min_seconds, a.max_seconds), (100, 0.001, 0.1));
        assert!((a.avg_seconds - 0.0505).abs() < 1e-12);
        assert!((a.p50_seconds - 0.05).abs() < 0.0016);
        assert!((a.p99_seconds - 0.099).abs() < 0.0032);
    }

    #[test]
    fn raw_paths_do_not_grow_it_without_end() {
        let logger = ResponseTimeLogger::new();
        for n in 0..2 * MAX_ENDPOINTS {
            logger.record("GET", &format!("/{n}"), Duration::from_millis(1));
        }
        let stats = logger.stats();
        assert_eq!(stats.len(), MAX_ENDPOINTS + 1);
        assert_eq!(stats.iter().map(|s| s.count).sum::<u64>(), 2 * MAX_ENDPOINTS as u64);
    }
}
