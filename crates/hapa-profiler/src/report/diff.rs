//! Two reports compared, so that a change's cost is a figure with a probability.
//!
//! The wall times of a scope's calls before and after are compared by the Mann-Whitney rank test
//! (H. B. Mann, D. R. Whitney, 1947) with the correction for ties, on the saved histograms: it
//! asks whether calls became slower as a whole, and a few outliers do not sway it. The
//! probabilities of all scopes are adjusted together by Holm's method (S. Holm, 1979), so that a
//! report with a hundred scopes does not find five differences in noise. A difference counts when
//! it is both significant and at least [`Diff::THRESHOLD`] of the median or the mean.
//!
//! Calls of one run are not quite independent (a busy neighbour slows many in a row): compare runs
//! of the same length on a quiet machine, and look twice at a small difference.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{
    Report, ScopeStats,
    text::{human_seconds, markdown_table, table},
};

/// What became of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Calls take longer.
    Slower,
    /// Calls take less time.
    Faster,
    /// No difference that is both large enough and significant.
    Same,
    /// Too few calls to tell (fewer than 8 on a side).
    TooFew,
    /// Only in the later report.
    Added,
    /// Only in the earlier report.
    Removed,
}

/// One scope in both reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiffRow {
    /// Its name.
    pub name: String,
    /// Calls before and after.
    pub calls: (u64, u64),
    /// Mean wall time before and after.
    pub mean_seconds: (f64, f64),
    /// Median wall time before and after.
    pub p50_seconds: (f64, f64),
    /// Allocated bytes a call, before and after.
    pub bytes_per_call: (f64, f64),
    /// Probability of a difference this large when nothing changed, adjusted for the number of
    /// scopes; 1 where there was nothing to test.
    pub p_value: f64,
    /// What became of it.
    pub verdict: Verdict,
}

/// What changed between two reports; scopes with the largest change in time first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// One row a scope.
    pub rows: Vec<DiffRow>,
}

const MIN_CALLS: u64 = 8;

impl Diff {
    /// Largest adjusted probability that counts as significant.
    pub const SIGNIFICANCE: f64 = 0.01;
    /// Smallest relative change that counts. The histogram's buckets are 3.2% wide.
    pub const THRESHOLD: f64 = 0.05;

    pub(super) fn of(before: &Report, after: &Report) -> Self {
        let mut both: BTreeMap<&str, (Option<&ScopeStats>, Option<&ScopeStats>)> = BTreeMap::new();
        for scope in &before.scopes {
            both.entry(&scope.name).or_default().0 = Some(scope);
        }
        for scope in &after.scopes {
            both.entry(&scope.name).or_default().1 = Some(scope);
        }
        let none = ScopeStats::default();
        let mut rows: Vec<_> = both
            .into_iter()
            .map(|(name, (old, new))| {
                let verdict = match (old, new) {
                    (None, _) => Verdict::Added,
                    (_, None) => Verdict::Removed,
                    (Some(old), Some(new)) if old.calls.min(new.calls) < MIN_CALLS => {
                        Verdict::TooFew
                    }
                    _ => Verdict::Same,
                };
                let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
                let tested = verdict == Verdict::Same;
                DiffRow {
                    name: name.to_owned(),
                    calls: (old.calls, new.calls),
                    mean_seconds: (old.mean_seconds, new.mean_seconds),
                    p50_seconds: (old.p50_seconds, new.p50_seconds),
                    bytes_per_call: (bytes_per_call(old), bytes_per_call(new)),
                    p_value: if tested { rank_test(&old.histogram, &new.histogram) } else { 1.0 },
                    verdict,
                }
            })
            .collect();
        adjust(&mut rows);
        for row in rows.iter_mut().filter(|row| row.verdict == Verdict::Same) {
            row.verdict = judge(row);
        }
        let weight = |row: &DiffRow| {
            let (old, new) =
                (total(row.calls.0, row.mean_seconds.0), total(row.calls.1, row.mean_seconds.1));
            (new - old).abs()
        };
        rows.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then_with(|| a.name.cmp(&b.name)));
        Self { rows }
    }

    /// Scopes that became slower: what a check of a change should fail on.
    pub fn slower(&self) -> impl Iterator<Item = &DiffRow> {
        self.rows.iter().filter(|row| row.verdict == Verdict::Slower)
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let cells = |row: &DiffRow| {
            let pair = |(old, new): (f64, f64)| {
                format!("{} -> {}", human_seconds(old), human_seconds(new))
            };
            vec![
                row.name.clone(),
                format!("{} -> {}", row.calls.0, row.calls.1),
                pair(row.p50_seconds),
                pair(row.mean_seconds),
                relative(row.mean_seconds)
                    .map_or_else(String::new, |r| format!("{:+.1}%", 100.0 * r)),
                format!("{:.4}", row.p_value),
                format!("{:?}", row.verdict).to_lowercase(),
            ]
        };
        self.rows.iter().map(cells).collect()
    }

    /// A table for a terminal.
    pub fn to_table(&self) -> String {
        let mut out = String::new();
        table(&mut out, &DIFF_HEADS, &self.cells());
        out
    }

    /// A table in Markdown.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        markdown_table(&mut out, &DIFF_HEADS, &self.cells());
        out
    }
}

