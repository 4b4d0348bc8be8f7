//! From metadata and tensor shapes to a [`ModelConfig`].

use super::file::{GgufFile, TensorInfo};
use crate::config::{ModelConfig, Rope, RopePairing};
use crate::error::{ModelError, Result};

/// Architectures whose graph is known.
pub(crate) const SUPPORTED: &str = "llama, qwen2, qwen3";

/// Largest value taken for widths, counts and the context; keeps every later product in range.
const MAX_SIZE: u64 = 1 << 24;
const MAX_LAYERS: u64 = 1 << 10;

impl ModelConfig {
    /// Reads the shape of a model and checks that the tensors of the file agree with it, so that a backend
    /// can index them without further checks.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedArchitecture`], [`ModelError::Unsupported`] for variants of a known
    /// architecture (experts, YaRN), [`ModelError::InvalidGguf`] for missing or contradictory values.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let reader = Reader::new(file)?;
        let config = reader.config()?;
        reader.check_tensors(&config)?;
        Ok(config)
    }
}

struct Reader<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
}

impl<'a> Reader<'a> {
    fn new(file: &'a GgufFile) -> Result<Self> {
        let architecture = file.metadata().str("general.architecture")?;
        match architecture {
            "llama" | "qwen2" | "qwen3" => Ok(Self { file, architecture }),
            other => Err(ModelError::UnsupportedArchitecture {
                architecture: other.chars().take(64).collect(),
                supported: SUPPORTED.to_owned(),
            }),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A size from 1 to `max`, when present.
    fn opt_size(&self, name: &str, max: u64) -> Result<Option<usize>> {
        let key = self.key(name);
        match self.file.metadata().opt_u64(&key)? {
            None => Ok(None),
            Some(value) if (1..=max).contains(&value) => Ok(Some(value as usize)),
            Some(value) => Err(self.file.invalid(key, format!("is {value}, expected 1 to {max}"))),
        }
    }

    fn size(&self, name: &str, max: u64) -> Result<usize> {
        self.opt_size(name, max)?.ok_or_else(|| {
            self.file.invalid(self.key(name), format!("is missing, expected 1 to {max}"))
        })
    }

    /// A positive finite number, when present.
    fn opt_positive(&self, name: &str) -> Result<Option<f32>> {
        let key = self.key(name);
        match self.file.metadata().opt_f32(&key)? {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(self.file.invalid(key, format!("is {value}, expected a positive number")))
            }
            value => Ok(value),
        }
    }

    fn config(&self) -> Result<ModelConfig> {
        let metadata = self.file.metadata();
        if metadata.opt_u64(&self.key("expert_count"))?.is_some_and(|experts| experts > 0) {
            return Err(ModelError::Unsupported {
                what: format!("{} with a mixture of experts", self.architecture),
                help: "use a dense model".to_owned(),
            });
        }
        let hidden_size = self.size("embedding_length", MAX_SIZE)?;
        let heads = self.size("attention.head_count", MAX_SIZE)?;
        let kv_heads = self.opt_size("attention.head_count_kv", MAX_SIZE)?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(self.file.invalid(
                self.key("attention.head_count_kv"),
                format!("is {kv_heads}, expected a divisor of the {heads} query heads"),
            ));
        }
        let head_dim = self.head_dim(hidden_size, heads)?;
        let embedding = self.matrix("token_embd.weight")?;
        let vocab_size = embedding.shape[0];
        if vocab_size as u64 > MAX_SIZE {
            return Err(self.file.invalid(
                "token_embd.weight",
                format!("has {vocab_size} rows, expected at most {MAX_SIZE}"),
            ));
        }
        if let Some(tokens) = metadata.opt_strings("tokenizer.ggml.tokens")?
            && tokens.len() != vocab_size
        {
            return Err(self.file.invalid(
                "tokenizer.ggml.tokens",
                format!(
                    "has {} entries, expected one for each of the {vocab_size} rows of token_embd.weight",
                    tokens.len()
                ),
            ));
        }
        Ok(ModelConfig {
            architecture: self.architecture.to_owned(),
            vocab_size,
            hidden_size,
            intermediate_size: self.size("feed_forward_length", MAX_SIZE)?,
            layers: self.size("block_count", MAX_LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: self.opt_positive("attention.layer_norm_rms_epsilon")?.ok_or_else(
                || {
                    self.file.invalid(
                        self.key("attention.layer_norm_rms_epsilon"),
                        "is missing, expected a positive number",
                    )
                },
            )?,
            rope: self.rope(head_dim)?,
            context_length: self.size("context_length", u64::from(u32::MAX))?,
            // llama files with a bias exist too (InternLM and others converted as llama).
            qkv_bias: self.architecture == "qwen2"
                || self.file.tensor("blk.0.attn_q.bias").is_some(),
            qk_norm: self.architecture == "qwen3",
            tied_embeddings: self.file.tensor("output.weight").is_none(),
        })
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize> {
        let explicit = self.opt_size("attention.key_length", MAX_SIZE)?;
        let head_dim = match explicit {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                return Err(self.file.invalid(
                    self.key("attention.head_count"),
                    format!("is {heads}, expected a divisor of the embedding length {hidden_size}"),
                ));
            }
        };
        let value_length = self.opt_size("attention.value_length", MAX_SIZE)?;
        if value_length.is_some_and(|length| length != head_dim) {
            return Err(ModelError::Unsupported {
                what: format!("{} with keys and values of different lengths", self.architecture),
                help: "use a model whose attention.value_length equals attention.key_length"
                    .to_owned(),
            });
        }
        if head_dim % 2 != 0 {
            return Err(self.file.invalid(
                self.key("attention.key_length"),
                format!("gives heads of {head_dim} elements, expected an even number"),
            ));
        }
        Ok(head_dim)
    }

    fn rope(&self, head_dim: usize) -> Result<Rope> {
        let dims = self.opt_size("rope.dimension_count", MAX_SIZE)?.unwrap_or(head_dim);
        if dims > head_dim || dims % 2 != 0 {
            return Err(self.file.invalid(
                self.key("rope.dimension_count"),
                format!("is {dims}, expected an even number up to the head length {head_dim}"),
            ));
        }
        Ok(Rope {
            theta: self.opt_positive("rope.freq_base")?.unwrap_or(10_000.0),
            dims,
            pairing: if self.architecture == "llama" {
                RopePairing::Adjacent
            } else {
                RopePairing::Halves
            },
            frequency_factors: self.frequency_factors(dims)?,
            scale: self.rope_scale()?,
        })
    }

    /// Linear scaling: positions are divided by the factor.
    fn rope_scale(&self) -> Result<f32> {
        let metadata = self.file.metadata();
        match metadata.opt_str(&self.key("rope.scaling.type"))? {
            None | Some("none") => {
                // Written by old converters, with no type beside it.
                Ok(self.opt_positive("rope.scale_linear")?.map_or(1.0, f32::recip))
            }
            Some("linear") => Ok(self.opt_positive("rope.scaling.factor")?.map_or(1.0, f32::recip)),
            Some(other) => Err(ModelError::Unsupported {
                what: format!("rope scaling `{}`", other.chars().take(64).collect::<String>()),
                help: "use a model with linear scaling or none".to_owned(),
            }),
        }
    }

    /// Llama 3 scaling: one divisor for each rotated pair, computed by the converter.
    fn frequency_factors(&self, dims: usize) -> Result<Option<Vec<f32>>> {
        const NAME: &str = "rope_freqs.weight";
        let Some(tensor) = self.file.tensor(NAME) else {
            return Ok(None);
        };
        if tensor.ty != hapa_kernels::GgmlType::F32 || tensor.shape != [dims / 2] {
            return Err(self.file.invalid(
                NAME,
                format!(
                    "is {} of shape {:?}, expected F32 of shape [{}]",
                    tensor.ty.name(),
                    tensor.shape,
                    dims / 2
                ),
            ));
        }
        let factors: Vec<f32> = self
            .file
            .tensor_bytes(tensor)
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        if let Some(bad) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            return Err(self
                .file
                .invalid(NAME, format!("contains {bad}, expected positive numbers")));
        }
        Ok(Some(factors))
    }

