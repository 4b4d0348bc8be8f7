//! `cargo xtask test`: one step after another, and a table of what each took.

use crate::tools::{
    cargo, check, check_python, install_test_clients, install_test_programs, package_tests, show,
    test_runner,
};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

/// Packages with features beyond their default ones, and the names of their steps.
const BEYOND_DEFAULT: [(&str, &str, &str); 2] =
    [("cache", "hapa-cache", "redis,redis-cluster,redis-tls"), ("otlp", "hapa-server", "otlp")];

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
    // The features that the workspace's default build leaves out, with a real server or receiver.
    for (step, package, features) in BEYOND_DEFAULT {
        steps.run(step, || {
            let lints = ["--features", features, "--", "-D", "warnings"];
            check(cargo(&[&["clippy", "-p", package, "--all-targets"], &lints[..]].concat()))?;
            check(package_tests(package, features))
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
