//! The reference graph over tiny random models: chunks, batches, limits.

mod folders;
mod others;

use std::sync::Arc;

use super::{ReferenceBackend, load_gguf};
use crate::backend::{
    Backend, Chunk, Executor, ExecutorOptions, KvPrecision, LogitsFor, SequenceId, StepOutcome,
};
use crate::error::ModelError;
use crate::gguf::{GgmlType, GgufFile};
use crate::testing::TinyModel;

/// f32 products in another order differ by rounding only.
const F32_TOLERANCE: f32 = 2e-4;

fn options() -> ExecutorOptions {
    ExecutorOptions {
        context_tokens: 512,
        max_sequences: 8,
        kv_budget_bytes: 1 << 30,
        max_batch_tokens: 512,
        threads: 1,
        kv_precision: KvPrecision::F16,
    }
}

fn load(model: &TinyModel) -> ReferenceBackend {
    let file = GgufFile::from_bytes(model.to_bytes(), "tiny.gguf").expect("valid");
    ReferenceBackend::from_gguf(&file).expect("loads")
}

fn tokens(seed: u32, len: usize, vocab: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i * 7 + i * 13 + seed * 101) % vocab as u32).collect()
}

fn step(executor: &mut dyn Executor, chunks: &[(SequenceId, &[u32])]) -> Vec<f32> {
    let chunks: Vec<Chunk<'_>> = chunks
        .iter()
        .map(|&(sequence, tokens)| Chunk { sequence, tokens, logits: LogitsFor::All })
        .collect();
    let mut logits = Vec::new();
    assert_eq!(executor.step(&chunks, &mut logits).expect("computes"), StepOutcome::Done);
    logits
}

/// Logits of all tokens of one sequence, read at once.
fn whole(backend: &ReferenceBackend, tokens: &[u32]) -> Vec<f32> {
    let mut executor = backend.executor(&options()).expect("starts");
    let id = executor.open(tokens, 0).expect("opens").id;
    step(&mut *executor, &[(id, tokens)])
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "logits differ by {worst}");
    assert!(a.iter().all(|v| v.is_finite()));
}

fn models() -> Vec<(TinyModel, f32)> {
    vec![
        (TinyModel::llama(), F32_TOLERANCE),
        (TinyModel::llama().frequency_factors().untied(), F32_TOLERANCE),
        (TinyModel::qwen2(), F32_TOLERANCE),
        (TinyModel::qwen3().untied(), F32_TOLERANCE),
        (TinyModel::qwen2().weights(GgmlType::F16), F32_TOLERANCE),
        (TinyModel::llama().weights(GgmlType::BF16), F32_TOLERANCE),
        (TinyModel::qwen2().weights(GgmlType::Q8_0), F32_TOLERANCE),
        (TinyModel::qwen2().weights(GgmlType::Q5_0), F32_TOLERANCE),
        (
            TinyModel::llama().weights(GgmlType::Q4K).weights_of("ffn_down", GgmlType::Q6K),
            F32_TOLERANCE,
        ),
    ]
}

#[test]
fn chunks_equal_the_whole() {
    for (model, tolerance) in models() {
        let backend = load(&model);
        let vocab = backend.config().vocab_size;
        let tokens = tokens(1, 90, vocab);
        let expected = whole(&backend, &tokens);
        let mut executor = backend.executor(&options()).expect("starts");
        let id = executor.open(&tokens, 0).expect("opens").id;
        let mut at = 0;
        let mut logits = Vec::new();
        for size in [1, 2, 17, 1, 40, 29] {
            logits.extend(step(&mut *executor, &[(id, &tokens[at..at + size])]));
            at += size;
        }
        assert_eq!(executor.len(id), 90);
        assert_close(&logits, &expected, tolerance);
    }
}

#[test]
fn a_batch_equals_each_alone() {
    for (model, tolerance) in models() {
        let backend = load(&model);
        let vocab = backend.config().vocab_size;
        let texts: Vec<Vec<u32>> = [3, 30, 1, 14]
            .iter()
            .enumerate()
            .map(|(i, &len)| tokens(i as u32, len, vocab))
            .collect();
        let mut executor = backend.executor(&options()).expect("starts");
        let ids: Vec<SequenceId> =
            texts.iter().map(|t| executor.open(t, 0).expect("opens").id).collect();
        let chunks: Vec<(SequenceId, &[u32])> =
            ids.iter().copied().zip(texts.iter().map(Vec::as_slice)).collect();
        let mut batched = &step(&mut *executor, &chunks)[..];
        for text in &texts {
            let (own, rest) = batched.split_at(text.len() * vocab);
            batched = rest;
            assert_close(own, &whole(&backend, text), tolerance);
        }
        assert!(batched.is_empty());
    }
}

#[test]
fn logits_come_for_the_wanted_rows_only() {
    let backend = load(&TinyModel::qwen2());
    let vocab = backend.config().vocab_size;
    let mut executor = backend.executor(&options()).expect("starts");
    let texts = [tokens(0, 5, vocab), tokens(1, 6, vocab), tokens(2, 7, vocab)];
    let wanted = [LogitsFor::Last, LogitsFor::Nothing, LogitsFor::All];
    let chunks: Vec<Chunk<'_>> = texts
        .iter()
        .zip(wanted)
        .map(|(tokens, logits)| Chunk {
            sequence: executor.open(tokens, 0).expect("opens").id,
            tokens,
            logits,
        })
        .collect();
    let mut logits = vec![1.0; 3];
    executor.step(&chunks, &mut logits).expect("computes");
    let (last, all) = logits.split_at(vocab);
    assert_close(last, &whole(&backend, &texts[0])[4 * vocab..], F32_TOLERANCE);
    assert_close(all, &whole(&backend, &texts[2]), F32_TOLERANCE);
}

