//! Work that is counted: a bar on a terminal, elsewhere a line every few seconds.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::console::Console;
use crate::text;

/// Time between lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

const BAR: &str = "{prefix} {wide_bar:.cyan/dim} {msg}";

/// Shows how far it is while it lives.
pub(crate) struct Tally {
    console: Console,
    title: &'static str,
    total: u64,
    done: u64,
    began: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Tally {
    pub(crate) fn new(console: &Console, title: &'static str, total: u64) -> Self {
        let bar = (console.is_terminal() && !console.is_quiet()).then(|| {
            let bar = console.bars().add(ProgressBar::new(total));
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_prefix(title);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let now = Instant::now();
        Self { console: console.clone(), title, total, done: 0, began: now, last_line: now, bar }
    }

    /// One more is done; `also` is what else there is to say.
    pub(crate) fn add(&mut self, also: &str) {
        self.done += 1;
        let now = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.set_message(self.figures(now, also));
        } else if now.duration_since(self.last_line) >= LINE_PERIOD {
            self.last_line = now;
            self.console.note(&format!("{}: {}", self.title, self.figures(now, also)));
        }
    }

    fn figures(&self, now: Instant, also: &str) -> String {
        let mut text = format!("{} of {}", self.done, self.total);
        if !also.is_empty() {
            text.push_str(&format!(", {also}"));
        }
        let each = now.duration_since(self.began).as_secs_f64() / self.done.max(1) as f64;
        let left = each * self.total.saturating_sub(self.done) as f64;
        if let Ok(left) = Duration::try_from_secs_f64(left.ceil())
            && self.done < self.total
        {
            text.push_str(&format!(", {} left", text::whole_seconds(left)));
        }
        text
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            self.console.bars().remove(&bar);
        }
    }
}
