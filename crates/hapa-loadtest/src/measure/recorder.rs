//! The running figures of one worker.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Figures, Reservoir, Sample};
use crate::client::{CacheOutcome, Class, Exchange, Trouble, nanoseconds};
use crate::report::Objectives;

/// Single requests that each worker keeps.
const KEPT: usize = 20_000;

/// Histograms of the requests of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    /// From the intended sending to the first piece of text.
    pub(crate) first: Figures,
    /// From the sending to the first piece of text, less what the server's engine took for it.
    pub(crate) first_beside_engine: Figures,
    /// Between pieces.
    pub(crate) gaps: Figures,
    /// After the first, by token.
    pub(crate) per_token: Figures,
    /// To the end.
    pub(crate) whole: Figures,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let new = Figures::new;
        Self {
            first: new(),
            first_beside_engine: new(),
            gaps: new(),
            per_token: new(),
            whole: new(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.first.add(&other.first);
        self.first_beside_engine.add(&other.first_beside_engine);
        self.gaps.add(&other.gaps);
        self.per_token.add(&other.per_token);
        self.whole.add(&other.whole);
    }
}

/// How many requests ended how.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) succeeded: u64,
    pub(crate) refused: u64,
    pub(crate) incomplete: u64,
    pub(crate) failed: u64,
    /// Under way when the run was broken off.
    pub(crate) abandoned: u64,
    /// Due in an open loop, but held up by its bound on requests under way until the end.
    pub(crate) unsent: u64,
}

/// One second of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Second {
    pub(crate) succeeded: u64,
    pub(crate) others: u64,
    pub(crate) output_tokens: u64,
}

/// Everything that a worker notes.
#[derive(Debug)]
pub(crate) struct Recorder {
    start: Instant,
    objectives: Objectives,
    pub(crate) counts: Counts,
    pub(crate) groups: BTreeMap<CacheOutcome, Latencies>,
    pub(crate) refusals: Figures,
    pub(crate) delays: Figures,
    pub(crate) troubles: BTreeMap<(Class, Cow<'static, str>), (u64, String)>,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Successful answers whose tokens the server did not count; their pieces of text stand for tokens.
    pub(crate) uncounted: u64,
    pub(crate) good: u64,
    pub(crate) seconds: Vec<Second>,
    pub(crate) samples: Reservoir,
    /// End of the last request.
    pub(crate) last_end: Instant,
    pub(crate) connections: u64,
    pub(crate) cpu_seconds: Option<f64>,
}

impl Recorder {
    pub(crate) fn new(start: Instant, objectives: Objectives) -> Self {
        Self {
            start,
            objectives,
            counts: Counts::default(),
            groups: BTreeMap::new(),
            refusals: Figures::new(),
            delays: Figures::new(),
            troubles: BTreeMap::new(),
            input_tokens: 0,
            output_tokens: 0,
            uncounted: 0,
            good: 0,
            seconds: Vec::new(),
            samples: Reservoir::new(KEPT),
            last_end: start,
            connections: 0,
            cpu_seconds: None,
        }
    }

    /// Seconds from the start to the end of the last request.
    pub(crate) fn span(&self) -> f64 {
        (self.last_end - self.start).as_secs_f64()
    }

