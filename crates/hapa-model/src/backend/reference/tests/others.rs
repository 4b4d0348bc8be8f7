//! A tiny phi3 through candle-transformers.

use super::{assert_close, options, step, tokens};
use crate::backend::reference::load_gguf;
use crate::backend::{Chunk, LogitsFor};
use crate::gguf::{GgmlType, GgufFile};
use crate::testing::{GgufWriter, WriterValue};

const HIDDEN: usize = 64;
const INNER: usize = 96;
const VOCAB: usize = 80;
const TOLERANCE: f32 = 1e-3;

/// Weights that differ everywhere.
fn weights(seed: u32, len: usize, spread: f32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..len)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            ((state as f32 / u32::MAX as f32 - 0.5) * spread).to_le_bytes()
        })
        .collect()
}

fn phi3() -> GgufWriter {
    let mut file = GgufWriter::new();
    file.pair("general.architecture", WriterValue::String("phi3".into()));
    for (key, value) in [
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("block_count", 2),
        ("embedding_length", HIDDEN),
        ("context_length", 128),
        ("feed_forward_length", INNER),
        ("rope.dimension_count", 16),
    ] {
        file.pair(format!("phi3.{key}"), WriterValue::U32(value as u32));
    }
    file.pair("phi3.attention.layer_norm_rms_epsilon", WriterValue::F32(1e-5));
    let mut matrix = |name: String, rows: usize, columns: usize| {
        let seed = name.bytes().fold(7, |seed: u32, byte| seed * 31 % 65_521 + u32::from(byte));
        file.tensor(name, GgmlType::F32, &[rows, columns], weights(seed, rows * columns, 0.4));
    };
    matrix("token_embd.weight".into(), VOCAB, HIDDEN);
    matrix("output.weight".into(), VOCAB, HIDDEN);
    for layer in 0..2 {
        // Queries for four heads, keys and values for two, 16 elements each.
        matrix(format!("blk.{layer}.attn_qkv.weight"), 8 * 16, HIDDEN);
        matrix(format!("blk.{layer}.attn_output.weight"), HIDDEN, 64);
        matrix(format!("blk.{layer}.ffn_up.weight"), 2 * INNER, HIDDEN);
        matrix(format!("blk.{layer}.ffn_down.weight"), HIDDEN, INNER);
    }
    let ones: Vec<u8> = std::iter::repeat_n(1f32.to_le_bytes(), HIDDEN).flatten().collect();
    for name in
        ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.attn_norm", "blk.1.ffn_norm"]
    {
        file.tensor(format!("{name}.weight"), GgmlType::F32, &[HIDDEN], ones.clone());
    }
    file
}

#[test]
fn chunks_batches_and_truncation_give_what_the_whole_gives() {
    let file = GgufFile::from_bytes(phi3().to_bytes(), "phi3.gguf").expect("valid");
    let backend = load_gguf(&file).expect("loads");
    assert_eq!(backend.name(), "candle-transformers");
    assert_eq!((backend.config().vocab_size, backend.config().context_length), (VOCAB, 128));
    let text = tokens(1, 30, VOCAB);
    let other = tokens(2, 12, VOCAB);
    let mut executor = backend.executor(&options()).expect("starts");
    let whole = executor.open(&text, 0).expect("opens").id;
    let expected = step(&mut *executor, &[(whole, &text)]);
    assert_eq!(expected.len(), 30 * VOCAB);
    assert!(expected.iter().all(|v| v.is_finite()));

    // Chunks without logits, then two sequences in one batch.
    let a = executor.open(&text, 0).expect("opens").id;
    let b = executor.open(&other, 0).expect("opens").id;
    let mut logits = Vec::new();
    for (from, to) in [(0, 9), (9, 20)] {
        let chunk = Chunk { sequence: a, tokens: &text[from..to], logits: LogitsFor::Nothing };
        executor.step(&[chunk], &mut logits).expect("computes");
        assert!(logits.is_empty());
    }
    let batch = [(a, &text[20..]), (b, &other[..])].map(|(sequence, tokens)| Chunk {
        sequence,
        tokens,
        logits: LogitsFor::Last,
    });
    executor.step(&batch, &mut logits).expect("computes");
    assert_close(&logits[..VOCAB], &expected[29 * VOCAB..], TOLERANCE);
    let next = step(&mut *executor, &[(b, &text[..1])]);
    assert!(next.iter().zip(&logits[VOCAB..]).any(|(a, b)| (a - b).abs() > 1e-3));

    executor.truncate(a, 10);
    assert_eq!(executor.len(a), 10);
    let again = step(&mut *executor, &[(a, &text[10..])]);
    assert_close(&again, &expected[10 * VOCAB..], TOLERANCE);
    executor.close(a);
    assert_eq!(executor.len(a), 0);
}

#[test]
fn missing_parts_are_errors_and_not_panics() {
    let mut file = phi3();
    file.replace("phi3.attention.head_count", WriterValue::U32(0));
    let file = GgufFile::from_bytes(file.to_bytes(), "phi3.gguf").expect("valid");
    assert!(load_gguf(&file).is_err());
    let mut file = GgufWriter::new();
    file.pair("general.architecture", WriterValue::String("glm4".into()));
    let file = GgufFile::from_bytes(file.to_bytes(), "glm4.gguf").expect("valid");
    assert!(load_gguf(&file).is_err());
}
