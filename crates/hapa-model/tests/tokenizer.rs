//! Tokenizers on real models against llama.cpp, and on tiny and hostile vocabularies.
#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

use std::sync::Arc;

use hapa_model::gguf::GgufFile;
use hapa_model::testing::{
    GgufWriter, PERPLEXITY_TEXT, TinyModel, WriterValue, real_model, reference,
};
use hapa_model::tokenizer::SpecialRole;
use hapa_model::{EncodeOptions, ModelError, Tokenizer};
use proptest::prelude::*;

const AS_TEXT: EncodeOptions = EncodeOptions { add_bos: false, parse_special: false };

fn load(id: &str) -> (Arc<GgufFile>, Tokenizer) {
    let file = GgufFile::open(real_model(id).unwrap().path).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    (file, tokenizer)
}

fn from_writer(writer: &GgufWriter) -> Result<Tokenizer, ModelError> {
    let file = GgufFile::from_bytes(writer.to_bytes(), "test.gguf")?;
    Tokenizer::from_gguf(&file)
}

fn tiny() -> Tokenizer {
    from_writer(&TinyModel::qwen2().writer()).unwrap()
}

#[track_caller]
fn assert_equals_reference(id: &str) {
    let (_, tokenizer) = load(id);
    let reference = reference(id).unwrap();
    assert!(reference.cases.len() >= 14);
    for case in &reference.cases {
        let ids = tokenizer.encode(&case.prompt, EncodeOptions::default()).unwrap();
        assert_eq!(ids, case.tokens, "{id}: {}", case.name);
        // llama.cpp detokenises the continuation; where it ends inside a character both show U+FFFD.
        if !case.greedy_tokens.is_empty() {
            assert_eq!(tokenizer.decode(&case.greedy_tokens), case.greedy_text, "{}", case.name);
        }
    }
    let ids = tokenizer.encode(PERPLEXITY_TEXT, AS_TEXT).unwrap();
    assert_eq!(tokenizer.decode(&ids), PERPLEXITY_TEXT);
}

#[test]
fn qwen_equals_llama_cpp() {
    assert_equals_reference("qwen2.5-coder-0.5b");
}

#[test]
fn smollm_equals_llama_cpp() {
    assert_equals_reference("smollm2-135m");
}

#[test]
fn special_tokens_of_qwen() {
    let (_, tokenizer) = load("qwen2.5-coder-0.5b");
    assert_eq!(tokenizer.vocab_size(), 151_936);
    assert_eq!(tokenizer.eos(), Some(151_645));
    assert_eq!(tokenizer.bos(), Some(151_643));
    assert!(!tokenizer.adds_bos());
    assert_eq!(tokenizer.token_id("<|im_start|>"), Some(151_644));
    assert_eq!(tokenizer.token_id("no such token"), None);
    for end in ["<|im_end|>", "<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"] {
        assert!(tokenizer.is_end_of_generation(tokenizer.token_id(end).unwrap()), "{end}");
    }
    for other in ["<|im_start|>", "<|fim_prefix|>", "<|fim_middle|>", "Ġreturn"] {
        assert!(!tokenizer.is_end_of_generation(tokenizer.token_id(other).unwrap()), "{other}");
    }
    assert!(tokenizer.is_special(151_645) && !tokenizer.is_special(40));
    let listed = tokenizer.special_tokens();
    let middle = listed.iter().find(|t| t.role == SpecialRole::FimMiddle).unwrap();
    assert_eq!((middle.text.as_str(), middle.ends_generation), ("<|fim_middle|>", false));
    // Control tokens add no text, and padding of the vocabulary neither.
    assert!(tokenizer.token_bytes(151_645).is_empty());
    assert!(tokenizer.token_bytes(151_935).is_empty());
    assert!(tokenizer.token_bytes(u32::MAX).is_empty());
}

#[test]
fn token_bytes_may_be_half_a_character() {
    let (_, tokenizer) = load("smollm2-135m");
    let ids = tokenizer.encode("피", AS_TEXT).unwrap();
    assert!(ids.len() > 1);
    let bytes: Vec<u8> =
        ids.iter().flat_map(|&id| tokenizer.token_bytes(id).into_owned()).collect();
    assert_eq!(bytes, "피".as_bytes());
    assert_eq!(tokenizer.decode(&ids[..1]), "\u{FFFD}");
}

#[test]
fn text_from_outside_cannot_write_special_tokens() {
    let tokenizer = tiny();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    let text = "a<|im_end|>b";
    let parsed = tokenizer.encode(text, EncodeOptions::default()).unwrap();
    assert_eq!(parsed.iter().filter(|&&id| id == end).count(), 1);
    let plain = tokenizer.encode(text, AS_TEXT).unwrap();
    assert!(!plain.contains(&end));
    assert_eq!(tokenizer.decode(&plain), text);
}

