//! The GGUF reader on good, bad and hostile files.

use hapa_model::gguf::{GgmlType, GgufFile, Value};
use hapa_model::testing::{GgufWriter, TinyModel, WriterValue};
use hapa_model::{ModelConfig, ModelError, RopePairing};
use proptest::prelude::*;

const F32: u32 = 0;
const Q4_0: u32 = 2;

/// Field and problem of the error that these bytes give.
fn rejection(bytes: Vec<u8>) -> (String, String) {
    match GgufFile::from_bytes(bytes, "bad.gguf") {
        Err(ModelError::InvalidGguf { path, field, problem }) => {
            assert_eq!(path.to_str(), Some("bad.gguf"));
            (field, problem)
        }
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("the file was accepted"),
    }
}

#[track_caller]
fn assert_rejected(bytes: Vec<u8>, field: &str, problem: &str) {
    let (found_field, found_problem) = rejection(bytes);
    assert!(
        found_field.contains(field) && found_problem.contains(problem),
        "`{found_field}: {found_problem}` does not say `{field}: {problem}`"
    );
}

fn header(version: u32, tensors: u64, pairs: u64) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(pairs.to_le_bytes());
    bytes
}

fn with_pair(value: WriterValue) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.pair("key", value);
    writer.to_bytes()
}

fn with_tensor(dimensions: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.raw_tensor("weight", dimensions, type_id, offset);
    writer.to_bytes()
}

#[test]
fn reads_what_was_written() {
    let mut writer = GgufWriter::new();
    writer
        .pair("text", WriterValue::String("안녕".into()))
        .pair("count", WriterValue::U8(7))
        .pair("minus", WriterValue::I32(-7))
        .pair("scale", WriterValue::F32(0.5))
        .pair("flag", WriterValue::Bool(true))
        .pair("words", WriterValue::Strings(vec!["a".into(), String::new(), "ccc".into()]))
        .pair("numbers", WriterValue::I32s(vec![1, -2, 3]))
        .pair("floats", WriterValue::F32s(vec![1.5, 2.5]))
        .tensor("first", GgmlType::F32, &[2, 3], vec![1; 24])
        .tensor("second", GgmlType::Q8_0, &[1, 32], vec![2; 34]);
    let file = GgufFile::from_bytes(writer.to_bytes(), "good.gguf").unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.str("text").unwrap(), "안녕");
    assert_eq!(metadata.u64("count").unwrap(), 7);
    assert!(matches!(metadata.get("minus"), Some(Value::I32(-7))));
    assert_eq!(metadata.f32("scale").unwrap(), 0.5);
    assert!(metadata.bool("flag").unwrap());
    let words = metadata.strings("words").unwrap();
    assert_eq!(words.iter().collect::<Vec<_>>(), ["a", "", "ccc"]);
    assert_eq!((words.get(2), words.get(3)), (Some("ccc"), None));
    assert_eq!(metadata.opt_i32s("numbers").unwrap(), Some(vec![1, -2, 3]));
    assert_eq!(metadata.opt_f32s("floats").unwrap(), Some(vec![1.5, 2.5]));
    assert_eq!(metadata.opt_str("absent").unwrap(), None);

    let first = file.tensor("first").unwrap();
    assert_eq!((first.shape.as_slice(), first.elements()), ([2, 3].as_slice(), 6));
    assert_eq!(file.tensor_bytes(first), [1; 24]);
    let second = file.tensor("second").unwrap();
    assert_eq!(second.offset % 32, 0);
    assert_eq!(file.tensor_bytes(second), [2; 34]);
    assert!(file.tensor("third").is_none());
}

#[test]
fn typed_access_names_the_key_and_both_types() {
    let mut writer = GgufWriter::new();
    writer.pair("text", WriterValue::String("x".into())).pair("minus", WriterValue::I32(-7));
    let file = GgufFile::from_bytes(writer.to_bytes(), "good.gguf").unwrap();
    let message = |error: ModelError| error.to_string();
    let metadata = file.metadata();
    assert!(
        message(metadata.u64("text").unwrap_err())
            .contains("text: is a string, expected an unsigned integer")
    );
    assert!(message(metadata.u64("minus").unwrap_err()).contains("I32(-7)"));
    assert!(
        message(metadata.str("absent").unwrap_err())
            .contains("absent: is missing, expected a string")
    );
}

#[test]
fn version_2_is_read_and_others_are_not() {
    assert!(GgufFile::from_bytes(GgufWriter::new().version(2).to_bytes(), "v2").is_ok());
    assert_rejected(header(1, 0, 0), "version", "is 1, expected 2 or 3");
    assert_rejected(header(4, 0, 0), "version", "is 4");
    assert_rejected(header(3u32.swap_bytes(), 0, 0), "version", "big endian");
}

