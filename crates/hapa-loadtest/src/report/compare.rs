//! Ratios of two reports, with the uncertainty that the requests themselves show.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Report, TimelinePoint};
use crate::client::Class;
use crate::measure::Sample;

/// Samples drawn anew.
const RESAMPLES: usize = 1000;
/// Whole seconds above which throughput is resampled.
const FEWEST_SECONDS: usize = 4;

/// A range that holds the true value in 95 of 100 cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Which figure.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// A's.
    pub a: f64,
    /// B's.
    pub b: f64,
    /// B's by A's.
    pub ratio: f64,
    /// The bootstrap interval of the ratio (Efron, 1979).
    pub interval: Interval,
    /// Whether more is better.
    pub higher_is_better: bool,
}

impl Ratio {
    /// `A` or `B` when the interval leaves no doubt which is better.
    pub fn better(&self) -> Option<&'static str> {
        let b_is_more = self.interval.low > 1.0;
        let a_is_more = self.interval.high < 1.0;
        match (b_is_more, a_is_more, self.higher_is_better) {
            (true, _, true) | (_, true, false) => Some("B"),
            (true, _, false) | (_, true, true) => Some("A"),
            _ => None,
        }
    }
}

/// Two reports side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// A's server and load.
    pub a: String,
    /// B's.
    pub b: String,
    /// Why the two may not be comparable.
    pub warnings: Vec<String>,
    /// The figures.
    pub ratios: Vec<Ratio>,
}

/// Compares two reports. Latencies are resampled by request, throughputs by second.
pub fn compare(a: &Report, b: &Report) -> Comparison {
    let mut warnings = Vec::new();
    for (what, a, b) in [
        ("load", &a.load, &b.load),
        ("workload", &a.workload, &b.workload),
        ("dialect", &a.server.api.to_string(), &b.server.api.to_string()),
    ] {
        if a != b {
            warnings.push(format!("the {what} differs: {a} / {b}"));
        }
    }
    for (name, report) in [("A", a), ("B", b)] {
        if report.requests.success_rate < 1.0 {
            let percent = report.requests.success_rate * 100.0;
            warnings.push(format!("only {percent:.1}% of the requests of {name} succeeded"));
        }
    }
    if a.timeline.len().min(b.timeline.len()) <= FEWEST_SECONDS {
        let reason = "a run is too short to compare throughput; let both take 5 s or more";
        warnings.push(reason.to_owned());
    }
    let mut ratios = Vec::new();
    throughputs(a, b, &mut ratios);
    latencies(a, b, &mut ratios);
    let label =
        |report: &Report| format!("{} ({}, {})", report.server.url, report.server.api, report.load);
    Comparison { a: label(a), b: label(b), warnings, ratios }
}

/// A count of a second.
type OfSecond = fn(&TimelinePoint) -> u64;
/// A time of a request.
type OfSample = fn(&Sample) -> Option<f32>;
/// A figure of some values, whose order it may change.
type Statistic = fn(&mut [f64]) -> f64;

fn throughputs(a: &Report, b: &Report, ratios: &mut Vec<Ratio>) {
    // The last second is seldom whole.
    let seconds = |report: &Report, of: OfSecond| -> Vec<f64> {
        let whole = report.timeline.len().saturating_sub(1).max(1);
        report.timeline.iter().take(whole).map(|second| of(second) as f64).collect()
    };
    let requests = |report: &Report| report.throughput.requests_per_second;
    let tokens = |report: &Report| report.throughput.output_tokens_per_second;
    let succeeded: OfSecond = |second| second.succeeded;
    let written: OfSecond = |second| second.output_tokens;
    for (metric, unit, values, of) in [
        ("throughput", "requests/s", (requests(a), requests(b)), succeeded),
        ("output", "tokens/s", (tokens(a), tokens(b)), written),
    ] {
        // A few seconds say too little of how much seconds differ.
        let short = a.timeline.len().min(b.timeline.len()) <= FEWEST_SECONDS;
        if values.0 > 0.0 && values.1 > 0.0 && !short {
            let interval = interval_of(&seconds(a, of), &seconds(b, of), mean);
            ratios.push(ratio((metric, unit, true), values, interval));
        }
    }
}

