//! The report of one run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Objectives;
use crate::client::{CacheOutcome, Class};
use crate::error::LoadError;
use crate::measure::{Distribution, Latencies, Recorder, Sample};
use crate::run::{Control, Ended, Plan};
use crate::target::Api;

/// Name and version of the JSON form. The number rises when a field changes its meaning or goes.
pub const SCHEMA: &str = "hapa-loadtest/1";

/// Single requests that a file keeps.
const KEPT: usize = 5_000;

/// Everything that a run found. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of this crate.
    pub version: String,
    /// When the run ended, in seconds since 1970.
    pub finished_at: u64,
    /// Why it ended.
    pub ended: Ended,
    /// The server that was asked.
    pub server: Server,
    /// How requests were paced.
    pub load: String,
    /// Requests a second that an open loop meant to send.
    pub offered: Option<Offered>,
    /// Clients of a closed loop.
    pub concurrency: Option<usize>,
    /// What was asked.
    pub workload: String,
    /// From the start to the end of the last request.
    pub duration_seconds: f64,
    /// How many ended how.
    pub requests: Requests,
    /// The reasons of those without success.
    pub troubles: Vec<TroubleCount>,
    /// By time.
    pub throughput: Throughput,
    /// Of all successful requests.
    pub latency: LatencySet,
    /// The request before all others, alone.
    pub cold: Option<Cold>,
    /// Successful requests by what the server's cache did.
    pub by_cache: Vec<Group>,
    /// How long refusals took.
    pub refusal: Option<Distribution>,
    /// Requests that kept the objectives, if there were any.
    pub goodput: Option<Goodput>,
    /// The figures that the review of HAPA's predecessor printed.
    pub review: Review,
    /// What the generator itself did, to tell its limits from the server's.
    pub generator: Generator,
    /// Second by second.
    pub timeline: Vec<TimelinePoint>,
    /// Cumulative distributions.
    pub curves: Curves,
    /// An even choice of single requests.
    pub samples: Vec<Sample>,
}

/// The server that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its address.
    pub url: String,
    /// The dialect.
    pub api: Api,
    /// The model that was named.
    pub model: Option<String>,
    /// Whether answers were streamed.
    pub stream: bool,
}

/// What an open loop meant to send.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Offered {
    /// Requests a second on average.
    pub requests_per_second: f64,
}

/// How many requests ended how.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// All that ended.
    pub total: u64,
    /// Whole answers.
    pub succeeded: u64,
    /// 429 and 503.
    pub refused: u64,
    /// Answers that began and did not end.
    pub incomplete: u64,
    /// Everything else.
    pub failed: u64,
    /// Under way when the run was broken off; in no other figure.
    pub abandoned: u64,
    /// Held up by the bound on requests under way until the run ended; in no other figure.
    pub unsent: u64,
    /// Whole answers among all that ended, 0 to 1.
    pub success_rate: f64,
}

/// A kind of trouble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TroubleCount {
    /// Refused, incomplete or error.
    pub class: Class,
    /// In few words.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// What the first one looked like.
    pub example: String,
}

/// By time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Whole answers a second.
    pub requests_per_second: f64,
    /// Tokens of prompts a second, by the server's count.
    pub input_tokens_per_second: f64,
    /// Tokens of answers a second.
    pub output_tokens_per_second: f64,
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Answers whose tokens the server did not count, so that pieces of text stand for them.
    pub uncounted_answers: u64,
}

/// The latencies of a kind of requests; absent where nothing was streamed, or nothing succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatencySet {
    /// From the intended sending to the first piece of text.
    pub time_to_first_token: Option<Distribution>,
    /// From the actual sending to the first piece of text, less the time to first token of HAPA's receipt: what HTTP, the prompt's
    /// making and the way back took. Absent for other servers, and for answers out of the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_beside_engine: Option<Distribution>,
    /// Between one piece of text and the next.
    pub inter_token_latency: Option<Distribution>,
    /// From the first to the last piece, by tokens after the first.
    pub time_per_output_token: Option<Distribution>,
    /// From the intended sending to the end.
    pub end_to_end: Option<Distribution>,
}

