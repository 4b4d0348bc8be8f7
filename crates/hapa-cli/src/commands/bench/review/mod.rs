//! `hapa bench review`: the table of the review of HAPA's predecessor, measured on this machine.
//!
//! - [`scenario`]: ways to serve the same questions, each in a process of its own;
//! - [`figures`]: from what they took to the review's rows;
//! - [`document`]: the table, Markdown and JSON; [`picture`]: the chart.

mod document;
mod figures;
mod picture;
mod scenario;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use hapa_model::Model;
use serde::de::DeserializeOwned;

use self::document::Document;
use self::figures::Round;
use self::scenario::Scenario;
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::interrupt;
use crate::session::{ModelArgs, Session};
use crate::settings::Flags;

/// How often a process is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// What lazy loading, the cache and batching are worth here: the review's table, measured
///
/// Asks the same questions in several ways: with a model loaded for each request and with one that is loaded once; without
/// and with the response cache; one after another and at once. Each way runs in a process of its own, in turns, so that
/// neither memory nor the machine's moods of one favour the other. Takes some minutes with the default model.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa bench review
  hapa bench review --model smollm2-135m --rounds 1 --requests 4
  hapa bench review --output docs/review --json

Writes review.md, review.json and review.svg into the folder of --output and prints the table.
docs/review.md says what each row is.")]
pub(crate) struct ReviewBench {
    /// Folder for review.md, review.json and review.svg
    #[arg(long, short, value_name = "DIR", default_value = "hapa-review")]
    output: PathBuf,
    /// How often all is measured; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Requests, one after another, in each way
    #[arg(long, value_name = "N", default_value_t = 8)]
    requests: usize,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = 16)]
    clients: usize,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 48)]
    max_tokens: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measures one way in this process and prints what it took
    #[arg(long, value_name = "WAY", hide = true)]
    scenario: Option<Scenario>,
    #[command(flatten)]
    model: ModelArgs,
}

impl ReviewBench {
    pub(super) fn flags(&self, flags: &mut Flags) {
        self.model.flags(flags);
    }

    pub(super) fn run(self, session: &Session) -> Result<()> {
        for (flag, value, most) in [
            ("--rounds", self.rounds, 100),
            ("--requests", self.requests, 1000),
            ("--clients", self.clients, 256),
            ("--max-tokens", self.max_tokens, 4096),
        ] {
            if !(1..=most).contains(&value) {
                return Err(CliError::usage(format!("{flag} is {value}; 1 to {most} is allowed")));
            }
        }
        let load = scenario::Load {
            requests: self.requests,
            clients: self.clients,
            max_tokens: self.max_tokens,
        };
        if let Some(scenario) = self.scenario {
            return scenario.run(session, load);
        }
        // Whatever is done once, fetching and packing, is done before anything is timed.
        let (store, name, options) = (session.store()?, session.model()?, session.load_options());
        let info = session.run_shown(move |progress| {
            let model = Model::load(&store.resolve(&name, progress)?, &options, progress)?;
            Ok(model.info().clone())
        })?;
        let rounds = interrupt::run(&session.console, self.measure(session), async {})?;
        let document = Document::new(&info, load, &rounds, session.settings.engine.threads);
        self.write(&document)?;
        session.console.note(&format!("written to {}", self.output.display()));
        if self.json { print_json(&document) } else { print(&document.table()) }
    }

    async fn measure(&self, session: &Session) -> Result<Vec<Round>> {
        let mut rounds = Vec::with_capacity(self.rounds);
        for number in 1..=self.rounds {
            let say = |what: &str| {
                session.console.note(&format!("round {number} of {}: {what}", self.rounds));
            };
            say("a model for each request");
            let own = child(Scenario::Own).await?;
            say("one model, loaded when it is needed");
            let shared = child(Scenario::Shared).await?;
            say("answers kept");
            let kept = child(Scenario::Kept).await?;
            say("copies of the model in memory");
            let copies = child(Scenario::Copies).await?;
            rounds.push(Round { own, shared, kept, copies });
        }
        Ok(rounds)
    }

    fn write(&self, document: &Document) -> Result<()> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CliError::Io { action: "write", path, source }
        };
        std::fs::create_dir_all(&self.output).map_err(failed(&self.output))?;
        for (name, text) in [
            ("review.md", document.markdown()),
            ("review.json", document.json()?),
            ("review.svg", picture::draw(&document.rows)?),
        ] {
            let path = self.output.join(name);
            std::fs::write(&path, text).map_err(failed(&path))?;
        }
        Ok(())
    }
}

/// Runs this command again for one way, in a process of its own.
async fn child<T: DeserializeOwned>(scenario: Scenario) -> Result<T> {
    let failed = |what: &str| CliError::Failed(format!("measuring `{scenario}`: {what}"));
    let program = std::env::current_exe().map_err(|e| failed(&e.to_string()))?;
    let child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--scenario", scenario.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Owned(child.map_err(|e| failed(&e.to_string()))?);
    let status = loop {
        match child.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => tokio::time::sleep(LOOK).await,
            Err(error) => return Err(failed(&error.to_string())),
        }
    };
    let mut text = String::new();
    if let Some(mut out) = child.0.stdout.take() {
        out.read_to_string(&mut text).map_err(|e| failed(&e.to_string()))?;
    }
    if !status.success() {
        return Err(failed(&format!("its process ended with {status}")));
    }
    serde_json::from_str(&text).map_err(|e| failed(&format!("its result is unreadable: {e}")))
}

/// A process that ends with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It has ended already, mostly.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
