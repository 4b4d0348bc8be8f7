//! `hapa profile`: where the processor time, or the memory, of a command goes, and what changed between two runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hapa_profiler::{CpuSampler, HeapMeasure, HeapSampler, Profiler, ProfilerError, Report};

use super::Cli;
use crate::console::{Console, print, print_json};
use crate::error::{CliError, Result};
use crate::settings::ByteSize;

/// How long a command is thought to run when nothing is said: longer ones are sampled less often at the same memory.
const USUAL: Duration = Duration::from_secs(60);

/// Find out where the time or the memory of a command goes
#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    Scopes(Scopes),
    Diff(Diff),
    Cpu(Cpu),
    Heap(Heap),
}

/// Time the named parts of a command: calls, percentiles, memory and the tree they form
///
/// Runs any other command of `hapa` in this process and prints to standard error what each scope took: its calls, self
/// and total time, percentiles, allocations. The page that --html writes shows the same as a tree, and needs nothing else. The setting
/// `profile_spans` adds spans of libraries. Of a running server, GET /stats has the largest scopes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa profile scopes -- generate \"merge two sorted lists\" --no-cache
  hapa profile scopes --html scopes.html --report after.json -- bench engine
  HAPA_PROFILE_SPANS=h2=trace hapa profile scopes -- serve    # spans of a library")]
pub(crate) struct Scopes {
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the report as JSON, for `hapa profile diff`
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    inner: Inner,
}

/// Compare two reports of `hapa profile scopes`: what became slower, and whether by chance
///
/// A scope is called slower or faster when its calls differ significantly (1%, by a rank test over all of them) and by at
/// least 5%. Compare runs of the same length on a quiet machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa profile diff before.json after.json
  hapa profile diff before.json after.json --fail-on-slower    # in CI")]
pub(crate) struct Diff {
    /// The earlier report
    before: PathBuf,
    /// The later report
    after: PathBuf,
    /// Print Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// End with 1 when a scope became slower
    #[arg(long)]
    fail_on_slower: bool,
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
    /// Where the flame graph goes
    #[arg(long, short, value_name = "FILE", default_value = "hapa-cpu.svg")]
    output: PathBuf,
    #[command(flatten)]
    watched: Watched,
}

/// Find the lines that hold memory and that allocate it: a flame graph and a table
///
/// Runs any other command of `hapa` in this process and notes where its allocations come from: one for each so many
/// bytes, which the figures make up for. For each line it tells the bytes that lived when the heap was largest, those
/// that live at the end, and all that were allocated. The weights of a model are a mapped file, no heap. Of a running
/// server, GET /debug/heap?seconds=10 does the same; under `hapa profile heap -- serve` it answers at once, with what was found
/// since the start.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa profile heap -- generate \"merge two sorted lists\"
  hapa profile heap --every 1 --of allocated -- generate \"parse a date\"    # each allocation, exactly
  hapa profile heap --seconds 60 --of live -- serve    # what a server holds after a minute
  hapa profile heap --report heap.json -- bench engine")]
pub(crate) struct Heap {
    /// Where the flame graph goes
    #[arg(long, short, value_name = "FILE", default_value = "hapa-heap.svg")]
    output: PathBuf,
    /// Note one allocation for each so many bytes; 1 notes every one, which takes time
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    every: ByteSize,
    /// What the flame graph and the stacks show: `peak`, `live` or `allocated`
    #[arg(long, value_name = "BYTES", default_value = "peak", value_parser = measure)]
    of: HeapMeasure,
    #[command(flatten)]
    watched: Watched,
}

/// The command that is profiled, and what is written beside the flame graph.
#[derive(Debug, Args)]
struct Watched {
    /// Stop sampling after that time; the command goes on. 0: sample it to its end
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    seconds: u64,
    /// Also write folded stacks, a line each
    #[arg(long, value_name = "FILE")]
    folded: Option<PathBuf>,
    /// Also write the tables as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    inner: Inner,
}