/// The request before all others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cold {
    /// To the first piece of text.
    pub time_to_first_token: Option<f64>,
    /// To the end.
    pub end_to_end: f64,
}

/// Successful requests of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What the server's cache did.
    pub cache: CacheOutcome,
    /// The same in words.
    pub label: String,
    /// How many.
    pub count: u64,
    /// Their latencies.
    pub latency: LatencySet,
}

/// Requests that kept all objectives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// The bounds.
    pub objectives: Objectives,
    /// How many kept them.
    pub good: u64,
    /// Of all that ended, 0 to 1.
    pub share: f64,
    /// Good ones a second.
    pub requests_per_second: f64,
}

/// The four figures that the review printed, under their names there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// Mean of successful requests, in seconds.
    pub avg: Option<f64>,
    /// The fastest.
    pub min: Option<f64>,
    /// The slowest.
    pub max: Option<f64>,
    /// Percent.
    pub success_rate: f64,
}

/// What the generator itself did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// Threads.
    pub workers: usize,
    /// Connections opened while measuring.
    pub connections: u64,
    /// Processor time of the threads that send, if the system tells.
    pub cpu_seconds: Option<f64>,
    /// How late requests went out, measured from the intended time.
    pub send_delay: Option<Distribution>,
}

/// One second of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimelinePoint {
    /// Whole answers.
    pub succeeded: u64,
    /// Requests that ended otherwise.
    pub others: u64,
    /// Tokens of the answers that ended.
    pub output_tokens: u64,
}

/// Cumulative distributions: pairs of a share of requests and the seconds within which they stay.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Curves {
    /// To the end.
    pub end_to_end: Vec<(f64, f64)>,
    /// To the first piece.
    pub time_to_first_token: Vec<(f64, f64)>,
    /// Between pieces.
    pub inter_token_latency: Vec<(f64, f64)>,
}

impl Cold {
    pub(crate) fn of(first: &Recorder) -> Option<Self> {
        let latencies = first.groups.values().next()?;
        Some(Self {
            time_to_first_token: latencies.first.distribution().map(|found| found.mean),
            end_to_end: latencies.whole.distribution()?.mean,
        })
    }
}

impl LatencySet {
    fn of(latencies: &Latencies) -> Self {
        Self {
            time_to_first_token: latencies.first.distribution(),
            first_token_beside_engine: latencies.first_beside_engine.distribution(),
            inter_token_latency: latencies.gaps.distribution(),
            time_per_output_token: latencies.per_token.distribution(),
            end_to_end: latencies.whole.distribution(),
        }
    }
}

