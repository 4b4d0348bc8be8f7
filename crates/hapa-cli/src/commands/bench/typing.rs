//! `hapa bench typing`: some lines of a file typed anew, with the requests that an editor sends meanwhile.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use hapa_loadtest::quantile;
use hapa_service::{
    Answer, AnswerEvent, CacheOutcome, DEFAULT_COMPLETION_TOKENS, EngineStats, ErrorKind, Request,
    Service, ServiceError,
};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::measure::median;
use crate::commands::complete::in_file;
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::input;
use crate::progress::Progress;
use crate::session::{ModelArgs, Session};
use crate::settings::Flags;
use crate::text::{count, duration, table};

/// Completions while somebody types: what is shown in time, and what of the work was not done twice
///
/// Takes some lines of a file away and types them again, one character after another, asking for a completion at each as
/// an editor does; a newer request cancels the older one. A completion counts as shown when it is there before the next
/// character, and as begun when its first piece is. The cache is empty at the start and in memory alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa bench typing app.py --line 40 --lines 6
  hapa bench typing app.py --line 40 --interval-ms 300 --json

A fast typist needs 100 to 200 ms for a character. --json prints {model, keys, begun, shown, computed, typed_through,
cached, superseded, seconds_to_begin, seconds_to_show, prompt_tokens, generated_tokens, ...}.")]
pub(crate) struct TypingBench {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The first line that is typed, from 1; without it the middle of the file
    #[arg(long, short, value_name = "L")]
    line: Option<usize>,
    /// How many lines are typed
    #[arg(long, value_name = "N", default_value_t = 5)]
    lines: usize,
    /// Milliseconds from one character to the next
    #[arg(long, value_name = "N", default_value_t = 150)]
    interval_ms: u64,
    /// Most tokens of a completion
    #[arg(long, value_name = "N", default_value_t = DEFAULT_COMPLETION_TOKENS)]
    max_tokens: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// What came of the request after one character.
#[derive(Debug)]
struct Outcome {
    /// When its first piece was there.
    began: Option<Duration>,
    /// None of a request that a newer one cancelled.
    answer: Option<Box<Answer>>,
}

#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    keys: usize,
    interval_seconds: f64,
    /// Completions of which something was there before the next character; those of no text do not count.
    begun: usize,
    /// Completions that were whole before the next character.
    shown: usize,
    /// Those that were generated.
    computed: usize,
    /// Those that are the rest of one that was shown before.
    typed_through: usize,
    /// Those that were asked for in the same words before.
    cached: usize,
    /// Requests that a newer one cancelled.
    superseded: usize,
    seconds_to_begin: Seconds,
    seconds_to_show: Seconds,
    prompt_tokens: PromptTokens,
    generated_tokens: GeneratedTokens,
}

#[derive(Debug, Serialize)]
struct Seconds {
    median: f64,
    p95: f64,
}

impl Seconds {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
        Self { median: median(times.clone()), p95: quantile(&mut times, 0.95) }
    }
}

/// Tokens of the prompts that came to the engine.
#[derive(Debug, Serialize)]
struct PromptTokens {
    asked: u64,
    /// Those whose keys and values were there from earlier requests.
    reused: u64,
    computed: u64,
}

#[derive(Debug, Serialize)]
struct GeneratedTokens {
    shown: u64,
    /// Those of requests that were cancelled.
    dropped: u64,
}

impl TypingBench {
    pub(super) fn flags(&self, flags: &mut Flags) {
        self.model.flags(flags);
    }

