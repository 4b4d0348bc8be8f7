//! The engine over a fake model: batching, limits, turns, cancelling, preemption, faults.
//!
//! Long because each of these has its cases, and all of them share the fake.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fake::{
    self, FAULT, FakeBackend, FakeVocabulary, LAST_WORDS, POISON, Probe, continuation, text,
};
use super::{
    Answer, Engine, EngineOptions, FinishReason, GenerateEvent, GenerateRequest, Generation,
    Priority, Speculate,
};
use crate::backend::KvPrecision;
use crate::error::ModelError;
use crate::sampling::SamplingOptions;

/// Nothing here takes a tenth of this, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn options() -> EngineOptions {
    EngineOptions {
        context_tokens: 256,
        max_sequences: 4,
        kv_budget_bytes: 0,
        threads: 1,
        kv_precision: KvPrecision::F16,
        queue_limit: 8,
        prefill_chunk_tokens: 8,
        stream_events: 64,
        speculate: Speculate::Adaptively,
    }
}

pub(super) fn engine_with(options: EngineOptions, pages: usize) -> (Engine, Arc<Probe>) {
    let backend = FakeBackend::new(pages, 4);
    let probe = Arc::clone(&backend.probe);
    let engine =
        Engine::start(Arc::new(backend), Arc::new(FakeVocabulary), options).expect("starts");
    (engine, probe)
}

fn engine() -> (Engine, Arc<Probe>) {
    engine_with(options(), 0)
}

pub(super) fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 10 + (seed * 31 + i * 7) % 50).collect()
}

pub(super) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn collect(generation: Generation) -> Answer {
    generation.blocking_collect().expect("an answer")
}

fn assert_answer(answer: &Answer, prompt: &[u32], tokens: usize) {
    let expected = continuation(prompt, tokens);
    assert_eq!(answer.output.tokens, expected);
    assert_eq!(answer.output.text, text(&expected));
    assert_eq!(answer.finish.reason, FinishReason::Length);
    assert_eq!(answer.finish.usage.prompt_tokens, prompt.len());
    assert_eq!(answer.finish.usage.generated_tokens, tokens);
}

#[test]
fn sixty_four_at_once_answer_as_each_alone() {
    let mut options = options();
    options.max_sequences = 64;
    options.queue_limit = 0;
    options.prefill_chunk_tokens = 200;
    let (engine, probe) = engine_with(options, 0);
    probe.hold();
    let requests: Vec<_> = (0..64u32)
        .map(|i| {
            let prompt = prompt(i, 1 + (i as usize * 5) % 40);
            let generation = engine
                .submit(GenerateRequest::new(prompt.clone(), 20 + i as usize % 7))
                .expect("room");
            (prompt, 20 + i as usize % 7, generation)
        })
        .collect();
    probe.release();
    for (prompt, tokens, generation) in requests {
        assert_answer(&collect(generation), &prompt, tokens);
    }
    let widest = probe.steps.lock().iter().map(Vec::len).max();
    assert!(widest > Some(32), "the requests were not batched: {widest:?}");
    assert_eq!(probe.open.load(Ordering::SeqCst), 0);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.finished_requests), (0, 0, 64));
}

#[test]
fn a_full_queue_refuses_at_once() {
    let mut options = options();
    options.max_sequences = 1;
    options.queue_limit = 2;
    let (engine, probe) = engine_with(options, 0);
    probe.hold();
    let mut accepted: Vec<_> = (0..3)
        .map(|i| engine.submit(GenerateRequest::new(prompt(i, 3), 4)).expect("room"))
        .collect();
    let refused = engine.submit(GenerateRequest::new(prompt(9, 3), 4)).expect_err("no room");
    assert!(matches!(refused, ModelError::QueueFull { limit: 2 }), "{refused}");
    // A reader that leaves gives its place in the queue to the next.
    drop(accepted.pop());
    accepted.push(engine.submit(GenerateRequest::new(prompt(2, 3), 4)).expect("room again"));
    probe.release();
    for (i, generation) in (0..).zip(accepted) {
        assert_answer(&collect(generation), &prompt(i, 3), 4);
    }
}

