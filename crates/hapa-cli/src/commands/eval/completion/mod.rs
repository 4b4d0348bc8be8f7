//! `hapa eval completion`: how well a model fills in what was held out of Python files.

mod holes;
mod report;
mod score;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use hapa_loadtest::{Api, Ask, Control, Limit, Prompt, answers};
use serde::{Deserialize, Serialize};

use self::holes::{Dice, Hole, Kind};
use self::report::Report;
use self::score::Score;
use super::asked::{AskedArgs, Unanswered};
use super::results::{self, Results};
use crate::commands::bench::Shown;
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::{ModelArgs, Session};
use crate::settings::Flags;

/// Name and version of the file of results.
const SCHEMA: &str = "hapa-completion/1";
/// Longest time for one completion.
const PATIENCE: Duration = Duration::from_secs(600);

/// Completion at a cursor: middles are held out of Python files, and the model fills them in
///
/// Half of the holes are the rest of a line, half the rest of a block of up to eight lines. Measured are the share that is what
/// was held out to the letter, the mean edit similarity (1 less Levenshtein's distance by the longer text), and the share
/// after which the whole file is valid Python. Without a path the files are those of Python's own library, which most
/// models have read: give files of your own for figures that say how it will be with them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa eval completion src/
  hapa eval completion src/ --holes 500 --output results.jsonl    # goes on where it was
  hapa eval completion src/ --model smollm2-135m --json
  hapa eval completion src/ --url http://127.0.0.1:8080 --api llama-infill   # llama-server, the same holes

--json prints {model, holes, unanswered, exact, similarity, valid, kinds: [{kind, holes, ...}], ...}.")]
pub(crate) struct Completion {
    /// Python files, or folders of them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How many middles are held out; at most two a file
    #[arg(long, value_name = "N", default_value_t = 200)]
    holes: usize,
    /// Chooses files and places; the same seed and files give the same holes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Characters around the hole that the model sees, three quarters of them before
    #[arg(long, value_name = "N", default_value_t = 4000)]
    window: usize,
    /// Most tokens of a completion
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: u32,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    concurrency: usize,
    #[command(flatten)]
    asked: AskedArgs,
    /// What that server speaks: hapa-complete, llama-infill, openai-completions (with `suffix`)
    #[arg(long, value_name = "NAME", default_value_t = Api::HapaComplete, requires = "url")]
    api: Api,
    /// Keep each result in this file of JSON lines, and go on from what it holds
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// What makes results comparable. The holes themselves are told apart by their text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Conditions {
    schema: String,
    model: String,
    window: usize,
    max_tokens: u32,
}

/// One judged completion.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Judged {
    hole: String,
    kind: Kind,
    path: PathBuf,
    line: usize,
    middle: String,
    completion: String,
    output_tokens: u64,
    seconds: f64,
    #[serde(flatten)]
    score: Score,
}

/// What a run brought.
#[derive(Debug, Default)]
struct Outcome {
    judged: Vec<Judged>,
    unanswered: Unanswered,
}

impl Completion {
    pub(super) fn flags(&self, flags: &mut Flags) {
        self.model.flags(flags);
    }

    pub(super) fn run(self, session: &Session) -> Result<()> {
        self.check()?;
        let paths = if self.paths.is_empty() { vec![library()?] } else { self.paths.clone() };
        let found = holes::holes(holes::files(&paths)?, self.holes, Dice(self.seed));
        if found.is_empty() {
            return Err(CliError::usage(
                "there is no valid Python file of 500 bytes to 200 kB below what was given",
            ));
        }
        let conditions = self.conditions(session);
        let ids: HashSet<String> = found.iter().map(Hole::id).collect();
        let mut kept: Vec<Judged> = match &self.output {
            Some(path) => results::read(path, &conditions, "model, --window and --max-tokens")?,
            None => Vec::new(),
        };
        kept.retain(|judged| ids.contains(&judged.hole));
        let done: HashSet<String> = kept.iter().map(|judged| judged.hole.clone()).collect();
        let wanted: Vec<Hole> =
            found.into_iter().filter(|hole| !done.contains(&hole.id())).collect();
        if !kept.is_empty() {
            session.console.note(&format!("{} completions are there already", kept.len()));
        }
        let began = Instant::now();
        let (outcome, stopped) = if wanted.is_empty() {
            (Outcome::default(), None)
        } else {
            self.ask(session, wanted, &conditions)?
        };
        let fresh: u64 = outcome.judged.iter().map(|judged| judged.output_tokens).sum();
        kept.extend(outcome.judged);
        let report = Report {
            model: &conditions.model,
            judged: &kept,
            unanswered: outcome.unanswered.count(),
            seconds: began.elapsed().as_secs_f64(),
            fresh_tokens: fresh,
        };
        if self.json {
            print_json(&report.json())?;
        } else {
            print(&report.table())?;
        }
        if let Some(signal) = stopped {
            return Err(CliError::Stopped(signal));
        }
        outcome.unanswered.none_or("holes got no completion")
    }

