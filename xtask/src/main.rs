//! Project tasks, run as `cargo xtask TASK`: test, ci, smoke, tidy, web, api, bench, peers, soak, sanitize, miri.

mod api;
mod bench;
mod peers;
mod record;
mod sanitize;
mod smoke;
mod soak;
mod steps;
mod tidy;
mod tools;
mod web;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask TASK

Tasks:
  test            everything a change must pass: fmt, tidy, clippy, tests, doc tests, docs
  smoke           the README's first command in release; runs the Python that it prints
  ci              test, then smoke
  tidy            the house rules that compilers don't check (fast, compiles nothing)
  web [ARGUMENTS] the web page in Chromium, on a real server; `--screenshots DIR` keeps pictures, other words choose tests
  api [ARGUMENTS] the API against /openapi.json, by Schemathesis, which gets the arguments
  bench [FILTER]  the criterion suite; keeps a dated record in benches/records/ (`--profile dev` first: a trial)
  peers [PART]    HAPA against llama.cpp, which is built first; keeps a dated record in benches/records/
  soak [SECONDS]  clients that join, leave and cancel, for 20 minutes or so many seconds; memory must come back
  sanitize [ARGS] the tests of hapa-kernels under AddressSanitizer, vector code included; arguments go to `cargo test`
  miri [ARGS]     the tests of hapa-kernels under Miri, which nightly compilers have: the portable code, at small sizes
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => steps::test(),
        ["smoke"] => smoke::run(),
        ["ci"] => steps::test().and_then(|()| smoke::run()),
        ["tidy"] => tidy::run(),
        ["web", rest @ ..] => web::run(rest),
        ["api", rest @ ..] => api::run(rest),
        ["bench", rest @ ..] => bench::run(rest),
        ["peers", rest @ ..] => peers::run(rest),
        ["sanitize", rest @ ..] => sanitize::address(rest),
        ["miri", rest @ ..] => sanitize::miri(rest),
        ["soak"] => soak::run("1200"),
        ["soak", seconds] => soak::run(seconds),
        ["help" | "--help" | "-h"] => {
            eprint!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}
