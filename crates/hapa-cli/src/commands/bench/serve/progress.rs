//! How a load test is shown while it runs: a bar on a terminal, elsewhere a line every few seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hapa_loadtest::{Control, Snapshot};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::Console;
use crate::text;

const TICK: Duration = Duration::from_millis(100);
/// Time between lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);
/// Over which the rates are taken.
const WINDOW: Duration = Duration::from_secs(1);
const BAR: &str = "{prefix} {wide_bar:.cyan/dim} {msg}";
const STEPS: u64 = 1000;

/// Shows a load test while it lives.
pub(crate) struct Shown {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Shown {
    pub(crate) fn start(console: &Console, control: &Control) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if console.is_quiet() {
            return Self { stop, thread: None };
        }
        let (stopped, console, control) = (Arc::clone(&stop), console.clone(), control.clone());
        let body = move || {
            let bar = console.is_terminal().then(|| bar(&console));
            let mut rates = Rates::new(&control.snapshot());
            let mut last_line = Instant::now();
            while !stopped.load(Relaxed) {
                let now = control.snapshot();
                rates.see(&now);
                if let Some(bar) = &bar {
                    bar.set_prefix(now.phase.clone());
                    bar.set_position((now.share() * STEPS as f64) as u64);
                    bar.set_message(rates.words(&now, true));
                    bar.tick();
                } else if last_line.elapsed() >= LINE_PERIOD {
                    last_line = Instant::now();
                    let percent = now.share() * 100.0;
                    let words = rates.words(&now, false);
                    console.note(&format!("{}, {percent:.0}%: {words}", now.phase));
                }
                std::thread::park_timeout(TICK);
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
                console.bars().remove(&bar);
            }
        };
        let thread = std::thread::Builder::new().name("hapa-progress".to_owned()).spawn(body);
        // Without a thread there is no progress to see, and nothing else is lost.
        Self { stop, thread: thread.ok() }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn bar(console: &Console) -> ProgressBar {
    let bar = console.bars().add(ProgressBar::new(STEPS));
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style.progress_chars("━╸━"));
    }
    bar
}

/// What happens in a second, as of the last second or so.
struct Rates {
    then: (Instant, u64, u64),
    requests: f64,
    tokens: f64,
}

impl Rates {
    fn new(first: &Snapshot) -> Self {
        let then = (Instant::now(), first.succeeded, first.output_tokens);
        Self { then, requests: 0.0, tokens: 0.0 }
    }

    fn see(&mut self, now: &Snapshot) {
        let (at, succeeded, tokens) = self.then;
        let passed = at.elapsed();
        if passed >= WINDOW {
            let seconds = passed.as_secs_f64();
            self.requests = now.succeeded.saturating_sub(succeeded) as f64 / seconds;
            self.tokens = now.output_tokens.saturating_sub(tokens) as f64 / seconds;
            self.then = (Instant::now(), now.succeeded, now.output_tokens);
        }
    }

    /// The figures; `short` for a line that shares its place with a bar.
    fn words(&self, now: &Snapshot, short: bool) -> String {
        let mut words = format!("{} ok", now.succeeded);
        if now.refused > 0 {
            words.push_str(&format!(", {} refused", now.refused));
        }
        if now.failed > 0 {
            words.push_str(&format!(", {} failed", now.failed));
        }
        words.push_str(&format!(", {} open, {:.0} req/s", now.in_flight, self.requests));
        if now.output_tokens > 0 {
            words.push_str(&format!(", {:.0} tok/s", self.tokens));
        }
        if !short {
            words.push_str(&format!(", {}", text::duration(now.elapsed)));
        }
        words
    }
}