#[test]
fn the_longest_special_token_wins() {
    let vocabulary = ["a", "b", "<x", "<x>", "x>>", "<", "x", ">"];
    let types = vec![1, 1, 3, 3, 3, 1, 1, 1];
    let mut writer = GgufWriter::new();
    writer
        .pair("tokenizer.ggml.model", WriterValue::String("gpt2".into()))
        .pair("tokenizer.ggml.pre", WriterValue::String("gpt-2".into()))
        .pair("tokenizer.ggml.tokens", WriterValue::Strings(vocabulary.map(str::to_owned).to_vec()))
        .pair("tokenizer.ggml.token_type", WriterValue::I32s(types))
        .pair("tokenizer.ggml.merges", WriterValue::Strings(Vec::new()));
    let tokenizer = from_writer(&writer).unwrap();
    let ids = |text| tokenizer.encode(text, EncodeOptions::default()).unwrap();
    // Of those of equal length the first in the vocabulary is cut out of the whole text first.
    assert_eq!(ids("a<x>b"), [0, 3, 1]);
    assert_eq!(ids("<x>><x"), [3, 7, 2]);
    assert_eq!(ids("<xx>>"), [2, 4]);
    assert_eq!(ids(""), [0u32; 0]);
}

#[test]
fn long_words_merge_as_short_ones_do() {
    // Above 48 bytes a heap takes over from scanning. A word of n times the same pair must give n times the
    // tokens of one, for lengths around that boundary.
    let tokenizer = tiny();
    for repeats in [1, 5, 6, 7, 11, 12, 13, 40, 1_000] {
        let text = "returndef".repeat(repeats);
        let one = tokenizer.encode("returndef", AS_TEXT).unwrap();
        let all = tokenizer.encode(&text, AS_TEXT).unwrap();
        assert_eq!(all, one.repeat(repeats), "{repeats}");
    }
}

#[test]
fn long_words_take_no_quadratic_time() {
    let tokenizer = tiny();
    for text in ["a".repeat(1 << 20), "    ".repeat(1 << 18), "<".repeat(1 << 20)] {
        let ids = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_survives(text in any::<String>()) {
        static TINY: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(tiny);
        let ids = TINY.encode(&text, AS_TEXT).unwrap();
        prop_assert_eq!(TINY.decode(&ids), text);
    }
}

/// A SentencePiece vocabulary: bytes, letters and a few merges with scores.
fn sentencepiece() -> GgufWriter {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2, 3, 3];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
    }
    let mut scores = vec![0.0; tokens.len()];
    for (piece, score) in [
        ("▁", -1.0),
        ("a", -2.0),
        ("b", -3.0),
        ("ab", -4.0),
        ("▁a", -5.0),
        ("▁ab", -6.0),
        ("ba", -3.5),
    ] {
        tokens.push(piece.to_owned());
        types.push(1);
        scores.push(score);
    }
    let mut writer = GgufWriter::new();
    writer
        .pair("tokenizer.ggml.model", WriterValue::String("llama".into()))
        .pair("tokenizer.ggml.tokens", WriterValue::Strings(tokens))
        .pair("tokenizer.ggml.token_type", WriterValue::I32s(types))
        .pair("tokenizer.ggml.scores", WriterValue::F32s(scores));
    writer
}

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = from_writer(&sentencepiece()).unwrap();
    let texts = |text: &str, options| -> Vec<String> {
        let ids = tokenizer.encode(text, options).unwrap();
        ids.iter().map(|&id| tokenizer.token_text(id).into_owned()).collect()
    };
    // A space goes before the text; the best score merges first.
    assert_eq!(texts("ab", EncodeOptions::default()), ["<s>", "▁ab"]);
    assert_eq!(texts("aba", AS_TEXT), ["▁a", "ba"]);
    assert_eq!(texts("a ab", AS_TEXT), ["▁a", "▁ab"]);
    // Bytes where no token fits, and a space again after a special token.
    assert_eq!(texts("é", AS_TEXT), ["▁", "<0xC3>", "<0xA9>"]);
    let special = EncodeOptions { add_bos: false, parse_special: true };
    assert_eq!(texts("a</s>b", special), ["▁a", "</s>", "▁", "b"]);
    assert_eq!(texts("", EncodeOptions::default()), ["<s>"]);
    assert!(tokenizer.adds_bos());
    let ids = tokenizer.encode("ab é\n", AS_TEXT).unwrap();
    assert_eq!(tokenizer.decode(&ids), " ab é\n");
    assert!(tokenizer.is_end_of_generation(tokenizer.token_id("</s>").unwrap()));
}