#[test]
fn wrong_magic() {
    assert_rejected(b"GGML\x03\0\0\0".to_vec(), "magic", "is \"GGML\", expected \"GGUF\"");
    assert_rejected(b"PK\x03\x04 a zip file".to_vec(), "magic", "PK");
    assert_rejected(Vec::new(), "magic", "truncated");
    assert_rejected(b"GG".to_vec(), "magic", "truncated");
}

#[test]
fn alignment_of_zero_in_57_bytes() {
    // The file that panics candle's reader.
    let mut bytes = header(3, 0, 1);
    bytes.extend(17u64.to_le_bytes());
    bytes.extend(b"general.alignment");
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    assert_eq!(bytes.len(), 57);
    assert_rejected(bytes, "general.alignment", "U32(0), expected a power of two");
}

#[test]
fn alignments_that_are_no_small_power_of_two() {
    for value in [
        WriterValue::U32(3),
        WriterValue::U32(1 << 30),
        WriterValue::U64(1 << 63),
        WriterValue::String("32".into()),
        WriterValue::I32(-32),
    ] {
        let mut writer = GgufWriter::new();
        writer.pair("general.alignment", value);
        assert_rejected(writer.to_bytes(), "general.alignment", "power of two");
    }
    let mut writer = GgufWriter::new().alignment(64);
    writer
        .pair("general.alignment", WriterValue::U32(64))
        .tensor("a", GgmlType::F32, &[1], vec![0; 4])
        .tensor("b", GgmlType::F32, &[1], vec![0; 4]);
    let file = GgufFile::from_bytes(writer.to_bytes(), "aligned").unwrap();
    assert_eq!(file.tensors()[1].offset - file.tensors()[0].offset, 64);
}

#[test]
fn counts_beyond_the_file() {
    assert_rejected(header(3, u64::MAX, 0), "tensor count", "at most 0");
    assert_rejected(header(3, 0, u64::MAX), "metadata count", "at most 0");
    assert_rejected(header(3, 0, 1 << 40), "metadata count", "room");
    // A string, an array of strings and an array of numbers that claim more than there is.
    assert_rejected(with_pair(WriterValue::Raw(8, u64::MAX.to_le_bytes().to_vec())), "key", "room");
    for element in [0u32, 8, 12] {
        let mut raw = element.to_le_bytes().to_vec();
        raw.extend((1u64 << 61).to_le_bytes());
        assert_rejected(with_pair(WriterValue::Raw(9, raw)), "key", "room");
    }
}

#[test]
fn values_of_no_known_type() {
    assert_rejected(with_pair(WriterValue::Raw(13, vec![0; 64])), "key", "value type 13");
    let mut raw = 99u32.to_le_bytes().to_vec();
    raw.extend(1u64.to_le_bytes());
    raw.resize(64, 0);
    assert_rejected(with_pair(WriterValue::Raw(9, raw)), "key", "value type 99");
    assert_rejected(with_pair(WriterValue::Raw(7, vec![2])), "key", "bool of value 2");
}

#[test]
fn nested_arrays_are_refused_at_any_depth() {
    let mut raw = Vec::new();
    for _ in 0..100_000 {
        raw.extend(9u32.to_le_bytes());
        raw.extend(1u64.to_le_bytes());
    }
    assert_rejected(with_pair(WriterValue::Raw(9, raw)), "key", "array of arrays");
}

#[test]
fn keys_and_strings() {
    let mut writer = GgufWriter::new();
    writer.pair("twice", WriterValue::U8(1)).pair("twice", WriterValue::U8(2));
    assert_rejected(writer.to_bytes(), "twice", "appears twice");
    let mut writer = GgufWriter::new();
    writer.pair("", WriterValue::U8(1));
    assert_rejected(writer.to_bytes(), "metadata key 0", "has 0 bytes");
    let mut writer = GgufWriter::new();
    writer.pair("k".repeat(65_536), WriterValue::U8(1));
    assert_rejected(writer.to_bytes(), "metadata key 0", "65536 bytes");
    let mut raw = 2u64.to_le_bytes().to_vec();
    raw.extend([0xC3, 0x28]);
    assert_rejected(with_pair(WriterValue::Raw(8, raw)), "key", "not UTF-8");
}

