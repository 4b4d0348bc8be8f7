//! Clients that join, leave and cancel for a while; then everything is given back.
//!
//! Ten seconds here; `cargo xtask soak` runs it for twenty minutes. `HAPA_SOAK_SECONDS` sets the time.
#![expect(clippy::expect_used, reason = "a test helper that fails fails its test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hapa_model::testing::TinyModel;
use hapa_model::{
    BackendChoice, FinishReason, GenerateEvent, GenerateRequest, Generation, LoadOptions, Model,
    ModelError, NoProgress, SamplingOptions,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

const CLIENTS: u64 = 24;

/// Memory that may come on top of what there was after the warm-up: allocators keep some of what they get back, and other
/// requests meet in the end than at the start. A leak of one page of KV cache a request would pass this in a minute.
const SLACK_BYTES: u64 = 16 << 20;

fn duration() -> Duration {
    let seconds = std::env::var("HAPA_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

fn resident_bytes() -> u64 {
    let pid = sysinfo::get_current_pid().expect("a process has a number");
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    system.process(pid).expect("this process runs").memory()
}

/// A prompt out of a few that begin alike; some make the model repeat itself.
fn prompt(kind: u32) -> Vec<u32> {
    let shared = (0..40 + kind % 3 * 30).map(|i| (i * 7 + kind % 3) % 200);
    let own = (0..1 + kind % 17).map(|i| (i * 11 + kind) % 200);
    shared.chain(own).collect()
}

#[derive(Default)]
struct Counts {
    finished: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One client: requests of all sorts, one after the other, until the time is over.
fn client(
    model: &Model,
    seed: u64,
    end: Instant,
    expected: &HashMap<u32, Vec<u32>>,
    counts: &Counts,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    while Instant::now() < end {
        let kind = rng.random_range(0..40);
        let greedy = rng.random_bool(0.5);
        let temperature = if greedy { 0.0 } else { 1.0 };
        let request = GenerateRequest {
            sampling: SamplingOptions { temperature, ..SamplingOptions::default() },
            namespace: rng.random_range(0..3),
            ..GenerateRequest::new(prompt(kind), rng.random_range(0..60))
        };
        let most = request.max_tokens;
        let mut generation = match model.generate(request) {
            Ok(generation) => generation,
            Err(ModelError::QueueFull { .. }) => {
                count(&counts.refused);
                std::thread::sleep(Duration::from_millis(rng.random_range(0..5)));
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        // A third leaves early: at once, or after some events.
        if rng.random_bool(0.33) {
            read(&mut generation, rng.random_range(0..8));
            drop(generation);
            count(&counts.cancelled);
            continue;
        }
        if rng.random_bool(0.1) {
            read(&mut generation, 1);
            std::thread::sleep(Duration::from_millis(rng.random_range(0..30)));
            continue;
        }
        let answer = generation.blocking_collect().expect("answers");
        let length = answer.output.tokens.len();
        assert!(length == most || answer.reason() == FinishReason::Stop, "{length} of {most}");
        if greedy {
            assert_eq!(answer.output.tokens, expected[&kind][..length], "prompt {kind}");
        }
        count(&counts.finished);
    }
}

fn read(generation: &mut Generation, events: usize) {
    for _ in 0..events {
        match generation.blocking_next() {
            Some(Ok(GenerateEvent::Text(_))) => {}
            Some(Ok(GenerateEvent::Finished(_))) | None => return,
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

fn clients(model: &Model, round: u64, time: Duration, expected: &HashMap<u32, Vec<u32>>) -> Counts {
    let counts = Counts::default();
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for i in 0..CLIENTS {
            let counts = &counts;
            scope.spawn(move || client(model, round * CLIENTS + i, end, expected, counts));
        }
    });
    counts
}

fn settle(model: &Model) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = model.engine_stats();
        if (stats.running, stats.waiting, stats.kv.held_pages) == (0, 0, 0) {
            return;
        }
        assert!(Instant::now() < deadline, "not everything was given back: {stats:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().expect("a temporary file");
    TinyModel::qwen2().write(file.path()).expect("written");
    // Room for a few of the sequences, and for some of the clients: the others are put aside or refused.
    let options = LoadOptions {
        backend: BackendChoice::Cpu,
        max_sequences: 12,
        queue_limit: 8,
        kv_budget_bytes: Some(384 << 10),
        context_tokens: Some(256),
        stream_events: 4,
        ..LoadOptions::default()
    };
    let model = Model::load_file(file.path(), &options, &NoProgress).expect("loads");
    let expected = (0..40).map(|kind| {
        let answer = model.generate(GenerateRequest::new(prompt(kind), 60)).expect("room");
        (kind, answer.blocking_collect().expect("answers").output.tokens)
    });
    let expected: HashMap<u32, Vec<u32>> = expected.collect();

    let time = duration();
    clients(&model, 0, time / 3, &expected);
    settle(&model);
    let warm = resident_bytes();
    let counts = clients(&model, 1, time - time / 3, &expected);
    settle(&model);
    let end = resident_bytes();

    let stats = model.engine_stats();
    eprintln!("{counts:?}, {stats:?}, resident {warm} bytes, {end} in the end");
    assert!(counts.finished.into_inner() > 0 && counts.cancelled.into_inner() > 0);
    assert_eq!(stats.failed_requests, 0);
    assert!(stats.cancelled_requests > 0 && stats.preemptions > 0 && stats.accepted_tokens > 0);
    // Recent answers are kept up to a limit of their own, which ten seconds don't reach.
    let allowed = warm + SLACK_BYTES + stats.recent_answer_bytes as u64;
    assert!(end < allowed, "{end} bytes are resident, {warm} were after the warm-up");
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [finished, cancelled, refused] = [&self.finished, &self.cancelled, &self.refused]
            .map(|counter| counter.load(Ordering::Relaxed));
        write!(f, "{finished} finished, {cancelled} cancelled, {refused} refused")
    }
}