    pub(super) fn run(self, session: &Session) -> Result<()> {
        for (flag, value, most) in [
            ("--lines", self.lines as u64, 1000),
            ("--interval-ms", self.interval_ms, 60_000),
            ("--max-tokens", self.max_tokens as u64, 4096),
        ] {
            if !(1..=most).contains(&value) {
                return Err(CliError::usage(format!("{flag} is {value}; 1 to {most} is allowed")));
            }
        }
        let text = input::file(&self.file)?;
        let (prefix, typed, suffix) = taken_out(&text, self.line, self.lines)
            .map_err(|problem| CliError::usage(format!("{}: {problem}", self.file.display())))?;
        let service = Service::new(session.fresh_service_options()?)?;
        let request = |typed: &str| self.request(format!("{prefix}{typed}"), suffix.to_owned());
        service.limits().check(&request(typed))?;
        let figures = session.run(service.model(), async {
            let progress = Progress::of_service(&session.console, &service);
            let lease = service.load().await?;
            let model = lease.info().name.clone();
            drop((lease, progress));
            session.console.note(&format!(
                "typing {}, {} ms each",
                count(typed.chars().count(), "character"),
                self.interval_ms
            ));
            let outcomes = type_all(&service, typed, self.interval_ms, request).await?;
            let engine = settled(&service).await?;
            Ok(self.figures(model, &outcomes, &engine))
        })?;
        if self.json { print_json(&figures) } else { print(&figures.table()) }
    }

    fn request(&self, prefix: String, suffix: String) -> Request {
        let mut request = in_file(&self.file, prefix, suffix);
        request.max_tokens = self.max_tokens;
        request.document_id = Some(self.file.display().to_string());
        request
    }

    fn figures(&self, model: String, outcomes: &[Outcome], engine: &EngineStats) -> Figures {
        let shown: Vec<&Answer> =
            outcomes.iter().filter_map(|outcome| outcome.answer.as_deref()).collect();
        let began = || outcomes.iter().filter_map(|outcome| outcome.began);
        let number =
            |of: &dyn Fn(&Answer) -> bool| shown.iter().filter(|answer| of(answer)).count();
        let is_hit = |answer: &Answer| {
            matches!(answer.cache.outcome, CacheOutcome::HitL1 | CacheOutcome::HitL2)
        };
        let generated: usize = shown
            .iter()
            .filter(|answer| !is_hit(answer))
            .map(|answer| answer.usage.generated_tokens)
            .sum();
        Figures {
            model,
            keys: outcomes.len(),
            interval_seconds: self.interval_ms as f64 / 1e3,
            begun: began().count(),
            shown: shown.len(),
            computed: number(&|answer| !is_hit(answer) && !answer.cache.typed_through),
            typed_through: number(&|answer| answer.cache.typed_through),
            cached: number(&|answer| is_hit(answer) && !answer.cache.typed_through),
            superseded: outcomes.len() - shown.len(),
            seconds_to_begin: Seconds::of(began()),
            seconds_to_show: Seconds::of(shown.iter().map(|answer| answer.timings.total)),
            prompt_tokens: PromptTokens {
                asked: engine.prompt_tokens,
                reused: engine.cached_tokens,
                computed: engine.prompt_tokens.saturating_sub(engine.cached_tokens),
            },
            generated_tokens: GeneratedTokens {
                shown: generated as u64,
                dropped: engine.generated_tokens.saturating_sub(generated as u64),
            },
        }
    }
}

/// Types the text at its pace and asks at each character; returns what came of each, in order.
async fn type_all(
    service: &Service,
    typed: &str,
    interval_ms: u64,
    request: impl Fn(&str) -> Request,
) -> Result<Vec<Outcome>> {
    let mut pace = tokio::time::interval(Duration::from_millis(interval_ms));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = Vec::new();
    let ends = typed.char_indices().map(|(at, c)| at + c.len_utf8());
    for end in ends {
        pace.tick().await;
        let (service, request) = (service.clone(), request(&typed[..end]));
        asked.push(tokio::spawn(async move { ask(&service, request).await }));
    }
    // Nobody types on: what is under way for the last one ends by itself.
    let mut outcomes = Vec::with_capacity(asked.len());
    for answer in asked {
        let answer =
            answer.await.map_err(|e| CliError::Failed(format!("a request's task failed: {e}")))?;
        outcomes.push(answer?);
    }
    Ok(outcomes)
}