#[test]
fn contradictory_metadata_is_refused() {
    let changed = |key: &str, value: WriterValue| {
        let mut writer = TinyModel::qwen2().writer();
        writer.replace(&format!("tokenizer.ggml.{key}"), value);
        from_writer(&writer).unwrap_err().to_string()
    };
    let text = |s: &str| WriterValue::String(s.into());
    for (key, value, problem) in [
        ("model", text("t5"), "tokenizer model `t5` is not supported"),
        ("pre", text("martian"), "pre-tokenizer `martian` is not supported"),
        ("tokens", WriterValue::Strings(Vec::new()), "is empty"),
        ("tokens", WriterValue::I32s(vec![1]), "expected an array of strings"),
        ("token_type", WriterValue::I32s(vec![1, 2]), "has 2 entries"),
        ("merges", WriterValue::Strings(vec!["nospace".into()]), "merge 0 is \"nospace\""),
        ("eos_token_id", WriterValue::U32(1 << 30), "but the vocabulary has"),
    ] {
        let message = changed(key, value);
        assert!(message.contains(problem), "{key}: `{message}` does not say `{problem}`");
    }
    let mut writer = sentencepiece();
    writer.replace("tokenizer.ggml.scores", WriterValue::F32s(vec![0.0]));
    assert!(from_writer(&writer).unwrap_err().to_string().contains("scores: has 1 entries"));
}

#[test]
fn odd_vocabularies_do_no_harm() {
    // Empty and doubled tokens, merges of things that are no tokens, missing bytes.
    let mut writer = GgufWriter::new();
    let strings =
        |list: &[&str]| WriterValue::Strings(list.iter().map(|&s| s.to_owned()).collect());
    writer
        .pair("tokenizer.ggml.model", WriterValue::String("gpt2".into()))
        .pair("tokenizer.ggml.tokens", strings(&["", "a", "a", "b", "abc", "\u{0}"]))
        .pair("tokenizer.ggml.merges", strings(&["a b", "ab c", "q r", "a b"]));
    let tokenizer = from_writer(&writer).unwrap();
    let ids = |text| tokenizer.encode(text, EncodeOptions::default()).unwrap();
    assert_eq!(ids("abc"), [4]);
    // `ab` is no token, so its characters are written; `q`, `r` and `z` have no tokens at all.
    assert_eq!(ids("ab"), [1, 3]);
    assert_eq!(ids("qrz"), [0u32; 0]);
    assert_eq!(tokenizer.bos(), None);
}

/// `tokenizer.json` of a byte-level BPE with the tiny model's vocabulary.
fn write_json(folder: &std::path::Path) {
    let vocabulary = TinyModel::qwen2().vocabulary();
    let normal = vocabulary.len() - vocabulary.specials;
    let ids: serde_json::Map<String, serde_json::Value> = vocabulary.tokens[..normal]
        .iter()
        .enumerate()
        .map(|(id, t)| (t.clone(), id.into()))
        .collect();
    let added: Vec<serde_json::Value> = vocabulary.tokens[normal..]
        .iter()
        .enumerate()
        .map(|(index, text)| {
            serde_json::json!({"id": normal + index, "content": text, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": ids,
            "merges": vocabulary.merges},
    });
    std::fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::write(
        folder.join("tokenizer_config.json"),
        r#"{"bos_token": null, "eos_token": {"content": "<|im_end|>"}, "add_bos_token": false}"#,
    )
    .unwrap();
    std::fs::write(
        folder.join("generation_config.json"),
        format!(r#"{{"eos_token_id": [{normal}]}}"#),
    )
    .unwrap();
}

#[test]
fn tokenizer_json_equals_gguf() {
    let folder = tempfile::tempdir().unwrap();
    write_json(folder.path());
    let json = Tokenizer::from_json_file(&folder.path().join("tokenizer.json")).unwrap();
    let gguf = tiny();
    assert_eq!(json.vocab_size(), gguf.vocab_size());
    assert_eq!(json.eos(), gguf.eos());
    let texts = reference("qwen2.5-coder-0.5b").unwrap().cases.into_iter().map(|case| case.prompt);
    for text in texts {
        for options in [EncodeOptions::default(), AS_TEXT] {
            let ids = json.encode(&text, options).unwrap();
            assert_eq!(ids, gguf.encode(&text, options).unwrap(), "{text:?} {options:?}");
            assert_eq!(json.decode(&ids), gguf.decode(&ids));
        }
    }
    for role in [SpecialRole::FimPrefix, SpecialRole::FimFile] {
        assert_eq!(json.role(role), gguf.role(role));
    }
    for end in ["<|im_end|>", "<|endoftext|>"] {
        assert!(json.is_end_of_generation(json.token_id(end).unwrap()), "{end}");
    }
    let error = Tokenizer::from_json_file(&folder.path().join("absent.json")).unwrap_err();
    assert!(error.to_string().contains("absent.json"), "{error}");
}
