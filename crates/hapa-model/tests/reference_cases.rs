//! Answers of real models held against what llama.cpp recorded for them (`fixtures/README.md`): greedy continuations,
//! the first step's log-probabilities, perplexity.
//!
//! candle takes a fifth of a second a token here, so by default only a few short cases run on the reference backend. With
//! `HAPA_FULL_TESTS=1` it runs all cases of both models and both perplexities; with the name of a model, that one's.
#![expect(clippy::expect_used, reason = "a test helper that fails fails its test")]

use std::path::PathBuf;

use hapa_model::testing::real_model;
use hapa_model::{
    Answer, BackendChoice, GenerateRequest, Generation, LoadOptions, Model, NoProgress, eval,
};
use serde::Deserialize;

/// Another order of rounding may flip a choice whose runner-up was closer than this (difference of log-probabilities).
const MARGIN: f32 = 0.2;
/// llama.cpp rounds activations to 8 bits, candle's f32 products do not: the log-probabilities of the likeliest tokens
/// differ by up to 0.45, in both directions (measured over all cases), and keep their order.
const LOGPROB_TOLERANCE: f32 = 0.5;

#[derive(Deserialize)]
struct Recording {
    cases: Vec<Case>,
}

/// One recorded prompt. Cases without a continuation are for the tokenizer.
#[derive(Deserialize)]
struct Case {
    name: String,
    tokens: Vec<u32>,
    #[serde(default)]
    greedy_tokens: Vec<u32>,
    #[serde(default)]
    first_step_top5: Vec<(u32, f32)>,
    #[serde(default)]
    margins: Vec<f32>,
}

impl Case {
    /// The recorder reports probabilities once a character, not once a token: where characters take several tokens
    /// (Korean by bytes), its figures belong to no known step.
    fn aligned(&self) -> bool {
        self.margins.len() == self.greedy_tokens.len()
    }

    /// How many steps must come out the same.
    fn certain_steps(&self) -> usize {
        if !self.aligned() {
            return 0;
        }
        let close = self.margins.iter().position(|&margin| margin < MARGIN);
        close.unwrap_or(self.margins.len()).min(self.greedy_tokens.len())
    }
}

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name].iter().collect()
}

fn cases(id: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(fixture(&format!("{id}.json"))).expect("a fixture");
    let recording: Recording = serde_json::from_str(&text).expect("a recording");
    let cases: Vec<Case> =
        recording.cases.into_iter().filter(|case| !case.greedy_tokens.is_empty()).collect();
    assert!(cases.len() >= 5, "{id} has {} continuations", cases.len());
    cases
}

fn load(id: &str, backend: BackendChoice) -> Model {
    let resolved = real_model(id).expect("the model is here or can be fetched");
    let options = LoadOptions { backend, ..LoadOptions::default() };
    Model::load(&resolved, &options, &NoProgress).expect("loads")
}

/// The models that are to be tested in full.
fn full() -> Vec<&'static str> {
    let wanted = std::env::var("HAPA_FULL_TESTS").unwrap_or_default();
    let ids = ["smollm2-135m", "qwen2.5-coder-0.5b"];
    ids.into_iter().filter(|id| wanted == "1" || wanted == *id).collect()
}

fn request(case: &Case, steps: usize) -> GenerateRequest {
    GenerateRequest { logprobs: Some(5), ..GenerateRequest::new(case.tokens.clone(), steps) }
}

fn collect(generation: Generation) -> Answer {
    generation.blocking_collect().expect("answers")
}

/// Holds an answer against the recording, up to the first step that is not certain. Returns the certain steps.
fn assert_case(model: &Model, case: &Case, answer: &Answer, steps: usize) -> usize {
    let certain = case.certain_steps().min(steps);
    for step in 0..certain {
        let expected = case.greedy_tokens[step];
        match answer.output.tokens.get(step) {
            Some(&token) => assert_eq!(token, expected, "{}: step {step}", case.name),
            // The token that ends an answer is not a part of it.
            None => {
                assert!(
                    model.tokenizer().is_end_of_generation(expected),
                    "{}: ended at {step}",
                    case.name
                );
                break;
            }
        }
    }
    if let (true, Some(first)) = (case.aligned(), answer.output.logprobs.first()) {
        for &(id, expected) in case.first_step_top5.iter().filter(|(_, logprob)| *logprob > -3.0) {
            let found = first.top.iter().find(|entry| entry.id == id);
            let found = found.unwrap_or_else(|| panic!("{}: {id} is not among the top", case.name));
            assert!(
                (found.logprob - expected).abs() < LOGPROB_TOLERANCE,
                "{}: token {id} has {}, llama.cpp {expected}",
                case.name,
                found.logprob
            );
        }
    }
    certain
}

/// All cases one by one, then all at once.
fn assert_recording(id: &str, backend: BackendChoice, steps: usize) {
    let model = load(id, backend);
    let cases = cases(id);
    let mut certain = 0;
    for case in &cases {
        let answer = collect(model.generate(request(case, steps)).expect("room"));
        certain += assert_case(&model, case, &answer, steps);
    }
    assert!(certain >= cases.len() * steps / 3, "only {certain} steps were compared");
    let together: Vec<Generation> =
        cases.iter().map(|case| model.generate(request(case, steps)).expect("room")).collect();
    for (case, generation) in cases.iter().zip(together) {
        assert_case(&model, case, &collect(generation), steps);
    }
}

fn assert_perplexity(id: &str, backend: BackendChoice, expected: f64) {
    let text = std::fs::read_to_string(fixture("ppl.txt")).expect("a fixture");
    let measured = eval::perplexity(&load(id, backend), &text, 512).expect("measures");
    let off = (measured.perplexity / expected - 1.0).abs();
    assert!(off < 0.01, "{id}: {measured:?}, llama.cpp {expected}");
}

#[test]
fn reference_backend_answers_as_recorded() {
    for id in full() {
        assert_recording(id, BackendChoice::Reference, 48);
    }
    let model = load("smollm2-135m", BackendChoice::Reference);
    let cases = cases("smollm2-135m");
    let few: Vec<&Case> =
        cases.iter().filter(|c| ["fib-chat", "raw-quicksort"].contains(&c.name.as_str())).collect();
    assert_eq!(few.len(), 2);
    let together: Vec<Generation> =
        few.iter().map(|case| model.generate(request(case, 10)).expect("room")).collect();
    for (case, generation) in few.into_iter().zip(together) {
        assert!(assert_case(&model, case, &collect(generation), 10) >= 4);
    }
}

#[test]
fn reference_backend_has_the_recorded_perplexity() {
    for id in full() {
        let recorded = if id == "smollm2-135m" { 4.404 } else { 2.530 };
        assert_perplexity(id, BackendChoice::Reference, recorded);
    }
    // A single chunk has no recorded figure; it must be of the whole text's order.
    let text = std::fs::read_to_string(fixture("ppl.txt")).expect("a fixture");
    let model = load("smollm2-135m", BackendChoice::Reference);
    let measured = eval::perplexity_over(&model, &text, 256, 1).expect("measures");
    assert_eq!((measured.chunks, measured.tokens), (1, 127));
    assert!((2.5..8.0).contains(&measured.perplexity), "{measured:?}");
}
