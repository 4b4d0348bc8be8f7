//! `config.json`: the figures of a model.

use std::f64::consts::PI;
use std::path::Path;

use serde::Deserialize;

use crate::config::{ModelConfig, Rope, RopePairing};
use crate::error::{ModelError, Result};

/// Widths, counts and contexts above this are errors; keeps products in range.
const MAX_SIZE: usize = 1 << 24;

/// The keys that this crate reads, under Hugging Face's names.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<Scaling>,
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    hidden_act: Option<String>,
}

#[derive(Deserialize)]
struct Scaling {
    #[serde(alias = "type")]
    rope_type: String,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

pub(super) fn read_config(path: &Path, text: &str) -> Result<ModelConfig> {
    let invalid =
        |problem: String| ModelError::InvalidSafetensors { path: path.to_owned(), problem };
    let raw: Raw = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    if !matches!(raw.model_type.as_str(), "llama" | "qwen2" | "qwen3") {
        return Err(ModelError::UnsupportedArchitecture {
            architecture: raw.model_type.chars().take(64).collect(),
            supported: "llama, qwen2 and qwen3 (safetensors)".into(),
        });
    }
    let unsupported = |what: &str| ModelError::Unsupported {
        what: format!("{what} in {}", path.display()),
        help: "use another model, or a GGUF file of this one".into(),
    };
    // qwen2 always has biases on q, k and v and none on the output; a llama with `attention_bias` has one there too.
    if raw.attention_bias && raw.model_type != "qwen2" {
        return Err(unsupported("attention_bias"));
    }
    if raw.mlp_bias {
        return Err(unsupported("mlp_bias"));
    }
    if raw.use_sliding_window {
        return Err(unsupported("use_sliding_window"));
    }
    if raw.hidden_act.as_deref().is_some_and(|act| act != "silu") {
        return Err(unsupported("a hidden_act other than silu"));
    }
    for (name, value) in [
        ("vocab_size", raw.vocab_size),
        ("hidden_size", raw.hidden_size),
        ("intermediate_size", raw.intermediate_size),
        ("num_hidden_layers", raw.num_hidden_layers),
        ("num_attention_heads", raw.num_attention_heads),
        ("max_position_embeddings", raw.max_position_embeddings),
    ] {
        if value == 0 || value > MAX_SIZE {
            return Err(invalid(format!("{name} is {value}, expected 1 to {MAX_SIZE}")));
        }
    }
    let heads = raw.num_attention_heads;
    let kv_heads = raw.num_key_value_heads.unwrap_or(heads);
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(invalid(format!(
            "num_key_value_heads is {kv_heads}, expected a divisor of the {heads} query heads"
        )));
    }
    let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) || head_dim > MAX_SIZE {
        return Err(invalid(format!("heads have {head_dim} elements, expected an even number")));
    }
    if !(raw.rms_norm_eps.is_finite() && raw.rms_norm_eps > 0.0) {
        return Err(invalid(format!(
            "rms_norm_eps is {}, expected a positive number",
            raw.rms_norm_eps
        )));
    }
    let theta = raw.rope_theta.unwrap_or(10_000.0);
    if !(theta.is_finite() && theta > 0.0) {
        return Err(invalid(format!("rope_theta is {theta}, expected a positive number")));
    }
    let mut rope = Rope {
        theta,
        dims: head_dim,
        pairing: RopePairing::Halves,
        frequency_factors: None,
        scale: 1.0,
    };
    if let Some(scaling) = &raw.rope_scaling {
        apply_scaling(&mut rope, scaling).map_err(|problem| match problem {
            Some(problem) => invalid(problem),
            None => unsupported(&format!(
                "rope_scaling `{}`",
                scaling.rope_type.chars().take(64).collect::<String>()
            )),
        })?;
    }
    Ok(ModelConfig {
        qkv_bias: raw.model_type == "qwen2",
        qk_norm: raw.model_type == "qwen3",
        architecture: raw.model_type,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        layers: raw.num_hidden_layers,
        heads,
        kv_heads,
        head_dim,
        rms_norm_eps: raw.rms_norm_eps,
        rope,
        context_length: raw.max_position_embeddings,
        tied_embeddings: raw.tie_word_embeddings,
    })
}

/// Takes `rope_scaling` in. `Err(None)` for a kind that is not known.
fn apply_scaling(rope: &mut Rope, scaling: &Scaling) -> Result<(), Option<String>> {
    let positive = |name: &str, value: Option<f64>| {
        value.filter(|value| value.is_finite() && *value > 0.0).ok_or_else(|| {
            Some(format!("rope_scaling.{name} is {value:?}, expected a positive number"))
        })
    };
    match scaling.rope_type.as_str() {
        "default" => {}
        "linear" => rope.scale = positive("factor", scaling.factor)?.recip() as f32,
        // The rule of llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended.
        "llama3" => {
            let factor = positive("factor", scaling.factor)?;
            let low = positive("low_freq_factor", scaling.low_freq_factor)?;
            let high = positive("high_freq_factor", scaling.high_freq_factor)?;
            let context = positive(
                "original_max_position_embeddings",
                scaling.original_max_position_embeddings,
            )?;
            if high <= low {
                return Err(Some(
                    "rope_scaling.high_freq_factor must be above low_freq_factor".into(),
                ));
            }
            let factors = (0..rope.dims / 2).map(|pair| {
                let wavelength =
                    2.0 * PI * f64::from(rope.theta).powf(2.0 * pair as f64 / rope.dims as f64);
                let blend = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - blend) / factor + blend)) as f32
            });
            rope.frequency_factors = Some(factors.collect());
        }
        _ => return Err(None),
    }
    Ok(())
}
