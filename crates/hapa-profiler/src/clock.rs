//! Time: the processor's counter where it is reliable, else the system's clock, or a test's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A monotonic clock that is cheap enough for scopes.
#[derive(Debug, Clone)]
pub struct Clock {
    source: quanta::Clock,
    /// A raw reading and the calendar time that belongs to it.
    origin_raw: u64,
    origin_unix: Duration,
}

impl Clock {
    /// The fastest reliable clock of this machine. The first one in a process is calibrated, which
    /// takes some milliseconds.
    pub fn system() -> Self {
        let source = quanta::Clock::new();
        let origin_raw = source.raw();
        let origin_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { source, origin_raw, origin_unix }
    }

    /// A clock that moves only when the test says so; its calendar starts at 1970.
    pub fn mock() -> (Self, MockClock) {
        let (source, mock) = quanta::Clock::mock();
        (Self { source, origin_raw: 0, origin_unix: Duration::ZERO }, MockClock(mock))
    }

    /// A reading to hand to [`Clock::nanos_between`].
    #[inline]
    pub(crate) fn raw(&self) -> u64 {
        self.source.raw()
    }

    /// Nanoseconds between two readings; 0 when the second is not later.
    #[inline]
    pub(crate) fn nanos_between(&self, start: u64, end: u64) -> u64 {
        self.source.delta_as_nanos(start, end)
    }

    /// Nanoseconds since this clock was made.
    pub(crate) fn nanos_since_origin(&self, raw: u64) -> u64 {
        self.nanos_between(self.origin_raw, raw)
    }

    /// Calendar time of a reading, since 1970.
    pub(crate) fn unix_time(&self, raw: u64) -> Duration {
        self.origin_unix + Duration::from_nanos(self.nanos_since_origin(raw))
    }
}

/// Moves a [`Clock::mock`].
#[derive(Debug, Clone)]
pub struct MockClock(std::sync::Arc<quanta::Mock>);

impl MockClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.0.increment(by);
    }
}
