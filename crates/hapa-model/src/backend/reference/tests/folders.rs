//! Safetensors folders: the same model as a GGUF file, and folders that are not right.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::{F32_TOLERANCE, assert_close, load, tokens, whole};
use crate::backend::Backend;
use crate::backend::reference::{ReferenceBackend, SafetensorsFolder, load_safetensors};
use crate::error::ModelError;
use crate::gguf::GgufFile;
use crate::testing::TinyModel;

/// Half precision keeps 11 bits, bf16 8 bits of each weight.
const F16_TOLERANCE: f32 = 0.01;
const BF16_TOLERANCE: f32 = 0.1;

struct Stored {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The tensors of a tiny f32 model under Hugging Face's names and in its order of rows.
fn hugging_face_tensors(tiny: &TinyModel) -> HashMap<String, Stored> {
    let file = GgufFile::from_bytes(tiny.to_bytes(), "tiny.gguf").expect("valid");
    let llama = file.metadata().str("general.architecture").expect("there") == "llama";
    let mut tensors = HashMap::new();
    for info in file.tensors() {
        let mut values: Vec<f32> = file
            .tensor_bytes(info)
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        let mut name = info.name.clone();
        for (gguf, theirs) in [
            ("token_embd", "model.embed_tokens"),
            ("output_norm", "model.norm"),
            ("attn_norm", "input_layernorm"),
            ("attn_q_norm", "self_attn.q_norm"),
            ("attn_k_norm", "self_attn.k_norm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("blk.", "model.layers."),
        ] {
            name = name.replace(&format!("{gguf}."), &format!("{theirs}."));
            name = name.replace("layers..", "layers.");
        }
        if info.name.starts_with("blk.") {
            name = name.replacen("blk.", "model.layers.", 1);
        }
        if name == "output.weight" {
            name = "lm_head.weight".into();
        }
        // llama's GGUF files have the rows of each head reordered, so that the pairs that turn together are neighbours.
        if llama && (name.contains("q_proj") || name.contains("k_proj")) {
            let columns = info.shape[1];
            let half = 16;
            let mut theirs = vec![0.0; values.len()];
            for (row, from) in values.chunks_exact(columns).enumerate() {
                let (head, within) = (row / (2 * half), row % (2 * half));
                let to = head * 2 * half + (within % 2) * half + within / 2;
                theirs[to * columns..(to + 1) * columns].copy_from_slice(from);
            }
            values = theirs;
        }
        tensors.insert(name, Stored { shape: info.shape.clone(), values });
    }
    tensors
}

fn config(architecture: &str) -> serde_json::Value {
    json!({
        "model_type": architecture, "vocab_size": 0, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 512,
        "hidden_act": "silu", "torch_dtype": "float32", "tie_word_embeddings": false
    })
}

/// Writes a folder; each tensor goes to one of two files.
fn write(folder: &Path, architecture: &str, tensors: &HashMap<String, Stored>, dtype: Dtype) {
    let mut config = config(architecture);
    config["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0].into();
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let bytes: HashMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, stored)| {
            let values = stored.values.iter();
            let bytes = match dtype {
                Dtype::F16 => values.flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
                Dtype::BF16 => values.flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
                _ => values.flat_map(|&v| v.to_le_bytes()).collect(),
            };
            (name, bytes)
        })
        .collect();
    let mut weight_map = serde_json::Map::new();
    for part in 0..2usize {
        let file = format!("model-0000{}-of-00002.safetensors", part + 1);
        let views: Vec<(&String, TensorView<'_>)> = tensors
            .iter()
            .filter(|(name, _)| name.contains("layers.1.") == (part == 1))
            .map(|(name, stored)| {
                let view = TensorView::new(dtype, stored.shape.clone(), &bytes[name]);
                (name, view.expect("fits"))
            })
            .collect();
        weight_map.extend(views.iter().map(|(name, _)| ((*name).clone(), file.clone().into())));
        safetensors::serialize_to_file(views, None, &folder.join(&file)).expect("written");
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string())
        .expect("written");
}

#[test]
fn a_folder_gives_the_same_logits_as_the_file() {
    for (architecture, tiny) in [
        ("llama", TinyModel::llama()),
        ("qwen2", TinyModel::qwen2().untied()),
        ("qwen3", TinyModel::qwen3()),
    ] {
        let tensors = hugging_face_tensors(&tiny);
        let expected_backend = load(&tiny);
        let text = tokens(3, 40, expected_backend.config().vocab_size);
        let expected = whole(&expected_backend, &text);
        for (dtype, tolerance) in [
            (Dtype::F32, F32_TOLERANCE),
            (Dtype::F16, F16_TOLERANCE),
            (Dtype::BF16, BF16_TOLERANCE),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            write(folder.path(), architecture, &tensors, dtype);
            let opened = SafetensorsFolder::open(folder.path()).expect("opens");
            assert_eq!(opened.types()[0].0, format!("{dtype:?}"));
            let backend = ReferenceBackend::from_safetensors(&opened).expect("loads");
            let tied = !tensors.contains_key("lm_head.weight");
            assert_eq!(backend.config().tied_embeddings, tied);
            assert_close(&whole(&backend, &text), &expected, tolerance);
        }
    }
}

/// Writes a good folder, spoils it, and gives the error of loading it.
fn spoiled(spoil: impl FnOnce(&Path)) -> ModelError {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "qwen2", &hugging_face_tensors(&TinyModel::qwen2()), Dtype::F32);
    load_safetensors(folder.path()).expect("good before");
    spoil(folder.path());
    load_safetensors(folder.path()).err().expect("refused")
}

fn edit_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).expect("there");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("valid");
    config[key] = value;
    std::fs::write(path, config.to_string()).expect("written");
}

