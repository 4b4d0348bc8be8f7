//! A wall clock that is set while the server works. `libfaketime` between the program and its C library sets it, and
//! leaves the monotonic clock alone, as setting a clock does.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use hapa_model::testing::TinyModel;

use crate::sandbox::{Sandbox, signal};
use crate::serve::Running;

/// The library, as Debian's package `faketime` has it.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let found = folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.exists());
    let required = std::env::var_os("HAPA_REQUIRE_TOOLS").is_some();
    assert!(found.is_some() || !required, "install the package `faketime` (cargo xtask test does)");
    if found.is_none() {
        eprintln!("skipped: the package `faketime` is not installed");
    }
    found
}

/// A command under a clock that a file of the sandbox sets.
fn under_a_clock(mut command: Command, sandbox: &Sandbox, library: PathBuf) -> Command {
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", sandbox.path("clock"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
    command
}

#[test]
fn a_clock_that_is_set_ends_keys_and_nothing_else() {
    let Some(library) = library() else { return };
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2().context_length(8192));
    let make = |args: &[&str]| {
        let made = sandbox.run(&[&["keys", "create", "--scope", "admin"], args].concat()).ok();
        format!("x-api-key: {}\r\n", made.stdout.trim())
    };
    let an_hour = make(&["--name", "an-hour", "--expires", "1h"]);
    let for_ever = make(&["--name", "for-ever"]);
    let one_a_minute = make(&["--name", "one-a-minute", "--rate", "1"]);

    let set = |offset: &str| {
        sandbox.file("clock.new", offset);
        std::fs::rename(sandbox.path("clock.new"), sandbox.path("clock")).unwrap();
    };
    set("+0");
    let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model]);
    command.env("HAPA_ENGINE_CONTEXT_TOKENS", "8192").env("HAPA_SERVER_REQUEST_TIMEOUT", "10m");
    let server = Running::start(under_a_clock(command, &sandbox, library));
    let status = |key: &str| server.ask_with("GET /v1/models", key)[9..12].to_owned();
    let answer = |number: usize| {
        let body = format!("{{\"prompt\": \"{number}\", \"max_tokens\": 2}}");
        let mut answer = String::new();
        let mut stream = server.open_with("POST /v1/completions", &for_ever, &body);
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let created = |answer: &str| {
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        serde_json::from_str::<serde_json::Value>(body).unwrap()["created"].as_u64().unwrap()
    };
    assert_eq!((status(&an_hour), status(&for_ever)), ("200".into(), "200".into()));
    let at_first = created(&answer(1));
    assert_eq!(status(&one_a_minute), "200");

    for (number, (offset, seconds, the_hour_is)) in
        [("+1d", 86_400, "401"), ("-1d", -86_400, "200"), ("+2h", 7_200, "401"), ("+0", 0, "200")]
            .into_iter()
            .enumerate()
    {
        // It is under way when the clock is set, and is neither cut nor late.
        let body = format!("{{\"prompt\": \"s{number}\", \"max_tokens\": 300, \"stream\": true}}");
        let mut stream = server.open_with("POST /v1/completions", &for_ever, &body);
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        set(offset);
        assert_eq!(status(&an_hour), the_hour_is, "{offset}");
        assert_eq!(status(&for_ever), "200", "{offset}");
        // A minute of a rate is one of the monotonic clock.
        let _ = status(&one_a_minute);
        let refused = server.ask_with("GET /v1/models", &one_a_minute);
        assert!(refused.starts_with("HTTP/1.1 429"), "{offset}: {refused}");
        let wait = refused.split("retry-after: ").nth(1).and_then(|rest| rest.lines().next());
        assert!((1..=60).contains(&wait.unwrap().parse::<u64>().unwrap()), "{refused}");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: [DONE]") && !rest.contains("\"error\""), "{offset}: {rest}");
        let now = answer(10 + number);
        assert!(now.starts_with("HTTP/1.1 200"), "{offset}: {now}");
        let passed = created(&now).cast_signed() - at_first.cast_signed() - seconds;
        assert!((0..3_600).contains(&passed), "{offset}: {passed}");
        let stats = server.ask_with("GET /stats", &for_ever);
        let stats: serde_json::Value =
            serde_json::from_str(stats.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert!((0.0..3_600.0).contains(&stats["uptime_seconds"].as_f64().unwrap()), "{stats}");
        assert_eq!(stats["performance_metrics"]["requests"]["deadline_passed"], 0, "{stats}");
    }
    signal(server.child(), "TERM");
    let (code, stderr) = server.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}
