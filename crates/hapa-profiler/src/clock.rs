//! Time: the processor's counter where it is reliable, else the system's clock, or a test's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SCALE_BITS: u32 = 40;

/// A monotonic clock that is cheap enough for scopes.
#[derive(Debug, Clone)]
pub struct Clock {
    source: quanta::Clock,
    /// Nanoseconds in `1 << SCALE_BITS` units of raw readings.
    scale: u64,
    calendar: Calendar,
}

/// What the date is. Asked each time: the system's calendar is set while a process runs, by time servers, by hand, and by
/// the wake of a machine that slept.
#[derive(Debug, Clone)]
enum Calendar {
    System,
    /// Nanoseconds between 1970 and the zero of the raw readings.
    Mock(Arc<AtomicU64>),
}

impl Clock {
    /// The fastest reliable clock of this machine. The first one in a process is calibrated, which
    /// takes some milliseconds.
    pub fn system() -> Self {
        let source = quanta::Clock::new();
        let scale = source.delta_as_nanos(0, 1 << SCALE_BITS);
        Self { source, scale, calendar: Calendar::System }
    }

    /// A clock that moves only when the test says so; its calendar starts at 1970.
    pub fn mock() -> (Self, MockClock) {
        let (source, mock) = quanta::Clock::mock();
        let scale = 1 << SCALE_BITS;
        let zero = Arc::default();
        let calendar = Calendar::Mock(Arc::clone(&zero));
        (Self { source, scale, calendar }, MockClock { mock, zero })
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

    /// Calendar time of a reading, since 1970, by what the calendar says now. Whoever needs it to stay the same keeps it.
    pub(crate) fn unix_time(&self, raw: u64) -> Duration {
        let raw_now = self.raw();
        let now = match &self.calendar {
            Calendar::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Calendar::Mock(zero) => Duration::from_nanos(zero.load(Relaxed) + raw_now),
        };
        now.saturating_sub(Duration::from_nanos(self.nanos_between(raw, raw_now)))
    }
}

/// Moves a [`Clock::mock`].
#[derive(Debug, Clone)]
pub struct MockClock {
    mock: Arc<quanta::Mock>,
    zero: Arc<AtomicU64>,
}

impl MockClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.mock.increment(by);
    }

    /// Sets the calendar forward, as an administrator does: the date is another one, and no time has passed.
    pub fn jump(&self, by: Duration) {
        self.zero.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Relaxed);
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

    #[test]
    fn the_date_of_a_reading_is_by_the_calendar_of_now() {
        let (clock, mock) = Clock::mock();
        let seconds = Duration::from_secs;
        mock.advance(seconds(5));
        let reading = clock.raw();
        mock.advance(seconds(2));
        assert_eq!(clock.unix_time(reading), seconds(5));
        mock.jump(seconds(86_400));
        assert_eq!(clock.unix_time(reading), seconds(86_405));
        assert_eq!(clock.nanos_between(reading, clock.raw()), 2_000_000_000, "no time passed");
        let clock = Clock::system();
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(clock.unix_time(clock.raw()).abs_diff(system) < seconds(1));
    }
}