impl Report {
    pub(crate) fn new(plan: &Plan, seen: &Recorder, cold: Option<Cold>, control: &Control) -> Self {
        let counts = seen.counts;
        let total = counts.succeeded + counts.refused + counts.incomplete + counts.failed;
        let share = |part: u64| part as f64 / total.max(1) as f64;
        let span = seen.span();
        let per_second = |count: u64| if span > 0.0 { count as f64 / span } else { 0.0 };
        let mut all = Latencies::new();
        seen.groups.values().for_each(|group| all.add(group));
        let latency = LatencySet::of(&all);
        let groups: BTreeMap<_, _> = seen.groups.iter().collect();
        let by_cache = CacheOutcome::ALL.into_iter().filter_map(|cache| {
            let latency = LatencySet::of(groups.get(&cache)?);
            let count = latency.end_to_end.map_or(0, |found| found.count);
            Some(Group { cache, label: cache.label().to_owned(), count, latency })
        });
        let troubles = seen.troubles.iter().map(|((class, reason), (count, example))| {
            let (reason, example) = (reason.clone().into_owned(), example.clone());
            TroubleCount { class: *class, reason, count: *count, example }
        });
        let timeline = seen.seconds.iter().map(|second| TimelinePoint {
            succeeded: second.succeeded,
            others: second.others,
            output_tokens: second.output_tokens,
        });
        let objectives = plan.settings.objectives;
        let whole = latency.end_to_end;
        let concurrency = match plan.load {
            crate::load::Load::Closed { concurrency } => Some(concurrency),
            crate::load::Load::Open { .. } => None,
        };
        Self {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            finished_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            ended: control.ended().unwrap_or_default(),
            server: Server {
                url: plan.target.url.clone(),
                api: plan.target.api,
                model: plan.target.model.clone(),
                stream: plan.target.stream,
            },
            load: plan.load.to_string(),
            offered: plan
                .load
                .offered(plan.limit.duration)
                .map(|requests_per_second| Offered { requests_per_second }),
            concurrency,
            workload: plan.workload.label(),
            duration_seconds: span,
            requests: Requests {
                total,
                succeeded: counts.succeeded,
                refused: counts.refused,
                incomplete: counts.incomplete,
                failed: counts.failed,
                abandoned: counts.abandoned,
                unsent: counts.unsent,
                success_rate: share(counts.succeeded),
            },
            troubles: troubles.collect(),
            throughput: Throughput {
                requests_per_second: per_second(counts.succeeded),
                input_tokens_per_second: per_second(seen.input_tokens),
                output_tokens_per_second: per_second(seen.output_tokens),
                input_tokens: seen.input_tokens,
                output_tokens: seen.output_tokens,
                uncounted_answers: seen.uncounted,
            },
            latency,
            cold,
            by_cache: by_cache.collect(),
            refusal: seen.refusals.distribution(),
            goodput: (!objectives.is_empty()).then(|| Goodput {
                objectives,
                good: seen.good,
                share: share(seen.good),
                requests_per_second: per_second(seen.good),
            }),
            review: Review {
                avg: whole.map(|found| found.mean),
                min: whole.map(|found| found.min),
                max: whole.map(|found| found.max),
                success_rate: share(counts.succeeded) * 100.0,
            },
            generator: Generator {
                workers: plan.settings.workers,
                connections: seen.connections,
                cpu_seconds: seen.cpu_seconds,
                send_delay: seen.delays.distribution(),
            },
            timeline: timeline.collect(),
            curves: Curves {
                end_to_end: all.whole.curve(),
                time_to_first_token: all.first.curve(),
                inter_token_latency: all.gaps.curve(),
            },
            samples: seen.samples.choose(KEPT),
        }
    }

    /// Counts the figures by time anew over another span.
    pub(crate) fn set_duration(&mut self, seconds: f64) {
        let scale = if seconds > 0.0 { self.duration_seconds / seconds } else { 0.0 };
        self.duration_seconds = seconds;
        self.throughput.requests_per_second *= scale;
        self.throughput.input_tokens_per_second *= scale;
        self.throughput.output_tokens_per_second *= scale;
        if let Some(goodput) = &mut self.goodput {
            goodput.requests_per_second *= scale;
        }
    }

    /// Whether nothing is to be complained of: something succeeded, nothing failed or stayed incomplete, and the run
    /// was not cut short by failures. Refusals are the server's right.
    pub fn is_clean(&self) -> bool {
        let requests = &self.requests;
        requests.succeeded > 0
            && requests.failed == 0
            && requests.incomplete == 0
            && !matches!(self.ended, Ended::TooManyFailures | Ended::FirstRequestFailed)
    }

    /// Reads a report that [`Report::write`] wrote.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        read_json(path, SCHEMA)
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<(), LoadError> {
        write_json(path, self)
    }
}

pub(super) fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
    schema: &str,
) -> Result<T, LoadError> {
    let file = |source| LoadError::File { action: "read", path: path.to_owned(), source };
    let bad = |reason: String| LoadError::BadReport { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(file)?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("not JSON: {error}")))?;
    match value["schema"].as_str() {
        Some(found) if found == schema => {}
        Some(found) => return Err(bad(format!("its schema is `{found}`, expected `{schema}`"))),
        None => return Err(bad(format!("it has no `schema`; expected `{schema}`"))),
    }
    serde_json::from_value(value).map_err(|error| bad(error.to_string()))
}

pub(super) fn write_json<T: Serialize>(path: &Path, report: &T) -> Result<(), LoadError> {
    let file = |source| LoadError::File { action: "write", path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(report).map_err(|error| file(error.into()))?;
    std::fs::write(path, text + "\n").map_err(file)
}
