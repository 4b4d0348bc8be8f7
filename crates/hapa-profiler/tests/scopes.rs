//! Counts and times equal a hand-computed model, by a clock that moves only when told.
#![cfg(feature = "profiling")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
    time::Duration,
};

use hapa_profiler::{
    Clock, MAX_NAMES, MAX_NODES_PER_THREAD, MockClock, Profiler, Report, ScopeStats,
};

fn setup() -> (Profiler, MockClock) {
    let (clock, mock) = Clock::mock();
    (Profiler::with_clock(clock), mock)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn scope(report: &Report, name: &str) -> ScopeStats {
    report.scope(name).unwrap_or_else(|| panic!("no scope {name}")).clone()
}

/// `(calls, total ms, self ms)` of a name.
fn flat(report: &Report, name: &str) -> (u64, f64, f64) {
    let scope = scope(report, name);
    (scope.calls, millis(scope.total_seconds), millis(scope.self_seconds))
}

/// `(calls, total ms, self ms)` of a path.
fn at(report: &Report, path: &[&str]) -> (u64, f64, f64) {
    let node = report.path(path).unwrap_or_else(|| panic!("no path {path:?}"));
    (node.calls, millis(node.total_seconds), millis(node.self_seconds))
}

fn millis(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e6
}

#[test]
fn nested_scopes() {
    let (profiler, clock) = setup();
    for _ in 0..3 {
        let _outer = profiler.scope("outer");
        clock.advance(ms(1));
        for _ in 0..2 {
            let _inner = profiler.scope("inner");
            clock.advance(ms(10));
        }
        clock.advance(ms(2));
    }
    {
        let _inner = profiler.scope("inner");
        clock.advance(ms(100));
    }
    let report = profiler.report();
    assert_eq!(at(&report, &["outer"]), (3, 69.0, 9.0));
    assert_eq!(at(&report, &["outer", "inner"]), (6, 60.0, 60.0));
    assert_eq!(at(&report, &["inner"]), (1, 100.0, 100.0));
    assert_eq!(flat(&report, "inner"), (7, 160.0, 160.0));
    let inner = scope(&report, "inner");
    assert_eq!(inner.min_seconds, 0.01);
    assert_eq!(inner.max_seconds, 0.1);
    assert!((inner.p50_seconds - 0.01).abs() <= 0.01 * 0.032);
    assert!((inner.p99_seconds - 0.1).abs() <= 0.1 * 0.032);
    assert!((inner.mean_seconds - 0.16 / 7.0).abs() < 1e-12);
    assert_eq!(inner.last_call_unix_seconds, 0.169);
    assert_eq!(millis(report.elapsed_seconds), 169.0);
}

#[test]
fn direct_recursion_counts_each_moment_once() {
    let (profiler, clock) = setup();
    fn walk(profiler: &Profiler, clock: &MockClock, depth: u32) {
        let _walk = profiler.scope("walk");
        clock.advance(ms(1));
        if depth > 0 {
            walk(profiler, clock, depth - 1);
            let _leaf = profiler.scope("leaf");
            clock.advance(ms(5));
        }
    }
    walk(&profiler, &clock, 9);
    let report = profiler.report();
    assert_eq!(at(&report, &["walk"]), (10, 55.0, 10.0));
    assert_eq!(at(&report, &["walk", "leaf"]), (9, 45.0, 45.0));
    assert_eq!(report.path(&["walk"]).unwrap().children.len(), 1);
    // The calls' own times: the innermost took 1 ms, the outermost all of it.
    assert_eq!(scope(&report, "walk").min_seconds, 0.001);
    assert_eq!(scope(&report, "walk").max_seconds, 0.055);
}

#[test]
fn mutual_recursion_folds_too() {
    let (profiler, clock) = setup();
    {
        let _a = profiler.scope("a");
        clock.advance(ms(1));
        {
            let _b = profiler.scope("b");
            clock.advance(ms(2));
            {
                let _a = profiler.scope("a");
                clock.advance(ms(4));
                let _b = profiler.scope("b");
                clock.advance(ms(8));
            }
            clock.advance(ms(16));
        }
    }
    let report = profiler.report();
    assert_eq!(at(&report, &["a"]), (2, 31.0, 5.0));
    assert_eq!(at(&report, &["a", "b"]), (2, 30.0, 26.0));
    assert_eq!(report.tree.len(), 1);
}

#[test]
fn a_panic_ends_its_scopes() {
    let (profiler, clock) = setup();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _outer = profiler.scope("outer");
        clock.advance(ms(1));
        profiler.time("inner", || {
            clock.advance(ms(2));
            panic!("on purpose");
        })
    }));
    assert!(result.is_err());
    profiler.time("after", || clock.advance(ms(4)));
    let report = profiler.report();
    assert_eq!(at(&report, &["outer"]), (1, 3.0, 1.0));
    assert_eq!(at(&report, &["outer", "inner"]), (1, 2.0, 2.0));
    assert_eq!(at(&report, &["after"]), (1, 4.0, 4.0));
    assert_eq!(scope(&report, "inner").panicked, 1);
    assert_eq!(scope(&report, "after").panicked, 0);
}

