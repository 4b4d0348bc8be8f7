//! The cpu backend by its seam: chunks, batches, shared prefixes, taken-back drafts, and what it refuses.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use hapa_kernels::{GgmlType, PackedKind, dequantize_row};

use super::{CpuBackend, packed_path};
use crate::backend::{
    Backend, Chunk, Executor, ExecutorOptions, KvPrecision, LogitsFor, SequenceId, StepOutcome,
};
use crate::error::ModelError;
use crate::gguf::GgufFile;
use crate::store::{LoadEvent, NoProgress, ProgressSink};
use crate::testing::TinyModel;

/// Largest difference of two logits that may come from another order of the same additions.
const ROUNDING: f32 = 2e-3;

fn load(model: &TinyModel) -> (tempfile::TempDir, Arc<GgufFile>, CpuBackend) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write(&path).unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    let backend = CpuBackend::load((&gguf, "digest"), 2, &NoProgress).unwrap();
    (folder, gguf, backend)
}

fn options() -> ExecutorOptions {
    ExecutorOptions {
        context_tokens: 256,
        max_sequences: 8,
        kv_budget_bytes: 64 << 20,
        max_batch_tokens: 512,
        threads: 2,
        kv_precision: KvPrecision::F16,
    }
}

fn models() -> Vec<TinyModel> {
    vec![
        TinyModel::llama().weights(GgmlType::Q4_1).frequency_factors(),
        TinyModel::qwen2().weights(GgmlType::Q5_0).untied(),
        TinyModel::qwen3().weights(GgmlType::Q8_0),
        TinyModel::qwen2().weights(GgmlType::Q4K).weights_of("ffn_down", GgmlType::Q6K),
        TinyModel::llama().weights(GgmlType::F16),
    ]
}

fn step(executor: &mut dyn Executor, chunks: &[(SequenceId, &[u32], LogitsFor)]) -> Vec<f32> {
    let chunks: Vec<_> = chunks
        .iter()
        .map(|&(sequence, tokens, logits)| Chunk { sequence, tokens, logits })
        .collect();
    let mut logits = Vec::new();
    assert_eq!(executor.step(&chunks, &mut logits).unwrap(), StepOutcome::Done);
    logits
}

fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= ROUNDING * scale, "logit {i}: {x} and {y}");
    }
}

fn prompt(length: usize, seed: u32) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 7 + seed * 13 + i * i % 11) % 200).collect()
}

#[test]
fn a_prompt_in_chunks_gives_what_the_whole_gives() {
    for model in models() {
        let (_folder, _, backend) = load(&model);
        let mut executor = backend.executor(&options()).unwrap();
        let tokens = prompt(75, 1);
        let whole = executor.open(&tokens, 1).unwrap().id;
        let all = step(&mut *executor, &[(whole, &tokens, LogitsFor::All)]);
        let vocab = backend.config().vocab_size;
        assert_eq!(all.len(), 75 * vocab);
        let parts = executor.open(&tokens, 2).unwrap().id;
        let mut last = Vec::new();
        for part in tokens.chunks(17) {
            last = step(&mut *executor, &[(parts, part, LogitsFor::Last)]);
        }
        assert_close(&last, &all[74 * vocab..]);
        let middle = executor.open(&tokens, 3).unwrap().id;
        assert!(step(&mut *executor, &[(middle, &tokens[..40], LogitsFor::Nothing)]).is_empty());
        let last = step(&mut *executor, &[(middle, &tokens[40..], LogitsFor::Last)]);
        assert_close(&last, &all[74 * vocab..]);
    }
}

#[test]
fn keys_and_values_in_bytes_hold_more_tokens_and_give_nearly_the_same_logits() {
    for model in models() {
        let (_folder, _, backend) = load(&model);
        let tokens = prompt(75, 1);
        let run = |kv_precision| {
            let options = ExecutorOptions { kv_budget_bytes: 256 << 10, kv_precision, ..options() };
            let mut executor = backend.executor(&options).unwrap();
            let id = executor.open(&tokens, 1).unwrap().id;
            let logits = step(&mut *executor, &[(id, &tokens, LogitsFor::All)]);
            (logits, executor.kv_usage())
        };
        let (exact, halves) = run(KvPrecision::F16);
        let (coarse, bytes) = run(KvPrecision::Q8);
        assert!(bytes.total_pages > halves.total_pages * 3 / 2, "{bytes:?} {halves:?}");
        let scale = exact.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        let worst = exact.iter().zip(&coarse).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
        assert!(worst > 0.0, "bytes are as exact as halves: the option does nothing");
        assert!(worst < 0.05 * scale, "{worst} of {scale}");
    }
}

