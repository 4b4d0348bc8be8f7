//! From what the ways took to the rows of the review's table.

use serde::{Deserialize, Serialize};

use super::scenario::{COPIES, Copies, Kept, Load, Own, Shared};
use crate::commands::bench::measure::median;

/// All ways once, one after another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) own: Own,
    pub(super) shared: Shared,
    pub(super) kept: Kept,
    pub(super) copies: Copies,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    Seconds,
    Bytes,
    RequestsPerSecond,
}

/// A figure before and after an optimisation, and how many times better the latter is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Change {
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) times_better: f64,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) unit: Unit,
    /// How it is done before and after, on this machine.
    pub(super) before: String,
    pub(super) after: String,
    /// What the review printed.
    pub(super) review: Change,
    /// What was measured: medians over the rounds; `times_better` is the median of the rounds' own ratios. `None` when
    /// there was nothing to measure.
    pub(super) here: Option<Change>,
}

/// A figure that the review did not have.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Also {
    pub(super) what: String,
    pub(super) unit: Unit,
    pub(super) value: f64,
}

impl Change {
    fn new(unit: Unit, before: f64, after: f64) -> Self {
        let (more, less) = match unit {
            Unit::RequestsPerSecond => (after, before),
            Unit::Seconds | Unit::Bytes => (before, after),
        };
        Self { before, after, times_better: more / less.max(f64::MIN_POSITIVE) }
    }

    fn median(unit: Unit, rounds: &[Round], of: impl Fn(&Round) -> (f64, f64)) -> Option<Self> {
        let changes: Vec<Self> = rounds
            .iter()
            .map(&of)
            .filter(|(before, after)| *before > 0.0 && *after > 0.0)
            .map(|(before, after)| Self::new(unit, before, after))
            .collect();
        let middle = |of: fn(&Self) -> f64| median(changes.iter().map(of).collect());
        (!changes.is_empty()).then(|| Self {
            before: middle(|change| change.before),
            after: middle(|change| change.after),
            times_better: middle(|change| change.times_better),
        })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The review's four rows.
pub(super) fn rows(rounds: &[Round], load: Load) -> Vec<Row> {
    let Load { requests, clients, .. } = load;
    let row = |what, unit, (before, after): (String, String), review: (f64, f64), here| Row {
        what,
        unit,
        before,
        after,
        review: Change::new(unit, review.0, review.1),
        here,
    };
    vec![
        row(
            "loading the model, for each request",
            Unit::Seconds,
            (
                "each request loads it".to_owned(),
                format!("the first of {requests} requests loads it; their mean"),
            ),
            (1.5, 0.3),
            Change::median(Unit::Seconds, rounds, |r| (mean(&r.own.load), mean(&r.shared.load))),
        ),
        row(
            "an answer",
            Unit::Seconds,
            ("computed".to_owned(), "the same question again, from the cache".to_owned()),
            (2.45, 0.05),
            Change::median(Unit::Seconds, rounds, |r| {
                (median(r.kept.computed.clone()), median(r.kept.kept.clone()))
            }),
        ),
        row(
            "memory, two requests at once",
            Unit::Bytes,
            (
                format!("{COPIES} models read into private memory (candle)"),
                "one shared model, its weights mapped".to_owned(),
            ),
            (300e6, 150e6),
            Change::median(Unit::Bytes, rounds, |r| {
                (r.copies.peak_bytes as f64, r.shared.peak_bytes as f64)
            }),
        ),
        row(
            "requests, nothing cached",
            Unit::RequestsPerSecond,
            ("one after another".to_owned(), format!("{clients} at once, as one batch")),
            (10.0, 50.0),
            Change::median(Unit::RequestsPerSecond, rounds, |r| {
                (r.shared.one_by_one_per_second, r.shared.at_once_per_second)
            }),
        ),
    ]
}

/// What else was seen on the way.
pub(super) fn also(rounds: &[Round], load: Load) -> Vec<Also> {
    let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    let one = |what: &str, unit, value| Also { what: what.to_owned(), unit, value };
    let first = |times: &[f64]| times.first().copied().unwrap_or(0.0);
    vec![
        one(
            "a load of packed, mapped weights",
            Unit::Seconds,
            middle(&|r| median(r.own.load.clone())),
        ),
        one(
            "the lazy load of the first request",
            Unit::Seconds,
            middle(&|r| first(&r.shared.load)),
        ),
        one(
            "a load by candle, which reads the whole file",
            Unit::Seconds,
            middle(&|r| median(r.copies.load.clone())),
        ),
        one(
            "an answer by a request that loads the model for itself",
            Unit::Seconds,
            middle(&|r| median(r.own.answer.clone())),
        ),
        one(
            "the same with a loaded model",
            Unit::Seconds,
            middle(&|r| median(r.shared.answer.clone())),
        ),
        one(
            "memory before the first request",
            Unit::Bytes,
            middle(&|r| r.shared.idle_bytes as f64),
        ),
        Also {
            what: format!("answers from the cache, {} clients in this process", load.clients),
            unit: Unit::RequestsPerSecond,
            value: middle(&|r| r.kept.kept_per_second),
        },
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const LOAD: Load = Load { requests: 4, clients: 8, max_tokens: 16 };

    /// A round in which everything takes `scale` times as long.
    pub(crate) fn round(scale: f64) -> Round {
        Round {
            own: Own { load: vec![0.4 * scale; 4], answer: vec![1.4 * scale; 4] },
            shared: Shared {
                load: vec![0.4 * scale, 0.0, 0.0, 0.0],
                answer: vec![scale; 4],
                one_by_one_per_second: 1.0 / scale,
                one_by_one_tokens_per_second: 16.0 / scale,
                at_once_per_second: 5.0 / scale,
                at_once_tokens_per_second: 80.0 / scale,
                idle_bytes: 8_000_000,
                peak_bytes: 500_000_000,
            },
            kept: Kept {
                computed: vec![scale; 4],
                kept: vec![1e-5 * scale; 4],
                kept_per_second: 90_000.0,
            },
            copies: Copies { load: vec![0.9 * scale; 2], peak_bytes: 1_500_000_000 },
        }
    }

    #[test]
    fn rows_are_the_reviews_and_ratios_are_of_one_round() {
        // A machine that is three times as slow in one round changes times and no ratio.
        let rows = rows(&[round(1.0), round(3.0), round(1.1)], LOAD);
        let times: Vec<f64> =
            rows.iter().map(|row| (row.here.unwrap().times_better * 10.0).round() / 10.0).collect();
        assert_eq!(times, [4.0, 100_000.0, 3.0, 5.0]);
        let of_review: Vec<f64> = rows.iter().map(|row| row.review.times_better.round()).collect();
        assert_eq!(of_review, [5.0, 49.0, 2.0, 5.0]);
        assert_eq!(rows[1].here.unwrap().before, 1.1, "the median");
        assert_eq!(rows[3].here.unwrap().after, 5.0 / 1.1);
    }

    #[test]
    fn what_could_not_be_measured_has_no_figure() {
        let mut without = round(1.0);
        without.kept.kept.clear();
        let rows = rows(&[without], LOAD);
        assert_eq!(rows[1].here, None);
        assert!(rows[0].here.is_some());
    }
}
