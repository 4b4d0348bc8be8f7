//! Spans of `tracing` become scopes.
#![cfg(all(feature = "profiling", feature = "tracing-layer"))]

use std::{thread, time::Duration};

use hapa_profiler::{Clock, Profiler, ProfilerLayer, TraceCollector};
use tracing::{info_span, subscriber::with_default};
use tracing_subscriber::layer::SubscriberExt as _;

#[test]
fn spans_are_scopes_with_wall_and_busy_time() {
    let (clock, mock) = Clock::mock();
    let profiler = Profiler::with_clock(clock);
    let layer = ProfilerLayer::new(&profiler);
    with_default(tracing_subscriber::registry().with(layer), || {
        let request = info_span!("request");
        request.in_scope(|| {
            mock.advance(Duration::from_millis(1));
            info_span!("decode").in_scope(|| mock.advance(Duration::from_millis(4)));
        });
        mock.advance(Duration::from_millis(100)); // Waiting.
        request.in_scope(|| mock.advance(Duration::from_millis(2)));
        let _never_entered = info_span!("idle");
    });
    let report = profiler.report();
    let request = report.scope("request").unwrap();
    assert_eq!((request.calls, request.polls, request.cancelled), (1, 2, 0));
    assert_eq!(request.total_seconds, 0.007);
    assert_eq!(request.self_seconds, 0.003);
    assert_eq!(request.wall_seconds, 0.107);
    assert_eq!(report.path(&["request", "decode"]).unwrap().calls, 1);
    assert!(report.scope("idle").is_none());
}

#[test]
fn a_span_may_be_entered_on_many_threads() {
    let profiler = Profiler::new();
    let layer = ProfilerLayer::new(&profiler).with_targets(true);
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(layer));
    tracing::dispatcher::with_default(&dispatch, || {
        let span = info_span!(target: "lib", "shared");
        thread::scope(|threads| {
            for _ in 0..4 {
                let (span, dispatch) = (span.clone(), dispatch.clone());
                threads.spawn(move || {
                    tracing::dispatcher::with_default(&dispatch, || span.in_scope(|| ()));
                });
            }
        });
    });
    let report = profiler.report();
    let shared = report.scope("lib::shared").unwrap();
    assert_eq!((shared.calls, shared.polls), (1, 4));
}

#[test]
fn spans_reach_the_trace_of_the_thread() {
    let profiler = Profiler::new();
    let trace = TraceCollector::new(&profiler).start("r");
    let layer = ProfilerLayer::new(&profiler);
    with_default(tracing_subscriber::registry().with(layer), || {
        let _carried = trace.enter();
        info_span!("library").in_scope(|| ());
    });
    assert!(trace.to_chrome_json().contains("\"library\""));
}