#[test]
fn batched_gives_what_alone_gives() {
    for model in models() {
        let (_folder, _, backend) = load(&model);
        let vocab = backend.config().vocab_size;
        let mut executor = backend.executor(&options()).unwrap();
        let prompts: Vec<Vec<u32>> = (0..8).map(|i| prompt(3 + 9 * i, i as u32)).collect();
        let mut alone = Vec::new();
        for tokens in &prompts {
            let id = executor.open(tokens, 1).unwrap().id;
            alone.push(step(&mut *executor, &[(id, tokens, LogitsFor::Last)]));
            alone.push(step(&mut *executor, &[(id, &[5], LogitsFor::Last)]));
            executor.close(id);
        }
        let ids: Vec<_> = prompts.iter().map(|p| executor.open(p, 2).unwrap().id).collect();
        let chunks: Vec<_> =
            ids.iter().zip(&prompts).map(|(&id, p)| (id, &p[..], LogitsFor::Last)).collect();
        let first = step(&mut *executor, &chunks);
        let chunks: Vec<_> = ids.iter().map(|&id| (id, &[5][..], LogitsFor::Last)).collect();
        let second = step(&mut *executor, &chunks);
        for i in 0..8 {
            assert_close(&first[i * vocab..(i + 1) * vocab], &alone[2 * i]);
            assert_close(&second[i * vocab..(i + 1) * vocab], &alone[2 * i + 1]);
        }
    }
}

#[test]
fn a_shared_prefix_is_computed_once_and_gives_the_same_logits() {
    let (_folder, _, backend) = load(&TinyModel::qwen2().weights(GgmlType::Q5_0));
    let mut executor = backend.executor(&options()).unwrap();
    let tokens = prompt(100, 3);
    let first = executor.open(&tokens, 7).unwrap();
    assert_eq!(first.cached_tokens, 0);
    let fresh = step(&mut *executor, &[(first.id, &tokens, LogitsFor::Last)]);
    executor.close(first.id);
    assert_eq!(executor.kv_usage().held_pages, 0);
    let again = executor.open(&tokens, 7).unwrap();
    assert_eq!(again.cached_tokens, 99);
    let reused = step(&mut *executor, &[(again.id, &tokens[99..], LogitsFor::Last)]);
    assert_close(&fresh, &reused);
    // Parts within a page: the copy must not disturb the page that it was made of.
    let mut other = tokens.clone();
    other[50] = 199;
    let parted = executor.open(&other, 7).unwrap();
    assert_eq!(parted.cached_tokens, 50);
    step(&mut *executor, &[(parted.id, &other[50..], LogitsFor::Last)]);
    step(&mut *executor, &[(again.id, &[1], LogitsFor::Last)]);
    executor.truncate(again.id, 99);
    let reused = step(&mut *executor, &[(again.id, &tokens[99..], LogitsFor::Last)]);
    assert_close(&fresh, &reused);
}

