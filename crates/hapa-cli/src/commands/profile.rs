//! `hapa profile`: where the processor time of a command goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hapa_profiler::{CpuProfile, CpuSampler, ProfilerError};

use super::Cli;
use crate::console::{Console, print};
use crate::error::{CliError, Result};

/// How long a command is thought to run when nothing is said: longer ones are sampled less often at the same memory.
const USUAL: Duration = Duration::from_secs(60);

/// Find out where the processor time of a command goes
#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    Cpu(Cpu),
}

/// Sample a command: a flame graph, the hottest functions and the hottest lines
///
/// Runs any other command of `hapa` in this process, samples the stacks of all its threads about 500 times for each
/// second of processor time, writes the flame graph as SVG and prints the tables to standard error. Read it in a
/// browser: it zooms and searches. Of a running server, GET /debug/profile?seconds=10 does the same.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa profile cpu -- generate \"merge two sorted lists\"
  hapa profile cpu --seconds 20 --output decode.svg -- bench engine --gen-tokens 256
  hapa profile cpu --folded stacks.txt -- generate \"parse a date\"    # for other flame graph tools
  hapa profile cpu --report cpu.json -- generate \"parse a date\" --no-cache --quiet")]
pub(crate) struct Cpu {
    /// Stop sampling after that time; the command goes on. 0: sample it to its end
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    seconds: u64,
    /// Where the flame graph goes
    #[arg(long, short, value_name = "FILE", default_value = "hapa-cpu.svg")]
    output: PathBuf,
    /// Also write folded stacks, a line each
    #[arg(long, value_name = "FILE")]
    folded: Option<PathBuf>,
    /// Also write the tables as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// A command of hapa with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Profile {
    /// # Errors
    /// For a command that is none, files that cannot be written, and whatever the command fails with.
    pub(crate) fn run(self, console: &Console) -> Result<()> {
        let Self::Cpu(cpu) = self;
        cpu.run(console)
    }
}

impl Cpu {
    fn run(self, console: &Console) -> Result<()> {
        let words = std::iter::once("hapa".to_owned()).chain(self.command.iter().cloned());
        let inner = match Cli::try_parse_from(words) {
            Ok(inner) => inner,
            Err(said) if said.use_stderr() => {
                let text = said.to_string();
                return Err(CliError::usage(text.trim_start_matches("error: ").trim_end()));
            }
            // Its help was asked for.
            Err(said) => return print(&said.to_string()),
        };
        if inner.is_profile() {
            return Err(CliError::usage("a profile of a profile is none; name another command"));
        }
        let console = if inner.quiet { &Console::new(true) } else { console };
        let limit = (self.seconds > 0).then(|| Duration::from_secs(self.seconds));
        let sampler = CpuSampler::start(limit.unwrap_or(USUAL)).map_err(failed)?;
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let profile = std::thread::scope(|threads| {
            let sampling = threads.spawn(move || {
                match limit {
                    Some(limit) => drop(ended.recv_timeout(limit)),
                    None => drop(ended.recv()),
                }
                sampler.stop()
            });
            let outcome = super::run(inner, console);
            drop(done);
            sampling.join().map(|profile| (profile, outcome))
        });
        let Ok((profile, outcome)) = profile else {
            return Err(CliError::Failed("the thread that samples died".to_owned()));
        };
        self.write(&profile)?;
        let svg = self.output.display();
        console.note(&format!("\n{}\nflame graph: {svg}", profile.to_table()));
        outcome
    }

    fn write(&self, profile: &CpuProfile) -> Result<()> {
        write(&self.output, &profile.to_svg())?;
        if let Some(path) = &self.folded {
            write(path, &(profile.to_folded() + "\n"))?;
        }
        if let Some(path) = &self.report {
            write(path, &(profile.to_json() + "\n"))?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|source| CliError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: ProfilerError) -> CliError {
    CliError::Failed(error.to_string())
}