#[test]
fn decoding_never_waits_for_more_than_one_chunk() {
    let (engine, probe) = engine();
    probe.hold();
    let first = engine.submit(GenerateRequest::new(prompt(0, 3), 60)).expect("room");
    probe.allow(2);
    eventually("the first decodes", || probe.steps.lock().len() == 2);
    let long = engine.submit(GenerateRequest::new(prompt(1, 100), 5)).expect("room");
    let short = engine.submit(GenerateRequest::new(prompt(2, 4), 5)).expect("room");
    probe.release();
    assert_answer(&collect(short), &prompt(2, 4), 5);
    assert_answer(&collect(long), &prompt(1, 100), 5);
    assert_answer(&collect(first), &prompt(0, 3), 60);

    let steps = probe.steps.lock();
    let ends =
        |sequence: u64| steps.iter().rposition(|s| s.iter().any(|c| c.0 == sequence)).expect("ran");
    for (at, step) in steps.iter().enumerate().take(ends(0) + 1) {
        assert!(step.iter().any(|c| c.0 == 0), "step {at} left the first out: {step:?}");
        let others: usize = step.iter().filter(|c| c.0 != 0).map(|c| c.1).sum();
        assert!(others <= 8 + 2, "step {at} has {others} tokens of others: {step:?}");
    }
    // The short prompt came after the long one, and did not wait for it.
    assert!(ends(2) < ends(1), "the short one ended at {}, the long one at {}", ends(2), ends(1));
    // Prompts take turns from chunk to chunk.
    let first_of =
        |sequence: u64| steps.iter().position(|s| s.iter().any(|c| c.0 == sequence)).expect("ran");
    assert!(first_of(2) <= first_of(1) + 1);
}

#[test]
fn dropping_the_reader_cancels_in_queue_prefill_and_decode() {
    let mut options = options();
    options.max_sequences = 2;
    let (engine, probe) = engine_with(options, 0);
    probe.hold();
    let decoding = engine.submit(GenerateRequest::new(prompt(0, 2), 200)).expect("room");
    let reading = engine.submit(GenerateRequest::new(prompt(1, 200), 5)).expect("room");
    let queued = engine.submit(GenerateRequest::new(prompt(2, 5), 5)).expect("room");
    probe.allow(3);
    eventually("three steps", || probe.steps.lock().len() == 3);
    assert_eq!(probe.open.load(Ordering::SeqCst), 2);
    assert_eq!(engine.stats().waiting, 1);

    drop(queued);
    assert_eq!(engine.stats().waiting, 0);
    drop(reading);
    drop(decoding);
    probe.release();
    eventually("all are closed", || probe.open.load(Ordering::SeqCst) == 0);
    eventually("all are counted", || engine.stats().cancelled_requests == 3);
    assert!(probe.steps.lock().len() <= 5, "steps went on after the readers left");
    assert_answer(
        &collect(engine.submit(GenerateRequest::new(prompt(4, 9), 3)).expect("room")),
        &prompt(4, 9),
        3,
    );
}

/// Starts a request on an engine of a few pages, brings it to a stage, and cancels it there.
fn assert_nothing_held_after_cancelling(stage: &str, prompt_tokens: usize, steps: usize) {
    let mut options = options();
    options.stream_events = 6;
    options.max_sequences = 2;
    let (engine, probe) = engine_with(options, 40);
    let queued = stage == "queued";
    probe.hold();
    let others: Vec<_> = (0..if queued { 2 } else { 0 })
        .map(|i| engine.submit(GenerateRequest::new(prompt(i, 4), 100)).expect("room"))
        .collect();
    let generation =
        engine.submit(GenerateRequest::new(prompt(7, prompt_tokens), 100)).expect("room");
    probe.allow(steps);
    eventually(stage, || probe.steps.lock().len() >= steps);
    if stage == "paused" {
        probe.release();
        eventually("its channel is full", || {
            let looks = probe.looks.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            looks == probe.looks.load(Ordering::SeqCst)
        });
        assert!(engine.stats().kv.held_pages > 0);
    }
    eventually("it is where it should be", || engine.stats().waiting == usize::from(queued));
    let dropped = 1 + others.len() as u64;
    drop((generation, others));
    probe.release();
    eventually("all is given back", || {
        let stats = engine.stats();
        stats.cancelled_requests == dropped
            && (stats.kv.held_pages, stats.running, stats.waiting) == (0, 0, 0)
    });
    assert_eq!(probe.open.load(Ordering::SeqCst), 0, "{stage}");
    assert_answer(
        &collect(engine.submit(GenerateRequest::new(prompt(4, 9), 3)).expect("room")),
        &prompt(4, 9),
        3,
    );
}

