//! The same workload at one load after another, to find where a server's throughput stops rising.

use super::control::Control;
use super::fleet::{Fleet, Stretch};
use super::phase::Goal;
use super::plan::Plan;
use crate::error::LoadError;
use crate::load::{Arrivals, Limit, Load};
use crate::report::{Report, SweepPoint, SweepReport};

/// What is raised.
#[derive(Debug, Clone, PartialEq)]
pub enum SweepKind {
    /// Clients of a closed loop, in these numbers.
    Concurrency(Vec<usize>),
    /// Rates of Poisson arrivals, from what one client reaches to beyond what `saturating` clients reach.
    Rates {
        /// How many rates.
        points: usize,
        /// Clients that are taken to saturate the server.
        saturating: usize,
    },
}

/// A sweep.
#[derive(Debug, Clone)]
pub struct SweepPlan {
    /// Target, workload, settings, warm-up, and the limit of each point; its load only paces the warm-up.
    pub base: Plan,
    /// What is raised.
    pub kind: SweepKind,
}

/// By how much the last rate is above the greatest throughput that was seen.
const BEYOND: f64 = 1.2;

/// Runs it; broken off, it gives the points that were done.
pub fn sweep(plan: &SweepPlan, control: &Control) -> Result<SweepReport, LoadError> {
    if plan.base.limit == Limit::default() {
        return Err(LoadError::option("duration", "each point of a sweep must end"));
    }
    let mut fleet = Fleet::start(&plan.base.settings, control)?;
    let goal = Goal::new(0, plan.base.target.clone(), &plan.base.workload);
    let mut point = |load: Load, limit: Limit| -> Result<Report, LoadError> {
        let seen = fleet.run(Stretch {
            name: load.to_string(),
            goal: goal.clone(),
            load: load.clone(),
            limit,
            objectives: plan.base.settings.objectives,
        })?;
        let plan = Plan { load, limit, ..plan.base.clone() };
        Ok(Report::new(&plan, &seen, None, control))
    };
    if plan.base.warmup != Limit::default() {
        point(plan.base.load.clone(), plan.base.warmup)?;
    }
    let mut points = Vec::new();
    let mut done = |report: Report, x: f64| {
        points.push(SweepPoint::new(x, report));
        control.ended().is_none()
    };
    let limit = plan.base.limit;
    match &plan.kind {
        SweepKind::Concurrency(ladder) => {
            for concurrency in ladder {
                let report = point(Load::closed(*concurrency), limit)?;
                if !done(report, *concurrency as f64) {
                    break;
                }
            }
        }
        SweepKind::Rates { points: count, saturating } => {
            let alone = point(Load::closed(1), limit)?.throughput.requests_per_second;
            let most = point(Load::closed(*saturating), limit)?.throughput.requests_per_second;
            let (low, high) = (alone.min(most), alone.max(most) * BEYOND);
            let steps = count.saturating_sub(1).max(1) as f64;
            for step in 0..*count {
                if high <= 0.0 || control.ended().is_some() {
                    break;
                }
                let rate = (low + (high - low) * step as f64 / steps).max(high / 1000.0);
                let arrivals = Arrivals::Poisson { rate, seed: step as u64 };
                let report = point(Load::open(arrivals), limit)?;
                if !done(report, rate) {
                    break;
                }
            }
        }
    }
    Ok(SweepReport::new(&plan.kind, points, control.ended().unwrap_or_default()))
}