#[test]
fn a_row_is_the_same_to_the_last_bit_in_any_company() {
    for model in models() {
        let (_folder, _, backend) = load(&model);
        let vocab = backend.config().vocab_size;
        let mut executor = backend.executor(&options()).unwrap();
        assert!(executor.rows_are_independent());
        let tokens = prompt(150, 5);
        let alone = executor.open(&tokens, 1).unwrap().id;
        let mut single = Vec::new();
        for token in tokens.chunks(1) {
            single.extend(step(&mut *executor, &[(alone, token, LogitsFor::Last)]));
        }
        for size in [2, 3, 5, 8, 13, 33, 64, 150] {
            let parts = executor.open(&tokens, 1 + size as u64).unwrap().id;
            let company = executor.open(&tokens[1..], 1 + size as u64).unwrap().id;
            let mut batched = Vec::new();
            for part in tokens.chunks(size) {
                let chunks =
                    [(company, &part[..1], LogitsFor::Last), (parts, part, LogitsFor::All)];
                batched.extend_from_slice(&step(&mut *executor, &chunks)[vocab..]);
            }
            let differ = single.iter().zip(&batched).position(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(differ.map(|at| (at / vocab, at % vocab)), None, "chunks of {size}");
            executor.close(parts);
            executor.close(company);
        }
    }
}

#[test]
fn pages_that_another_sequence_computes_are_adopted() {
    let (_folder, _, backend) = load(&TinyModel::qwen2().weights(GgmlType::Q5_0));
    let mut executor = backend.executor(&options()).unwrap();
    let tokens = prompt(100, 3);
    let first = executor.open(&tokens, 7).unwrap().id;
    let second = executor.open(&tokens, 7).unwrap().id;
    let fresh = step(&mut *executor, &[(first, &tokens, LogitsFor::Last)]);
    assert_eq!(executor.adopt(second, &tokens), 96);
    assert_eq!(executor.len(second), 96);
    assert_eq!(step(&mut *executor, &[(second, &tokens[96..], LogitsFor::Last)]), fresh);
}

#[test]
fn drafts_that_are_taken_back_leave_no_trace() {
    let (_folder, _, backend) = load(&TinyModel::llama().weights(GgmlType::Q4_1));
    let mut executor = backend.executor(&options()).unwrap();
    let tokens = prompt(60, 4);
    let id = executor.open(&tokens, 0).unwrap().id;
    step(&mut *executor, &[(id, &tokens, LogitsFor::Last)]);
    step(&mut *executor, &[(id, &[9, 8, 7, 6, 5], LogitsFor::All)]);
    executor.truncate(id, 61);
    assert_eq!(executor.len(id), 61);
    let after = step(&mut *executor, &[(id, &[3], LogitsFor::Last)]);
    let mut plain = tokens.clone();
    plain.extend([9, 3]);
    let other = executor.open(&plain, 1).unwrap().id;
    assert_close(&after, &step(&mut *executor, &[(other, &plain, LogitsFor::Last)]));
}

#[test]
fn exhaustion_is_an_outcome_and_closing_makes_room() {
    let (_folder, _, backend) = load(&TinyModel::llama());
    let two_pages = {
        let one = backend.executor(&ExecutorOptions { kv_budget_bytes: 0, ..options() }).unwrap();
        assert_eq!(one.kv_usage().total_pages, 1, "at least one page");
        let big = backend.executor(&options()).unwrap().kv_usage();
        assert_eq!(big.page_tokens, 32);
        // 8 sequences of 256 tokens and a page each for copies bound what is of use.
        assert!(big.total_pages <= 8 * 9);
        ExecutorOptions { kv_budget_bytes: 0, ..options() }
    };
    let mut executor = backend.executor(&two_pages).unwrap();
    let a = executor.open(&prompt(20, 1), 0).unwrap().id;
    let b = executor.open(&prompt(20, 2), 0).unwrap().id;
    step(&mut *executor, &[(a, &prompt(20, 1), LogitsFor::Last)]);
    let tokens = prompt(20, 2);
    let chunk = Chunk { sequence: b, tokens: &tokens, logits: LogitsFor::Last };
    let mut logits = vec![1.0];
    assert_eq!(executor.step(&[chunk], &mut logits).unwrap(), StepOutcome::OutOfPages);
    assert!(logits.is_empty());
    executor.close(a);
    assert_eq!(executor.step(&[chunk], &mut logits).unwrap(), StepOutcome::Done);
    executor.close(b);
    assert_eq!(executor.kv_usage().held_pages, 0);
}

#[test]
fn wrong_chunks_are_refused_before_anything_is_computed() {
    let (_folder, _, backend) = load(&TinyModel::llama());
    let mut executor =
        backend.executor(&ExecutorOptions { max_sequences: 1, ..options() }).unwrap();
    let id = executor.open(&[1, 2, 3], 0).unwrap().id;
    let long = vec![1; 257];
    let cases: [&[(SequenceId, &[u32])]; 5] = [
        &[(SequenceId(99), &[1])],
        &[(id, &[])],
        &[(id, &long)],
        &[(id, &[u32::MAX])],
        &[(id, &[1]), (id, &[2])],
    ];
    for case in cases {
        let chunks: Vec<_> = case
            .iter()
            .map(|&(sequence, tokens)| Chunk { sequence, tokens, logits: LogitsFor::Last })
            .collect();
        let error = executor.step(&chunks, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, ModelError::Engine { .. }), "{error}");
        assert_eq!(executor.len(id), 0);
    }
    assert!(executor.open(&[1], 0).is_err(), "one sequence is the limit");
}

