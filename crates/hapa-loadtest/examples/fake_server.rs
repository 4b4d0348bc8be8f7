//! A server that streams made-up tokens at stated times, in OpenAI's dialect, to try load generators on:
//! `cargo run --release -p hapa-loadtest --example fake_server -- 9000 200 30 64` listens on port 9000, sends the first
//! token after 200 ms and then one every 30 ms, 64 in all.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

fn main() {
    let numbers: Vec<u64> =
        std::env::args().skip(1).map(|argument| argument.parse().unwrap_or(0)).collect();
    let &[port, first, gap, tokens] = numbers.as_slice() else {
        eprintln!("usage: fake_server PORT FIRST_MS GAP_MS TOKENS");
        std::process::exit(2);
    };
    let (first, gap) = (Duration::from_millis(first), Duration::from_millis(gap));
    let address = format!("127.0.0.1:{port}");
    let fake =
        common::Fake::start_at(&address, false, move |_| common::streamed("", first, gap, tokens));
    eprintln!("listening on {}; Ctrl-C ends it", fake.url());
    loop {
        std::thread::park();
    }
}