/// The command that is profiled.
#[derive(Debug, Args)]
struct Inner {
    /// A command of hapa with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A profile in each of its forms.
struct Forms {
    svg: String,
    folded: String,
    json: String,
    table: String,
}

impl Profile {
    /// # Errors
    /// For a command that is none, files that cannot be written, and whatever the command fails with.
    pub(crate) fn run(self, console: &Console) -> Result<()> {
        match self {
            Self::Scopes(scopes) => scopes.run(console),
            Self::Diff(diff) => diff.run(),
            Self::Cpu(Cpu { output, watched }) => watched.run(console, &output, |limit| {
                let sampler = CpuSampler::start(limit.unwrap_or(USUAL))?;
                Ok(move || {
                    let profile = sampler.stop();
                    Forms {
                        svg: profile.to_svg(),
                        folded: profile.to_folded(),
                        json: profile.to_json(),
                        table: profile.to_table(),
                    }
                })
            }),
            Self::Heap(Heap { output, every, of, watched }) => {
                watched.run(console, &output, |_| {
                    let sampler = HeapSampler::start(every.0)?;
                    Ok(move || {
                        let profile = sampler.stop();
                        Forms {
                            svg: profile.to_svg(of),
                            folded: profile.to_folded(of),
                            json: profile.to_json(),
                            table: profile.to_table(),
                        }
                    })
                })
            }
        }
    }
}

impl Scopes {
    fn run(&self, console: &Console) -> Result<()> {
        let Some((inner, console)) = self.inner.parse(console)? else { return Ok(()) };
        let outcome = super::run(inner, &console);
        let report = Profiler::global().report();
        if let Some(path) = &self.html {
            write(path, &report.to_html())?;
        }
        if let Some(path) = &self.markdown {
            write(path, &report.to_markdown())?;
        }
        if let Some(path) = &self.report {
            write(path, &(report.to_json() + "\n"))?;
        }
        match (report.scopes.is_empty(), &outcome) {
            (false, _) => console.note(&format!("\n{}", report.to_table().trim_end())),
            (true, Ok(())) => console.note("the command entered no scope"),
            // It failed before it did anything.
            (true, Err(_)) => {}
        }
        outcome
    }
}

impl Diff {
    fn run(&self) -> Result<()> {
        let before = Report::load(&self.before)?;
        let diff = Report::load(&self.after)?.diff(&before);
        if self.json {
            print_json(&diff)?;
        } else if self.markdown {
            print(&diff.to_markdown())?;
        } else {
            print(&diff.to_table())?;
        }
        let slower: Vec<&str> = diff.slower().map(|row| row.name.as_str()).collect();
        if self.fail_on_slower && !slower.is_empty() {
            return Err(CliError::Failed(format!("slower than before: {}", slower.join(", "))));
        }
        Ok(())
    }
}

impl Inner {
    /// Reads the command; none when its help was asked for, which is printed.
    fn parse(&self, console: &Console) -> Result<Option<(Cli, Console)>> {
        let words = std::iter::once("hapa".to_owned()).chain(self.command.iter().cloned());
        let inner = match Cli::try_parse_from(words) {
            Ok(inner) => inner,
            Err(said) if said.use_stderr() => {
                let text = said.to_string();
                return Err(CliError::usage(text.trim_start_matches("error: ").trim_end()));
            }
            Err(said) => return print(&said.to_string()).map(|()| None),
        };
        if inner.is_profile() {
            return Err(CliError::usage("a profile of a profile is none; name another command"));
        }
        let console = if inner.quiet { Console::new(true) } else { console.clone() };
        Ok(Some((inner, console)))
    }
}

impl Watched {
    /// Runs the command under a sampler: `start` begins to sample, what it gives ends that.
    fn run<Stop: FnOnce() -> Forms + Send>(
        &self,
        console: &Console,
        output: &Path,
        start: impl FnOnce(Option<Duration>) -> std::result::Result<Stop, ProfilerError>,
    ) -> Result<()> {
        let Some((inner, console)) = self.inner.parse(console)? else { return Ok(()) };
        let limit = (self.seconds > 0).then(|| Duration::from_secs(self.seconds));
        let stop = start(limit)?;
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let profile = std::thread::scope(|threads| {
            let sampling = threads.spawn(move || {
                match limit {
                    Some(limit) => drop(ended.recv_timeout(limit)),
                    None => drop(ended.recv()),
                }
                stop()
            });
            let outcome = super::run(inner, &console);
            drop(done);
            sampling.join().map(|profile| (profile, outcome))
        });
        let Ok((profile, outcome)) = profile else {
            return Err(CliError::Failed("the thread that samples died".to_owned()));
        };
        write(output, &profile.svg)?;
        if let Some(path) = &self.folded {
            write(path, &(profile.folded + "\n"))?;
        }
        if let Some(path) = &self.report {
            write(path, &(profile.json + "\n"))?;
        }
        console.note(&format!("\n{}\nflame graph: {}", profile.table, output.display()));
        outcome
    }
}

fn measure(text: &str) -> std::result::Result<HeapMeasure, String> {
    text.parse()
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|source| CliError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}