#[test]
fn wrong_folders_are_refused_with_the_reason() {
    let says = |error: ModelError, part: &str| {
        assert!(matches!(error, ModelError::InvalidSafetensors { .. }), "{error}");
        assert!(error.to_string().contains(part), "`{error}` does not say {part}");
    };
    const FIRST: &str = "model-00001-of-00002.safetensors";
    let missing = spoiled(|f| std::fs::remove_file(f.join("config.json")).expect("removed"));
    assert!(matches!(missing, ModelError::Io { .. }), "{missing}");
    says(spoiled(|f| std::fs::write(f.join("config.json"), "{").expect("written")), "config.json");
    let mamba = spoiled(|f| edit_config(f, "model_type", "mamba".into()));
    assert!(matches!(mamba, ModelError::UnsupportedArchitecture { .. }), "{mamba}");
    says(spoiled(|f| edit_config(f, "num_key_value_heads", 3.into())), "num_key_value_heads");
    says(spoiled(|f| edit_config(f, "hidden_size", 0.into())), "hidden_size");
    says(spoiled(|f| edit_config(f, "hidden_size", 64.into())), "shape");
    says(spoiled(|f| edit_config(f, "rms_norm_eps", (-1).into())), "rms_norm_eps");
    says(spoiled(|f| edit_config(f, "num_hidden_layers", 3.into())), "model.layers.2");
    let window = spoiled(|f| edit_config(f, "use_sliding_window", true.into()));
    assert!(matches!(window, ModelError::Unsupported { .. }), "{window}");
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0 });
    let yarn = spoiled(|f| edit_config(f, "rope_scaling", yarn));
    assert!(yarn.to_string().contains("yarn"), "{yarn}");
    let linear = json!({ "type": "linear", "factor": 0.0 });
    says(spoiled(|f| edit_config(f, "rope_scaling", linear)), "rope_scaling.factor");
    says(
        spoiled(|f| {
            let bytes = std::fs::read(f.join(FIRST)).expect("there");
            std::fs::write(f.join(FIRST), &bytes[..bytes.len() / 2]).expect("written");
        }),
        FIRST,
    );
    says(spoiled(|f| std::fs::write(f.join(FIRST), [0xff; 64]).expect("written")), FIRST);
    says(spoiled(|f| std::fs::write(f.join(FIRST), []).expect("written")), FIRST);
    says(
        spoiled(|f| {
            let index = json!({ "weight_map": { "a": "../../etc/passwd" } });
            std::fs::write(f.join("model.safetensors.index.json"), index.to_string())
                .expect("written");
        }),
        "../../etc/passwd",
    );
    let integers = spoiled(|f| {
        let data = vec![0u8; 128 * 4];
        let view = TensorView::new(Dtype::I32, vec![128], &data).expect("fits");
        let tensors = [("model.norm.weight", view)];
        std::fs::remove_file(f.join("model.safetensors.index.json")).expect("removed");
        safetensors::serialize_to_file(tensors, None, &f.join("model-3.safetensors"))
            .expect("written");
    });
    says(integers, "in two files");
}

#[test]
fn llama_3_scaling_keeps_short_waves_and_stretches_long_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "llama", &hugging_face_tensors(&TinyModel::llama()), Dtype::F32);
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192
    });
    edit_config(folder.path(), "rope_scaling", scaling);
    let opened = SafetensorsFolder::open(folder.path()).expect("opens");
    let factors = opened.config().rope.frequency_factors.clone().expect("has factors");
    assert_eq!(factors.len(), 16);
    assert!((factors[0] - 1.0).abs() < 1e-6, "{factors:?}");
    assert!((factors[15] - 8.0).abs() < 1e-6, "{factors:?}");
    assert!(factors.is_sorted() && factors.iter().any(|f| (1.1..7.9).contains(f)), "{factors:?}");
}
