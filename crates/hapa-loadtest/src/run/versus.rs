//! Two servers in one run, by turns, so that whatever else the machine does meets both.

use super::control::Control;
use super::fleet::{Fleet, Stretch};
use super::phase::Goal;
use super::plan::Plan;
use crate::error::LoadError;
use crate::load::{Limit, Load};
use crate::measure::Recorder;
use crate::report::{Report, Round, VersusReport};
use crate::target::Target;

/// A comparison.
#[derive(Debug, Clone)]
pub struct VersusPlan {
    /// The first server, the workload and the load; its limit is that of one turn.
    pub base: Plan,
    /// The second server.
    pub other: Target,
    /// How often each has its turn.
    pub rounds: usize,
}

/// Runs it. In each round both get the same prompts; who begins changes from round to round.
pub fn versus(plan: &VersusPlan, control: &Control) -> Result<VersusReport, LoadError> {
    if plan.rounds < 2 {
        return Err(LoadError::option("rounds", "intervals need at least 2 rounds"));
    }
    let base = &plan.base;
    if base.limit.requests.is_none() {
        let reason = "turns must be equal; give the number of requests of one turn";
        return Err(LoadError::option("requests", reason));
    }
    let mut fleet = Fleet::start(&base.settings, control)?;
    let goals = [&base.target, &plan.other]
        .into_iter()
        .enumerate()
        .map(|(id, target)| Goal::new(id, target.clone(), &base.workload))
        .collect::<Vec<_>>();
    let plans = [base.clone(), Plan { target: plan.other.clone(), ..base.clone() }];
    let mut turn = |which: usize, limit: Limit, first: u64, name: String| {
        let load: &Load = &base.load;
        let objectives = base.settings.objectives;
        let goal = goals[which].clone();
        fleet.run_from(Stretch { name, goal, load: load.clone(), limit, objectives }, first)
    };
    let mut first = 0;
    if base.warmup != Limit::default() {
        for which in 0..2 {
            let (_, begun) = turn(which, base.warmup, 0, "warm-up".to_owned())?;
            first = first.max(begun);
        }
    }
    let mut rounds = Vec::new();
    let mut totals: [Option<Total>; 2] = [None, None];
    for round in 0..plan.rounds {
        let mut reports: [Option<Report>; 2] = [None, None];
        let mut begun = 0;
        for turn_number in 0..2 {
            let which = (round + turn_number) % 2;
            if control.ended().is_some() {
                break;
            }
            let name = format!("round {} of {}, {}", round + 1, plan.rounds, ["A", "B"][which]);
            let (seen, count) = turn(which, base.limit, first, name)?;
            begun = begun.max(count);
            reports[which] = Some(Report::new(&plans[which], &seen, None, control));
            match &mut totals[which] {
                Some(total) => total.add(&seen),
                empty => *empty = Some(Total { span: seen.span(), seen }),
            }
        }
        first += begun;
        if let [Some(a), Some(b)] = &reports {
            rounds.push(Round::new(a, b));
        }
    }
    let total = |which: usize| match &totals[which] {
        Some(total) => total.report(&plans[which], control),
        None => {
            let nothing = Recorder::new(std::time::Instant::now(), base.settings.objectives);
            Report::new(&plans[which], &nothing, None, control)
        }
    };
    Ok(VersusReport::new(total(0), total(1), rounds))
}

/// All turns of one server.
struct Total {
    seen: Recorder,
    span: f64,
}

impl Total {
    fn add(&mut self, turn: &Recorder) {
        self.span += turn.span();
        self.seen.add(turn);
    }

    /// Their report; the time is that of the turns alone.
    fn report(&self, plan: &Plan, control: &Control) -> Report {
        let mut report = Report::new(plan, &self.seen, None, control);
        report.set_duration(self.span);
        report
    }
}