    /// Notes a request. Tokens of the answer are returned.
    pub(crate) fn record(&mut self, seen: &Exchange, trouble: Option<&Trouble>) -> u64 {
        self.last_end = self.last_end.max(seen.end);
        self.delays.record(nanoseconds(seen.sent.saturating_duration_since(seen.intended)));
        let whole = nanoseconds(seen.end.saturating_duration_since(seen.intended));
        let first =
            seen.first.map(|first| nanoseconds(first.saturating_duration_since(seen.intended)));
        let tokens = seen.usage.map_or(seen.pieces, |(_, output)| output);
        let per_token = match (seen.first, seen.last) {
            (Some(first), Some(last)) if tokens > 1 => {
                Some(nanoseconds(last - first) / (tokens - 1))
            }
            _ => None,
        };
        let class = trouble.map_or(Class::Success, |trouble| trouble.class);
        let second = (seen.end.saturating_duration_since(self.start)).as_secs() as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        match trouble {
            None => {
                self.counts.succeeded += 1;
                self.seconds[second].succeeded += 1;
                self.seconds[second].output_tokens += tokens;
                self.output_tokens += tokens;
                self.input_tokens += seen.usage.map_or(0, |(input, _)| input);
                self.uncounted += u64::from(seen.usage.is_none() && seen.pieces > 0);
                self.good += u64::from(self.objectives.met(first, per_token, whole));
                let group = self.groups.entry(seen.cache).or_insert_with(Latencies::new);
                group.whole.record(whole);
                for gap in &seen.gaps {
                    group.gaps.record(*gap);
                }
                if let Some(first) = first {
                    group.first.record(first);
                }
                if let Some(beside) = beside_engine(seen) {
                    group.first_beside_engine.record(nanoseconds(beside));
                }
                if let Some(per_token) = per_token {
                    group.per_token.record(per_token);
                }
            }
            Some(trouble) => self.trouble(trouble, second, whole),
        }
        let seconds = |nanoseconds: u64| (nanoseconds as f64 * 1e-9) as f32;
        self.samples.push(Sample {
            at: seen.intended.saturating_duration_since(self.start).as_secs_f32(),
            end_to_end: seconds(whole),
            time_to_first_token: first.map(seconds),
            time_per_output_token: per_token.map(seconds),
            class,
            cache: seen.cache,
        });
        tokens
    }

    fn trouble(&mut self, trouble: &Trouble, second: usize, whole: u64) {
        self.seconds[second].others += 1;
        match trouble.class {
            Class::Refused => {
                self.counts.refused += 1;
                self.refusals.record(whole);
            }
            Class::Incomplete => self.counts.incomplete += 1,
            Class::Success | Class::Error => self.counts.failed += 1,
        }
        let key = (trouble.class, trouble.reason.clone());
        let entry = self.troubles.entry(key).or_insert_with(|| (0, trouble.example.clone()));
        entry.0 += 1;
    }

    /// Takes another worker's figures in.
    pub(crate) fn add(&mut self, other: &Self) {
        let (mine, theirs) = (&mut self.counts, other.counts);
        mine.succeeded += theirs.succeeded;
        mine.refused += theirs.refused;
        mine.incomplete += theirs.incomplete;
        mine.failed += theirs.failed;
        mine.abandoned += theirs.abandoned;
        mine.unsent += theirs.unsent;
        for (cache, latencies) in &other.groups {
            self.groups.entry(*cache).or_insert_with(Latencies::new).add(latencies);
        }
        self.refusals.add(&other.refusals);
        self.delays.add(&other.delays);
        for (key, (count, example)) in &other.troubles {
            self.troubles.entry(key.clone()).or_insert_with(|| (0, example.clone())).0 += count;
        }
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.uncounted += other.uncounted;
        self.good += other.good;
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize(other.seconds.len(), Second::default());
        }
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            mine.succeeded += theirs.succeeded;
            mine.others += theirs.others;
            mine.output_tokens += theirs.output_tokens;
        }
        self.samples.add(&other.samples);
        self.last_end = self.last_end.max(other.last_end);
        self.connections += other.connections;
        self.cpu_seconds = match (self.cpu_seconds, other.cpu_seconds) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
    }
}

/// What of the time to the first token was not the engine's, for answers that were computed for this request alone.
fn beside_engine(seen: &Exchange) -> Option<Duration> {
    if !matches!(seen.cache, CacheOutcome::Miss | CacheOutcome::Bypass) {
        return None;
    }
    let first = seen.first?.saturating_duration_since(seen.sent);
    Some(first.saturating_sub(seen.engine_first?))
}
