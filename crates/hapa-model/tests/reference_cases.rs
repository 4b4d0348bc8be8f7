//! Answers of real models held against what llama.cpp recorded for them (`fixtures/README.md`): greedy continuations,
//! the first step's log-probabilities, perplexity.
//!
//! candle takes a fifth of a second a token here, so by default only a few short cases run on the reference backend. With
//! `HAPA_FULL_TESTS=1` it runs all cases of both models and both perplexities; with the name of a model, that one's.
#![expect(clippy::expect_used, reason = "a test helper that fails fails its test")]

use std::ops::Range;
use std::path::PathBuf;

use hapa_model::testing::real_model;
use hapa_model::{
    Answer, BackendChoice, GenerateRequest, Generation, LoadOptions, Model, NoProgress, eval,
};
use serde::Deserialize;

/// Another order of rounding may flip a choice whose runner-up was closer than this (difference of log-probabilities).
const MARGIN: f32 = 0.2;
/// llama.cpp and the cpu backend round activations to 8 bits, each in its own order, candle's f32 products do not. A
/// log-probability of the likeliest tokens may differ by as much as this (measured: 0.45 for candle; 0.8 for the cpu
/// backend where candle's f32 is halfway between) ...
const LOGPROB_TOLERANCE: f32 = 1.0;
/// ... but all of them on average by no more than this (measured: 0.08 over all cases, 0.19 over the two short ones).
const LOGPROB_MEAN: f32 = 0.25;

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

    /// The runs of steps that must come out the same, each with what was recorded before it as given. A step whose
    /// runner-up was close is in none: the run after it begins behind the token that llama.cpp took there.
    fn certain_runs(&self, steps: usize) -> Vec<Range<usize>> {
        if !self.aligned() {
            return Vec::new();
        }
        let margins = &self.margins[..steps.min(self.margins.len())];
        let close = (0..margins.len()).filter(|&step| margins[step] < MARGIN);
        let mut runs = Vec::new();
        let mut start = 0;
        for end in close.chain([margins.len()]) {
            if start < end {
                runs.push(start..end);
            }
            start = end + 1;
        }
        runs
    }
}

/// A run of a case's certain steps.
struct Run<'a> {
    case: &'a Case,
    steps: Range<usize>,
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

fn runs(cases: &[Case], steps: usize) -> Vec<Run<'_>> {
    let of =
        |case| Case::certain_runs(case, steps).into_iter().map(move |steps| Run { case, steps });
    cases.iter().flat_map(of).collect()
}

impl Run<'_> {
    fn begin(&self, model: &Model) -> Generation {
        let before = &self.case.greedy_tokens[..self.steps.start];
        let prompt = [&self.case.tokens, before].concat();
        let request = GenerateRequest::new(prompt, self.steps.len());
        model.generate(GenerateRequest { logprobs: Some(10), ..request }).expect("room")
    }

    /// Holds an answer against the recording. Returns by how much the first step's log-probabilities differ.
    fn assert(&self, model: &Model, answer: &Answer) -> Vec<f32> {
        let Run { case, steps } = self;
        for (step, &expected) in steps.clone().zip(&case.greedy_tokens[steps.clone()]) {
            match answer.output.tokens.get(step - steps.start) {
                Some(&token) => assert_eq!(token, expected, "{}: step {step}", case.name),
                // The token that ends an answer is not a part of it.
                None => {
                    let ends = model.tokenizer().is_end_of_generation(expected);
                    assert!(ends, "{}: ended at {step}", case.name);
                    break;
                }
            }
        }
        if steps.start == 0 { first_step(case, answer) } else { Vec::new() }
    }
}

fn first_step(case: &Case, answer: &Answer) -> Vec<f32> {
    let first = answer.output.logprobs.first().expect("log-probabilities");
    let likely = case.first_step_top5.iter().filter(|(_, logprob)| *logprob > -3.0);
    let difference = |&(id, expected): &(u32, f32)| {
        let found = first.top.iter().find(|entry| entry.id == id);
        let found = found.unwrap_or_else(|| panic!("{}: {id} is not among the top", case.name));
        let off = (found.logprob - expected).abs();
        assert!(
            off < LOGPROB_TOLERANCE,
            "{}: token {id} has {}, llama.cpp {expected}",
            case.name,
            found.logprob
        );
        off
    };
    likely.map(difference).collect()
}

fn collect(generation: Generation) -> Answer {
    generation.blocking_collect().expect("answers")
}

/// All runs one by one, then all at once. Returns the steps that were compared.
fn assert_runs(model: &Model, runs: &[Run<'_>]) -> usize {
    let mut off = Vec::new();
    for run in runs {
        off.extend(run.assert(model, &collect(run.begin(model))));
    }
    let mean = off.iter().sum::<f32>() / off.len() as f32;
    assert!(mean < LOGPROB_MEAN, "log-probabilities differ by {mean} on average");
    let together: Vec<Generation> = runs.iter().map(|run| run.begin(model)).collect();
    for (run, generation) in runs.iter().zip(together) {
        run.assert(model, &collect(generation));
    }
    runs.iter().map(|run| run.steps.len()).sum()
}

fn assert_recording(id: &str, backend: BackendChoice) {
    let cases = cases(id);
    let compared = assert_runs(&load(id, backend), &runs(&cases, usize::MAX));
    let recorded: usize = cases.iter().map(|case| case.greedy_tokens.len()).sum();
    assert!(compared > recorded / 2, "{id}: only {compared} of {recorded} steps were compared");
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
        assert_recording(id, BackendChoice::Reference);
    }
    let mut few = cases("smollm2-135m");
    few.retain(|case| ["fib-chat", "raw-quicksort"].contains(&case.name.as_str()));
    assert_eq!(few.len(), 2);
    let model = load("smollm2-135m", BackendChoice::Reference);
    assert!(assert_runs(&model, &runs(&few, 10)) >= 8);
}

#[test]
fn cpu_backend_answers_as_recorded() {
    assert_recording("smollm2-135m", BackendChoice::Cpu);
    for id in full().into_iter().filter(|id| *id != "smollm2-135m") {
        assert_recording(id, BackendChoice::Cpu);
    }
}

#[test]
fn cpu_backend_has_the_recorded_perplexity() {
    for id in full() {
        let recorded = if id == "smollm2-135m" { 4.404 } else { 2.530 };
        assert_perplexity(id, BackendChoice::Cpu, recorded);
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