const DIFF_HEADS: [&str; 7] = ["scope", "calls", "p50", "mean", "change", "p", "verdict"];

#[expect(clippy::cast_precision_loss, reason = "for comparison")]
fn total(calls: u64, mean: f64) -> f64 {
    calls as f64 * mean
}

#[expect(clippy::cast_precision_loss, reason = "for comparison")]
fn bytes_per_call(scope: &ScopeStats) -> f64 {
    scope.allocated_bytes as f64 / scope.calls.max(1) as f64
}

fn relative((old, new): (f64, f64)) -> Option<f64> {
    (old > 0.0).then(|| new / old - 1.0)
}

fn judge(row: &DiffRow) -> Verdict {
    let change = |pair| relative(pair).unwrap_or(0.0);
    let (median, mean) = (change(row.p50_seconds), change(row.mean_seconds));
    let largest = if median.abs() > mean.abs() { median } else { mean };
    if row.p_value > Diff::SIGNIFICANCE || largest.abs() < Diff::THRESHOLD {
        Verdict::Same
    } else if largest > 0.0 {
        Verdict::Slower
    } else {
        Verdict::Faster
    }
}

/// Holm's step-down adjustment over the rows that were tested.
fn adjust(rows: &mut [DiffRow]) {
    let mut tested: Vec<_> = rows.iter_mut().filter(|row| row.verdict == Verdict::Same).collect();
    tested.sort_by(|a, b| a.p_value.total_cmp(&b.p_value));
    let count = tested.len();
    let mut largest = 0.0_f64;
    for (at, row) in tested.into_iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a number of scopes")]
        let adjusted = row.p_value * (count - at) as f64;
        largest = largest.max(adjusted.min(1.0));
        row.p_value = largest;
    }
}

/// Two-sided probability of the Mann-Whitney test on counts by bucket, by the normal
/// approximation with the correction for ties.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn rank_test(before: &[(u32, u64)], after: &[(u32, u64)]) -> f64 {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    let count = |counts: &[(u32, u64)]| counts.iter().map(|(_, n)| *n as f64).sum::<f64>();
    let (n_old, n_new) = (count(before), count(after));
    let n = n_old + n_new;
    let (mut below, mut rank_sum, mut ties) = (0.0, 0.0, 0.0);
    loop {
        let (a, b) = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some((_, a)), None) => (*a, 0),
            (None, Some((_, b))) => (0, *b),
            (Some((i, a)), Some((j, b))) => match i.cmp(j) {
                Ordering::Less => (*a, 0),
                Ordering::Greater => (0, *b),
                Ordering::Equal => (*a, *b),
            },
        };
        if a > 0 {
            old.next();
        }
        if b > 0 {
            new.next();
        }
        if a == 0 && b == 0 {
            // Empty buckets are not saved; a report made by hand may hold them all the same.
            old.next();
            new.next();
            continue;
        }
        let tied = (a + b) as f64;
        // Every member of a bucket takes the middle of the ranks that the bucket spans.
        rank_sum += b as f64 * (below + (tied + 1.0) / 2.0);
        ties += tied.powi(3) - tied;
        below += tied;
    }
    let u = rank_sum - n_new * (n_new + 1.0) / 2.0;
    let mean = n_old * n_new / 2.0;
    let variance = n_old * n_new / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((u - mean).abs() - 0.5).max(0.0) / variance.sqrt();
    erfc(z / std::f64::consts::SQRT_2)
}

/// The complementary error function for `x >= 0`, within 1.2e-7 of its value (W. H. Press et al.,
/// Numerical Recipes, section 6.2: a Chebyshev fit).
fn erfc(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.5 * x);
    let fit = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let sum = fit.iter().rev().fold(0.0, |sum, c| sum * t + c);
    (t * (sum - x * x).exp()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_is_the_known_one() {
        // Values of the error function's tables.
        for (x, known) in
            [(0.0, 1.0), (0.5, 0.479_500_122), (1.0, 0.157_299_207), (2.0, 0.004_677_735)]
        {
            assert!((erfc(x) - known).abs() < 2e-7, "{x}: {}", erfc(x));
        }
    }

    #[test]
    fn the_rank_test_agrees_with_a_worked_example() {
        // By hand: U = 8, its mean 32; four pairs of ties make the variance
        // 64/12 * (17 - 24/240) = 90.13; z = (24 - 0.5) / 9.494 = 2.4753; p = 0.013311.
        let before: Vec<_> = (1..=8).map(|v| (v, 1)).collect();
        let after: Vec<_> = (5..=12).map(|v| (v, 1)).collect();
        let p = rank_test(&before, &after);
        assert!((p - 0.013313).abs() < 1e-6, "{p}");
        assert!((rank_test(&after, &before) - p).abs() < 1e-12, "two-sided");
        assert!(rank_test(&before, &before) > 0.99);
        assert_eq!(rank_test(&[(3, 50)], &[(3, 70)]), 1.0, "all tied");
    }
}
