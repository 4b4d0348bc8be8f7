//! The times at which an open loop sends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Trace, check_rate};
use crate::error::LoadError;

/// A process of arrivals.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Arrivals {
    /// Independent users: exponentially distributed gaps.
    Poisson {
        /// Requests a second, on average.
        rate: f64,
        /// Fixes the gaps.
        seed: u64,
    },
    /// Equal gaps.
    Constant {
        /// Requests a second.
        rate: f64,
    },
    /// A rate that goes evenly from one value to another.
    Ramp {
        /// Requests a second at the beginning.
        from: f64,
        /// Requests a second at the end.
        to: f64,
        /// How long that takes; the last rate stays.
        over: Duration,
    },
    /// Recorded times.
    Trace(Arc<Trace>),
}

impl Arrivals {
    pub(super) fn check(&self) -> Result<(), LoadError> {
        match self {
            Self::Poisson { rate, .. } | Self::Constant { rate } => check_rate("rate", *rate),
            Self::Ramp { from, to, over } => {
                if over.is_zero() {
                    return Err(LoadError::option("ramp", "it must take some time"));
                }
                check_rate("ramp", *from)?;
                check_rate("ramp", *to)
            }
            Self::Trace(_) => Ok(()),
        }
    }

    /// Requests a second on average over `duration`.
    pub(crate) fn rate(&self, duration: Option<Duration>) -> Option<f64> {
        match self {
            Self::Poisson { rate, .. } | Self::Constant { rate } => Some(*rate),
            Self::Ramp { from, to, over } => {
                let over = over.as_secs_f64();
                let all = duration.map_or(over, |duration| duration.as_secs_f64());
                let inside = all.min(over);
                let reached = from + (to - from) * inside / over;
                let sent = inside * (from + reached) / 2.0 + (all - inside) * to;
                (all > 0.0).then(|| sent / all)
            }
            Self::Trace(trace) => trace.rate(),
        }
    }

    /// The times since the start, in order; without end, except those of a trace.
    pub(crate) fn times(&self) -> Times {
        let state = match self {
            Self::Poisson { rate, seed } => State::Poisson {
                rate: *rate,
                at: 0.0,
                random: Box::new(ChaCha8Rng::seed_from_u64(*seed)),
            },
            Self::Constant { rate } => State::Constant { rate: *rate },
            Self::Ramp { from, to, over } => {
                State::Ramp { from: *from, to: *to, over: over.as_secs_f64() }
            }
            Self::Trace(trace) => State::Trace(trace.clone()),
        };
        Times { state, number: 0 }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson { rate, .. } => write!(f, "Poisson arrivals at {rate} requests/s"),
            Self::Constant { rate } => write!(f, "constant arrivals at {rate} requests/s"),
            Self::Ramp { from, to, over } => {
                write!(f, "ramp from {from} to {to} requests/s in {} s", over.as_secs_f64())
            }
            Self::Trace(trace) => write!(f, "trace of {} requests", trace.entries().len()),
        }
    }
}

/// Iterator over the times of arrivals.
#[derive(Debug)]
pub(crate) struct Times {
    state: State,
    number: u64,
}

#[derive(Debug)]
enum State {
    Poisson { rate: f64, at: f64, random: Box<ChaCha8Rng> },
    Constant { rate: f64 },
    Ramp { from: f64, to: f64, over: f64 },
    Trace(Arc<Trace>),
}

impl Iterator for Times {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let number = self.number;
        self.number += 1;
        let seconds = match &mut self.state {
            State::Poisson { rate, at, random } => {
                // Inverse of the exponential distribution; 1 - u is never 0.
                let u: f64 = random.random();
                *at -= (1.0 - u).ln() / *rate;
                *at
            }
            State::Constant { rate } => number as f64 / *rate,
            State::Ramp { from, to, over } => ramp_time(*from, *to, *over, number as f64),
            State::Trace(trace) => {
                return trace.entries().get(number as usize).map(|entry| entry.at);
            }
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// When request `number` of a ramp is due: by then the rate has summed up to it. Sent by time t are
/// `from t + (to - from) t^2 / (2 over)`, and `to` a second after the ramp.
fn ramp_time(from: f64, to: f64, over: f64, number: f64) -> f64 {
    let in_ramp = over * (from + to) / 2.0;
    if number >= in_ramp {
        return over + (number - in_ramp) / to;
    }
    let slope = (to - from) / over;
    // The root of the quadratic in the form that also stands a slope of 0.
    2.0 * number / (from + (from * from + 2.0 * slope * number).max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(arrivals: &Arrivals, count: usize) -> Vec<f64> {
        arrivals.times().take(count).map(|time| time.as_secs_f64()).collect()
    }

    #[test]
    fn constant_gaps_are_equal() {
        assert_eq!(first(&Arrivals::Constant { rate: 4.0 }, 4), [0.0, 0.25, 0.5, 0.75]);
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let arrivals = Arrivals::Poisson { rate: 100.0, seed: 7 };
        let times = first(&arrivals, 20_000);
        assert_eq!(times, first(&arrivals, 20_000));
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.01).abs() < 0.0005, "mean {mean}");
        // Of an exponential distribution the standard deviation is the mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{}", variance.sqrt() / mean);
    }

    #[test]
    fn a_ramp_sends_what_its_area_says() {
        let over = Duration::from_secs(10);
        for (from, to) in [(1.0, 19.0), (19.0, 1.0), (10.0, 10.0)] {
            let arrivals = Arrivals::Ramp { from, to, over };
            let times = first(&arrivals, 150);
            assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
            // The area under all of them is 100 requests in 10 s.
            assert_eq!(times.iter().filter(|time| **time < 10.0).count(), 100, "{from} {to}");
            assert!((times[101] - times[100] - 1.0 / to).abs() < 1e-9);
            assert!((arrivals.rate(Some(over)).unwrap() - 10.0).abs() < 1e-9);
        }
    }

    #[test]
    fn rates_that_mean_nothing_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
            assert!(Arrivals::Constant { rate }.check().is_err(), "{rate}");
        }
    }
}
