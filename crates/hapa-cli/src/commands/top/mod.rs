//! `hapa top`: a running server on one screen.

mod sample;
mod screen;
mod view;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::sample::{Sample, Source};
use self::view::View;
use crate::console::{print, print_json, stdout_is_terminal};
use crate::error::{CliError, Result};

/// Looks that percentiles and shares are taken over: those of a single one jump, and are none where nothing ended meanwhile.
const WINDOW: usize = 10;

/// Watch a running server: requests, latency, tokens, caches, memory, scopes
///
/// Reads /metrics and /stats of a server, this machine's by default. `q` ends it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa top
  hapa top --url http://10.0.0.7:8000 --interval 5
  hapa top --once            # one screen as text, for a bug report
  hapa top --once --json | jq .generated_tokens_per_second

HAPA_API_KEY may hold the key, so that it stands in no list of processes. Where standard output is no
terminal, --once is understood.")]
pub(crate) struct Top {
    /// Where the server listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// A key that may read metrics, where the server wants one
    #[arg(long, value_name = "KEY", env = "HAPA_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print one screen of two looks, and end
    #[arg(long)]
    once: bool,
    /// Print what two looks say as one JSON object, and end
    #[arg(long)]
    json: bool,
}

impl Top {
    /// # Errors
    /// [`CliError::Failed`] when the server cannot be reached with `--once`, or the terminal cannot be used.
    pub(crate) fn run(&self) -> Result<()> {
        let interval = Duration::from_secs(self.interval);
        let source = Source::new(&self.url, self.key.as_deref(), interval);
        if self.once || self.json || !stdout_is_terminal() {
            return self.once(&source, interval);
        }
        let mut terminal = ratatui::try_init()
            .map_err(|e| CliError::Failed(format!("could not use the terminal: {e}")))?;
        let ended = watch(&mut terminal, &source, interval);
        ratatui::restore();
        ended
    }

    /// Two looks, so that rates have something to stand on.
    fn once(&self, source: &Source, interval: Duration) -> Result<()> {
        let first = source.sample().map_err(CliError::Failed)?;
        std::thread::sleep(interval);
        let second = source.sample().map_err(CliError::Failed)?;
        let view = View::between((&first, &first), &second);
        if self.json {
            print_json(&view)
        } else {
            print(&screen::text(&view, source.url(), (100, 30)))
        }
    }
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    source: &Source,
    interval: Duration,
) -> Result<()> {
    let failed = |e: std::io::Error| CliError::Failed(format!("could not use the terminal: {e}"));
    let mut view = View::default();
    let mut looks: VecDeque<Sample> = VecDeque::new();
    let mut problem = None;
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            next = Instant::now() + interval;
            match source.sample() {
                Ok(sample) => {
                    if let (Some(oldest), Some(newest)) = (looks.front(), looks.back()) {
                        let history = std::mem::take(&mut view.history);
                        view = View::between((oldest, newest), &sample).with_history(history);
                    }
                    looks.push_back(sample);
                    if looks.len() > WINDOW {
                        looks.pop_front();
                    }
                    problem = None;
                }
                // A server that restarts is shown again when it is back.
                Err(error) => problem = Some(error),
            }
        }
        terminal
            .draw(|frame| screen::draw(frame, &view, source.url(), problem.as_deref()))
            .map_err(failed)?;
        let left = next.saturating_duration_since(Instant::now());
        if event::poll(left).map_err(failed)?
            && let Event::Key(key) = event::read().map_err(failed)?
            && key.kind == KeyEventKind::Press
        {
            let interrupt =
                key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(());
            }
        }
    }
}