#[test]
fn a_request_cancelled_at_any_stage_holds_no_page() {
    assert_nothing_held_after_cancelling("queued", 30, 2);
    assert_nothing_held_after_cancelling("not begun", 30, 0);
    assert_nothing_held_after_cancelling("reading", 100, 3);
    assert_nothing_held_after_cancelling("decoding", 8, 4);
    assert_nothing_held_after_cancelling("paused", 8, 1);
}

#[test]
fn a_request_that_was_put_aside_is_cancelled_too() {
    // Room for one of them to its end.
    let (engine, probe) = engine_with(options(), 14);
    probe.hold();
    let first = engine.submit(GenerateRequest::new(prompt(0, 6), 44)).expect("room");
    let second = engine.submit(GenerateRequest::new(prompt(1, 6), 44)).expect("room");
    for step in 1.. {
        probe.allow(1);
        eventually("a step", || probe.steps.lock().len() >= step || engine.stats().preemptions > 0);
        if engine.stats().preemptions > 0 {
            break;
        }
    }
    drop(second);
    probe.release();
    assert_answer(&collect(first), &prompt(0, 6), 44);
    eventually("both are gone", || engine.stats().cancelled_requests == 1);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.kv.held_pages), (0, 0));
}

#[test]
fn a_slow_reader_pauses_itself_only() {
    let mut options = options();
    options.stream_events = 3;
    let (engine, probe) = engine_with(options, 0);
    let slow = engine.submit(GenerateRequest::new(prompt(0, 5), 100)).expect("room");
    let quick = engine.submit(GenerateRequest::new(prompt(1, 5), 100)).expect("room");
    assert_answer(&collect(quick), &prompt(1, 5), 100);
    let tokens = |sequence: u64| -> usize {
        let steps = probe.steps.lock();
        steps.iter().flatten().filter(|c| c.0 == sequence).map(|c| c.1).sum()
    };
    assert!(tokens(0) < 5 + 4, "the slow one went on: {} tokens", tokens(0));

    // Nothing can run now, so the loop sleeps instead of looking again and again.
    let looks = probe.looks.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    let more = probe.looks.load(Ordering::SeqCst) - looks;
    assert!(more < 10, "the loop looked {more} times while there was nothing to do");

    assert_answer(&collect(slow), &prompt(0, 5), 100);
}

#[test]
fn sequences_put_aside_for_want_of_pages_answer_the_same() {
    // 12 pages of 4 tokens; each request grows to 10 pages.
    let (engine, probe) = engine_with(options(), 12);
    probe.hold();
    let requests: Vec<_> = (0..4)
        .map(|i| engine.submit(GenerateRequest::new(prompt(i, 6), 34)).expect("room"))
        .collect();
    probe.release();
    for (i, generation) in (0..).zip(requests) {
        assert_answer(&collect(generation), &prompt(i, 6), 34);
    }
    assert!(engine.stats().preemptions > 0);
    assert_eq!(probe.open.load(Ordering::SeqCst), 0);
}

#[test]
fn the_one_that_came_last_is_put_aside() {
    let (engine, probe) = engine_with(options(), 12);
    probe.hold();
    let first = engine.submit(GenerateRequest::new(prompt(0, 6), 34)).expect("room");
    let second = engine.submit(GenerateRequest::new(prompt(1, 6), 34)).expect("room");
    probe.release();
    assert_answer(&collect(first), &prompt(0, 6), 34);
    assert_answer(&collect(second), &prompt(1, 6), 34);
    assert!(engine.stats().preemptions > 0);
    // The first ran from start to end in one sequence of the executor.
    let tokens: usize = probe.steps.lock().iter().flatten().filter(|c| c.0 == 0).map(|c| c.1).sum();
    assert_eq!(tokens, 6 + 33);
}

#[test]
fn one_that_can_never_fit_fails_and_says_so() {
    let (engine, _) = engine_with(options(), 4);
    let error = engine
        .submit(GenerateRequest::new(prompt(0, 6), 34))
        .expect("room")
        .blocking_collect()
        .expect_err("does not fit");
    assert!(matches!(*error, ModelError::KvCacheTooSmall { cache_tokens: 16, .. }), "{error}");
    assert_answer(
        &collect(engine.submit(GenerateRequest::new(prompt(1, 3), 5)).expect("room")),
        &prompt(1, 3),
        5,
    );
}

