//! Ways to serve the same questions.

use std::fmt;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures_util::future::join_all;
use hapa_model::{BackendChoice, KeepAlive};
use hapa_profiler::MemoryTracker;
use hapa_service::{Answer, FinishReason, MemoryOptions, Request, Service};
use serde::{Deserialize, Serialize};

use crate::console::print_json;
use crate::error::Result;
use crate::interrupt;
use crate::session::Session;

/// What is asked, over and over. Each time with another number before it, so that no two requests are the same.
const QUESTIONS: [&str; 8] = [
    "write a function that merges two sorted lists",
    "write a function that parses an ISO date",
    "write a class for a stack with push, pop and peek",
    "write a function that counts the words of a text",
    "write a context manager that measures time",
    "write a function that reads a CSV file into dictionaries",
    "write a decorator that retries a function three times",
    "write a function that finds the shortest path in a graph",
];

/// Times that a kept answer is asked for in a row: single look-ups are too short for one reading of a clock.
const HITS: usize = 2_000;

/// Characters at the end of an answer that tell it from what stands before.
const STOP_CHARS: usize = 12;

/// Models that are in memory at once where each request brings its own.
pub(super) const COPIES: usize = 2;

/// A way to serve. Each runs in a fresh process, so that memory is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// Each request loads the model for itself.
    Own,
    /// One model, loaded by the first request; one request after another, then many at once. No cache.
    Shared,
    /// The same with the response cache.
    Kept,
    /// Two requests at once, each with a model of its own in private memory.
    Copies,
}

/// How much is asked.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Load {
    /// One after another.
    pub(super) requests: usize,
    /// At once.
    pub(super) clients: usize,
    pub(super) max_tokens: usize,
}

/// What [`Scenario::Own`] took. Times are in seconds, one a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) load: Vec<f64>,
    pub(super) answer: Vec<f64>,
}

/// What [`Scenario::Shared`] took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Shared {
    /// What each request waited for the model.
    pub(super) load: Vec<f64>,
    /// Seconds from a request to its answer, the first left out.
    pub(super) answer: Vec<f64>,
    /// Of one request after another.
    pub(super) one_by_one_per_second: f64,
    pub(super) one_by_one_tokens_per_second: f64,
    /// Of many at once.
    pub(super) at_once_per_second: f64,
    pub(super) at_once_tokens_per_second: f64,
    /// Before the first request.
    pub(super) idle_bytes: u64,
    /// With two requests at once.
    pub(super) peak_bytes: u64,
}

/// What [`Scenario::Kept`] took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Seconds of questions that were asked for the first time.
    pub(super) computed: Vec<f64>,
    /// Seconds of the same questions, asked again; each the mean of many look-ups.
    pub(super) kept: Vec<f64>,
    /// Kept answers that all clients together got in a second.
    pub(super) kept_per_second: f64,
}

