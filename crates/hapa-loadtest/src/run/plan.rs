//! A run of one load against one target: the first request alone, then a warm-up, then what is measured.

use std::time::Duration;

use super::control::{Control, Ended};
use super::fleet::{Fleet, Stretch};
use super::phase::Goal;
use crate::error::LoadError;
use crate::load::{Limit, Load};
use crate::prompt::Workload;
use crate::report::{Cold, Objectives, Report};
use crate::target::Target;

/// What all kinds of runs have.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that send. One drives tens of thousands of requests a second.
    pub workers: usize,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Failed requests in a row after which the run ends; 0 is never.
    pub give_up_after: u64,
    /// What a request must keep to count as good.
    pub objectives: Objectives,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            timeout: Duration::from_secs(300),
            give_up_after: 50,
            objectives: Objectives::default(),
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub target: Target,
    /// What is asked.
    pub workload: Workload,
    /// How it is paced.
    pub load: Load,
    /// When it ends.
    pub limit: Limit,
    /// The same load before anything is measured; with an empty limit there is none.
    pub warmup: Limit,
    /// Send the very first request alone, and report it apart: on a server that loads its model when it is first asked,
    /// it shows what that takes. If it fails for a reason that others would fail for too, the run ends there.
    pub cold: bool,
    /// The rest.
    pub settings: Settings,
}

impl Plan {
    fn check(&self) -> Result<(), LoadError> {
        self.load.check()?;
        let endless = self.limit.requests.is_none() && self.limit.duration.is_none();
        if endless && self.load.is_endless() {
            let reason = "the run would never end; give a number of requests or a duration";
            return Err(LoadError::option("requests", reason));
        }
        if self.load.is_trace() && self.warmup != Limit::default() {
            let reason = "a trace is replayed from its beginning; run without a warm-up";
            return Err(LoadError::option("warmup", reason));
        }
        if self.limit.requests == Some(0) || self.limit.duration == Some(Duration::ZERO) {
            return Err(LoadError::option("requests", "there is nothing to do"));
        }
        Ok(())
    }
}

/// Runs it. What happens to single requests is in the report, also when none succeeds or somebody breaks off.
pub fn run(plan: &Plan, control: &Control) -> Result<Report, LoadError> {
    plan.check()?;
    let mut fleet = Fleet::start(&plan.settings, control)?;
    let goal = Goal::new(0, plan.target.clone(), &plan.workload);
    let objectives = plan.settings.objectives;
    let mut stretch = |name: &str, load: &Load, limit: Limit| {
        let name = name.to_owned();
        fleet.run(Stretch { name, goal: goal.clone(), load: load.clone(), limit, objectives })
    };
    let mut cold = None;
    if plan.cold {
        let first = stretch("first request", &Load::closed(1), Limit::requests(1))?;
        if first.counts.failed + first.counts.incomplete > 0 || control.ended().is_some() {
            if control.ended().is_none() {
                control.end(Ended::FirstRequestFailed);
            }
            return Ok(Report::new(plan, &first, None, control));
        }
        cold = Cold::of(&first);
    }
    if plan.warmup != Limit::default() {
        let warmup = stretch("warm-up", &plan.load, plan.warmup)?;
        if control.ended().is_some() {
            return Ok(Report::new(plan, &warmup, cold, control));
        }
    }
    let measured = stretch("measuring", &plan.load, plan.limit)?;
    Ok(Report::new(plan, &measured, cold, control))
}