#[test]
fn a_fault_takes_only_the_request_that_causes_it() {
    for (bad, rebuilds) in [(POISON, true), (FAULT, false)] {
        let (engine, probe) = engine();
        probe.hold();
        let mut prompt_with_fault = prompt(7, 30);
        prompt_with_fault[20] = bad;
        let good = engine.submit(GenerateRequest::new(prompt(0, 5), 40)).expect("room");
        let fatal = engine.submit(GenerateRequest::new(prompt_with_fault, 5)).expect("room");
        let other = engine.submit(GenerateRequest::new(prompt(1, 40), 9)).expect("room");
        probe.release();
        let error = fatal.blocking_collect().expect_err("fails");
        assert!(matches!(*error, ModelError::Engine { .. }), "{error}");
        assert_answer(&collect(good), &prompt(0, 5), 40);
        assert_answer(&collect(other), &prompt(1, 40), 9);
        assert_eq!(engine.stats().rebuilds > 0, rebuilds);
        assert_eq!(engine.stats().failed_requests, 1);
        let next = engine.submit(GenerateRequest::new(prompt(3, 5), 3)).expect("room");
        assert_answer(&collect(next), &prompt(3, 5), 3);
        assert_eq!(probe.open.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn limits_of_a_request() {
    let (engine, probe) = engine();
    let run =
        |prompt: Vec<u32>, max_tokens| engine.submit(GenerateRequest::new(prompt, max_tokens));

    let nothing = collect(run(prompt(0, 5), 0).expect("accepted"));
    assert_eq!(nothing.finish.reason, FinishReason::Length);
    assert!(nothing.output.tokens.is_empty());
    assert!(probe.steps.lock().is_empty(), "max_tokens 0 computed something");

    assert_answer(&collect(run(prompt(0, 5), 1).expect("accepted")), &prompt(0, 5), 1);
    assert_answer(&collect(run(prompt(0, 1), 3).expect("accepted")), &prompt(0, 1), 3);
    assert!(matches!(run(Vec::new(), 5), Err(ModelError::EmptyPrompt)));
    assert!(matches!(run(vec![fake::VOCAB as u32], 5), Err(ModelError::InvalidOption { .. })));
    let long = run(prompt(0, 256), 5).expect_err("too long");
    assert!(
        matches!(long, ModelError::PromptTooLong { prompt_tokens: 256, context_tokens: 256 }),
        "{long}"
    );

    let full = collect(run(prompt(0, 250), 50).expect("accepted"));
    assert_eq!(full.finish.reason, FinishReason::ContextFull);
    assert_eq!(full.output.tokens, continuation(&prompt(0, 250), 6));
    let nearly = collect(run(prompt(0, 255), 50).expect("accepted"));
    assert_eq!(nearly.finish.reason, FinishReason::ContextFull);
    assert_eq!(nearly.output.tokens.len(), 1);
}

#[test]
fn the_model_ends_an_answer() {
    let (engine, _) = engine();
    let mut last_words = prompt(0, 5);
    last_words.push(LAST_WORDS);
    let answer = collect(engine.submit(GenerateRequest::new(last_words, 5)).expect("accepted"));
    assert_eq!(answer.finish.reason, FinishReason::Stop);
    assert_eq!(answer.finish.usage.generated_tokens, 0);
    assert!(answer.output.text.is_empty());
}

#[test]
fn a_measurement_goes_on_past_the_end() {
    let (engine, _) = engine();
    let mut last_words = prompt(0, 5);
    last_words.push(LAST_WORDS);
    let request = GenerateRequest { ignore_eos: true, ..GenerateRequest::new(last_words, 5) };
    let answer = collect(engine.submit(request).expect("accepted"));
    assert_eq!(answer.finish.reason, FinishReason::Length);
    assert_eq!((answer.output.tokens[0], answer.output.tokens.len()), (fake::END, 5));
}

#[test]
fn a_stop_text_ends_an_answer_and_is_not_in_it() {
    let (engine, _) = engine();
    let prompt = prompt(0, 5);
    let whole = text(&continuation(&prompt, 30));
    let stop = whole[10..13].to_owned();
    let mut request = GenerateRequest::new(prompt, 30);
    request.stop = vec!["never".to_owned(), stop.clone()];
    let answer = collect(engine.submit(request).expect("accepted"));
    assert_eq!(answer.finish.reason, FinishReason::StopString);
    assert_eq!(answer.finish.stop_string.as_ref(), Some(&stop));
    assert_eq!(answer.output.text, whole[..whole.find(&stop).expect("in it")]);
}

#[test]
fn a_seed_gives_the_same_answer_alone_and_in_a_batch() {
    let (engine, _) = engine();
    let request = |seed| GenerateRequest {
        sampling: SamplingOptions {
            temperature: 2.0,
            seed: Some(seed),
            ..SamplingOptions::default()
        },
        ..GenerateRequest::new(prompt(0, 9), 40)
    };
    let alone = collect(engine.submit(request(5)).expect("room")).output.tokens;
    let batch: Vec<_> = [4, 5, 6].map(|seed| engine.submit(request(seed)).expect("room")).into();
    let batch: Vec<_> = batch.into_iter().map(|g| collect(g).output.tokens).collect();
    assert_eq!(batch[1], alone);
    assert_ne!(batch[0], alone);
    assert_ne!(batch[2], alone);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let (engine, _) = engine();
    let prompt = prompt(0, 20);
    let log_softmax = |history: &[u32]| -> Vec<f32> {
        let row: Vec<f32> = fake::logits_after(history).collect();
        let sum: f32 = row.iter().map(|v| v.exp()).sum();
        row.iter().map(|v| v - sum.ln()).collect()
    };

    let mut request = GenerateRequest::new(prompt.clone(), 3);
    request.logprobs = Some(2);
    let answer = collect(engine.submit(request).expect("room"));
    assert_eq!(answer.output.logprobs.len(), 3);
    let mut history = prompt.clone();
    for entry in &answer.output.logprobs {
        let expected = log_softmax(&history);
        assert!((entry.logprob - expected[entry.token as usize]).abs() < 1e-4);
        assert_eq!(entry.top.len(), 2);
        assert_eq!(entry.top[0].id, entry.token);
        history.push(entry.token);
    }

    let values = engine.score(prompt.clone(), 1).expect("scores");
    assert_eq!(values.len(), 19);
    for (at, value) in (1..).zip(&values) {
        let expected = log_softmax(&prompt[..at])[prompt[at] as usize];
        assert!((value - expected).abs() < 1e-4, "token {at}: {value} for {expected}");
    }
    assert_eq!(engine.score(prompt.clone(), 15).expect("scores"), values[14..]);
    assert!(engine.score(prompt.clone(), 20).expect("scores").is_empty());
    assert!(engine.score(prompt, 0).is_err());
    assert!(matches!(*engine.score(Vec::new(), 1).expect_err("empty"), ModelError::EmptyPrompt));
}

#[test]
fn shutting_down_fails_what_is_under_way() {
    let mut options = options();
    options.max_sequences = 1;
    let (engine, probe) = engine_with(options, 0);
    probe.hold();
    let running = engine.submit(GenerateRequest::new(prompt(0, 5), 50)).expect("room");
    let waiting = engine.submit(GenerateRequest::new(prompt(1, 5), 50)).expect("room");
    std::thread::scope(|scope| {
        scope.spawn(|| engine.shutdown());
        eventually("closing", || {
            matches!(
                engine.submit(GenerateRequest::new(prompt(2, 5), 50)),
                Err(ModelError::EngineClosed)
            )
        });
        probe.release();
    });
    for generation in [running, waiting] {
        let error = generation.blocking_collect().expect_err("closed");
        assert!(matches!(*error, ModelError::EngineClosed), "{error}");
    }
}

#[test]
fn events_come_as_they_are_made() {
    let (engine, probe) = engine();
    probe.hold();
    let prompt = prompt(0, 3);
    let mut generation = engine.submit(GenerateRequest::new(prompt.clone(), 3)).expect("room");
    for token in continuation(&prompt, 3) {
        probe.allow(1);
        match generation.blocking_next() {
            Some(Ok(GenerateEvent::Text(delta))) => assert_eq!(delta.tokens, [token]),
            other => panic!("expected text, got {other:?}"),
        }
    }
    match generation.blocking_next() {
        Some(Ok(GenerateEvent::Finished(finish))) => {
            assert!(finish.timings.time_to_first_token >= finish.timings.prefill);
        }
        other => panic!("expected the end, got {other:?}"),
    }
    assert!(generation.blocking_next().is_none());
}

#[test]
fn an_idle_engine_sleeps() {
    let (engine, probe) = engine();
    assert_answer(
        &collect(engine.submit(GenerateRequest::new(prompt(0, 3), 3)).expect("room")),
        &prompt(0, 3),
        3,
    );
    std::thread::sleep(Duration::from_millis(20));
    let looks = probe.looks.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(probe.looks.load(Ordering::SeqCst), looks);
}

/// The order in which requests were taken up, each known by the length of its prompt.
fn taken_up(probe: &Probe) -> Vec<usize> {
    let mut seen = Vec::new();
    let mut order = Vec::new();
    for &(sequence, tokens) in probe.steps.lock().iter().flatten() {
        if !seen.contains(&sequence) {
            seen.push(sequence);
            order.push(tokens);
        }
    }
    order
}

#[test]
fn namespaces_are_taken_up_in_turns_and_editors_first() {
    let options =
        EngineOptions { max_sequences: 1, queue_limit: 64, prefill_chunk_tokens: 128, ..options() };
    let (engine, probe) = engine_with(options, 0);
    probe.hold();
    let submit = |namespace, priority, len| {
        let request =
            GenerateRequest { namespace, priority, ..GenerateRequest::new(prompt(0, len), 2) };
        engine.submit(request).expect("room")
    };
    // Long enough to run while the editors are served.
    let first = engine.submit(GenerateRequest::new(prompt(0, 1), 40)).expect("room");
    let mut all = vec![first];
    probe.allow(1);
    eventually("the first runs", || probe.steps.lock().len() == 1);
    all.extend((20..26).map(|len| submit(1, Priority::Normal, len)));
    all.extend((30..32).map(|len| submit(2, Priority::Normal, len)));
    assert_eq!((engine.stats().waiting, engine.stats().waiting_tokens), (8, 135 + 61));
    all.push(submit(1, Priority::Interactive, 40));
    all.push(submit(1, Priority::Interactive, 41));
    probe.release();
    for generation in all {
        collect(generation);
    }
    let order = taken_up(&probe);
    let place = |len: usize| order.iter().position(|&taken| taken == len).expect("taken up");
    assert_eq!(
        order[..3],
        [1, 40, 41],
        "editors need not wait for the place to be free: {order:?}"
    );
    assert!(place(31) < place(23), "in turns: {order:?}");
    assert!(order.iter().filter(|len| (20..26).contains(*len)).is_sorted(), "{order:?}");
}

#[test]
fn prompts_of_editors_are_read_first_and_leave_others_a_quarter() {
    let (engine, probe) = engine();
    probe.hold();
    let submit = |priority, len| {
        engine
            .submit(GenerateRequest { priority, ..GenerateRequest::new(prompt(0, len), 2) })
            .expect("room")
    };
    let normal = submit(Priority::Normal, 80);
    probe.allow(1);
    eventually("it is being read", || probe.steps.lock().len() == 1);
    let editor = submit(Priority::Interactive, 30);
    probe.release();
    collect(editor);
    collect(normal);
    let steps = probe.steps.lock();
    let both: Vec<_> = steps.iter().filter(|step| step.iter().any(|c| c.0 == 1)).take(4).collect();
    for step in both {
        assert_eq!(*step, [(1, 6), (0, 2)], "{steps:?}");
    }
}

#[test]
fn the_wait_for_a_first_token_is_foreseen() {
    let options = EngineOptions { max_sequences: 1, queue_limit: 64, ..options() };
    let (engine, probe) = engine_with(options, 0);
    let foreseen = |tokens| engine.first_token_in((0, Priority::Normal), tokens);
    assert_eq!(foreseen(10), None, "nothing was measured");
    collect(engine.submit(GenerateRequest::new(prompt(0, 20), 20)).expect("room"));
    eventually("it is measured and idle", || foreseen(10).is_some() && engine.stats().running == 0);
    let (short, long) = (foreseen(10).expect("known"), foreseen(100).expect("known"));
    assert!(short > Duration::ZERO && long >= 9 * short, "{short:?} {long:?}");
    probe.hold();
    let waiting: Vec<_> = (0..4)
        .map(|i| engine.submit(GenerateRequest::new(prompt(i, 50), 20)).expect("room"))
        .collect();
    assert!(foreseen(10).expect("known") > long, "200 tokens are before it");
    let elsewhere = engine.first_token_in((9, Priority::Normal), 10).expect("known");
    assert!(elsewhere < foreseen(10).expect("known"), "another namespace is served in between");
    probe.release();
    waiting.into_iter().for_each(|generation| drop(collect(generation)));
    eventually("idle again", || engine.stats().running == 0);
    assert!(engine.stats().prompt_tokens_per_second.is_some_and(|speed| speed > 0.0));
    assert!(engine.stats().generated_tokens_per_second.is_some_and(|speed| speed > 0.0));
}