/// What [`Scenario::Copies`] took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Copies {
    /// Seconds of a load that reads the whole file into private memory.
    pub(super) load: Vec<f64>,
    pub(super) peak_bytes: u64,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Shared => "shared",
            Self::Kept => "kept",
            Self::Copies => "copies",
        }
    }

    /// Measures in this process, and prints what it took as JSON.
    pub(super) fn run(self, session: &Session, load: Load) -> Result<()> {
        let work = async {
            match self {
                Self::Own => print_json(&own(session, load).await?),
                Self::Shared => print_json(&shared(session, load).await?),
                Self::Kept => print_json(&kept(session, load).await?),
                Self::Copies => print_json(&copies(session, load).await?),
            }
        };
        interrupt::run(&session.console, work, async {})
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

async fn own(session: &Session, load: Load) -> Result<Own> {
    let mut found = Own { load: Vec::new(), answer: Vec::new() };
    for number in 0..load.requests {
        let service = plain(session, session.settings.engine.backend)?;
        let answer = ask(&service, number, load).await?;
        found.load.push(answer.timings.model_loading.as_secs_f64());
        found.answer.push(answer.timings.total.as_secs_f64());
    }
    Ok(found)
}

async fn shared(session: &Session, load: Load) -> Result<Shared> {
    let service = plain(session, session.settings.engine.backend)?;
    let memory = MemoryTracker::new();
    let idle_bytes = memory.sample().resident_bytes;
    let first = ask(&service, 0, load).await?;
    let mut waited = vec![first.timings.model_loading.as_secs_f64()];
    // As many at once as the scenario of copies has.
    at_once(&service, 1, Load { clients: COPIES, ..load }).await?;
    let peak_bytes = memory.sample().peak_resident_bytes;
    let began = Instant::now();
    let mut answer = Vec::new();
    let mut tokens = 0;
    for number in 0..load.requests {
        let answered = ask(&service, 100 + number, load).await?;
        waited.push(answered.timings.model_loading.as_secs_f64());
        answer.push(answered.timings.total.as_secs_f64());
        tokens += answered.usage.generated_tokens;
    }
    let alone = began.elapsed().as_secs_f64();
    let (together, tokens_together) = at_once(&service, 10_000, load).await?;
    let together = together.as_secs_f64();
    // As many loads as the other way had requests.
    waited.truncate(load.requests.max(1));
    Ok(Shared {
        load: waited,
        answer,
        one_by_one_per_second: load.requests as f64 / alone,
        one_by_one_tokens_per_second: tokens as f64 / alone,
        at_once_per_second: load.clients as f64 / together,
        at_once_tokens_per_second: tokens_together as f64 / together,
        idle_bytes,
        peak_bytes,
    })
}

async fn kept(session: &Session, load: Load) -> Result<Kept> {
    let mut options = session.bare_service_options()?;
    options.cache = Some(MemoryOptions::new());
    let service = Service::new(options)?;
    service.load().await?;
    let mut found = Kept { computed: Vec::new(), kept: Vec::new(), kept_per_second: 0.0 };
    let mut whole = Vec::new();
    for number in 0..load.requests {
        let mut request = question(number, load);
        let answer = service.predict(request.clone()).await?;
        found.computed.push(answer.timings.total.as_secs_f64());
        // An answer that was cut is never kept. With its own end as the end that is wanted, it is whole.
        if answer.finish == FinishReason::Length {
            let start = answer.text.char_indices().nth_back(STOP_CHARS - 1).map_or(0, |(at, _)| at);
            request.stop = vec![answer.text[start..].to_owned()];
            service.predict(request.clone()).await?;
        }
        if service.predict(request.clone()).await?.cache.outcome.is_hit() {
            whole.push(request);
        }
    }
    for request in &whole {
        let began = Instant::now();
        for _ in 0..HITS {
            service.predict(request.clone()).await?;
        }
        found.kept.push(began.elapsed().as_secs_f64() / HITS as f64);
    }
    if let Some(request) = whole.first() {
        let began = Instant::now();
        for _ in 0..HITS / load.clients + 1 {
            let asked = (0..load.clients).map(|_| service.predict(request.clone()));
            for answer in join_all(asked).await {
                answer?;
            }
        }
        let asked = (HITS / load.clients + 1) * load.clients;
        found.kept_per_second = asked as f64 / began.elapsed().as_secs_f64();
    }
    Ok(found)
}

async fn copies(session: &Session, load: Load) -> Result<Copies> {
    let memory = MemoryTracker::new();
    let mut held = Vec::new();
    let mut found = Copies { load: Vec::new(), peak_bytes: 0 };
    for number in 0..COPIES {
        // candle's own reader keeps weights in the memory of the process, as most frameworks do.
        let service = plain(session, BackendChoice::Reference)?;
        let answer = ask(&service, number, Load { max_tokens: 4, ..load }).await?;
        found.load.push(answer.timings.model_loading.as_secs_f64());
        held.push(service);
    }
    found.peak_bytes = memory.sample().peak_resident_bytes;
    drop(held);
    Ok(found)
}

/// A service without a cache.
fn plain(session: &Session, backend: BackendChoice) -> Result<Service> {
    let mut options = session.bare_service_options()?;
    options.lazy.load.backend = backend;
    options.lazy.keep_alive = KeepAlive::Forever;
    Ok(Service::new(options)?)
}

fn question(number: usize, load: Load) -> Request {
    let question = QUESTIONS[number % QUESTIONS.len()];
    let mut request = Request::generate(format!("Task {number}: {question}"));
    request.max_tokens = load.max_tokens;
    request
}

async fn ask(service: &Service, number: usize, load: Load) -> Result<Answer> {
    Ok(service.predict(question(number, load)).await?)
}

/// All at once; how long it took, and the tokens.
async fn at_once(service: &Service, from: usize, load: Load) -> Result<(Duration, usize)> {
    let began = Instant::now();
    let mut tokens = 0;
    for answer in join_all((0..load.clients).map(|n| ask(service, from + n, load))).await {
        tokens += answer?.usage.generated_tokens;
    }
    Ok((began.elapsed(), tokens))
}
