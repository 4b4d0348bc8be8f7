//! Ctrl-C, SIGTERM, and readers that go away.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hapa_model::testing::TinyModel;

use crate::sandbox::{Ran, Sandbox, signal, small};

/// A long answer that has begun to come.
fn begun(sandbox: &Sandbox) -> Child {
    let question = "Write a Python module with fifty small functions on numbers, each with a docstring and an \
                    example of its use.";
    let args = ["generate", question, "-m", &small(), "--max-tokens", "1500"];
    let mut child = sandbox.hapa(&args).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    child
}

/// Ends within a time that nothing here needs; what it left.
fn end(mut child: Child) -> Ran {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let read = |from: Option<Box<dyn Read>>| {
        let mut bytes = Vec::new();
        from.map(|mut from| from.read_to_end(&mut bytes));
        bytes
    };
    Ran::new(std::process::Output {
        status: child.wait().unwrap(),
        // A stop may cut a character, a reader that left has the rest.
        stdout: String::from_utf8_lossy(&read(stdout.map(|s| Box::new(s) as _)))
            .into_owned()
            .into(),
        stderr: read(stderr.map(|s| Box::new(s) as _)),
    })
}

#[test]
fn ctrl_c_ends_an_answer() {
    let sandbox = Sandbox::new();
    let child = begun(&sandbox);
    signal(&child, "INT");
    // Nobody reads, so the pipe may be full: what comes is thrown away.
    let ran = drain_and_end(child);
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(!ran.stderr.contains("error"), "{ran:?}");
}

#[test]
fn so_does_a_service_manager() {
    let sandbox = Sandbox::new();
    let child = begun(&sandbox);
    signal(&child, "TERM");
    let ran = drain_and_end(child);
    assert_eq!(ran.code, Some(143), "{ran:?}");
}

fn drain_and_end(mut child: Child) -> Ran {
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    end(child)
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let sandbox = Sandbox::new();
    let mut child = begun(&sandbox);
    drop(child.stdout.take());
    let ran = end(child);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("error"), "{ran:?}");
    // Help into a closed pipe, as `hapa --help | true`.
    let mut child = sandbox.hapa(&["--help"]).spawn().unwrap();
    drop(child.stdout.take());
    assert!(!end(child).stderr.contains("panicked"));
}

#[test]
fn a_closed_standard_error_is_no_reason_to_fail() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let args = ["complete", "--prefix", "x", "-m", &model, "--max-tokens", "4"];
    let mut child = sandbox.hapa(&args).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(end(child).code, Some(0));
}

#[test]
fn ctrl_c_while_the_hub_does_not_answer() {
    let sandbox = Sandbox::new();
    // Accepts connections and never says a word.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = sandbox.hapa(&["model", "pull", "owner/name"]);
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", format!("http://{}", hub.local_addr().unwrap()))
        .stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let (_connection, _) = hub.accept().unwrap();
    signal(&child, "INT");
    let ran = end(child);
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(!sandbox.files().iter().any(|file| file.contains("owner")), "{:?}", sandbox.files());
}
