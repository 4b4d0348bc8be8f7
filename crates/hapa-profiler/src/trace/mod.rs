//! Timelines of single requests.
//!
//! A [`TraceCollector`] keeps the last traces by request id. A [`Trace`] collects the scopes of
//! the threads and futures that carry it ([`Trace::enter`], [`TraceFuture::traced`]) and spans
//! that are known only afterwards ([`Trace::record`]: queue, prefill, decode), and is written as
//! Chrome trace JSON, which Perfetto (<https://ui.perfetto.dev>) and `chrome://tracing` open.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use hapa_profiler::{Profiler, TraceCollector, trace::TraceFuture as _};
//!
//! let traces = TraceCollector::new(Profiler::global());
//! let trace = traces.start("req-1");
//! let work = async { hapa_profiler::time("tokenize", || 1) }.traced(&trace);
//! # let _ = futures_util::FutureExt::now_or_never(work);
//! trace.record("queue", Instant::now(), Duration::from_millis(3), &[("place", "2")]);
//! let json = traces.get("req-1").unwrap().to_chrome_json();
//! assert!(json.contains("\"queue\""));
//! ```

mod chrome;
mod collector;
mod stages;

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

pub use collector::TraceCollector;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
pub use stages::Stage;

use crate::Profiler;

/// Events that one trace keeps; further ones are counted as dropped.
pub const MAX_EVENTS: usize = 65_536;

static NEXT_THREAD: AtomicU32 = AtomicU32::new(1);

thread_local! {
    static THREAD: u32 = NEXT_THREAD.fetch_add(1, Relaxed);
}

#[derive(Debug, Clone)]
enum Name {
    /// A scope of the profiler, by number: pushing it allocates nothing.
    Scope(u32),
    Text(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Nests within its thread.
    Thread(u32),
    /// May overlap others: a future's life.
    Future,
    /// A stage of the request as a whole, or of one of the parts that it came in.
    Stage(u32),
    /// A moment.
    Moment(u32),
}

#[derive(Debug, Clone)]
struct Event {
    name: Name,
    shape: Shape,
    /// Since the trace began.
    start_ns: u64,
    duration_ns: u64,
    args: Args,
}

/// Names and values. One text, since nearly all of them are thrown away unread: each is followed by a zero byte, which
/// becomes a space where it is part of one.
#[derive(Debug, Clone, Default)]
struct Args(Box<str>);

impl Args {
    fn new(args: &[(&str, &str)]) -> Self {
        let length = args.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        let mut text = String::with_capacity(length);
        for part in args.iter().flat_map(|(name, value)| [name, value]) {
            match part.contains('\0') {
                false => text.push_str(part),
                true => text.push_str(&part.replace('\0', " ")),
            }
            text.push('\0');
        }
        Self(text.into_boxed_str())
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator('\0');
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }
}

#[derive(Debug, Default)]
struct Events {
    list: Vec<Event>,
    threads: Vec<(u32, Box<str>)>,
}

/// The timeline of one request.
#[derive(Debug)]
pub struct Trace {
    request_id: Box<str>,
    profiler: Profiler,
    started: Instant,
    started_raw: u64,
    /// Of the calendar when the trace began: what comes later is told by its distance from here, whatever becomes of the
    /// calendar meanwhile.
    started_unix: Duration,
    events: Mutex<Events>,
    dropped: AtomicU64,
    lanes: AtomicU32,
}

/// Stages of one part of a request: they nest among themselves. See [`Trace::lane`].
#[derive(Debug, Clone)]
pub struct Lane {
    trace: Arc<Trace>,
    number: u32,
}

impl Lane {
    /// As [`Trace::record`], beside the stages of other lanes.
    pub fn record(&self, name: &str, started: Instant, duration: Duration, args: &[(&str, &str)]) {
        self.trace.record_on(self.number, name, (started, duration), args);
    }

    /// The trace that it belongs to.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }
}

impl Trace {
    fn new(request_id: &str, profiler: &Profiler) -> Self {
        let clock = &profiler.inner.clock;
        let started_raw = clock.raw();
        Self {
            request_id: request_id.into(),
            profiler: profiler.clone(),
            started: Instant::now(),
            started_raw,
            started_unix: clock.unix_time(started_raw),
            events: Mutex::default(),
            dropped: AtomicU64::new(0),
            lanes: AtomicU32::new(1),
        }
    }

