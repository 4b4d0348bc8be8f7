//! Where the time of a program goes: scopes in plain code and around futures, then the report.
//!
//! `cargo run -p hapa-examples --example profile_scopes -- report.html`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::time::Duration;

use hapa_profiler::{ProfileFuture as _, ProfiledAlloc, Profiler, scope, time};

// Optional: with it, scopes also know what is allocated inside them.
#[global_allocator]
static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();

fn words(text: &str) -> Vec<String> {
    scope!("words"); // until the end of the block
    text.split_whitespace().map(str::to_lowercase).collect()
}

fn count(text: &str) -> usize {
    scope!("count");
    let mut words = words(text);
    time("sort", || words.sort_unstable());
    words.dedup();
    words.len()
}

async fn fetch() -> String {
    tokio::time::sleep(Duration::from_millis(20)).await;
    "the quick brown fox jumps over the lazy dog ".repeat(1_000)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    for _ in 0..3 {
        // Time while it runs is busy time; while it waits only wall time passes.
        let text = fetch().profiled("fetch").await;
        println!("{} different words", count(&text));
    }

    let report = Profiler::global().report();
    println!("{}", report.to_table());
    if let Some(path) = std::env::args().nth(1) {
        std::fs::write(&path, report.to_html())?;
        println!("written to {path}");
    }
    Ok(())
}
