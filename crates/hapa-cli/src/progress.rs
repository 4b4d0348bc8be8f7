//! How a load is shown: a bar on a terminal, elsewhere a line every few seconds.
//!
//! A thread of its own looks at the load ten times a second, so that something moves also while a load waits for the
//! network and reports nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hapa_model::{LazyModel, LoadEvent, LoadState, ProgressSink};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::Console;
use crate::text;

const TICK: Duration = Duration::from_millis(100);
/// What is over sooner is not worth a word.
const PATIENCE: Duration = Duration::from_millis(400);
/// Where there is no terminal, work of the machine itself that is over sooner has no line.
const LONG: Duration = Duration::from_secs(2);
/// Time between lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

const BYTES: &str = "{prefix} {wide_bar:.cyan/dim} {decimal_bytes}/{decimal_total_bytes} \
                     {decimal_bytes_per_sec} {eta}";
const COUNT: &str = "{prefix} {wide_bar:.cyan/dim} {pos}/{len}";
const SPINNER: &str = "{spinner} {prefix} {elapsed:.dim}";

/// Shows a load while it lives.
pub(crate) struct Progress {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows what `poll` says.
    fn start(console: &Console, poll: impl Fn() -> Option<LoadEvent> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if console.is_quiet() {
            return Self { stop, thread: None };
        }
        let stopped = Arc::clone(&stop);
        let mut painter = Painter::new(console);
        let thread =
            std::thread::Builder::new().name("hapa-progress".to_owned()).spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    painter.show(poll().as_ref(), Instant::now());
                    std::thread::park_timeout(TICK);
                }
                // A short last stage may have ended between two looks.
                painter.show(None, Instant::now());
            });
        // Without a thread there is no progress to see, and nothing else is lost.
        Self { stop, thread: thread.ok() }
    }

    /// Shows the loads of a lazy model.
    pub(crate) fn of_model(console: &Console, model: &LazyModel) -> Self {
        let state = model.subscribe();
        Self::start(console, move || match &*state.borrow() {
            LoadState::Loading { event } => Some(event.clone()),
            _ => None,
        })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// A sink for work that this program does itself: shows it, and stops it when told.
pub(crate) struct ShownLoad {
    last: Arc<Mutex<Option<LoadEvent>>>,
    cancelled: Arc<AtomicBool>,
    _progress: Progress,
}

/// Stops a [`ShownLoad`] when dropped.
pub(crate) struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ShownLoad {
    /// A sink, and what cancels it.
    pub(crate) fn new(console: &Console) -> (Self, CancelOnDrop) {
        let last: Arc<Mutex<Option<LoadEvent>>> = Arc::default();
        let seen = Arc::clone(&last);
        let poll = move || seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let cancelled = Arc::new(AtomicBool::new(false));
        let cancel = CancelOnDrop(Arc::clone(&cancelled));
        (Self { last, cancelled, _progress: Progress::start(console, poll) }, cancel)
    }
}

impl ProgressSink for ShownLoad {
    fn event(&self, event: &LoadEvent) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(event.clone());
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Where a load stands.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    title: String,
    /// What the bytes come from, for the words about them.
    from: String,
    unit: Unit,
    done: u64,
    total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Nothing to count.
    None,
    Bytes,
    Pieces,
}

impl Step {
    fn of(event: &LoadEvent) -> Option<Self> {
        let step = |title: String, unit, done, total| {
            Some(Self { title, from: String::new(), unit, done, total })
        };
        match event {
            LoadEvent::Resolving { name } if name.is_empty() => None,
            LoadEvent::Resolving { name } => step(format!("looking for {name}"), Unit::None, 0, 0),
            LoadEvent::Waiting { name, received_bytes, total_bytes } => {
                let title = format!("waiting for another process to fetch {name}");
                step(title, Unit::Bytes, *received_bytes, *total_bytes)
            }
            LoadEvent::Fetching { name, route, received_bytes, total_bytes } => Some(Self {
                from: format!(" from the {route}"),
                ..step(format!("fetching {name}"), Unit::Bytes, *received_bytes, *total_bytes)?
            }),
            LoadEvent::Verifying { done_bytes, total_bytes } => {
                step("checking the SHA-256".to_owned(), Unit::Bytes, *done_bytes, *total_bytes)
            }
            LoadEvent::Mapping => step("loading".to_owned(), Unit::None, 0, 0),
            LoadEvent::Packing { done, total } => {
                let title = "packing the weights (once)".to_owned();
                step(title, Unit::Pieces, *done as u64, *total as u64)
            }
            _ => None,
        }
    }
}

/// Paints one load.
struct Painter {
    console: Console,
    began: Instant,
    stage: Option<Stage>,
    bar: Option<ProgressBar>,
}

/// One stage of a load, from when it was first seen.
struct Stage {
    step: Step,
    began: Instant,
    first: u64,
    last_line: Option<Instant>,
}

impl Painter {
    fn new(console: &Console) -> Self {
        Self { console: console.clone(), began: Instant::now(), stage: None, bar: None }
    }

    fn show(&mut self, event: Option<&LoadEvent>, now: Instant) {
        let Some(step) = event.and_then(Step::of) else { return self.end_stage(now) };
        if self.stage.as_ref().is_none_or(|stage| stage.step.title != step.title) {
            self.end_stage(now);
            self.stage = Some(Stage::new(step.clone(), now));
        }
        let Some(stage) = &mut self.stage else { return };
        stage.step = step;
        if now.duration_since(self.began) < PATIENCE {
            return;
        }
        if self.console.is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = self.console.bars().add(ProgressBar::no_length());
                stage.begin(&bar);
                bar
            });
            stage.draw(bar);
        } else if let Some(line) = stage.line(now) {
            self.console.note(&line);
        }
    }

    /// Takes the bar away. What was fetched stays as a line.
    fn end_stage(&mut self, now: Instant) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            self.console.bars().remove(&bar);
        }
        let last_words = self.stage.take().and_then(|stage| stage.last_words(now));
        if let Some(line) = last_words {
            self.console.note(&line);
        }
    }
}

