//! `hapa batch`: many questions out of a file, answered into another one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use hapa_server::wire::hapa::{CompleteResponse, GenerateResponse};
use hapa_service::{
    Answer, ChatMessage, DEFAULT_COMPLETION_TOKENS, Request, Service, ServiceError, Task,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use twox_hash::XxHash3_64;

use crate::answering::AnswerArgs;
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::progress::Progress;
use crate::session::Session;
use crate::settings::Flags;
use crate::tally::Tally;
use crate::text::{count, duration};

/// Requests that wait in the engine's queue so that a place which becomes free is taken at once.
const AHEAD: usize = 8;

/// Answer a file of questions: JSON lines in, JSON lines out
///
/// Answers are written as they come, each with the number of its line, and computed as large batches. What is done stays
/// when the command is stopped; the same command again goes on from there. A line that cannot be answered becomes a result
/// with status `error`, and the exit code is 1 at the end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa batch questions.jsonl answers.jsonl
  hapa batch questions.jsonl answers.jsonl --retry-errors
  hapa batch questions.jsonl answers.jsonl --max-tokens 256 --json

A line of the input is one of
  {\"user_question\": \"reverse a list\", \"code_context\": \"...\", \"language\": \"python\"}
  {\"prefix\": \"def add(a, b):\", \"suffix\": \"\"}
  {\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}
each with id, file_path, max_tokens, temperature, seed and stop if wanted; `prompt` is as good as `user_question`.
A line of the output is {line, id, digest, status, ...} and what --json of `hapa generate` or `complete` prints.")]
pub(crate) struct Batch {
    /// The questions, a JSON object a line
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// The answers; what it holds already is not computed again
    #[arg(value_name = "OUT.jsonl")]
    output: PathBuf,
    /// Requests at once; the default keeps the engine's batch full
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// Try again what failed before
    #[arg(long)]
    retry_errors: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// A line of the input.
#[derive(Debug, Deserialize)]
struct Question {
    #[serde(default, alias = "custom_id")]
    id: Value,
    #[serde(alias = "prompt", alias = "question")]
    user_question: Option<String>,
    #[serde(alias = "context")]
    code_context: Option<String>,
    language: Option<String>,
    file_path: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    seed: Option<u64>,
    #[serde(default)]
    stop: Vec<String>,
}

/// A line with its place.
struct Job {
    line: usize,
    digest: String,
    text: Vec<u8>,
}

/// What a line of the output says of itself.
#[derive(Deserialize)]
struct Kept {
    line: usize,
    digest: String,
    status: String,
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    answered: usize,
    failed: usize,
    generated_tokens: usize,
}

impl Batch {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.answer.flags(flags);
    }

    /// # Errors
    /// For files that cannot be used, a model that cannot be had, and at the end when lines failed.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let engine = &session.settings.engine;
        let most = engine.max_sequences + engine.queue_limit;
        let concurrency =
            self.concurrency.unwrap_or(engine.max_sequences + AHEAD.min(engine.queue_limit));
        if !(1..=most).contains(&concurrency) {
            return Err(CliError::usage(format!(
                "--concurrency is {concurrency}; 1 to {most} is allowed (engine.max_sequences and engine.queue_limit)"
            )));
        }
        let service = session.service()?;
        let (mut output, kept) = Output::open(&self.output)?;
        let (jobs, done) = self.jobs(&kept)?;
        if done > 0 {
            session.console.note(&format!("{} there already", count(done, "answer")));
        }
        let began = Instant::now();
        let mut outcome = Outcome::default();
        if !jobs.is_empty() {
            let work =
                self.work(session, (&service, concurrency), jobs, (&mut output, &mut outcome));
            session.run_and_keep(&service, work)?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let Outcome { answered, failed, generated_tokens } = outcome;
        let per_second = |number: usize| number as f64 / seconds.max(1e-9);
        if self.json {
            print_json(&json!({
                "answered": answered,
                "failed": failed,
                "there_already": done,
                "generated_tokens": generated_tokens,
                "seconds": seconds,
                "requests_per_second": per_second(answered),
                "generated_tokens_per_second": per_second(generated_tokens),
                "output": self.output,
            }))?;
        } else {
            print(&format!(
                "{} in {}: {:.2} requests/s, {:.1} tokens/s\n",
                count(answered, "answer"),
                duration(began.elapsed()),
                per_second(answered),
                per_second(generated_tokens)
            ))?;
        }
        if failed > 0 {
            return Err(CliError::Failed(format!(
                "{} failed; {} says why, and --retry-errors tries again",
                count(failed, "line"),
                self.output.display()
            )));
        }
        Ok(())
    }

    /// The lines that are to be answered, and how many are done.
    fn jobs(&self, kept: &HashMap<usize, Kept>) -> Result<(Vec<Job>, usize)> {
        let failed = |source| CliError::Io { action: "read", path: self.input.clone(), source };
        let file = BufReader::new(File::open(&self.input).map_err(failed)?);
        let mut jobs = Vec::new();
        let mut done = 0;
        for (index, text) in file.split(b'\n').enumerate() {
            let (line, text) = (index + 1, text.map_err(failed)?);
            if text.trim_ascii().is_empty() {
                continue;
            }
            let digest = format!("{:016x}", XxHash3_64::oneshot(text.trim_ascii()));
            match kept.get(&line) {
                Some(kept) if kept.digest != digest => {
                    return Err(CliError::usage(format!(
                        "{} holds an answer to another line {line} than that of {}; give another output file",
                        self.output.display(),
                        self.input.display()
                    )));
                }
                Some(kept) if !self.retry_errors || kept.status != "error" => done += 1,
                _ => jobs.push(Job { line, digest, text }),
            }
        }
        Ok((jobs, done))
    }

    async fn work(
        &self,
        session: &Session,
        (service, concurrency): (&Service, usize),
        jobs: Vec<Job>,
        (output, outcome): (&mut Output, &mut Outcome),
    ) -> Result<()> {
        // A model that cannot be had is one failure, not one a line. Held, it stays until the end.
        let progress = Progress::of_service(&session.console, service);
        let _lease = service.load().await?;
        drop(progress);
        let mut tally = Tally::new(&session.console, "answering", jobs.len() as u64);
        let began = Instant::now();
        let mut jobs = jobs.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < concurrency
                && let Some(job) = jobs.next()
            {
                let request = self.request(session, &job.text);
                running.spawn(one(service.clone(), job, request));
            }
            let Some(ended) = running.join_next().await else { return Ok(()) };
            let (result, tokens) = ended.map_err(|e| CliError::Failed(e.to_string()))?;
            output.add(&result)?;
            match tokens {
                Some(tokens) => {
                    outcome.answered += 1;
                    outcome.generated_tokens += tokens;
                }
                None => outcome.failed += 1,
            }
            let rate = outcome.generated_tokens as f64 / began.elapsed().as_secs_f64().max(1e-9);
            tally.add(&format!("{rate:.0} tokens/s"));
        }
    }

    /// The request of a line, with its id; or what is wrong with the line.
    fn request(&self, session: &Session, text: &[u8]) -> Result<(Request, Value), String> {
        let question: Question = serde_json::from_slice(text)
            .map_err(|error| format!("the line is no question: {error}"))?;
        question.into_request(|request| self.answer.apply(&session.settings, request))
    }
}

/// Answers one line: its result, and the tokens that were computed for it; `None` for one that failed.
async fn one(
    service: Service,
    job: Job,
    request: Result<(Request, Value), String>,
) -> (Value, Option<usize>) {
    let Job { line, digest, .. } = job;
    let (asked, id) = match request {
        Ok((request, id)) => {
            let is_chat = matches!(request.task, Task::Chat { .. });
            let is_completion = matches!(request.task, Task::Complete { .. });
            let answer = service.predict(request).await;
            (answer.map(|answer| (answer, is_chat, is_completion)).map_err(said), id)
        }
        Err(problem) => (Err(problem), Value::Null),
    };
    let mut result = Map::new();
    result.insert("line".to_owned(), json!(line));
    result.insert("id".to_owned(), id);
    result.insert("digest".to_owned(), json!(digest));
    match asked {
        Ok((answer, is_chat, is_completion)) => {
            let body = if is_completion {
                serde_json::to_value(CompleteResponse::new(&answer, &[]))
            } else {
                serde_json::to_value(GenerateResponse::from(&answer))
            };
            if is_chat {
                result.insert("text".to_owned(), json!(answer.text));
            }
            if let Ok(Value::Object(body)) = body {
                result.extend(body);
            }
            (Value::Object(result), Some(computed(&answer)))
        }
        Err(problem) => {
            result.insert("status".to_owned(), json!("error"));
            result.insert("error_message".to_owned(), json!(problem));
            (Value::Object(result), None)
        }
    }
}

/// Tokens that this run made.
fn computed(answer: &Answer) -> usize {
    if answer.cache.outcome.is_hit() { 0 } else { answer.usage.generated_tokens }
}

/// A failure with what is behind it, in a line.
fn said(error: ServiceError) -> String {
    CliError::from(error).report().replace("\n  caused by: ", ": ")
}

impl Question {
    /// The request; `apply` writes what the command line says into it, and the line goes over that.
    fn into_request(self, apply: impl FnOnce(&mut Request)) -> Result<(Request, Value), String> {
        let Self { id, user_question, code_context, language, file_path: path, .. } = self;
        let mut request = match (user_question, self.prefix, self.messages) {
            (Some(question), None, None) => Request::generate(question),
            (None, Some(prefix), None) => {
                Request::complete(prefix, self.suffix.unwrap_or_default())
            }
            (None, None, Some(messages)) => Request::chat(messages),
            (None, None, None) => {
                return Err(
                    "the line has neither user_question, nor prefix, nor messages".to_owned()
                );
            }
            _ => {
                return Err(
                    "the line has more than one of user_question, prefix and messages".to_owned()
                );
            }
        };
        apply(&mut request);
        match &mut request.task {
            Task::Generate { context, language: wanted, file_path, .. } => {
                *context = code_context;
                *file_path = path;
                if let Some(language) = language {
                    *wanted = language.to_lowercase();
                }
            }
            Task::Complete { file_path, .. } => {
                *file_path = path;
                request.max_tokens = request.max_tokens.min(DEFAULT_COMPLETION_TOKENS);
            }
            _ => {}
        }
        request.max_tokens = self.max_tokens.unwrap_or(request.max_tokens);
        request.sampling.temperature = self.temperature.unwrap_or(request.sampling.temperature);
        request.sampling.seed = self.seed.or(request.sampling.seed);
        request.stop = self.stop;
        Ok((request, id))
    }
}

/// The file of answers. Each result is one write of a whole line; a line that was cut off is none.
struct Output {
    file: File,
    path: PathBuf,
}

impl Output {
    /// Opens the file for this process alone, and tells what it holds.
    fn open(path: &Path) -> Result<(Self, HashMap<usize, Kept>)> {
        let failed = |action| move |source| CliError::Io { action, path: path.to_owned(), source };
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .map_err(failed("write"))?;
        if file.try_lock().is_err() {
            return Err(CliError::usage(format!(
                "{} is being written by another process",
                path.display()
            )));
        }
        let mut kept = HashMap::new();
        let mut reader = BufReader::new(&mut file);
        let (mut text, mut whole) = (Vec::new(), 0_u64);
        loop {
            text.clear();
            reader.read_until(b'\n', &mut text).map_err(failed("read"))?;
            if text.last() != Some(&b'\n') {
                break;
            }
            let found: Kept = serde_json::from_slice(&text).map_err(|_| {
                CliError::usage(format!(
                    "{} holds a line that is no result of `hapa batch`; give another output file",
                    path.display()
                ))
            })?;
            kept.insert(found.line, found);
            whole += text.len() as u64;
        }
        // What was being written when a process was killed.
        if !text.is_empty() {
            file.set_len(whole).map_err(failed("write"))?;
        }
        Ok((Self { file, path: path.to_owned() }, kept))
    }

    fn add(&mut self, result: &Value) -> Result<()> {
        let line = format!("{result}\n");
        let failed = |source| CliError::Io { action: "write", path: self.path.clone(), source };
        self.file.write_all(line.as_bytes()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Request, Value), String> {
        let question: Question = serde_json::from_str(text).map_err(|e| e.to_string())?;
        question.into_request(|request| request.max_tokens = 300)
    }

    #[test]
    fn lines_are_questions_completions_or_conversations() {
        let (request, id) = read(
            r#"{"id": 7, "prompt": "sort", "code_context": "x", "language": "SQL", "seed": 3}"#,
        )
        .unwrap();
        assert_eq!((id, request.max_tokens, request.sampling.seed), (json!(7), 300, Some(3)));
        let Task::Generate { question, context, language, .. } = request.task else { panic!() };
        assert_eq!(
            (question.as_str(), context.as_deref(), language.as_str()),
            ("sort", Some("x"), "sql")
        );
        let (request, _) = read(r#"{"prefix": "def f", "stop": ["\n"]}"#).unwrap();
        assert_eq!((request.max_tokens, request.stop), (128, vec!["\n".to_owned()]));
        let (request, _) =
            read(r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}"#).unwrap();
        assert_eq!(request.max_tokens, 9);
        assert!(read("{}").unwrap_err().contains("neither"));
        assert!(read(r#"{"prompt": "a", "prefix": "b"}"#).unwrap_err().contains("more than one"));
    }

    #[test]
    fn a_line_that_was_cut_off_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let whole = "{\"line\":2,\"digest\":\"d\",\"status\":\"success\"}\n";
        std::fs::write(&path, format!("{whole}{{\"line\":3,\"dig")).unwrap();
        let (mut output, kept) = Output::open(&path).unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), [&2]);
        let busy = Output::open(&path).err().unwrap();
        assert!(busy.to_string().contains("another process"), "{busy}");
        output.add(&json!({ "line": 3 })).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}{{\"line\":3}}\n"));
    }
}
