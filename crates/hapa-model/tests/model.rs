//! A model from its file to its text, over tiny random models.

#![expect(clippy::expect_used, reason = "a test helper that fails fails its test")]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use hapa_model::gguf::GgmlType;
use hapa_model::testing::TinyModel;
use hapa_model::{
    BackendChoice, ChatMessage, FimRequest, FinishReason, GenerateRequest, LoadEvent, LoadOptions,
    Model, ModelError, ModelRef, NoProgress, ProgressSink, Role, SamplingOptions, Store,
    StoreOptions,
};

fn options() -> LoadOptions {
    LoadOptions { backend: BackendChoice::Reference, ..LoadOptions::default() }
}

fn write(tiny: &TinyModel) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().expect("a temporary file");
    tiny.write(file.path()).expect("written");
    file
}

fn load(tiny: &TinyModel) -> Model {
    Model::load_file(write(tiny).path(), &options(), &NoProgress).expect("loads")
}

#[test]
fn facts_about_a_model() {
    let file = write(&TinyModel::qwen2().weights(GgmlType::Q8_0));
    let model = Model::load_file(file.path(), &options(), &NoProgress).expect("loads");
    let info = model.info();
    assert_eq!(info.architecture, "qwen2");
    assert_eq!(info.backend, "reference");
    assert_eq!(info.context_length, 512);
    assert_eq!(info.file_bytes, file.path().metadata().expect("exists").len());
    assert!(info.chat_template && info.fim);
    assert!(
        info.quantisation.iter().any(|(name, count)| name == "Q8_0" && *count == 15),
        "{info:?}"
    );
    assert!(info.parameters > 100_000);
    assert_eq!(model.context_tokens(), 512);
}

#[test]
fn an_answer_is_the_same_each_time_and_in_company() {
    let model = load(&TinyModel::llama());
    let prompt = model.encode("def add(a, b):").expect("encodes");
    let request = |seed| GenerateRequest {
        sampling: SamplingOptions { temperature: 1.0, seed, ..SamplingOptions::default() },
        logprobs: Some(3),
        ..GenerateRequest::new(prompt.clone(), 24)
    };
    let alone =
        model.generate(request(Some(7))).expect("room").blocking_collect().expect("answers");
    let company: Vec<_> =
        (5..10).map(|seed| model.generate(request(Some(seed))).expect("room")).collect();
    let company: Vec<_> =
        company.into_iter().map(|g| g.blocking_collect().expect("answers").output.tokens).collect();
    assert_eq!(company[2], alone.output.tokens);
    assert!(company[0] != company[1] && company[1] != company[3]);
    for entry in &alone.output.logprobs {
        assert!(entry.logprob <= 0.0 && entry.top.len() == 3);
        assert!(entry.top[0].logprob >= entry.logprob);
    }
}

#[test]
fn greedy_tokens_are_the_likeliest_by_score() {
    let model = load(&TinyModel::qwen3());
    let prompt = model.encode("import os").expect("encodes");
    let answer = model
        .generate(GenerateRequest { logprobs: Some(1), ..GenerateRequest::new(prompt.clone(), 8) })
        .expect("room")
        .blocking_collect()
        .expect("answers");
    let mut text = prompt.clone();
    text.extend(&answer.output.tokens);
    let scores = model.score_from(text, prompt.len()).expect("scores");
    assert_eq!(scores.len(), answer.output.tokens.len());
    for (score, entry) in scores.iter().zip(&answer.output.logprobs) {
        assert!((score - entry.logprob).abs() < 1e-3, "{score} for {}", entry.logprob);
        assert_eq!(entry.top[0].id, entry.token);
    }
}

#[test]
fn prompts_of_a_model_that_has_them_and_of_one_that_has_not() {
    let chat = [ChatMessage::new(Role::User, "hi")];
    let fim = FimRequest { prefix: "a".into(), suffix: "b".into(), ..FimRequest::default() };
    let model = load(&TinyModel::qwen2());
    assert!(model.chat_prompt(&chat).expect("renders").len() > 3);
    assert_eq!(model.fim_prompt(&fim).expect("encodes").len(), 5);
    let model = load(&TinyModel::qwen2().without_fim().template(None));
    assert!(matches!(model.chat_prompt(&chat), Err(ModelError::Template { .. })));
    assert!(matches!(model.fim_prompt(&fim), Err(ModelError::NoFillInMiddle { .. })));
}

#[test]
fn limits_of_the_context() {
    let tiny = write(&TinyModel::llama().context_length(64));
    let context = |tokens| LoadOptions { context_tokens: Some(tokens), ..options() };
    let refused = Model::load_file(tiny.path(), &context(65), &NoProgress).expect_err("too long");
    assert!(
        matches!(refused, ModelError::InvalidOption { option: "context_tokens", .. }),
        "{refused}"
    );
    let model = Model::load_file(tiny.path(), &context(16), &NoProgress).expect("loads");
    assert_eq!(model.context_tokens(), 16);
    let too_long = model.generate(GenerateRequest::new(vec![5; 16], 4)).expect_err("too long");
    assert!(matches!(
        too_long,
        ModelError::PromptTooLong { prompt_tokens: 16, context_tokens: 16 }
    ));
    let full =
        model.generate(GenerateRequest::new(vec![5; 10], 40)).expect("fits").blocking_collect();
    let full = full.expect("answers");
    if full.finish.reason != FinishReason::Stop {
        assert_eq!(full.finish.reason, FinishReason::ContextFull);
        assert_eq!(full.finish.usage.generated_tokens, 6);
    }
}