fn latencies(a: &Report, b: &Report, ratios: &mut Vec<Ratio>) {
    let times = |report: &Report, of: OfSample| -> Vec<f64> {
        let good = report.samples.iter().filter(|sample| sample.class == Class::Success);
        good.filter_map(of).map(f64::from).collect()
    };
    let whole: OfSample = |sample| Some(sample.end_to_end);
    let first: OfSample = |sample| sample.time_to_first_token;
    let each: OfSample = |sample| sample.time_per_output_token;
    let (p50, p95): (Statistic, Statistic) =
        (|values| quantile(values, 0.50), |values| quantile(values, 0.95));
    let mean: Statistic = mean;
    for (metric, statistic, of) in [
        ("time to first token, p50", p50, first),
        ("time to first token, p95", p95, first),
        ("time per output token, mean", mean, each),
        ("end to end, mean", mean, whole),
        ("end to end, p50", p50, whole),
        ("end to end, p95", p95, whole),
    ] {
        let (of_a, of_b) = (times(a, of), times(b, of));
        if !of_a.is_empty() && !of_b.is_empty() {
            let values = (statistic(&mut of_a.clone()), statistic(&mut of_b.clone()));
            let interval = interval_of(&of_a, &of_b, statistic);
            ratios.push(ratio((metric, "s", false), values, interval));
        }
    }
}

pub(super) fn ratio(
    (metric, unit, higher_is_better): (&str, &str, bool),
    (a, b): (f64, f64),
    interval: Interval,
) -> Ratio {
    let (metric, unit) = (metric.to_owned(), unit.to_owned());
    Ratio { metric, unit, a, b, ratio: b / a, interval, higher_is_better }
}

fn mean(values: &mut [f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The smallest of the values that a share of all does not exceed (nearest rank); 0 of none. Puts the values in another order.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let place = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(place, f64::total_cmp).1
}

/// The interval of the ratio of a statistic of two independent samples.
fn interval_of(a: &[f64], b: &[f64], statistic: Statistic) -> Interval {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut drawn_a, mut drawn_b) = (vec![0.0; a.len()], vec![0.0; b.len()]);
    bootstrap(|| {
        for (drawn, from) in [(&mut drawn_a, a), (&mut drawn_b, b)] {
            drawn.iter_mut().for_each(|slot| *slot = from[random.random_range(0..from.len())]);
        }
        statistic(&mut drawn_b) / statistic(&mut drawn_a)
    })
}

/// The middle 95 of 100 outcomes of drawing anew.
pub(super) fn bootstrap(mut draw: impl FnMut() -> f64) -> Interval {
    let mut outcomes: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
    outcomes.retain(|outcome| outcome.is_finite());
    let low = quantile(&mut outcomes, 0.025);
    let high = quantile(&mut outcomes, 0.975);
    Interval { low, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_the_true_ratio_and_shrinks() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut draw = |count: usize, scale: f64| -> Vec<f64> {
            (0..count).map(|_| scale * (0.5 + random.random::<f64>())).collect()
        };
        let (few_a, few_b) = (draw(50, 1.0), draw(50, 2.0));
        let (many_a, many_b) = (draw(5000, 1.0), draw(5000, 2.0));
        let (few, many) = (interval_of(&few_a, &few_b, mean), interval_of(&many_a, &many_b, mean));
        for interval in [few, many] {
            assert!(interval.low < 2.0 && 2.0 < interval.high, "{interval:?}");
        }
        assert!(many.high - many.low < (few.high - few.low) / 5.0);
    }

    #[test]
    fn better_needs_a_clear_interval() {
        let make = |low, high, higher| {
            ratio(("m", "s", higher), (1.0, 1.0), Interval { low, high }).better()
        };
        assert_eq!(make(1.1, 1.2, true), Some("B"));
        assert_eq!(make(1.1, 1.2, false), Some("A"));
        assert_eq!(make(0.8, 0.9, false), Some("B"));
        assert_eq!(make(0.8, 0.9, true), Some("A"));
        assert_eq!(make(0.9, 1.1, true), None);
    }

    #[test]
    fn quantiles_are_nearest_rank() {
        let mut values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), 10.0);
        assert_eq!(quantile(&mut values, 0.95), 19.0);
        assert_eq!(quantile(&mut values, 0.0), 1.0);
        assert_eq!(quantile(&mut values, 1.0), 20.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
