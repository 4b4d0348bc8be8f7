//! When requests are sent: as soon as the last one is answered (closed loop), or when the clock says (open loop).

mod arrivals;
mod trace;

use std::fmt;
use std::time::Duration;

pub use arrivals::Arrivals;
pub use trace::{Trace, TraceEntry};

use crate::error::LoadError;

/// Highest rate that is taken for meant.
const MAX_RATE: f64 = 10_000_000.0;
/// Most connections that are taken for meant.
const MAX_CONCURRENCY: usize = 65_536;

/// How requests are paced.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Load {
    /// So many clients, each of which sends its next request when the last one is answered.
    Closed {
        /// Clients.
        concurrency: usize,
    },
    /// Requests at times that the server has no say in. Their latency counts from the moment at which they were meant to
    /// be sent, so that a server that stalls can not hide it by holding the generator up (coordinated omission).
    Open {
        /// The times.
        arrivals: Arrivals,
        /// Requests that may be under way at once; those above it wait, and their latency goes on counting.
        max_in_flight: usize,
    },
}

impl Load {
    /// So many clients.
    pub fn closed(concurrency: usize) -> Self {
        Self::Closed { concurrency }
    }

    /// Arrivals with the usual bound on requests under way.
    pub fn open(arrivals: Arrivals) -> Self {
        Self::Open { arrivals, max_in_flight: 1024 }
    }

    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let (option, most) = match self {
            Self::Closed { concurrency } => ("concurrency", *concurrency),
            Self::Open { arrivals, max_in_flight } => {
                arrivals.check()?;
                ("max-in-flight", *max_in_flight)
            }
        };
        if most == 0 || most > MAX_CONCURRENCY {
            return Err(LoadError::option(option, format!("{most} is not 1 to {MAX_CONCURRENCY}")));
        }
        Ok(())
    }

    pub(crate) fn is_trace(&self) -> bool {
        matches!(self, Self::Open { arrivals: Arrivals::Trace(_), .. })
    }

    /// Whether it goes on until somebody ends it.
    pub(crate) fn is_endless(&self) -> bool {
        !self.is_trace()
    }

    /// The rate that is offered on average over `duration`, if the load has one.
    pub(crate) fn offered(&self, duration: Option<Duration>) -> Option<f64> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { arrivals, .. } => arrivals.rate(duration),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { concurrency: 1 } => f.write_str("closed loop, 1 client"),
            Self::Closed { concurrency } => write!(f, "closed loop, {concurrency} clients"),
            Self::Open { arrivals, .. } => write!(f, "open loop, {arrivals}"),
        }
    }
}

/// When a run ends: whichever comes first. What is under way then is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// After so many requests.
    pub requests: Option<u64>,
    /// After so long.
    pub duration: Option<Duration>,
}

impl Limit {
    /// So many requests.
    pub fn requests(requests: u64) -> Self {
        Self { requests: Some(requests), duration: None }
    }

    /// So long.
    pub fn duration(duration: Duration) -> Self {
        Self { requests: None, duration: Some(duration) }
    }
}

fn check_rate(option: &'static str, rate: f64) -> Result<(), LoadError> {
    if rate.is_finite() && rate > 0.0 && rate <= MAX_RATE {
        return Ok(());
    }
    Err(LoadError::option(
        option,
        format!("{rate} requests a second is not within 0 to {MAX_RATE}"),
    ))
}
