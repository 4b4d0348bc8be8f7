//! Scopes of futures: time while polled is busy time, time from the first poll to the end is wall
//! time, whichever threads the polls run on.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{
    profiler::{self, Profiler, with_local},
    tree::{Ended, Frame, NodeData},
};
use crate::alloc::AllocDelta;

/// Puts a future into a scope.
pub trait ProfileFuture: Future + Sized {
    /// A scope of the global profiler around this future. It begins with the first poll and ends
    /// when the future is ready, panics, or is dropped (then it counts as cancelled).
    fn profiled(self, name: &str) -> Profiled<Self> {
        Profiled::new(Profiler::global(), name, self)
    }

    /// As [`ProfileFuture::profiled`], in the given profiler.
    fn profiled_by(self, profiler: &Profiler, name: &str) -> Profiled<Self> {
        Profiled::new(profiler, name, self)
    }
}

impl<F: Future> ProfileFuture for F {}

pin_project! {
    /// A future in a scope; see [`ProfileFuture`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Profiled<F> {
        #[pin]
        future: F,
        call: Call,
    }
}

impl<F> Profiled<F> {
    fn new(profiler: &Profiler, name: &str, future: F) -> Self {
        // Off when it is made: off for its life, as a scope is.
        let profiler = profiler.is_enabled().then(|| profiler.clone());
        let name = profiler.as_ref().map_or(0, |profiler| profiler.inner.names.number(name));
        let memory = AllocDelta::default();
        Self { future, call: Call { profiler, name, started_raw: None, last: None, memory } }
    }
}

/// One call of the scope.
#[derive(Debug)]
struct Call {
    /// `None` when off, and once the call has ended.
    profiler: Option<Profiler>,
    name: u32,
    started_raw: Option<u64>,
    /// The node of the last poll.
    last: Option<Arc<NodeData>>,
    /// Live bytes so far, and the most of them.
    memory: AllocDelta,
}

impl Call {
    fn end_poll(&mut self, frame: &Frame, outcome: Outcome) {
        let Some(profiler) = &self.profiler else { return };
        let inner = &profiler.inner;
        let end_raw = inner.clock.raw();
        let ended = match outcome {
            Outcome::Pending => Ended::Paused,
            Outcome::Ready | Outcome::Panicked => Ended::LastPoll {
                panicked: outcome == Outcome::Panicked,
                wall_start_raw: self.started_raw.unwrap_or(end_raw),
            },
        };
        let poll = profiler::exit(inner, frame, end_raw, ended);
        let before = self.memory.live_bytes;
        let peak = before.saturating_add_unsigned(poll.peak_bytes).max(0).unsigned_abs();
        self.memory.peak_bytes = self.memory.peak_bytes.max(peak);
        self.memory.live_bytes = before + poll.live_bytes;
        if outcome != Outcome::Pending {
            if let Some(last) = &self.last {
                last.peak_live_bytes.fetch_max(self.memory.peak_bytes, Relaxed);
            }
            self.profiler = None;
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Pending,
    Ready,
    Panicked,
}

/// Ends the poll when the future panics as well.
struct PollGuard<'a> {
    call: &'a mut Call,
    frame: Frame,
    outcome: Outcome,
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        self.call.end_poll(&self.frame, self.outcome);
    }
}

impl<F: Future> Future for Profiled<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !cfg!(feature = "profiling") {
            return this.future.poll(context);
        }
        let call = this.call;
        let name = call.name;
        let entered = call.profiler.as_ref().and_then(|profiler| {
            with_local(&profiler.inner, |tree| {
                let frame = tree.enter(name, &profiler.inner.clock);
                (frame, tree.node_data(tree.current()))
            })
        });
        let Some((frame, data)) = entered else { return this.future.poll(context) };
        call.started_raw.get_or_insert(frame.start_raw());
        call.last = Some(data);
        let mut poll = PollGuard { call, frame, outcome: Outcome::Panicked };
        let result = this.future.poll(context);
        poll.outcome = if result.is_ready() { Outcome::Ready } else { Outcome::Pending };
        result
    }
}

impl Drop for Call {
    /// Dropped between its first poll and its end: cancelled.
    fn drop(&mut self) {
        let (Some(profiler), Some(started_raw), Some(last)) =
            (&self.profiler, self.started_raw, &self.last)
        else {
            return;
        };
        let clock = &profiler.inner.clock;
        let span = (started_raw, clock.raw());
        with_local(&profiler.inner, |tree| tree.end_late(last, true, clock, span));
    }
}
