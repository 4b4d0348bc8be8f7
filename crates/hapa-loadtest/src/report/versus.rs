//! The report of two servers that took turns.

use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::compare::{bootstrap, ratio};
use super::single::{read_json, write_json};
use super::{Ratio, Report};
use crate::error::LoadError;

/// Name and version of the JSON form.
pub const VERSUS_SCHEMA: &str = "hapa-loadtest-versus/1";

/// Name, unit and whether more is better, of the figures of a turn.
const METRICS: [(&str, &str, bool); 8] = [
    ("throughput", "requests/s", true),
    ("output", "tokens/s", true),
    ("time to first token, p50", "s", false),
    ("time to first token, p95", "s", false),
    ("time per output token, mean", "s", false),
    ("end to end, mean", "s", false),
    ("end to end, p50", "s", false),
    ("end to end, p95", "s", false),
];

/// Two servers in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersusReport {
    /// [`VERSUS_SCHEMA`].
    pub schema: String,
    /// All turns of the first.
    pub a: Report,
    /// All turns of the second.
    pub b: Report,
    /// The figures of each round.
    pub rounds: Vec<Round>,
    /// B by A, with intervals from resampling rounds: both turns of a round belong together.
    pub ratios: Vec<Ratio>,
}

/// One turn of each, in the order of the ratios' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The first server's figures.
    pub a: Vec<Option<f64>>,
    /// The second's.
    pub b: Vec<Option<f64>>,
}

impl Round {
    pub(crate) fn new(a: &Report, b: &Report) -> Self {
        Self { a: figures(a), b: figures(b) }
    }
}

fn figures(report: &Report) -> Vec<Option<f64>> {
    let (latency, throughput) = (&report.latency, &report.throughput);
    let first = latency.time_to_first_token;
    let whole = latency.end_to_end;
    let above_zero = |value: f64| (value > 0.0).then_some(value);
    vec![
        above_zero(throughput.requests_per_second),
        above_zero(throughput.output_tokens_per_second),
        first.map(|found| found.p50),
        first.map(|found| found.p95),
        latency.time_per_output_token.and_then(|found| above_zero(found.mean)),
        whole.map(|found| found.mean),
        whole.map(|found| found.p50),
        whole.map(|found| found.p95),
    ]
}

impl VersusReport {
    pub(crate) fn new(a: Report, b: Report, rounds: Vec<Round>) -> Self {
        let ratios = METRICS.iter().enumerate().filter_map(|(index, metric)| {
            let of = |round: &Round| {
                let values = (round.a.get(index).copied()??, round.b.get(index).copied()??);
                Some(values)
            };
            let pairs: Vec<(f64, f64)> = rounds.iter().filter_map(of).collect();
            paired(*metric, &pairs)
        });
        let ratios = ratios.collect();
        Self { schema: VERSUS_SCHEMA.to_owned(), a, b, rounds, ratios }
    }

    /// Whether both are [clean](Report::is_clean).
    pub fn is_clean(&self) -> bool {
        self.a.is_clean() && self.b.is_clean()
    }

    /// Reads a report that [`VersusReport::write`] wrote.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        read_json(path, VERSUS_SCHEMA)
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<(), LoadError> {
        write_json(path, self)
    }
}

/// The ratio of the means over rounds, and its interval from drawing whole rounds.
fn paired(metric: (&str, &str, bool), pairs: &[(f64, f64)]) -> Option<Ratio> {
    if pairs.is_empty() {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let interval = bootstrap(|| {
        let (mut a, mut b) = (0.0, 0.0);
        for _ in 0..pairs.len() {
            let drawn = pairs[random.random_range(0..pairs.len())];
            a += drawn.0;
            b += drawn.1;
        }
        b / a
    });
    let count = pairs.len() as f64;
    let a = pairs.iter().map(|pair| pair.0).sum::<f64>() / count;
    let b = pairs.iter().map(|pair| pair.1).sum::<f64>() / count;
    Some(ratio(metric, (a, b), interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_meets_both_turns_cancels_out() {
        // The machine halves its speed in every other round; B is always 1.5 times A.
        let pairs: Vec<(f64, f64)> =
            (0..10).map(|round| if round % 2 == 0 { (2.0, 3.0) } else { (4.0, 6.0) }).collect();
        let found = paired(METRICS[0], &pairs).unwrap();
        assert!((found.ratio - 1.5).abs() < 1e-9);
        assert!(found.interval.high - found.interval.low < 1e-9);
        assert_eq!(found.better(), Some("B"));
        assert!(paired(METRICS[0], &[]).is_none());
    }
}