#[test]
fn tensor_shapes() {
    assert_rejected(with_tensor(&[], F32, 0), "`weight`, dimension count", "is 0, expected 1 to 4");
    assert_rejected(with_tensor(&[1; 5], F32, 0), "dimension count", "is 5");
    assert_rejected(with_tensor(&[4, 0], F32, 0), "shape", "no dimension of zero");
    assert_rejected(with_tensor(&[31], Q4_0, 0), "shape", "multiple of 32");
    // Products that overflow 64 bits, or wrap to something small.
    assert_rejected(with_tensor(&[1 << 32, 1 << 32], F32, 0), "shape", "fewer than 2^63");
    assert_rejected(with_tensor(&[1 << 62, 4, 4], F32, 0), "shape", "fewer than 2^63");
    assert_rejected(with_tensor(&[u64::MAX], F32, 0), "shape", "fewer than 2^63");
    assert_rejected(with_tensor(&[1 << 62], F32, 0), "shape", "fits memory");
    assert_rejected(with_tensor(&[1 << 40], F32, 0), "offset", "do not fit the file");
}

#[test]
fn tensor_types_and_names() {
    assert_rejected(with_tensor(&[32], 4, 0), "type", "is 4");
    assert_rejected(with_tensor(&[32], u32::MAX, 0), "type", "no known ggml type");
    let named = |names: &[String]| {
        let mut writer = GgufWriter::new();
        for name in names {
            writer.tensor(name.as_str(), GgmlType::F32, &[1], vec![0; 4]);
        }
        writer.to_bytes()
    };
    assert!(GgufFile::from_bytes(named(&["n".repeat(64)]), "64").is_ok());
    assert_rejected(named(&["n".repeat(65)]), "tensor 0, name", "65 bytes");
    assert_rejected(named(&[String::new()]), "tensor 0, name", "0 bytes");
    assert_rejected(named(&["a".into(), "a".into()]), "tensor 1, name", "twice");
}

#[test]
fn tensor_places() {
    assert_rejected(with_tensor(&[1], F32, 16), "offset", "multiple of the alignment 32");
    assert_rejected(with_tensor(&[1], F32, u64::MAX - 31), "offset", "do not fit");
    assert_rejected(with_tensor(&[1], F32, 1 << 40), "offset", "do not fit");
    let overlapping = |second_offset| {
        let mut writer = GgufWriter::new();
        writer.tensor("a", GgmlType::F32, &[16], vec![0; 64]).raw_tensor(
            "b",
            &[8],
            F32,
            second_offset,
        );
        let mut bytes = writer.to_bytes();
        bytes.resize(bytes.len() + 64, 0);
        bytes
    };
    assert_rejected(overlapping(32), "tensor `b`", "overlaps that of `a`");
    assert_rejected(overlapping(0), "offset", "overlaps");
    assert!(GgufFile::from_bytes(overlapping(64), "apart").is_ok());
}

#[test]
fn every_truncation_is_noticed() {
    let bytes = TinyModel::qwen2().to_bytes();
    let full = GgufFile::from_bytes(bytes.clone(), "full").unwrap();
    let end = full.tensors().iter().map(|t| t.offset as usize + t.bytes).max().unwrap();
    let header = full.tensors().iter().map(|t| t.offset as usize).min().unwrap();
    // Each length within the header, then steps through the data.
    for len in (0..header).step_by(37).chain((header..end).step_by(8_191)).chain([end - 1]) {
        rejection(bytes[..len].to_vec());
    }
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        GgufFile::open(folder.path().join("absent.gguf")),
        Err(ModelError::Io { action: "open", .. })
    ));
    let error = GgufFile::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is a folder"), "{error}");
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    let error = GgufFile::open(&empty).unwrap_err().to_string();
    assert!(error.contains("empty.gguf") && error.contains("truncated"), "{error}");
}

#[test]
fn open_maps_what_from_bytes_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let model = TinyModel::llama().weights(GgmlType::Q4_0);
    model.write(&path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.path(), path);
    assert_eq!(file.file_bytes(), model.to_bytes());
}

#[test]
fn configurations_of_all_architectures() {
    let config = |model: TinyModel| {
        ModelConfig::from_gguf(&GgufFile::from_bytes(model.to_bytes(), "tiny").unwrap()).unwrap()
    };
    let llama = config(TinyModel::llama());
    assert_eq!(llama.rope.pairing, RopePairing::Adjacent);
    assert!(!llama.qkv_bias && !llama.qk_norm && llama.tied_embeddings);
    assert_eq!((llama.heads, llama.kv_heads, llama.head_dim), (4, 2, 32));
    assert_eq!(llama.rope.frequency_factors, None);
    let qwen2 = config(TinyModel::qwen2().untied());
    assert_eq!(qwen2.rope.pairing, RopePairing::Halves);
    assert!(qwen2.qkv_bias && !qwen2.qk_norm && !qwen2.tied_embeddings);
    let qwen3 = config(TinyModel::qwen3().weights(GgmlType::Q6K));
    assert!(!qwen3.qkv_bias && qwen3.qk_norm);
    assert_eq!((qwen3.hidden_size, qwen3.head_dim), (256, 64));
    let scaled = config(TinyModel::llama().frequency_factors());
    assert_eq!(scaled.rope.frequency_factors.map(|f| f.len()), Some(16));
}

