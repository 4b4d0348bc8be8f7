//! What a step costs on this machine, learned from the steps that were made.

use std::time::Duration;

/// Rows of one step that are told apart.
pub(super) const MOST_ROWS: usize = 192;

/// What a further row costs, as a part of a step of one row, before anything was measured.
const ASSUMED_ROW: f64 = 0.12;

/// Weight of the latest measurement.
const LATEST: f64 = 0.2;

/// Fewer rows than this are bound by memory: they say nothing about the cost of a row of a long prompt.
const MANY_ROWS: usize = 64;

/// A measurement counts as this many times the estimate at most: other programs take the machine away now and then.
const SURPRISE: f64 = 2.0;

/// Seconds, averaged over measurements, the latest counting most.
#[derive(Debug, Clone, Copy, Default)]
struct Average {
    seconds: f64,
    measured: u32,
}

impl Average {
    fn note(&mut self, seconds: f64) {
        self.measured = self.measured.saturating_add(1);
        let weight = f64::from(self.measured).recip().max(LATEST);
        let seconds =
            if self.measured > 1 { seconds.min(self.seconds * SURPRISE) } else { seconds };
        self.seconds += (seconds - self.seconds) * weight;
    }

    fn known(&self) -> Option<f64> {
        (self.measured > 0).then_some(self.seconds)
    }
}

/// Measured times of steps by their rows, and of a row of a prompt.
#[derive(Debug)]
pub(super) struct StepCosts {
    /// Steps that only decode, by rows.
    decode: Vec<Average>,
    prompt_row: Average,
}

impl Default for StepCosts {
    fn default() -> Self {
        Self { decode: vec![Average::default(); MOST_ROWS + 1], prompt_row: Average::default() }
    }
}

impl StepCosts {
    /// Notes a step of `rows` rows that sample, and `prompt_rows` that only read a prompt.
    pub(super) fn note(&mut self, rows: usize, prompt_rows: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        if prompt_rows > 0 {
            if rows + prompt_rows >= MANY_ROWS {
                self.prompt_row.note(seconds / (rows + prompt_rows) as f64);
            }
        } else if let Some(average) = self.decode.get_mut(rows).filter(|_| rows > 0) {
            average.note(seconds);
        }
    }

    /// Whether a step of so many rows was measured.
    pub(super) fn measured(&self, rows: usize) -> bool {
        self.decode.get(rows).is_none_or(|average| average.measured > 0)
    }

    /// What a row costs that joins a step which reads prompts, and is bound by arithmetic already.
    pub(super) fn prompt_row(&self, rows: usize) -> f64 {
        let slope = self.decode(rows + 8) - self.decode(rows);
        self.prompt_row.known().unwrap_or(0.0).max(slope / 8.0)
    }

    /// Seconds of a step of so many rows: measured, between two that were, or by assumption from the nearest.
    ///
    /// Fewer rows never cost more, so a smaller measurement to the right wins: what disturbs a measurement makes it larger.
    pub(super) fn decode(&self, rows: usize) -> f64 {
        let known = |rows: usize| self.decode[rows].known().map(|seconds| (rows as f64, seconds));
        let assumed = |rows: f64| 1.0 + ASSUMED_ROW * (rows - 1.0);
        let below = (1..=rows.min(MOST_ROWS)).rev().find_map(known);
        let lowest = |a: (f64, f64), b: (f64, f64)| if b.1 < a.1 { b } else { a };
        let above = (rows.max(1)..=MOST_ROWS).filter_map(known).reduce(lowest);
        let rows = rows as f64;
        match (below, above) {
            (Some((left, low)), Some((right, high))) if right > left && high > low => {
                low + (high - low) * (rows - left) / (right - left)
            }
            (_, Some((right, high))) if right <= rows => high,
            (Some(_), Some((_, high))) => high,
            (None, Some((right, high))) => high * assumed(rows) / assumed(right),
            (Some((left, low)), None) => low * assumed(rows) / assumed(left),
            (None, None) => assumed(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(measured: &[(usize, f64)]) -> StepCosts {
        let mut costs = StepCosts::default();
        for &(rows, seconds) in measured {
            costs.note(rows, 0, Duration::from_secs_f64(seconds));
        }
        costs
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6 * b, "{a} is not {b}");
    }

    #[test]
    fn between_measurements_and_beyond_them() {
        let costs = costs(&[(1, 0.010), (5, 0.018), (9, 0.040)]);
        assert_close(costs.decode(1), 0.010);
        assert_close(costs.decode(3), 0.014);
        assert_close(costs.decode(9), 0.040);
        assert_close(costs.decode(17), 0.040 * (1.0 + 16.0 * 0.12) / (1.0 + 8.0 * 0.12));
        assert!(costs.measured(5) && !costs.measured(4));
        let only_wide = super::tests::costs(&[(9, 0.0196)]);
        assert_close(only_wide.decode(1), 0.010);
    }

    #[test]
    fn a_disturbed_measurement_does_not_hide_a_better_one() {
        let costs = costs(&[(1, 0.010), (4, 0.090), (8, 0.020)]);
        assert_close(costs.decode(4), 0.020);
        assert_close(costs.decode(3), 0.010 + 0.010 * 2.0 / 7.0);
        // One step that takes long counts double at most, and fades.
        let mut costs = super::tests::costs(&[(1, 0.010), (1, 0.010), (1, 0.010), (1, 5.0)]);
        assert!(costs.decode(1) < 0.0135);
        for _ in 0..20 {
            costs.note(1, 0, Duration::from_millis(10));
        }
        assert!((costs.decode(1) - 0.010).abs() < 0.0001);
    }

    #[test]
    fn rows_of_prompts_are_measured_apart() {
        let mut costs = costs(&[(1, 0.010), (9, 0.012)]);
        costs.note(2, 254, Duration::from_millis(512));
        costs.note(1, 3, Duration::from_millis(12));
        assert_close(costs.decode(1), 0.010);
        assert_close(costs.prompt_row(1), 0.002);
    }
}
