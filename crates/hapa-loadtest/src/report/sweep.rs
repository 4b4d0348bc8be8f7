//! The report of a sweep, and its knee.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Report;
use super::single::{read_json, write_json};
use crate::error::LoadError;
use crate::run::{Ended, SweepKind};

/// Name and version of the JSON form.
pub const SWEEP_SCHEMA: &str = "hapa-loadtest-sweep/1";

/// A server keeps up with a rate if it answers at least this share of it in time.
const KEEPS_UP: f64 = 0.95;

/// One load after another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// [`SWEEP_SCHEMA`].
    pub schema: String,
    /// What was raised: `clients` or `requests/s offered`.
    pub axis: String,
    /// Why it ended.
    pub ended: Ended,
    /// The loads, in the order in which they ran.
    pub points: Vec<SweepPoint>,
    /// Where more load stops paying.
    pub knee: Option<Knee>,
}

/// One load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    /// Clients, or requests a second.
    pub x: f64,
    /// What was found there, without single requests.
    pub report: Report,
}

/// Where more load stops paying.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// Clients, or requests a second.
    pub x: f64,
    /// Whole answers a second there.
    pub requests_per_second: f64,
    /// How it was found.
    pub rule: String,
}

impl SweepPoint {
    pub(crate) fn new(x: f64, mut report: Report) -> Self {
        report.samples.clear();
        Self { x, report }
    }
}

impl SweepReport {
    pub(crate) fn new(kind: &SweepKind, points: Vec<SweepPoint>, ended: Ended) -> Self {
        let (axis, knee) = match kind {
            SweepKind::Concurrency(_) => ("clients", bend(&points)),
            SweepKind::Rates { .. } => ("requests/s offered", last_kept(&points)),
        };
        Self { schema: SWEEP_SCHEMA.to_owned(), axis: axis.to_owned(), ended, points, knee }
    }

    /// Whether every point is [clean](Report::is_clean).
    pub fn is_clean(&self) -> bool {
        !self.points.is_empty() && self.points.iter().all(|point| point.report.is_clean())
    }

    /// Reads a report that [`SweepReport::write`] wrote.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        read_json(path, SWEEP_SCHEMA)
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<(), LoadError> {
        write_json(path, self)
    }
}

/// The knee of throughput over clients.
fn bend(points: &[SweepPoint]) -> Option<Knee> {
    let throughput = |point: &SweepPoint| point.report.throughput.requests_per_second;
    let curve: Vec<_> = points.iter().map(|point| (point.x, throughput(point))).collect();
    let knee = &points[bend_of(&curve)?];
    Some(Knee {
        x: knee.x,
        requests_per_second: throughput(knee),
        rule: "greatest distance above the straight line to the best throughput (Kneedle)"
            .to_owned(),
    })
}

/// The point of a curve over the logarithm of x that is farthest above the line from the first to the best one, both
/// scaled to 0..1 (Kneedle: Satopää et al., 2011). Points beyond the best one can't be the knee.
fn bend_of(curve: &[(f64, f64)]) -> Option<usize> {
    let best = (0..curve.len()).max_by(|a, b| curve[*a].1.total_cmp(&curve[*b].1))?;
    let (x0, y0) = curve[0];
    let (x1, y1) = curve[best];
    if best == 0 || y1 <= 0.0 {
        return None;
    }
    let above = |at: &usize| {
        let (x, y) = curve[*at];
        (y - y0) / (y1 - y0).max(f64::MIN_POSITIVE) - (x / x0).ln() / (x1 / x0).ln()
    };
    let knee = (0..=best).max_by(|a, b| above(a).total_cmp(&above(b)))?;
    // A straight rise has no bend. It ends at the best point, unless the sweep ended first.
    match above(&knee) < 0.05 {
        true if best + 1 == curve.len() => None,
        true => Some(best),
        false => Some(knee),
    }
}

/// The highest rate up to which the server kept up with all.
fn last_kept(points: &[SweepPoint]) -> Option<Knee> {
    let kept = points.iter().take_while(|point| keeps_up(point));
    let knee = kept.last()?;
    Some(Knee {
        x: knee.x,
        requests_per_second: knee.report.throughput.requests_per_second,
        rule: format!(
            "highest rate of which at least {:.0}% is answered in time",
            KEEPS_UP * 100.0
        ),
    })
}

/// Whether the answers came as fast as the requests: 19 of 20 succeeded (and kept the objectives), and the run took no
/// longer than sending did by more than a twentieth and the slowest answer of an idle server.
fn keeps_up(point: &SweepPoint) -> bool {
    let report = &point.report;
    let all = report.requests.total + report.requests.unsent;
    let good = report.goodput.map_or(report.requests.succeeded, |goodput| goodput.good);
    let sending = all as f64 / point.x;
    let patience = report.latency.end_to_end.map_or(0.0, |found| found.min) * 3.0;
    good as f64 >= KEEPS_UP * all as f64 && report.duration_seconds * KEEPS_UP <= sending + patience
}

#[cfg(test)]
mod tests {
    use super::bend_of;

    #[test]
    fn the_bend_of_a_curve() {
        let full = [(1.0, 10.0), (2.0, 19.0), (4.0, 30.0), (8.0, 33.0), (16.0, 34.0), (32.0, 33.0)];
        assert_eq!(bend_of(&full), Some(2));
        assert_eq!(bend_of(&[(1.0, 1.0), (2.0, 2.0), (4.0, 3.0), (8.0, 3.0)]), Some(2));
        assert_eq!(bend_of(&[(1.0, 1.0), (2.0, 2.0), (4.0, 3.0), (8.0, 1.0)]), Some(2));
        assert_eq!(
            bend_of(&[(1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (8.0, 8.0)]),
            None,
            "still rising"
        );
        assert_eq!(bend_of(&[(1.0, 5.0), (2.0, 4.0)]), None, "never rose");
        assert_eq!(bend_of(&[(1.0, 0.0)]), None);
    }
}