    fn matrix(&self, name: &str) -> Result<&'a TensorInfo> {
        let tensor = self.file.require_tensor(name)?;
        if tensor.shape.len() != 2 {
            return Err(self
                .file
                .invalid(name, format!("has shape {:?}, expected [rows, columns]", tensor.shape)));
        }
        Ok(tensor)
    }

    fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let tensor = self.file.require_tensor(name)?;
        if tensor.shape != expected {
            return Err(self
                .file
                .invalid(name, format!("has shape {:?}, expected {expected:?}", tensor.shape)));
        }
        Ok(())
    }

    /// Every tensor that the graph reads, with the shape that the metadata promises.
    fn check_tensors(&self, config: &ModelConfig) -> Result<()> {
        let hidden = config.hidden_size;
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        self.check_shape("token_embd.weight", &[config.vocab_size, hidden])?;
        self.check_shape("output_norm.weight", &[hidden])?;
        if !config.tied_embeddings {
            self.check_shape("output.weight", &[config.vocab_size, hidden])?;
        }
        for layer in 0..config.layers {
            let check = |part: &str, shape: &[usize]| {
                self.check_shape(&format!("blk.{layer}.{part}"), shape)
            };
            check("attn_norm.weight", &[hidden])?;
            check("attn_q.weight", &[q, hidden])?;
            check("attn_k.weight", &[kv, hidden])?;
            check("attn_v.weight", &[kv, hidden])?;
            check("attn_output.weight", &[hidden, q])?;
            if config.qkv_bias {
                check("attn_q.bias", &[q])?;
                check("attn_k.bias", &[kv])?;
                check("attn_v.bias", &[kv])?;
            }
            if config.qk_norm {
                check("attn_q_norm.weight", &[config.head_dim])?;
                check("attn_k_norm.weight", &[config.head_dim])?;
            }
            check("ffn_norm.weight", &[hidden])?;
            check("ffn_gate.weight", &[config.intermediate_size, hidden])?;
            check("ffn_up.weight", &[config.intermediate_size, hidden])?;
            check("ffn_down.weight", &[hidden, config.intermediate_size])?;
        }
        Ok(())
    }
}
