//! The key: golden vectors, and that every field counts.

#[path = "model/fields.rs"]
mod fields;

use fields::{Field, encode};
use hapa_cache::{CacheError, Digest, KEY_VERSION, RequestKey, SamplingKey, StreamShape};
use proptest::prelude::*;
use std::collections::HashSet;

fn base() -> RequestKey<'static> {
    RequestKey {
        namespace: "team-a",
        model_digest: "sha256:0123",
        template: "generate/3",
        task: "generate",
        prompt: "Write a function that adds two numbers.",
        context: Some("import math\n"),
        language: "python",
        file_path: Some("src/app.py"),
        parts: &[("suffix", "\nprint(add(1, 2))\n")],
        sampling: SamplingKey {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.1,
            repetition_window: 64,
            seed: Some(42),
        },
        max_tokens: 256,
        stop: &[],
        shape: StreamShape { logprobs: None },
    }
}

/// These digests must never change within one `KEY_VERSION`: stored answers hang on them.
#[test]
fn golden_vectors() {
    assert_eq!(KEY_VERSION, 1, "a new version needs new golden vectors");
    let stops = ["\n\n".to_owned(), "def ".to_owned()];
    let full = RequestKey { stop: &stops, ..base() };
    let minimal = RequestKey::default();
    let text = [full, minimal]
        .iter()
        .map(|request| {
            let digest = request.digest().unwrap();
            let context = digest.context_hash.map_or("-".to_owned(), |hash| hash.to_hex());
            format!("{}\n  prompt {}\n  context {context}\n", digest.key, digest.prompt_hash)
        })
        .collect::<String>();
    insta::assert_snapshot!(text);
}

#[test]
fn the_prompt_hash_is_plain_blake3() {
    // BLAKE3's published test vector for no input.
    let empty = RequestKey::default().digest().unwrap().prompt_hash;
    assert_eq!(empty.to_hex(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    assert_eq!(empty, Digest::of(b""));
}

#[test]
fn every_field_counts() {
    let stop = ["x".to_owned()];
    let sampling = base().sampling;
    let changed = [
        base(),
        RequestKey { namespace: "team-b", ..base() },
        RequestKey { model_digest: "sha256:0124", ..base() },
        RequestKey { template: "generate/4", ..base() },
        RequestKey { task: "chat", ..base() },
        RequestKey { prompt: "Write a function that adds two numbers!", ..base() },
        RequestKey { context: Some("import math"), ..base() },
        RequestKey { context: Some(""), ..base() },
        RequestKey { context: None, ..base() },
        RequestKey { language: "rust", ..base() },
        RequestKey { file_path: Some("src/App.py"), ..base() },
        RequestKey { file_path: Some(""), ..base() },
        RequestKey { file_path: None, ..base() },
        RequestKey { parts: &[], ..base() },
        RequestKey { parts: &[("suffi", "x\nprint(add(1, 2))\n")], ..base() },
        RequestKey { parts: &[("a", "b"), ("c", "d")], ..base() },
        RequestKey { parts: &[("c", "d"), ("a", "b")], ..base() },
        RequestKey { max_tokens: 257, ..base() },
        RequestKey { stop: &stop, ..base() },
        RequestKey { shape: StreamShape { logprobs: Some(0) }, ..base() },
        RequestKey { shape: StreamShape { logprobs: Some(5) }, ..base() },
        RequestKey { sampling: SamplingKey { temperature: 0.8, ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { temperature: 0.0, ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { top_k: 41, ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { top_p: 0.9, ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { min_p: 0.0, ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { repetition_penalty: 1.0, ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { repetition_window: 65, ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { seed: Some(43), ..sampling }, ..base() },
        RequestKey { sampling: SamplingKey { seed: None, ..sampling }, ..base() },
    ];
    let keys: HashSet<_> = changed.iter().map(|request| request.digest().unwrap().key).collect();
    assert_eq!(keys.len(), changed.len(), "two different requests share a key");
}

#[test]
fn what_can_not_change_a_greedy_answer_is_left_out() {
    let greedy = |top_k, seed, temperature| RequestKey {
        sampling: SamplingKey { temperature, top_k, seed, ..base().sampling },
        ..base()
    };
    let key = greedy(1, Some(1), 0.0).digest().unwrap().key;
    assert_eq!(greedy(50, None, 0.0).digest().unwrap().key, key);
    assert_eq!(greedy(50, None, -0.0).digest().unwrap().key, key, "-0 is 0");
    // The penalty moves logits, so it counts at temperature 0 too.
    let sampling = SamplingKey { repetition_penalty: 1.2, ..greedy(1, None, 0.0).sampling };
    assert_ne!(RequestKey { sampling, ..base() }.digest().unwrap().key, key);
}

#[test]
fn nan_and_infinities_are_refused_by_name() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for temperature in [0.0, 0.5] {
            let sampling = SamplingKey { temperature, top_p: bad, ..base().sampling };
            let error = RequestKey { sampling, ..base() }.digest().unwrap_err();
            assert!(matches!(error, CacheError::NotFinite { field: "top_p", .. }), "{error}");
        }
        let sampling = SamplingKey { temperature: bad, ..base().sampling };
        assert!(RequestKey { sampling, ..base() }.digest().is_err());
    }
}

fn field() -> impl Strategy<Value = Field> {
    let text = || "[ab\u{0}é]{0,4}";
    prop_oneof![
        text().prop_map(Field::Text),
        Just(Field::Absent),
        (0u64..4).prop_map(Field::Unsigned),
        prop::collection::vec(text(), 0..3).prop_map(Field::Texts),
        prop::collection::vec((text(), text()), 0..3).prop_map(Field::Pairs),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

    /// Different field lists have different bytes: nothing runs into its neighbour.
    #[test]
    fn the_encoding_is_injective(
        a in prop::collection::vec((0u8..3, field()), 0..4),
        b in prop::collection::vec((0u8..3, field()), 0..4),
    ) {
        prop_assert_eq!(a == b, encode(&a).as_bytes() == encode(&b).as_bytes());
    }
}