#[test]
fn guards_out_of_order_are_harmless() {
    let (profiler, clock) = setup();
    let outer = profiler.scope("outer");
    clock.advance(ms(1));
    let inner = profiler.scope("inner");
    clock.advance(ms(2));
    drop(outer);
    clock.advance(ms(4));
    profiler.time("next", || clock.advance(ms(8)));
    drop(inner);
    profiler.time("last", || clock.advance(ms(16)));
    let report = profiler.report();
    assert_eq!(flat(&report, "outer"), (1, 3.0, 3.0));
    assert_eq!(flat(&report, "inner").1, 14.0);
    // What came after the outer scope ended is not inside it.
    assert_eq!(at(&report, &["next"]), (1, 8.0, 8.0));
    assert_eq!(at(&report, &["last"]), (1, 16.0, 16.0));
}

#[test]
fn off_is_off_and_on_again() {
    let (profiler, clock) = setup();
    profiler.set_enabled(false);
    profiler.time("off", || clock.advance(ms(1)));
    profiler.set_enabled(true);
    profiler.time("on", || clock.advance(ms(1)));
    let open = profiler.scope("open");
    profiler.set_enabled(false);
    clock.advance(ms(3));
    drop(open);
    let report = profiler.report();
    assert_eq!(report.scopes.len(), 2);
    assert_eq!(flat(&report, "on"), (1, 1.0, 1.0));
    assert_eq!(flat(&report, "open"), (1, 3.0, 3.0));
}

#[test]
fn reset_forgets_and_leaves_open_scopes_out() {
    let (profiler, clock) = setup();
    profiler.time("before", || clock.advance(ms(1)));
    let open = profiler.scope("open");
    profiler.reset();
    profiler.time("after", || clock.advance(ms(2)));
    drop(open);
    profiler.time("after", || clock.advance(ms(2)));
    let report = profiler.report();
    assert_eq!(report.scopes.len(), 1);
    assert_eq!(at(&report, &["after"]), (2, 4.0, 4.0));
    assert_eq!(millis(report.elapsed_seconds), 4.0);
}

#[test]
fn threads_add_up() {
    let (profiler, clock) = setup();
    let (begin, begun) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let other = profiler.clone();
    let handle = thread::spawn(move || {
        let _outer = other.scope("outer");
        let _inner = other.scope("inner");
        begin.send(()).unwrap();
        ended.recv().unwrap();
    });
    begun.recv().unwrap();
    {
        let _outer = profiler.scope("outer");
        clock.advance(ms(7));
    }
    end.send(()).unwrap();
    handle.join().unwrap();
    let report = profiler.report();
    // Both threads were inside for 7 ms: busy time is of threads, not of the wall.
    assert_eq!(at(&report, &["outer"]), (2, 14.0, 7.0));
    assert_eq!(at(&report, &["outer", "inner"]), (1, 7.0, 7.0));
}

