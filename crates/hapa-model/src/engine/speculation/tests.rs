//! Drafts in the step loop, over a fake model: answers are the same with and without them.

use super::Speculate;
use crate::engine::fake::{CHANGE, ECHO, LAST_WORDS, continuation, text};
use crate::engine::tests::{collect, engine_with, options, prompt};
use crate::engine::{Answer, EngineOptions, EngineStats, FinishReason, GenerateRequest};
use crate::sampling::SamplingOptions;

fn with(speculate: Speculate) -> EngineOptions {
    EngineOptions { speculate, prefill_chunk_tokens: 64, ..options() }
}

/// A prompt that the model goes on repeating, with changes.
fn echo(seed: u32, length: usize) -> Vec<u32> {
    let mut tokens = vec![ECHO, length as u32];
    tokens.extend(prompt(seed, length));
    tokens
}

/// Answers to one request after the other.
fn answers(
    options: EngineOptions,
    pages: usize,
    requests: &[GenerateRequest],
) -> (Vec<Answer>, EngineStats) {
    let (engine, _) = engine_with(options, pages);
    let run = |request: &GenerateRequest| collect(engine.submit(request.clone()).expect("room"));
    let answers = requests.iter().map(run).collect();
    (answers, engine.stats())
}

fn assert_same_answers(requests: &[GenerateRequest], pages: usize) -> EngineStats {
    let (plain, without) = answers(with(Speculate::Never), pages, requests);
    let (drafted, with) = answers(with(Speculate::Always), pages, requests);
    for ((request, plain), drafted) in requests.iter().zip(plain).zip(drafted) {
        assert_eq!(drafted.output, plain.output, "{request:?}");
        assert_eq!(drafted.finish.reason, plain.finish.reason, "{request:?}");
        let usage = drafted.finish.usage;
        assert_eq!(usage.generated_tokens, plain.finish.usage.generated_tokens);
        assert!(usage.accepted_tokens <= usage.drafted_tokens);
        assert!(usage.accepted_tokens <= usage.generated_tokens);
        assert_eq!(plain.finish.usage.drafted_tokens, 0);
    }
    assert_eq!((without.drafted_tokens, without.recent_answer_bytes), (0, 0));
    assert_eq!(with.generated_tokens, without.generated_tokens);
    assert!(with.steps <= without.steps);
    with
}

#[test]
fn a_repeated_text_takes_a_fraction_of_the_steps() {
    let request = GenerateRequest::new(echo(1, 40), 150);
    let stats = assert_same_answers(&[request], 0);
    assert!(stats.accepted_tokens > 100, "{stats:?}");
    assert!(stats.steps < 60, "{stats:?}");
}

#[test]
fn every_way_to_choose_and_to_end_gives_the_same_answer() {
    let warm =
        |seed| SamplingOptions { temperature: 1.3, seed: Some(seed), ..SamplingOptions::default() };
    let samplings = [
        SamplingOptions::default(),
        SamplingOptions { repetition_penalty: 1.5, repetition_window: 30, ..Default::default() },
        warm(1),
        SamplingOptions { top_k: 5, ..warm(2) },
        SamplingOptions { top_p: 0.8, min_p: 0.05, repetition_penalty: 1.2, ..warm(3) },
    ];
    let mut requests = Vec::new();
    for (seed, sampling) in (0..).zip(samplings) {
        let tokens = echo(seed, 30);
        let base = GenerateRequest { sampling, ..GenerateRequest::new(tokens.clone(), 90) };
        requests.push(GenerateRequest { logprobs: Some(3), ..base.clone() });
        for max_tokens in 1..20 {
            requests.push(GenerateRequest { max_tokens, ..base.clone() });
        }
        // Stops that end within a draft, at its ends, and that span drafted tokens and others.
        let whole = text(&continuation(&tokens, 60));
        for start in 20..20 + CHANGE {
            let stop = vec![whole[start..start + 3].to_owned(), "never there".to_owned()];
            requests.push(GenerateRequest { stop, ..base.clone() });
        }
    }
    let stats = assert_same_answers(&requests, 0);
    assert!(stats.accepted_tokens > 1_000 && stats.accepted_tokens < stats.drafted_tokens);
}

#[test]
fn an_answer_ends_within_a_draft() {
    // Where the model changes a token, there would be no last words.
    for at in (3..20usize).filter(|at| !(32 + at).is_multiple_of(CHANGE)) {
        let mut tokens = echo(2, 30);
        tokens[2 + at] = LAST_WORDS;
        let (answers, stats) =
            answers(with(Speculate::Always), 0, &[GenerateRequest::new(tokens.clone(), 90)]);
        assert_eq!(answers[0].finish.reason, FinishReason::Stop);
        assert_eq!(answers[0].output.tokens, continuation(&tokens, at + 1));
        assert_eq!(stats.kv.held_pages, 0);
        assert_same_answers(&[GenerateRequest::new(tokens, 90)], 0);
    }
}

#[test]
fn a_context_that_fills_within_a_draft() {
    for length in 225..256 {
        let request = GenerateRequest::new(echo(3, 50), 300);
        let mut longer = request.clone();
        longer.prompt.extend(continuation(&request.prompt, length - 52));
        assert_same_answers(&[longer], 0);
    }
}

