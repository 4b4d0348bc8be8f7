//! Time as the cache sees it, so that tests can move it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
///
/// The memory cache asks only for [`monotonic`](Clock::monotonic) time, so a changed wall clock
/// can't expire or revive its entries. What outlives the process is stamped with
/// [`unix`](Clock::unix) time, and its readers expect that this clock jumps.
pub trait Clock: Send + Sync + 'static {
    /// Time since an arbitrary moment; expected not to run backwards, survived if it does.
    fn monotonic(&self) -> Duration;
    /// Wall-clock time since 1970; zero for earlier moments.
    fn unix(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that stands still until it is told otherwise.
///
/// ```
/// use hapa_cache::{Clock, ManualClock};
/// use std::time::Duration;
/// let clock = ManualClock::at(Duration::from_secs(1_000));
/// clock.advance(Duration::from_secs(5));
/// clock.set_unix(Duration::from_secs(10)); // the operator sets the wall clock back
/// assert_eq!(clock.monotonic(), Duration::from_secs(1_005));
/// assert_eq!(clock.unix(), Duration::from_secs(10));
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    monotonic_ms: AtomicU64,
    unix_ms: AtomicU64,
}

impl ManualClock {
    /// Both clocks at `time`, in whole milliseconds.
    #[must_use]
    pub fn at(time: Duration) -> Self {
        let ms = millis(time);
        Self { monotonic_ms: AtomicU64::new(ms), unix_ms: AtomicU64::new(ms) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.monotonic_ms.fetch_add(millis(by), Ordering::Relaxed);
        self.unix_ms.fetch_add(millis(by), Ordering::Relaxed);
    }

    /// Sets the monotonic clock alone, backwards too.
    pub fn set_monotonic(&self, to: Duration) {
        self.monotonic_ms.store(millis(to), Ordering::Relaxed);
    }

    /// Sets the wall clock alone, backwards too.
    pub fn set_unix(&self, to: Duration) {
        self.unix_ms.store(millis(to), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::Relaxed))
    }

    fn unix(&self) -> Duration {
        Duration::from_millis(self.unix_ms.load(Ordering::Relaxed))
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