    /// Stages of a part of the request that goes on beside other parts, such as one answer of a batch.
    pub fn lane(self: &Arc<Self>) -> Lane {
        Lane { trace: self.clone(), number: self.lanes.fetch_add(1, Relaxed) }
    }

    /// The request's id.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Events that did not fit.
    pub fn dropped_events(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Events that are kept.
    pub fn len(&self) -> usize {
        self.events.lock().list.len()
    }

    /// Whether nothing happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the scopes that this thread opens to the trace, until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> TraceGuard {
        let before = self.profiler.set_trace(Some(self.clone()));
        TraceGuard { profiler: self.profiler.clone(), before, thread: PhantomData }
    }

    /// Adds a stage that was measured elsewhere: it began at `started` and took `duration`.
    pub fn record(&self, name: &str, started: Instant, duration: Duration, args: &[(&str, &str)]) {
        self.record_on(0, name, (started, duration), args);
    }

    fn record_on(
        &self,
        lane: u32,
        name: &str,
        (started, duration): (Instant, Duration),
        args: &[(&str, &str)],
    ) {
        let start_ns = nanos(started.saturating_duration_since(self.started));
        self.push(Event {
            name: Name::Text(name.into()),
            shape: Shape::Stage(lane),
            start_ns,
            duration_ns: nanos(duration),
            args: Args::new(args),
        });
    }

    /// Adds a moment: now, on this thread.
    pub fn mark(&self, name: &str, args: &[(&str, &str)]) {
        let clock = &self.profiler.inner.clock;
        let start_ns = clock.nanos_between(self.started_raw, clock.raw());
        self.push(Event {
            name: Name::Text(name.into()),
            shape: Shape::Moment(this_thread()),
            start_ns,
            duration_ns: 0,
            args: Args::new(args),
        });
    }

    /// Called by the tree when a scope ends on a thread that carries this trace.
    pub(crate) fn push_scope(&self, name: u32, start_raw: u64, duration_ns: u64, future: bool) {
        let start_ns = self.profiler.inner.clock.nanos_between(self.started_raw, start_raw);
        let shape = if future { Shape::Future } else { Shape::Thread(this_thread()) };
        let args = Args::default();
        self.push(Event { name: Name::Scope(name), shape, start_ns, duration_ns, args });
    }

    fn push(&self, event: Event) {
        let mut events = self.events.lock();
        if events.list.len() >= MAX_EVENTS {
            drop(events);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        if let Shape::Thread(thread) | Shape::Moment(thread) = event.shape
            && !events.threads.iter().any(|(known, _)| *known == thread)
        {
            let name = std::thread::current().name().unwrap_or("thread").into();
            events.threads.push((thread, name));
        }
        events.list.push(event);
    }
}

fn this_thread() -> u32 {
    THREAD.try_with(|thread| *thread).unwrap_or(0)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// This thread carries a trace until this is dropped; see [`Trace::enter`].
#[derive(Debug)]
#[must_use = "the thread carries the trace until the guard is dropped"]
pub struct TraceGuard {
    profiler: Profiler,
    before: Option<Arc<Trace>>,
    thread: PhantomData<*const ()>,
}

impl Drop for TraceGuard {
    fn drop(&mut self) {
        self.profiler.set_trace(self.before.take());
    }
}

/// Carries a trace through a future.
pub trait TraceFuture: Future + Sized {
    /// Scopes that this future opens, on whatever threads, go to the trace too.
    fn traced(self, trace: &Arc<Trace>) -> Traced<Self> {
        Traced { future: self, trace: trace.clone() }
    }
}

impl<F: Future> TraceFuture for F {}

pin_project! {
    /// A future that carries a trace; see [`TraceFuture`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Traced<F> {
        #[pin]
        future: F,
        trace: Arc<Trace>,
    }
}

impl<F: Future> Future for Traced<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _carried = this.trace.enter();
        this.future.poll(context)
    }
}