#[test]
fn a_question_asked_again_is_answered_from_the_old_answer() {
    // Nothing in it repeats.
    let again = GenerateRequest::new(prompt(5, 40), 60);
    let mut changed = again.clone();
    changed.prompt[3] += 1;
    let elsewhere = GenerateRequest { namespace: 9, ..again.clone() };
    let requests = [again.clone(), again, elsewhere, changed];
    let (answers, _) = answers(with(Speculate::Always), 0, &requests);
    let accepted = |i: usize| answers[i].finish.usage.accepted_tokens;
    assert!(accepted(0) < 10);
    assert!(accepted(1) > 50, "{:?}", answers[1].finish.usage);
    assert!(accepted(2) < 10, "namespaces share nothing: {:?}", answers[2].finish.usage);
    assert_same_answers(&requests, 0);
}

#[test]
fn drafts_never_push_another_sequence_out() {
    // Room for what both need, and for little more.
    let requests = [GenerateRequest::new(echo(4, 22), 60), GenerateRequest::new(echo(6, 22), 60)];
    for pages in [42, 44, 50] {
        let (engine, probe) = engine_with(with(Speculate::Always), pages);
        probe.hold();
        let both = requests.clone().map(|request| engine.submit(request).expect("room"));
        probe.release();
        for (request, generation) in requests.iter().zip(both) {
            assert_eq!(collect(generation).output.tokens, continuation(&request.prompt, 60));
        }
        assert_eq!(engine.stats().preemptions, 0, "{pages} pages");
    }
    // And where there is too little, answers survive being put aside with a draft pending.
    let (engine, probe) = engine_with(with(Speculate::Always), 30);
    probe.hold();
    let both = requests.clone().map(|request| engine.submit(request).expect("room"));
    probe.release();
    for (request, generation) in requests.iter().zip(both) {
        assert_eq!(collect(generation).output.tokens, continuation(&request.prompt, 60));
    }
    assert!(engine.stats().preemptions > 0);
}

#[test]
fn a_batch_with_drafts_answers_as_each_alone() {
    let options = EngineOptions { max_sequences: 64, queue_limit: 0, ..with(Speculate::Always) };
    let (engine, probe) = engine_with(options, 0);
    probe.hold();
    let requests: Vec<_> = (0..64)
        .map(|i| {
            let tokens = if i % 3 == 0 { prompt(i, 30) } else { echo(i, 12 + i as usize % 30) };
            let request = GenerateRequest::new(tokens, 70 + i as usize);
            (request.clone(), engine.submit(request).expect("room"))
        })
        .collect();
    probe.release();
    for (request, generation) in requests {
        let expected = continuation(&request.prompt, request.max_tokens);
        assert_eq!(collect(generation).output.tokens, expected);
    }
    let stats = engine.stats();
    assert!(stats.accepted_tokens > 500, "{stats:?}");
    assert_eq!((stats.running, stats.kv.held_pages), (0, 0));
}

/// Two tokens of an answer, of which the first is drafted where the ones before are the echo: pairs with and without drafts
/// are compared by Pearson's statistic for two samples.
#[test]
fn sampled_tokens_are_distributed_as_without_drafts() {
    const DRAWS: u64 = 4_000;
    let pairs = |speculate: Speculate, first_seed: u64| {
        let (engine, _) = engine_with(with(speculate), 0);
        let mut counts = std::collections::BTreeMap::<[u32; 2], f64>::new();
        for seed in first_seed..first_seed + DRAWS {
            let request = GenerateRequest {
                sampling: SamplingOptions {
                    temperature: 1.5,
                    top_k: 4,
                    seed: Some(seed),
                    ..SamplingOptions::default()
                },
                ..GenerateRequest::new(echo(1, 12), 4)
            };
            let tokens = collect(engine.submit(request).expect("room")).output.tokens;
            *counts.entry([tokens[2], tokens[3]]).or_default() += 1.0;
        }
        (counts, engine.stats())
    };
    let (plain, _) = pairs(Speculate::Never, 0);
    let (drafted, stats) = pairs(Speculate::Always, 1_000_000);
    assert!(stats.accepted_tokens > DRAWS / 4, "{stats:?}");
    assert!(stats.drafted_tokens - stats.accepted_tokens > DRAWS / 10, "{stats:?}");
    let keys: std::collections::BTreeSet<_> = plain.keys().chain(drafted.keys()).collect();
    // Of pairs that are rare, all are one class: the statistic wants numbers.
    let (mut classes, mut rest, mut statistic) = (0, [0.0; 2], 0.0);
    let mut add = |[a, b]: [f64; 2]| {
        statistic += (a - b).powi(2) / (a + b);
        classes += 1;
    };
    for key in keys {
        let both = [&plain, &drafted].map(|counts| counts.get(key).copied().unwrap_or(0.0));
        if both[0] + both[1] < 20.0 {
            rest = [rest[0] + both[0], rest[1] + both[1]];
        } else {
            add(both);
        }
    }
    if rest[0] + rest[1] > 0.0 {
        add(rest);
    }
    // Mean `classes - 1`, variance twice that: five deviations, and the seeds are fixed.
    let freedom = f64::from(classes - 1);
    assert!(classes >= 8, "{classes} classes test nothing");
    assert!(statistic < freedom + 5.0 * (2.0 * freedom).sqrt(), "{statistic} of {classes} classes");
}
