//! How a load is shown: a bar on a terminal, elsewhere a line every few seconds.
//!
//! A thread of its own looks at the load ten times a second, so that something moves also while a load waits for the
//! network and reports nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hapa_model::{LoadEvent, LoadState, ProgressSink};
use hapa_service::Service;
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

/// What speed is measured over: long enough to be calm, short enough to be true.
const WINDOW: Duration = Duration::from_secs(8);

const BAR: &str = "{prefix} {wide_bar:.cyan/dim} {msg}";
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

    /// Shows the loads of a service's models, of several at once that of the first.
    pub(crate) fn of_service(console: &Console, service: &Service) -> Self {
        let states: Vec<_> = service.models().map(|one| one.model().subscribe()).collect();
        Self::start(console, move || {
            states.iter().find_map(|state| match &*state.borrow() {
                LoadState::Loading { event } => Some(event.clone()),
                _ => None,
            })
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
        let cancelled = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&cancelled);
        let poll = move || {
            // Who stopped the work does not want to see more of it.
            let shown = !gone.load(Ordering::Relaxed);
            shown.then(|| seen.lock().unwrap_or_else(PoisonError::into_inner).clone()).flatten()
        };
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
            LoadEvent::MakingRoom { .. } => {
                step("waiting for memory that other models hold".to_owned(), Unit::None, 0, 0)
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
    /// What was there when, over the last seconds.
    samples: VecDeque<(Instant, u64)>,
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
        stage.advance(step, now);
        if now.duration_since(self.began) < PATIENCE {
            return;
        }
        if self.console.is_terminal() {
            let bars = self.console.bars();
            let bar = self.bar.get_or_insert_with(|| bars.add(ProgressBar::no_length()));
            stage.draw(bar, now);
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
        let samples = VecDeque::from([(now, step.done)]);
        Self { first: step.done, step, began: now, samples, last_line: None }
    }

    fn advance(&mut self, step: Step, now: Instant) {
        self.step = step;
        self.samples.push_back((now, self.step.done));
        // Time before the first byte is no measure of speed.
        if self.samples.iter().all(|(_, done)| *done == self.first) {
            self.samples.drain(..self.samples.len() - 1);
        }
        while self.samples.len() > 2 && now.duration_since(self.samples[1].0) >= WINDOW {
            self.samples.pop_front();
        }
    }

    /// Bytes a second of late; `None` while nothing has come.
    fn rate(&self, now: Instant) -> Option<f64> {
        let (since, before) = self.samples.front()?;
        let came = self.step.done.checked_sub(*before).filter(|came| *came > 0)?;
        let seconds = now.duration_since(*since).as_secs_f64();
        (seconds > 0.5).then(|| came as f64 / seconds)
    }

    /// How far it is: `82.0 MB of 491 MB, 16.2 MB/s, 25.3 s left`.
    fn figures(&self, now: Instant) -> String {
        let Step { unit, done, total, .. } = &self.step;
        match unit {
            Unit::None => String::new(),
            Unit::Pieces => format!("{done} of {total}"),
            Unit::Bytes => {
                let mut text = format!("{} of {}", text::bytes(*done), text::bytes(*total));
                if let Some(rate) = self.rate(now) {
                    let left = total.saturating_sub(*done) as f64 / rate;
                    text.push_str(&format!(", {}/s", text::bytes(rate as u64)));
                    if let Ok(left) = Duration::try_from_secs_f64(left.ceil()) {
                        text.push_str(&format!(", {} left", text::whole_seconds(left)));
                    }
                }
                text
            }
        }
    }

    fn draw(&self, bar: &ProgressBar, now: Instant) {
        let template = if self.step.unit == Unit::None { SPINNER } else { BAR };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(self.step.title.clone());
        bar.set_length(self.step.total);
        bar.set_position(self.step.done);
        bar.set_message(self.figures(now));
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
        let Step { title, from, unit, total, .. } = &self.step;
        Some(match (unit, total) {
            (Unit::Bytes, 1..) if is_first => format!("{title}{from}: {}", text::bytes(*total)),
            _ if is_first => format!("{title}{from}"),
            (Unit::None, _) => {
                format!("{title}, since {}", text::whole_seconds(now.duration_since(self.began)))
            }
            _ => format!("{title}: {}", self.figures(now)),
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
            let (size, rate) = (text::bytes(*total), text::bytes(rate as u64));
            format!("fetched {name}{from}: {size} in {} ({rate}/s)", text::duration(took))
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
        // Neither the wait for the first byte nor what was there before counts as speed.
        for (second, megabytes) in [(1, 100), (2, 100), (3, 110), (4, 120), (5, 130), (6, 140)] {
            stage.advance(fetching(megabytes * 1_000_000), at(second));
            assert_eq!(stage.line(at(second)).is_some(), second == 5);
        }
        assert_eq!(stage.figures(at(6)), "140 MB of 491 MB, 10.0 MB/s, 36 s left");
        assert_eq!(stage.last_words(at(6)), None, "not whole");
        // Only the last seconds count.
        for second in 7..=20 {
            stage.advance(fetching(140_000_000 + (second - 6) * 25_000_000), at(second));
        }
        assert_eq!(stage.figures(at(20)), "490 MB of 491 MB, 25.0 MB/s, 1 s left");
        stage.advance(fetching(491_400_064), at(20));
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
        stage.advance(fetching(5), start + Duration::from_secs(9));
        let line = stage.line(start + Duration::from_secs(9)).unwrap();
        assert_eq!(line, "fetching m: 5 B of 491 MB");
    }
}