impl Stage {
    fn new(step: Step, now: Instant) -> Self {
        Self { first: step.done, step, began: now, last_line: None }
    }

    fn begin(&self, bar: &ProgressBar) {
        let template = match self.step.unit {
            Unit::None => SPINNER,
            Unit::Bytes => BYTES,
            Unit::Pieces => COUNT,
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸━"));
        }
        bar.set_prefix(self.step.title.clone());
        // What an earlier try left must not count as speed.
        bar.set_position(self.first);
        bar.reset_eta();
    }

    fn draw(&self, bar: &ProgressBar) {
        if self.step.total > 0 {
            bar.set_length(self.step.total);
            bar.set_position(self.step.done);
        }
        bar.tick();
    }

    /// The next line where there is no bar, if it is time for one.
    fn line(&mut self, now: Instant) -> Option<String> {
        let due = match self.last_line {
            Some(last) => now.duration_since(last) >= LINE_PERIOD,
            // Fetching is worth a line from the start, what the machine does by itself only when it takes long.
            None => !self.step.from.is_empty() || now.duration_since(self.began) >= LONG,
        };
        if !due {
            return None;
        }
        let is_first = self.last_line.replace(now).is_none();
        let Step { title, from, unit, done, total } = &self.step;
        if is_first {
            return Some(match (unit, total) {
                (Unit::Bytes, 1..) => format!("{title}{from}: {}", text::bytes(*total)),
                _ => format!("{title}{from}"),
            });
        }
        let seconds = now.duration_since(self.began).as_secs_f64();
        Some(match unit {
            Unit::None => format!("{title}, since {}", text::duration(now - self.began)),
            Unit::Pieces => format!("{title}: {done} of {total}"),
            Unit::Bytes => {
                let rate = done.saturating_sub(self.first) as f64 / seconds.max(1e-3);
                let left = total.saturating_sub(*done) as f64 / rate;
                let left = Duration::try_from_secs_f64(left).ok();
                let left = left.map_or(String::new(), |t| format!(", {} left", text::duration(t)));
                let (done, total) = (text::bytes(*done), text::bytes(*total));
                format!("{title}: {done} of {total}, {}/s{left}", text::bytes(rate as u64))
            }
        })
    }

    /// What stays to be read of a fetch that was seen.
    fn last_words(&self, now: Instant) -> Option<String> {
        let Step { title, from, total, .. } = &self.step;
        let name = title.strip_prefix("fetching ")?;
        let took = now.duration_since(self.began);
        let whole = *total > 0 && self.step.done == *total;
        let rate = (total - self.first) as f64 / took.as_secs_f64().max(1e-3);
        whole.then(|| {
            format!(
                "fetched {name}{from}: {} in {} ({}/s)",
                text::bytes(*total),
                text::duration(took),
                text::bytes(rate as u64)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use hapa_model::Route;

    use super::*;

    fn fetching(received_bytes: u64) -> Step {
        let total_bytes = 491_400_064;
        let name = "m".to_owned();
        let event = LoadEvent::Fetching { name, route: Route::Hub, received_bytes, total_bytes };
        Step::of(&event).unwrap()
    }

    #[test]
    fn lines_come_seldom_and_say_what_is_left() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stage = Stage::new(fetching(100_000_000), start);
        assert_eq!(
            stage.line(start).as_deref(),
            Some("fetching m from the Hugging Face hub: 491 MB")
        );
        stage.step = fetching(150_000_000);
        assert_eq!(stage.line(at(4)), None);
        // What was there before does not count as speed.
        stage.step = fetching(200_000_000);
        assert_eq!(
            stage.line(at(10)).as_deref(),
            Some("fetching m: 200 MB of 491 MB, 10.0 MB/s, 29.1 s left")
        );
        assert_eq!(stage.last_words(at(10)), None, "not whole");
        stage.step = fetching(491_400_064);
        assert_eq!(
            stage.last_words(at(20)).as_deref(),
            Some("fetched m from the Hugging Face hub: 491 MB in 20.0 s (19.6 MB/s)")
        );
    }

    #[test]
    fn short_work_has_no_line() {
        let start = Instant::now();
        let checking =
            |done_bytes| Step::of(&LoadEvent::Verifying { done_bytes, total_bytes: 1000 }).unwrap();
        let mut stage = Stage::new(checking(10), start);
        assert_eq!(stage.line(start + Duration::from_secs(1)), None);
        let line = stage.line(start + Duration::from_secs(3));
        assert_eq!(line.as_deref(), Some("checking the SHA-256: 1.00 kB"));
        assert_eq!(stage.last_words(start), None);
    }

    #[test]
    fn a_stalled_fetch_has_no_time_left() {
        let start = Instant::now();
        let mut stage = Stage::new(fetching(5), start);
        stage.line(start);
        let line = stage.line(start + Duration::from_secs(9)).unwrap();
        assert_eq!(line, "fetching m: 5 B of 491 MB, 0 B/s");
    }
}
