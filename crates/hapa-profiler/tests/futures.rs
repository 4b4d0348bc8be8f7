//! Futures: busy while polled, wall from the first poll to the end, on any thread.
#![cfg(feature = "profiling")]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic too")]

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use futures_util::{FutureExt as _, future::poll_fn, task::noop_waker};
use hapa_profiler::{Clock, MockClock, ProfileFuture as _, Profiler, ScopeStats};

fn setup() -> (Profiler, MockClock) {
    let (clock, mock) = Clock::mock();
    (Profiler::with_clock(clock), mock)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&noop_waker()))
}

/// Takes `work` at each poll and is ready at the last of `polls`.
fn steps(clock: &MockClock, polls: u32, work: Duration) -> impl Future<Output = ()> + Send + use<> {
    let clock = clock.clone();
    let mut left = polls;
    poll_fn(move |_| {
        clock.advance(work);
        left -= 1;
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
}

fn stats(profiler: &Profiler, name: &str) -> ScopeStats {
    profiler.report().scope(name).unwrap().clone()
}

fn millis(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e6
}

#[test]
fn waiting_is_wall_and_not_busy() {
    let (profiler, clock) = setup();
    let mut future = pin!(steps(&clock, 3, ms(2)).profiled_by(&profiler, "request"));
    clock.advance(ms(1000)); // Not polled yet: not begun.
    assert!(poll(future.as_mut()).is_pending());
    clock.advance(ms(50));
    assert!(poll(future.as_mut()).is_pending());
    clock.advance(ms(50));
    assert!(poll(future.as_mut()).is_ready());
    let stats = stats(&profiler, "request");
    assert_eq!((stats.calls, stats.polls, stats.cancelled), (1, 3, 0));
    assert_eq!(millis(stats.total_seconds), 6.0);
    assert_eq!(millis(stats.wall_seconds), 106.0);
    assert_eq!(stats.max_seconds, 0.106);
}

#[test]
fn scopes_inside_polls_are_children_on_every_thread() {
    let (profiler, clock) = setup();
    let (inner_profiler, inner_clock) = (profiler.clone(), clock.clone());
    let mut left = 4;
    let future = poll_fn(move |_| {
        inner_clock.advance(ms(1));
        inner_profiler.time("step", || inner_clock.advance(ms(3)));
        left -= 1;
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    let mut future = Box::pin(future.profiled_by(&profiler, "task"));
    for _ in 0..3 {
        // Each poll on a thread of its own.
        future = thread::spawn(move || {
            assert!(poll(future.as_mut()).is_pending());
            future
        })
        .join()
        .unwrap();
    }
    assert!(poll(future.as_mut()).is_ready());
    let report = profiler.report();
    let task = report.path(&["task"]).unwrap();
    assert_eq!((task.calls, millis(task.total_seconds), millis(task.self_seconds)), (1, 16.0, 4.0));
    let step = report.path(&["task", "step"]).unwrap();
    assert_eq!((step.calls, millis(step.total_seconds)), (4, 12.0));
    assert_eq!(report.tree.len(), 1);
    assert_eq!(report.scope("task").unwrap().polls, 4);
}

#[test]
fn a_dropped_future_is_cancelled_at_its_place() {
    let (profiler, clock) = setup();
    {
        let outer = async {
            let mut inner = pin!(steps(&clock, 10, ms(2)).profiled_by(&profiler, "inner"));
            assert!(poll(inner.as_mut()).is_pending());
            clock.advance(ms(5));
        };
        assert!(outer.profiled_by(&profiler, "outer").now_or_never().is_some());
    }
    let inner = stats(&profiler, "inner");
    assert_eq!((inner.calls, inner.polls, inner.cancelled), (1, 1, 1));
    assert_eq!(millis(inner.total_seconds), 2.0);
    assert_eq!(millis(inner.wall_seconds), 7.0);
    assert_eq!(inner.max_seconds, 0.007);
    assert_eq!(inner.last_call_unix_seconds, 0.007);
    assert_eq!(profiler.report().path(&["outer", "inner"]).unwrap().calls, 1);

    // On another thread than the one that polled it.
    let mut future = Box::pin(steps(&clock, 10, ms(2)).profiled_by(&profiler, "moved"));
    assert!(poll(future.as_mut()).is_pending());
    thread::spawn(move || drop(future)).join().unwrap();
    let moved = stats(&profiler, "moved");
    assert_eq!((moved.calls, moved.cancelled), (1, 1));
    assert_eq!(moved.histogram.iter().map(|(_, n)| n).sum::<u64>(), 1);
}

#[test]
fn a_future_that_never_ran_leaves_nothing() {
    let (profiler, clock) = setup();
    drop(steps(&clock, 1, ms(1)).profiled_by(&profiler, "never"));
    assert!(profiler.report().scopes.is_empty());
}

#[test]
fn a_panic_in_a_poll_ends_the_call() {
    let (profiler, clock) = setup();
    let inner_clock = clock.clone();
    let future = async move {
        inner_clock.advance(ms(3));
        panic!("on purpose");
    };
    let mut future = Box::pin(future.profiled_by(&profiler, "broken"));
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _: Poll<()> = poll(future.as_mut());
    }));
    assert!(result.is_err());
    drop(future);
    profiler.time("after", || clock.advance(ms(1)));
    let report = profiler.report();
    let broken = report.scope("broken").unwrap();
    assert_eq!((broken.calls, broken.panicked, broken.cancelled), (1, 1, 0));
    assert_eq!(millis(broken.total_seconds), 3.0);
    assert!(report.path(&["after"]).is_some(), "the stack is empty again");
}

#[test]
fn concurrent_futures_wait_together_and_work_apart() {
    let (profiler, clock) = setup();
    let join = async {
        let a = steps(&clock, 2, ms(1)).profiled_by(&profiler, "child");
        let b = steps(&clock, 2, ms(1)).profiled_by(&profiler, "child");
        futures_util::future::join(a, b).await;
    };
    let mut join = pin!(join.profiled_by(&profiler, "parent"));
    assert!(poll(join.as_mut()).is_pending());
    clock.advance(ms(10));
    assert!(poll(join.as_mut()).is_ready());
    let (parent, child) = (stats(&profiler, "parent"), stats(&profiler, "child"));
    assert_eq!((millis(parent.total_seconds), millis(parent.wall_seconds)), (4.0, 14.0));
    assert_eq!((child.calls, millis(child.total_seconds)), (2, 4.0));
    assert_eq!(millis(child.wall_seconds), 26.0, "each waited for the other too");
    assert_eq!(millis(parent.self_seconds), 0.0);
}