#[test]
fn truncated_tokens_leave_no_trace() {
    let backend = load(&TinyModel::qwen3());
    let vocab = backend.config().vocab_size;
    let tokens_kept = tokens(0, 10, vocab);
    let mut executor = backend.executor(&options()).expect("starts");
    let id = executor.open(&tokens_kept, 0).expect("opens").id;
    step(&mut *executor, &[(id, &tokens_kept[..6])]);
    step(&mut *executor, &[(id, &tokens(9, 70, vocab))]);
    executor.truncate(id, 6);
    assert_eq!(executor.len(id), 6);
    let logits = step(&mut *executor, &[(id, &tokens_kept[6..])]);
    assert_close(&logits, &whole(&backend, &tokens_kept)[6 * vocab..], F32_TOLERANCE);
}

#[test]
fn every_token_changes_the_logits_of_the_last() {
    // Guards the tests above against a graph that ignores its past.
    for model in [TinyModel::llama(), TinyModel::qwen2(), TinyModel::qwen3()] {
        let backend = load(&model);
        let vocab = backend.config().vocab_size;
        let text = tokens(0, 12, vocab);
        let last = |text: &[u32]| whole(&backend, text).split_off((text.len() - 1) * vocab);
        let expected = last(&text);
        for at in 0..12 {
            let mut other = text.clone();
            other[at] = (other[at] + 1) % vocab as u32;
            let distance: f32 =
                last(&other).iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum();
            assert!(distance > 1e-3, "token {at} has no influence");
            let mut swapped = text.clone();
            swapped.swap(at, (at + 1) % 11);
            if swapped != text {
                let distance: f32 =
                    last(&swapped).iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum();
                assert!(distance > 1e-4, "the order of token {at} has no influence");
            }
        }
    }
}

#[test]
fn the_budget_is_kept_and_pages_come_back() {
    let backend = load(&TinyModel::qwen2());
    let vocab = backend.config().vocab_size;
    let page = super::kv::token_bytes(backend.config()) * super::kv::PAGE_TOKENS;
    let mut executor = backend
        .executor(&ExecutorOptions { kv_budget_bytes: 4 * page + 1, ..options() })
        .expect("starts");
    let text = tokens(0, 400, vocab);
    let a = executor.open(&text, 0).expect("opens").id;
    let b = executor.open(&text, 0).expect("opens").id;
    step(&mut *executor, &[(a, &text[..130])]);
    assert_eq!(executor.kv_usage().total_pages, 4);
    let too_much = [(a, &text[130..200]), (b, &text[..10])].map(|(sequence, tokens)| Chunk {
        sequence,
        tokens,
        logits: LogitsFor::Last,
    });
    let mut logits = Vec::new();
    assert_eq!(executor.step(&too_much, &mut logits).expect("says so"), StepOutcome::OutOfPages);
    assert_eq!((executor.len(a), executor.len(b)), (130, 0), "something was computed");
    assert!(logits.is_empty());
    executor.close(b);
    let all = step(&mut *executor, &[(a, &text[130..200])]);
    assert_close(&all, &whole(&backend, &text[..200])[130 * vocab..], F32_TOLERANCE);
    assert!(executor.kv_usage().held_pages <= 4);
    executor.close(a);
    assert_eq!(executor.kv_usage().held_pages, 0);
    let c = executor.open(&text, 0).expect("opens").id;
    step(&mut *executor, &[(c, &text[..256])]);
}

#[test]
fn wrong_chunks_are_refused() {
    let backend = load(&TinyModel::llama());
    let mut executor = backend
        .executor(&ExecutorOptions { context_tokens: 4, max_sequences: 1, ..options() })
        .expect("starts");
    let id = executor.open(&[1], 0).expect("opens").id;
    assert!(executor.open(&[1], 0).is_err());
    let mut logits = Vec::new();
    let mut try_chunk = |sequence, tokens: &[u32]| {
        let chunk = Chunk { sequence, tokens, logits: LogitsFor::Last };
        executor.step(&[chunk], &mut logits)
    };
    for (sequence, tokens) in [(SequenceId(99), &[1][..]), (id, &[]), (id, &[1, 2, 3, 4, 5])] {
        let error = try_chunk(sequence, tokens).expect_err("refused");
        assert!(matches!(error, ModelError::Engine { .. }), "{error}");
    }
    assert_eq!(try_chunk(id, &[1, 2, 3, 4]).expect("fits"), StepOutcome::Done);
}

#[test]
fn an_unknown_architecture_is_named() {
    let mut file = TinyModel::llama().writer();
    file.replace("general.architecture", crate::testing::WriterValue::String("mamba".into()));
    let file = GgufFile::from_bytes(file.to_bytes(), "tiny.gguf").expect("valid");
    let error = load_gguf(&Arc::clone(&file)).err().expect("refused");
    let ModelError::UnsupportedArchitecture { architecture, supported } = error else {
        panic!("{error}");
    };
    assert_eq!(architecture, "mamba");
    assert!(supported.contains("phi3") && supported.contains("qwen2"));
}