    fn check(&self) -> Result<()> {
        for (flag, value, most) in [
            ("--holes", self.holes, 100_000),
            ("--concurrency", self.concurrency, 1024),
            ("--max-tokens", self.max_tokens as usize, 4096),
            ("--window", self.window, 1 << 20),
        ] {
            if !(1..=most).contains(&value) {
                return Err(CliError::usage(format!("{flag} is {value}; 1 to {most} is allowed")));
            }
        }
        match self.api {
            Api::HapaComplete | Api::LlamaInfill | Api::OpenaiCompletions => Ok(()),
            other => Err(CliError::usage(format!(
                "--api {other} has no place for the text after the cursor; use hapa-complete, llama-infill or \
                 openai-completions"
            ))),
        }
    }

    fn conditions(&self, session: &Session) -> Conditions {
        let (window, max_tokens) = (self.window, self.max_tokens);
        let model = self.asked.name(session);
        Conditions { schema: SCHEMA.to_owned(), model, window, max_tokens }
    }

    /// Asks, judges and keeps; Ctrl-C leaves what is done.
    fn ask(
        &self,
        session: &Session,
        wanted: Vec<Hole>,
        conditions: &Conditions,
    ) -> Result<(Outcome, Option<crate::interrupt::Signal>)> {
        let (target, local) = self.asked.target(session, self.api)?;
        let prompt = |hole: &Hole| {
            let (prefix, suffix) = hole.window(self.window);
            Prompt::new(Ask::Middle { prefix, suffix }, self.max_tokens)
        };
        let prompts: Vec<Prompt> = wanted.iter().map(prompt).collect();
        let mut file =
            self.output.as_deref().map(|path| Results::open(path, conditions)).transpose()?;
        let control = Control::new();
        control.begin("completions".to_owned(), Limit::requests(prompts.len() as u64));
        let shown = Shown::start(&session.console, &control);
        let concurrency = self.concurrency;
        let result = session.run_kept(&control, move |control| {
            let mut outcome = Outcome::default();
            let mut kept = Ok(());
            let each = |index: usize, answer: std::result::Result<_, String>| match answer {
                Ok(answer) => {
                    let judged = judge(&wanted[index], answer);
                    if let (Some(file), Ok(())) = (&mut file, &kept) {
                        kept = file.add(&judged);
                    }
                    outcome.judged.push(judged);
                }
                Err(reason) => outcome.unanswered.note(reason),
            };
            answers((&target, &prompts), concurrency, PATIENCE, control, each)?;
            kept.map(|()| outcome)
        });
        drop(shown);
        drop(local);
        result
    }
}

fn judge(hole: &Hole, answer: hapa_loadtest::Answer) -> Judged {
    Judged {
        hole: hole.id(),
        kind: hole.kind,
        path: hole.path.clone(),
        line: hole.line,
        middle: hole.middle.clone(),
        score: Score::of(hole, &answer.text),
        completion: answer.text,
        output_tokens: answer.usage.map_or(0, |(_, output)| output),
        seconds: answer.time.as_secs_f64(),
    }
}

/// The folder of Python's own library.
fn library() -> Result<PathBuf> {
    let code = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let asked = std::process::Command::new("python3")
        .args(["-c", code])
        .stdin(std::process::Stdio::null())
        .output();
    match asked {
        Ok(output) if output.status.success() => {
            Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        }
        _ => Err(CliError::usage(
            "no python3 here whose library could be used: give Python files, or a folder of them",
        )),
    }
}
