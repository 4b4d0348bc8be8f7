//! The terminal: results to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};

use hapa_profiler::{Profiler, ProfilerLayer};
use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::error::{CliError, Result};
use crate::terminal::Narrow;

/// Standard error as a person sees it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Console {
    /// Errors and warnings only.
    quiet: bool,
    colours: bool,
    terminal: bool,
    /// All bars; what is written beside them must go through here.
    bars: MultiProgress,
    /// Changes what is logged.
    log_filter: Arc<OnceLock<ChangeFilter>>,
}

type ChangeFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("quiet", &self.quiet).finish_non_exhaustive()
    }
}

impl Console {
    /// Looks at the terminal and the environment.
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = io::stderr().is_terminal() && !is_dumb();
        let target = if terminal {
            ProgressDrawTarget::term_like_with_hz(Box::new(Narrow::stderr()), 20)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bars = MultiProgress::with_draw_target(target);
        let log_filter = Arc::default();
        Self { quiet, colours: terminal && !no_color(), terminal, bars, log_filter }
    }

    /// Whether bars make sense.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether only errors and warnings are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Where bars are drawn.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// A line for people, unless they want quiet.
    pub(crate) fn note(&self, line: &str) {
        if !self.quiet {
            self.write(&format!("{line}\n"));
        }
    }

    /// A line that matters less than the others.
    pub(crate) fn aside(&self, line: &str) {
        self.note(&self.styled("2", line));
    }

    /// A line that says what is wrong with what was done all the same.
    pub(crate) fn warn(&self, line: &str) {
        self.write(&format!("{} {line}\n", self.styled("1;33", "warning:")));
    }

    /// Why a command failed.
    pub(crate) fn error(&self, text: &str) {
        self.write(&format!("{} {text}\n", self.styled("1;31", "error:")));
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A closed standard error is no reason to fail.
    fn write(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        });
    }

    /// Sends the logs of all crates to standard error, and the spans that `spans` selects to the profiler.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a filter that cannot be read.
    pub(crate) fn observe(&self, filter: &str, spans: &str, with_time: bool) -> Result<()> {
        let (filter, handle) = reload::Layer::new(read_filter("log", filter)?);
        let lines = fmt::layer().with_ansi(self.colours).with_writer(self.clone());
        let lines = if with_time { lines.boxed() } else { lines.without_time().boxed() };
        let scopes = if spans.is_empty() {
            None
        } else {
            let layer = ProfilerLayer::new(Profiler::global()).with_targets(true);
            Some(layer.with_filter(read_filter("profile_spans", spans)?))
        };
        // A second subscriber, in tests of one process, changes nothing.
        let _ =
            tracing_subscriber::registry().with(lines.with_filter(filter)).with(scopes).try_init();
        let _ = self.log_filter.set(Box::new(move |filter| {
            // Fails only when the subscriber is gone.
            let _ = handle.reload(filter);
        }));
        Ok(())
    }
}

impl Console {
    /// Logs by another filter from now on.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a filter that cannot be read.
    pub(crate) fn change_logs(&self, filter: &str) -> Result<()> {
        let filter = read_filter("log", filter)?;
        if let Some(change) = self.log_filter.get() {
            change(filter);
        }
        Ok(())
    }
}

fn read_filter(setting: &str, filter: &str) -> Result<EnvFilter> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| CliError::usage(format!("the setting `{setting}` cannot be read: {e}")))
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter(self.clone())
    }
}

/// Writes log lines beside the bars.
#[derive(Debug)]
pub(crate) struct LogWriter(Console);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bars.suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Writes results, and shows them at once.
///
/// # Errors
/// [`CliError::ReaderGone`] when the pipe was closed, [`CliError::Output`] otherwise.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            CliError::ReaderGone
        } else {
            CliError::Output(error)
        }
    })
}

/// Writes one JSON object.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| CliError::Failed(format!("could not write JSON: {e}")))?;
    print(&(text + "\n"))
}

/// Whether results may have colours: on a terminal that can show them, unless `NO_COLOR` says otherwise.
pub(crate) fn stdout_is_coloured() -> bool {
    stdout_is_terminal() && !is_dumb() && !no_color()
}

/// <https://no-color.org>
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether a person reads the results.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}
