//! `hapa bench serve`: a load test of a server, this one or any other.

mod arguments;
mod progress;

use std::path::PathBuf;

use clap::Args;
use hapa_loadtest::{
    Control, LoadError, Report, SweepPlan, SweepReport, VersusPlan, VersusReport, run, sweep,
    versus,
};
use serde::Serialize;

pub(crate) use self::arguments::problems;
use self::arguments::{LoadArgs, PromptArgs, ServerArgs};
pub(crate) use self::progress::Shown;
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;

/// Load test of a server: HAPA, OpenAI-compatible, llama-server, or plain HTTP
///
/// Nothing is started: the server runs already, best on other cores. The first request is sent alone and reported
/// apart, then a warm-up, then what is measured. Ctrl-C ends it and the figures so far are printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa bench serve                                        # 8 clients, 30 s, http://127.0.0.1:8000
  hapa bench serve http://gpu:8080 --api openai-chat --humaneval --concurrency 16 --requests 164
  hapa bench serve --rate 5 --duration 60s --goodput ttft=500ms,tpot=50ms --html report.html
  hapa bench serve --synthetic 512:128 --repeats 0.3 --shared-prefixes 0.5 --output a.json
  hapa bench serve --sweep 1,2,4,8,16,32 --requests 64 --html sweep.html
  hapa bench serve --vs http://127.0.0.1:8080 --vs-api llama --requests 32 --rounds 10
  hapa bench serve http://127.0.0.1:80 --api plain --concurrency 16 --duration 5s

Exit code 1 when a request failed or stayed incomplete; refusals (429, 503) are counted, and no failure.
docs/loadtest.md says what each figure is.")]
pub(crate) struct ServeBench {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Write the report as JSON; `hapa bench compare` reads it
    #[arg(long, short, value_name = "FILE", help_heading = "Report")]
    output: Option<PathBuf>,
    /// Write the report as one HTML page with charts
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, help_heading = "Report")]
    json: bool,
}

/// What is to be run.
enum Work {
    Single(Box<hapa_loadtest::Plan>),
    Sweep(Box<SweepPlan>),
    Versus(Box<VersusPlan>),
}

/// What came of it.
#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    Single(Box<Report>),
    Sweep(Box<SweepReport>),
    Versus(Box<VersusReport>),
}

impl ServeBench {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let work = self.work(session)?;
        let control = Control::new();
        let shown = Shown::start(&session.console, &control);
        let (found, stopped) = session.run_kept(&control, move |control| {
            let found = match &work {
                Work::Single(plan) => Found::Single(Box::new(run(plan, control)?)),
                Work::Sweep(plan) => Found::Sweep(Box::new(sweep(plan, control)?)),
                Work::Versus(plan) => Found::Versus(Box::new(versus(plan, control)?)),
            };
            Ok::<_, CliError>(found)
        })?;
        drop(shown);
        self.present(&found)?;
        match stopped {
            Some(signal) => Err(CliError::Stopped(signal)),
            None if found.is_clean() => Ok(()),
            None => Err(CliError::Failed(found.complaint())),
        }
    }

    fn work(&self, session: &Session) -> Result<Work> {
        let target = self.server.target()?;
        let workload = self.prompts.workload(session, self.load.trace())?;
        let plan = self.load.plan(target, workload, self.prompts.seed())?;
        if let Some(kind) = self.load.sweep()? {
            return Ok(Work::Sweep(Box::new(SweepPlan { base: plan, kind })));
        }
        if let Some(other) = self.server.other()? {
            let rounds = self.load.rounds();
            return Ok(Work::Versus(Box::new(VersusPlan { base: plan, other, rounds })));
        }
        Ok(Work::Single(Box::new(plan)))
    }

    fn present(&self, found: &Found) -> Result<()> {
        if let Some(path) = &self.output {
            match found {
                Found::Single(report) => report.write(path),
                Found::Sweep(report) => report.write(path),
                Found::Versus(report) => report.write(path),
            }?;
        }
        if let Some(path) = &self.html {
            match found {
                Found::Single(report) => report.write_html(path),
                Found::Sweep(report) => report.write_html(path),
                Found::Versus(report) => report.write_html(path),
            }?;
        }
        if self.json {
            return print_json(found);
        }
        print(&match found {
            Found::Single(report) => report.table(),
            Found::Sweep(report) => report.table(),
            Found::Versus(report) => report.table(),
        })
    }
}

impl Found {
    fn is_clean(&self) -> bool {
        match self {
            Self::Single(report) => report.is_clean(),
            Self::Sweep(report) => report.is_clean(),
            Self::Versus(report) => report.is_clean(),
        }
    }

    /// What went wrong, in one line.
    fn complaint(&self) -> String {
        let reports: Vec<&Report> = match self {
            Self::Single(report) => vec![report],
            Self::Sweep(report) => report.points.iter().map(|point| &point.report).collect(),
            Self::Versus(report) => vec![&report.a, &report.b],
        };
        let sum = |of: fn(&Report) -> u64| reports.iter().map(|report| of(report)).sum::<u64>();
        let (all, good) = (sum(|r| r.requests.total), sum(|r| r.requests.succeeded));
        let (failed, incomplete) = (sum(|r| r.requests.failed), sum(|r| r.requests.incomplete));
        if failed + incomplete == 0 {
            return format!("{good} of {all} requests were answered");
        }
        format!("of {all} requests, {failed} failed and {incomplete} stayed incomplete")
    }
}

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::BadUrl { .. }
            | LoadError::BadOption { .. }
            | LoadError::BadLine { .. }
            | LoadError::BadReport { .. } => Self::Usage(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}