fn packable() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.into_iter().filter(|ty| PackedKind::for_ggml(*ty).is_some())
}

#[test]
fn embeddings_are_those_of_the_file_to_the_last_bit_whatever_becomes_of_the_file() {
    for model in packable().flat_map(|ty| {
        let tied = TinyModel::qwen2().weights(ty);
        [tied.clone().untied(), tied]
    }) {
        let (_folder, gguf, backend) = load(&model);
        let table = gguf.require_tensor("token_embd.weight").unwrap();
        let (ty, shape) = (table.ty, table.shape.clone());
        let mut rows = vec![0.0; shape[0] * shape[1]];
        let row_bytes = table.bytes / shape[0];
        let bytes = gguf.tensor_bytes(table).chunks_exact(row_bytes);
        for (row, out) in bytes.zip(rows.chunks_exact_mut(shape[1])) {
            dequantize_row(ty, row, out).unwrap();
        }
        let path = gguf.path().to_owned();
        drop(gguf);
        // Pages of the file that were mapped still would be a fatal signal when they are read now.
        File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        let tokens: Vec<u32> = (0..shape[0] as u32).rev().collect();
        let mut found = vec![0.0; rows.len()];
        backend.weights.embed(&tokens, &mut found).unwrap();
        for (found, row) in found.chunks_exact(shape[1]).rev().zip(rows.chunks_exact(shape[1])) {
            assert!(found.iter().zip(row).all(|(a, b)| a.to_bits() == b.to_bits()), "{ty}");
        }
    }
}

#[test]
fn only_an_embedding_that_is_not_packed_already_takes_room_of_its_own() {
    for ty in packable() {
        let packed = |model: &TinyModel| {
            let (folder, gguf, _) = load(model);
            let table = gguf.require_tensor("token_embd.weight").unwrap().bytes;
            let file = packed_path(&folder.path().join("tiny.gguf"));
            (std::fs::metadata(file).unwrap().len() as usize, table)
        };
        let tied = TinyModel::qwen2().weights(ty);
        let ((own, table), (shared, _)) = (packed(&tied.clone().untied()), packed(&tied));
        // Q2_K is packed as eight bits, which are not its weights to the last bit.
        if ty == GgmlType::Q2K {
            assert!(own.abs_diff(shared) < 64, "{ty}: {own} {shared}");
        } else {
            assert!((table..table + 256).contains(&(own - shared)), "{ty}: {own} {shared}");
        }
    }
}

#[test]
fn a_file_that_is_written_while_it_is_packed_is_not_kept() {
    struct Writing(PathBuf);
    impl ProgressSink for Writing {
        fn event(&self, event: &LoadEvent) {
            if let LoadEvent::Packing { done: 3, .. } = event {
                // Longer, since a clock may not have moved on since the file was made.
                File::options().append(true).open(&self.0).unwrap().write_all(b"more").unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::llama().write(&path).unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    let error = CpuBackend::load((&gguf, "digest"), 1, &Writing(path.clone())).unwrap_err();
    assert!(
        matches!(&error, ModelError::FileChanged { path: changed } if *changed == path),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    drop(gguf);
    let gguf = GgufFile::open(&path).unwrap();
    assert!(CpuBackend::load((&gguf, "digest"), 1, &NoProgress).is_ok());
}

#[test]
fn a_tensor_that_the_graph_does_not_know_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    // The qwen3 file has head norms that the llama graph would leave out.
    let mut bytes = TinyModel::qwen3().to_bytes();
    let at = bytes.windows(13).position(|w| w == b"attn_q_norm.w").unwrap();
    bytes[at..at + 13].copy_from_slice(b"attn_q_nurm.w");
    std::fs::write(&path, bytes).unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    assert!(CpuBackend::load((&gguf, "digest"), 1, &NoProgress).is_err());
}

#[test]
fn a_cancelled_load_stops_packing() {
    struct Cancelled;
    impl ProgressSink for Cancelled {
        fn event(&self, _: &LoadEvent) {}
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::llama().write(&path).unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    let error = CpuBackend::load((&gguf, "digest"), 1, &Cancelled).unwrap_err();
    assert!(matches!(error, ModelError::LoadAbandoned), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}
