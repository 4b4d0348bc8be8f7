//! `cargo xtask test`: one step after another, and a table of what each took.

use crate::tools::{
    cargo, check, check_python, install_test_clients, install_test_programs, package_tests, show,
    test_runner,
};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs of packages with features beyond their default ones: a name, the package, the features, and which tests. Under `shuttle`
/// locks work inside its own tests only.
const BEYOND_DEFAULT: &[(&str, &str, &str, &[&str])] = &[
    ("cache", "hapa-cache", "redis,redis-cluster,redis-tls", &["--all-targets"]),
    ("flights", "hapa-cache", "shuttle", &["--test", "shuttle"]),
    ("otlp", "hapa-server", "otlp", &["--all-targets"]),
];

/// Runs everything that a change must pass. A failed step does not hide the ones after it.
pub(crate) fn test() -> Result<()> {
    check_python();
    install_test_programs();
    install_test_clients();
    let mut steps = Steps::default();
    steps.command("format", cargo(&["fmt", "--all", "--check"]));
    steps.run("tidy", crate::tidy::run);
    steps.command(
        "clippy",
        cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    );
    steps.command("tests", test_runner());
    steps.run("web page", || crate::web::test(&[]));
    steps.run("api", || crate::api::test(&[]));
    // The features that the workspace's default build leaves out: with a real server or receiver, and under shuttle's schedules.
    for (step, package, features, tests) in BEYOND_DEFAULT {
        steps.run(step, || {
            let clippy = ["clippy", "-p", package, "--features", features];
            check(cargo(&[&clippy, *tests, &["--", "-D", "warnings"]].concat()))?;
            check(package_tests(package, features, tests))
        });
    }
    steps.command("doc tests", cargo(&["test", "--workspace", "--doc"]));
    let mut docs = cargo(&["doc", "--workspace", "--no-deps"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    steps.command("docs", docs);
    steps.finish()
}

#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration, bool)>,
}

impl Steps {
    fn command(&mut self, name: &'static str, command: Command) {
        eprintln!("\n==> {name}: {}", show(&command));
        self.run(name, || check(command));
    }

    fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let result = work();
        if let Err(error) = &result {
            eprintln!("xtask: {name}: {error:#}");
        }
        self.done.push((name, start.elapsed(), result.is_ok()));
    }

    fn finish(self) -> Result<()> {
        eprintln!("\n{:<10}  {:>8}  result", "step", "seconds");
        for (name, took, ok) in &self.done {
            let result = if *ok { "ok" } else { "FAILED" };
            eprintln!("{name:<10}  {:>8.1}  {result}", took.as_secs_f64());
        }
        let failed: Vec<&str> =
            self.done.iter().filter(|(_, _, ok)| !ok).map(|(name, _, _)| *name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
