//! Times by their frequency: three significant digits, whatever their size.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time that is told from longer ones: a day.
const MAX_NANOSECONDS: u64 = 86_400_000_000_000;

/// A histogram of times in nanoseconds. Mean and standard deviation are exact, quantiles good to 0.1%.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    histogram: Histogram<u64>,
    sum: f64,
    squares: f64,
}

impl Figures {
    pub(crate) fn new() -> Self {
        // The bounds are constants that the constructor accepts; the fallback never comes.
        let histogram = Histogram::new_with_bounds(1, MAX_NANOSECONDS, 3)
            .unwrap_or_else(|_| unreachable!("constant bounds"));
        Self { histogram, sum: 0.0, squares: 0.0 }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.histogram.saturating_record(nanoseconds.max(1));
        let seconds = nanoseconds as f64 * 1e-9;
        self.sum += seconds;
        self.squares += seconds * seconds;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Same bounds, so that it can't fail.
        let _ = self.histogram.add(&other.histogram);
        self.sum += other.sum;
        self.squares += other.squares;
    }

    /// The figures; `None` without any time.
    pub(crate) fn distribution(&self) -> Option<Distribution> {
        let count = self.histogram.len();
        if count == 0 {
            return None;
        }
        let at = |quantile| seconds(self.histogram.value_at_quantile(quantile));
        let mean = self.sum / count as f64;
        let variance = (self.squares / count as f64 - mean * mean).max(0.0);
        Some(Distribution {
            count,
            mean,
            stddev: variance.sqrt(),
            min: seconds(self.histogram.min()),
            p50: at(0.50),
            p90: at(0.90),
            p95: at(0.95),
            p99: at(0.99),
            max: seconds(self.histogram.max()),
        })
    }

    /// Points of the cumulative distribution: share of requests, and the seconds within which it stays.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        if self.histogram.is_empty() {
            return Vec::new();
        }
        let tail = [0.991, 0.993, 0.995, 0.997, 0.998, 0.999, 0.9995, 1.0];
        let quantiles =
            (0..100).map(|percent| f64::from(percent) / 100.0).chain([0.99]).chain(tail);
        let mut points: Vec<(f64, f64)> = quantiles
            .map(|quantile| (quantile, seconds(self.histogram.value_at_quantile(quantile))))
            .collect();
        points.dedup_by(|b, a| a.0 == b.0);
        points
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// Times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation.
    pub stddev: f64,
    /// Least.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90 in 100 are at most this.
    pub p90: f64,
    /// 95 in 100 are at most this.
    pub p95: f64,
    /// 99 in 100 are at most this.
    pub p99: f64,
    /// Greatest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_computed_by_hand() {
        let mut figures = Figures::new();
        let mut other = Figures::new();
        for millisecond in 1..=100 {
            let part = if millisecond % 2 == 0 { &mut figures } else { &mut other };
            part.record(millisecond * 1_000_000);
        }
        figures.add(&other);
        let found = figures.distribution().unwrap();
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.001, "{a} {b}");
        assert_eq!(found.count, 100);
        near(found.mean, 0.0505);
        near(found.stddev, 0.028_866);
        near(found.min, 0.001);
        near(found.p50, 0.050);
        near(found.p90, 0.090);
        near(found.p95, 0.095);
        near(found.p99, 0.099);
        near(found.max, 0.100);
        assert_eq!(figures.curve().last().map(|point| point.0), Some(1.0));
        assert!(Figures::new().distribution().is_none() && Figures::new().curve().is_empty());
    }
}