#[test]
fn configurations_that_contradict_themselves() {
    fn error(change: impl FnOnce(&mut GgufWriter)) -> ModelError {
        let mut writer = GgufWriter::new();
        change(&mut writer);
        let file = GgufFile::from_bytes(writer.to_bytes(), "bad").unwrap();
        ModelConfig::from_gguf(&file).unwrap_err()
    }
    let text = |s: &str| WriterValue::String(s.into());
    assert!(matches!(
        error(|w| {
            w.pair("general.architecture", text("mamba"));
        }),
        ModelError::UnsupportedArchitecture { architecture, .. } if architecture == "mamba"
    ));
    let message = error(|_| {}).to_string();
    assert!(message.contains("general.architecture: is missing"), "{message}");

    // A good model with one value changed.
    let changed = |key: &str, value: WriterValue| {
        let mut writer = TinyModel::llama().writer();
        writer.replace(&format!("llama.{key}"), value);
        let file = GgufFile::from_bytes(writer.to_bytes(), "bad").unwrap();
        ModelConfig::from_gguf(&file).unwrap_err().to_string()
    };
    for (key, value, problem) in [
        ("attention.head_count", WriterValue::U32(0), "is 0, expected 1 to"),
        ("attention.head_count", WriterValue::U32(5), "expected a divisor of the 5 query heads"),
        ("attention.head_count_kv", WriterValue::U32(3), "expected a divisor"),
        ("attention.head_count", WriterValue::U32(8), "up to the head length 16"),
        ("embedding_length", WriterValue::U32(u32::MAX), "expected 1 to"),
        ("block_count", WriterValue::U32(3), "blk.2.attn_norm.weight: is missing"),
        ("block_count", WriterValue::U32(0), "is 0"),
        ("feed_forward_length", WriterValue::U32(255), "expected [255, 128]"),
        ("rope.dimension_count", WriterValue::U32(64), "up to the head length 32"),
        ("rope.dimension_count", WriterValue::U32(3), "an even number"),
        ("rope.freq_base", WriterValue::F32(f32::NAN), "expected a positive number"),
        ("attention.layer_norm_rms_epsilon", WriterValue::F32(-1.0), "positive"),
        ("rope.scaling.type", text("yarn"), "rope scaling `yarn` is not supported"),
        ("expert_count", WriterValue::U32(8), "mixture of experts"),
        ("context_length", text("long"), "is a string"),
        ("attention.value_length", WriterValue::U32(16), "different lengths"),
    ] {
        let message = changed(key, value);
        assert!(message.contains(problem), "{key}: `{message}` does not say `{problem}`");
    }
}

/// Whatever the bytes, reading ends with a result, and an accepted file can be read everywhere.
fn read_everything(bytes: Vec<u8>) {
    let Ok(file) = GgufFile::from_bytes(bytes, "fuzzed") else {
        return;
    };
    let mut sum = 0usize;
    for tensor in file.tensors() {
        assert_eq!(file.tensor_bytes(tensor).len(), tensor.bytes);
        sum += tensor.elements();
    }
    for key in file.metadata().keys() {
        if let Some(array) = file.metadata().get(key).and_then(Value::as_array) {
            sum += array.strings().map_or(0, |s| s.iter().map(str::len).sum());
            sum += array.i32s().map_or(0, |v| v.len()) + array.f32s().map_or(0, |v| v.len());
        }
    }
    std::hint::black_box(sum);
    let _ = ModelConfig::from_gguf(&file);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn flipped_bytes_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = small_file();
        for (place, value) in flips {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_everything(bytes);
    }

    #[test]
    fn large_numbers_anywhere_never_panic(place in any::<prop::sample::Index>(), value in any::<u64>(), shift in 0u32..64) {
        let mut bytes = small_file();
        let at = place.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&(value >> shift).to_le_bytes());
        read_everything(bytes);
    }
}

/// A file with every kind of value in a few hundred bytes, so that mutations hit the header.
fn small_file() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .pair("general.architecture", WriterValue::String("llama".into()))
        .pair("general.alignment", WriterValue::U32(32))
        .pair("llama.embedding_length", WriterValue::U32(8))
        .pair("words", WriterValue::Strings(vec!["a".into(), "bb".into()]))
        .pair("numbers", WriterValue::I32s(vec![1, 2]))
        .pair("floats", WriterValue::F32s(vec![1.0]))
        .pair("flag", WriterValue::Bool(false))
        .tensor("token_embd.weight", GgmlType::F32, &[2, 8], vec![0; 64])
        .tensor("blk.0.w", GgmlType::Q4_0, &[2, 32], vec![0; 36]);
    writer.to_bytes()
}
