//! Time: the processor's counter where it is reliable, else the system's clock, or a test's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SCALE_BITS: u32 = 40;

/// A monotonic clock that is cheap enough for scopes.
#[derive(Debug, Clone)]
pub struct Clock {
    source: quanta::Clock,
    /// Nanoseconds in `1 << SCALE_BITS` units of raw readings.
    scale: u64,
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
        let scale = source.delta_as_nanos(0, 1 << SCALE_BITS);
        Self { source, scale, origin_raw, origin_unix }
    }

    /// A clock that moves only when the test says so; its calendar starts at 1970.
    pub fn mock() -> (Self, MockClock) {
        let (source, mock) = quanta::Clock::mock();
        let scale = 1 << SCALE_BITS;
        (Self { source, scale, origin_raw: 0, origin_unix: Duration::ZERO }, MockClock(mock))
    }

    /// A reading to hand to [`Clock::nanos_between`].
    #[inline]
    pub(crate) fn raw(&self) -> u64 {
        self.source.raw()
    }

    /// Nanoseconds between two readings; 0 when the second is not later.
    ///
    /// The clock's own scaling is a call into another crate, which a scope can not spare.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a clock that ticks slower than every 2^24 ns is none"
    )]
    pub(crate) fn nanos_between(&self, start: u64, end: u64) -> u64 {
        let delta = end.saturating_sub(start);
        ((u128::from(delta) * u128::from(self.scale)) >> SCALE_BITS) as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_is_the_sources() {
        let clock = Clock::system();
        for delta in [0, 1, 999, 1_000_000, 3_600_000_000_000, 1 << 50] {
            let (ours, theirs) =
                (clock.nanos_between(7, 7 + delta), clock.source.delta_as_nanos(7, 7 + delta));
            assert!(
                ours.abs_diff(theirs) <= 1 + theirs / 1_000_000_000,
                "{delta}: {ours} {theirs}"
            );
        }
        assert_eq!(clock.nanos_between(9, 7), 0);
    }
}
