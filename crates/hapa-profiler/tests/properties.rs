//! Random programs of scopes against a model that knows nothing of trees, threads or atomics.
#![cfg(feature = "profiling")]

use std::{collections::BTreeMap, time::Duration};

use hapa_profiler::{Clock, MockClock, Profiler, Report, TreeNode};
use proptest::prelude::*;

/// What a program does.
#[derive(Debug, Clone)]
enum Step {
    /// Lets time pass.
    Work(u64),
    /// Calls a scope that does these steps.
    Call(usize, Vec<Step>),
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn program() -> impl Strategy<Value = Vec<Step>> {
    let leaf = (1_u64..1_000_000).prop_map(Step::Work);
    let step = leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            (1_u64..1_000_000).prop_map(Step::Work),
            (0..NAMES.len(), prop::collection::vec(inner, 0..6))
                .prop_map(|(name, steps)| Step::Call(name, steps)),
        ]
    });
    prop::collection::vec(step, 0..8)
}

fn run(steps: &[Step], profiler: &Profiler, clock: &MockClock) {
    for step in steps {
        match step {
            Step::Work(nanos) => clock.advance(Duration::from_nanos(*nanos)),
            Step::Call(name, steps) => {
                profiler.time(NAMES[*name], || run(steps, profiler, clock));
            }
        }
    }
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Expected {
    calls: u64,
    total: u64,
    own: u64,
}

/// Walks the program with an explicit stack; returns the time it takes.
fn model(steps: &[Step], stack: &mut Vec<usize>, out: &mut BTreeMap<usize, Expected>) -> u64 {
    let mut time = 0;
    for step in steps {
        match step {
            Step::Work(nanos) => {
                time += nanos;
                if let Some(top) = stack.last() {
                    out.entry(*top).or_default().own += nanos;
                }
            }
            Step::Call(name, steps) => {
                let outermost = !stack.contains(name);
                stack.push(*name);
                let inside = model(steps, stack, out);
                stack.pop();
                let entry = out.entry(*name).or_default();
                entry.calls += 1;
                if outermost {
                    entry.total += inside;
                }
                time += inside;
            }
        }
    }
    time
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

/// Children never exceed their parent, and a node is its own time and its children's.
fn check_sums(level: &[TreeNode]) -> Result<(), TestCaseError> {
    for node in level {
        let children: u64 = node.children.iter().map(|child| nanos(child.total_seconds)).sum();
        prop_assert!(children <= nanos(node.total_seconds), "{node:?}");
        prop_assert_eq!(children + nanos(node.self_seconds), nanos(node.total_seconds));
        check_sums(&node.children)?;
    }
    Ok(())
}

fn check_flat(report: &Report, expected: &BTreeMap<usize, Expected>) -> Result<(), TestCaseError> {
    prop_assert_eq!(report.scopes.len(), expected.len());
    for (name, expected) in expected {
        let scope = report.scope(NAMES[*name]).cloned().unwrap_or_default();
        let found = Expected {
            calls: scope.calls,
            total: nanos(scope.total_seconds),
            own: nanos(scope.self_seconds),
        };
        prop_assert_eq!(&found, expected, "{}", NAMES[*name]);
        prop_assert_eq!(scope.histogram.iter().map(|(_, n)| n).sum::<u64>(), expected.calls);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_program_equals_the_model(steps in program()) {
        let (clock, mock) = Clock::mock();
        let profiler = Profiler::with_clock(clock);
        run(&steps, &profiler, &mock);
        let mut expected = BTreeMap::new();
        model(&steps, &mut Vec::new(), &mut expected);
        let report = profiler.report();
        check_flat(&report, &expected)?;
        // Recursion through another name puts one node's time under two parents' paths; sums of
        // levels are exact for programs without it.
        if !recurses(&steps, &mut Vec::new()) {
            check_sums(&report.tree)?;
        }
        let own: u64 = report.scopes.iter().map(|scope| nanos(scope.self_seconds)).sum();
        let level: u64 = report.tree.iter().map(|node| nanos(node.total_seconds)).sum();
        prop_assert_eq!(own, level, "every moment is in exactly one scope's own time");
    }

    #[test]
    fn real_time_keeps_children_within_parents(steps in program()) {
        let profiler = Profiler::new();
        fn spin(steps: &[Step], profiler: &Profiler) {
            for step in steps {
                if let Step::Call(name, steps) = step {
                    profiler.time(NAMES[*name], || spin(steps, profiler));
                }
            }
        }
        spin(&steps, &profiler);
        fn check(level: &[TreeNode]) -> Result<(), TestCaseError> {
            for node in level {
                let children: f64 = node.children.iter().map(|child| child.total_seconds).sum();
                prop_assert!(children <= node.total_seconds + 1e-12, "{node:?}");
                check(&node.children)?;
            }
            Ok(())
        }
        if !recurses(&steps, &mut Vec::new()) {
            check(&profiler.report().tree)?;
        }
    }

    #[test]
    fn threads_running_programs_add_up(programs in prop::collection::vec(program(), 1..4)) {
        let profiler = Profiler::new();
        std::thread::scope(|threads| {
            for steps in &programs {
                let profiler = &profiler;
                threads.spawn(move || {
                    let (_, mock) = Clock::mock();
                    run(steps, profiler, &mock);
                });
            }
        });
        let mut expected = BTreeMap::new();
        for steps in &programs {
            model(steps, &mut Vec::new(), &mut expected);
        }
        let report = profiler.report();
        prop_assert_eq!(report.scopes.len(), expected.len());
        for (name, expected) in expected {
            prop_assert_eq!(report.scope(NAMES[name]).map(|s| s.calls), Some(expected.calls));
        }
    }
}

fn recurses(steps: &[Step], stack: &mut Vec<usize>) -> bool {
    steps.iter().any(|step| match step {
        Step::Work(_) => false,
        Step::Call(name, _) if stack.contains(name) => true,
        Step::Call(name, steps) => {
            stack.push(*name);
            let found = recurses(steps, stack);
            stack.pop();
            found
        }
    })
}