/// Asks and reads on until the answer is whole or cancelled.
async fn ask(service: &Service, request: Request) -> Result<Outcome, ServiceError> {
    let asked = Instant::now();
    let mut outcome = Outcome { began: None, answer: None };
    let is_superseded = |error: &ServiceError| error.kind() == ErrorKind::Superseded;
    let mut stream = match service.predict_stream(request).await {
        Err(error) if is_superseded(&error) => return Ok(outcome),
        stream => stream?,
    };
    while let Some(event) = stream.next().await {
        match event {
            Ok(AnswerEvent::Text(_)) => outcome.began = outcome.began.or(Some(asked.elapsed())),
            Ok(AnswerEvent::Logprobs(_)) => {}
            Ok(AnswerEvent::Finished(answer)) => outcome.answer = Some(answer),
            Err(error) if is_superseded(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(outcome)
}

/// The engine's counts when it has done with what was cancelled.
async fn settled(service: &Service) -> Result<EngineStats> {
    loop {
        let engine = service.stats().engine;
        let engine = engine
            .ok_or_else(|| CliError::Failed("the model was unloaded meanwhile".to_owned()))?;
        if (engine.running, engine.waiting) == (0, 0) {
            return Ok(engine);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The text before the lines that are typed, those, and the text after them.
fn taken_out(text: &str, first: Option<usize>, lines: usize) -> Result<(&str, &str, &str), String> {
    let all = text.split_inclusive('\n').count();
    let first = first.unwrap_or(all / 2 + 1);
    if first == 0 || first > all {
        return Err(format!("there is no line {first}; the file has {}", count(all, "line")));
    }
    let start_of =
        |line: usize| text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
    let (start, end) = (start_of(first), start_of(first + lines));
    // The line's end is there already when somebody types in a file.
    let typed = text[start..end].strip_suffix('\n').unwrap_or(&text[start..end]);
    if typed.trim().is_empty() {
        return Err(format!("there is nothing to type from line {first} on"));
    }
    Ok((&text[..start], typed, &text[start + typed.len()..]))
}

impl Figures {
    fn table(&self) -> String {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let part = |number: u64, of: u64| match of {
            0 => String::new(),
            _ => format!(" ({:.0}%)", 100.0 * number as f64 / of as f64),
        };
        let time = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        let times = |Seconds { median, p95 }: &Seconds| {
            format!("{} median, {} 95%", time(*median), time(*p95))
        };
        let keys = self.keys as u64;
        let PromptTokens { asked, reused, computed } = &self.prompt_tokens;
        let GeneratedTokens { shown, dropped } = &self.generated_tokens;
        table(&[
            row("model", self.model.clone()),
            row(
                "typed",
                format!(
                    "{}, one each {}",
                    count(self.keys, "character"),
                    time(self.interval_seconds)
                ),
            ),
            row(
                "shown in time",
                format!(
                    "{}{}: {} computed, {} typed through, {} from the cache",
                    self.shown,
                    part(self.shown as u64, keys),
                    self.computed,
                    self.typed_through,
                    self.cached
                ),
            ),
            row("begun in time", format!("{}{}", self.begun, part(self.begun as u64, keys))),
            row("superseded", self.superseded.to_string()),
            row("time until begun", times(&self.seconds_to_begin)),
            row("time until shown", times(&self.seconds_to_show)),
            row(
                "prompt tokens",
                format!("{asked}: {reused} reused{}, {computed} computed", part(*reused, *asked)),
            ),
            row("generated tokens", format!("{}: {dropped} dropped", shown + dropped)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_out() {
        let text = "a\nb\nc\nd";
        assert_eq!(taken_out(text, Some(2), 2), Ok(("a\n", "b\nc", "\nd")));
        assert_eq!(taken_out(text, Some(4), 9), Ok(("a\nb\nc\n", "d", "")));
        assert_eq!(taken_out(text, None, 1), Ok(("a\nb\n", "c", "\nd")));
        assert!(taken_out(text, Some(5), 1).unwrap_err().contains("has 4 lines"));
        assert!(taken_out(text, Some(0), 1).is_err());
        assert!(taken_out("", None, 1).unwrap_err().contains("no line 1"));
        assert!(taken_out("a\n\n\n", Some(2), 2).unwrap_err().contains("nothing to type"));
    }
}