#[test]
fn dropping_the_last_clone_stops_the_engine() {
    let model = load(&TinyModel::llama());
    let generation = model.generate(GenerateRequest::new(vec![5; 10], 400)).expect("room");
    let clone = model.clone();
    drop(model);
    assert_eq!(clone.engine_stats().failed_requests, 0);
    drop(clone);
    // It had begun or not; either way it ends, and nothing hangs.
    let _ = generation.blocking_collect();
}

/// Keeps events; says cancelled from the `Mapping` event on when asked to.
#[derive(Default)]
struct Watcher {
    events: Mutex<Vec<LoadEvent>>,
    cancel: AtomicBool,
}

impl ProgressSink for Watcher {
    fn event(&self, event: &LoadEvent) {
        self.events.lock().expect("not poisoned").push(event.clone());
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }
}

#[test]
fn a_load_is_watched_and_can_be_abandoned() {
    let tiny = write(&TinyModel::llama());
    let watcher = Watcher::default();
    Model::load_file(tiny.path(), &options(), &watcher).expect("loads");
    let events = watcher.events.lock().expect("not poisoned").clone();
    assert!(matches!(events[..], [LoadEvent::Mapping, LoadEvent::Ready { .. }]), "{events:?}");

    let watcher = Watcher { cancel: true.into(), ..Watcher::default() };
    let error = Model::load_file(tiny.path(), &options(), &watcher).expect_err("abandoned");
    assert!(matches!(error, ModelError::LoadAbandoned), "{error}");
}

#[test]
fn a_file_that_is_not_the_one_whose_digest_was_computed_is_not_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    TinyModel::llama().write(&path).expect("written");
    let home = StoreOptions { home: Some(folder.path().join("home")), ..StoreOptions::default() };
    let store = Store::open(home).expect("opens");
    let resolve = || store.resolve(&ModelRef::Path(path.clone()), &NoProgress).expect("resolves");
    let old = resolve();
    let beside = folder.path().join("new.gguf");
    TinyModel::llama().seed(5).write(&beside).expect("written");
    std::fs::rename(beside, &path).expect("renamed");
    let error = Model::load(&old, &options(), &NoProgress).map(drop).expect_err("changed");
    assert!(
        matches!(&error, ModelError::FileChanged { path: changed } if *changed == path),
        "{error}"
    );
    let new = resolve();
    assert_ne!(new.digest, old.digest);
    Model::load(&new, &options(), &NoProgress).expect("loads");
}

#[test]
fn bad_files_and_options_are_errors() {
    let missing = Model::load_file(Path::new("/nowhere/model.gguf"), &options(), &NoProgress);
    assert!(matches!(missing, Err(ModelError::Io { .. })));
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().expect("a temporary file");
    std::fs::write(file.path(), b"GGUF but not really").expect("written");
    let broken = Model::load_file(file.path(), &options(), &NoProgress);
    assert!(matches!(broken, Err(ModelError::InvalidGguf { .. })));
    let tiny = write(&TinyModel::llama());
    let none = LoadOptions { max_sequences: 0, ..options() };
    let error = Model::load_file(tiny.path(), &none, &NoProgress).expect_err("refused");
    assert!(matches!(error, ModelError::InvalidOption { option: "max_sequences", .. }), "{error}");
    assert!(matches!("gpu".parse::<BackendChoice>(), Err(ModelError::InvalidOption { .. })));
}

#[test]
fn perplexity_is_the_exponential_of_the_mean_score_of_second_halves() {
    let model = load(&TinyModel::qwen2());
    let text = "def f(x):\n    return x + 1\n\n".repeat(12);
    let tokens = model.encode(&text).expect("encodes");
    let measured = hapa_model::eval::perplexity(&model, &text, 32).expect("measures");
    let mut sum = 0.0;
    let mut count = 0;
    for chunk in tokens.chunks_exact(32) {
        let scores = model.score(chunk.to_vec()).expect("scores");
        // `scores[i]` is that of token i + 1; tokens 17 to 31 are scored.
        sum += scores[16..].iter().map(|&s| f64::from(s)).sum::<f64>();
        count += 15;
    }
    assert_eq!(measured.tokens, count);
    assert_eq!(measured.chunks, tokens.len() / 32);
    let expected = (-sum / count as f64).exp();
    assert!((measured.perplexity / expected - 1.0).abs() < 1e-4, "{measured:?} for {expected}");
    assert!(hapa_model::eval::perplexity(&model, "x", 32).is_err());
    assert!(hapa_model::eval::perplexity(&model, &text, 3).is_err());
}