#[test]
fn concurrent_recording_loses_nothing() {
    let profiler = Profiler::new();
    const EACH: u64 = 100_000;
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..EACH {
                    let _outer = profiler.scope("outer");
                    let _inner = profiler.scope("inner");
                }
            });
        }
        // Reports meanwhile never see more than there is, nor a child without its parent.
        for _ in 0..20 {
            let report = profiler.report();
            if let Some(inner) = report.scope("inner") {
                assert!(inner.calls <= 4 * EACH);
                assert!(report.path(&["outer", "inner"]).is_some());
            }
        }
    });
    let report = profiler.report();
    for name in ["outer", "inner"] {
        let scope = scope(&report, name);
        assert_eq!(scope.calls, 4 * EACH);
        assert_eq!(scope.histogram.iter().map(|(_, n)| n).sum::<u64>(), 4 * EACH);
    }
    let outer = report.path(&["outer"]).unwrap();
    assert!(outer.children[0].total_seconds <= outer.total_seconds);
}

#[test]
fn names_are_bounded() {
    let (profiler, clock) = setup();
    let names = MAX_NAMES as u64 + 500;
    for n in 0..names {
        profiler.time(&format!("name-{n}"), || clock.advance(ms(1)));
    }
    let report = profiler.report();
    assert_eq!(report.scopes.len(), MAX_NAMES);
    assert_eq!(report.scopes.iter().map(|scope| scope.calls).sum::<u64>(), names);
    assert_eq!(flat(&report, "(other)").0, names - (MAX_NAMES as u64 - 1));
    let total: f64 = report.scopes.iter().map(|scope| scope.self_seconds).sum();
    assert_eq!(millis(total), names as f64);
}

#[test]
fn paths_are_bounded() {
    let (profiler, clock) = setup();
    for a in 0..90 {
        for b in 0..90 {
            let _a = profiler.scope(&format!("a{a}"));
            let _b = profiler.scope(&format!("b{b}"));
            clock.advance(ms(1));
        }
    }
    let report = profiler.report();
    let nodes: usize = report.tree.iter().map(|node| 1 + node.children.len()).sum();
    assert!(nodes <= MAX_NODES_PER_THREAD, "{nodes}");
    let total: f64 = report.scopes.iter().map(|scope| scope.self_seconds).sum();
    assert_eq!(millis(total), 8100.0, "time is kept where paths are not");
    assert!(report.scope("(other)").unwrap().calls > 0);
}

#[test]
fn resident_memory_of_a_scope() {
    let profiler = Profiler::new();
    let kept = {
        let _load = profiler.scope("load").with_memory();
        vec![1_u8; 64 << 20]
    };
    let report = profiler.report();
    let load = scope(&report, "load");
    assert_eq!(load.resident_calls, 1);
    if cfg!(target_os = "linux") {
        assert!(load.resident_delta_bytes > 48 << 20, "{}", load.resident_delta_bytes);
    }
    drop(std::hint::black_box(kept));
}

#[test]
fn the_macros_record_to_the_global_profiler() {
    fn work() {
        hapa_profiler::scope!("macros:work");
        let early = hapa_profiler::guard!("macros:early");
        drop(early);
        hapa_profiler::scope!("macros:late");
        hapa_profiler::time("macros:closure", || ());
    }
    work();
    work();
    let report = Profiler::global().report();
    for path in [
        &["macros:work"][..],
        &["macros:work", "macros:early"],
        &["macros:work", "macros:late"],
        &["macros:work", "macros:late", "macros:closure"],
    ] {
        assert_eq!(report.path(path).unwrap().calls, 2, "{path:?}");
    }
}
