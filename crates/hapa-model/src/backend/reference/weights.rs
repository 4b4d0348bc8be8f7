//! The weights of one model, immutable.

use std::sync::Arc;

use candle_core::Tensor;

use super::linear::{Linear, Matrix};
use super::rope::Rotation;
use super::source::WeightSource;
use crate::config::ModelConfig;
use crate::error::Result;

/// All weights.
pub(super) struct Weights {
    pub(super) config: ModelConfig,
    pub(super) embedding: Arc<Matrix>,
    /// The embedding table itself when the model ties them.
    pub(super) output: Arc<Matrix>,
    /// `[hidden_size]`.
    pub(super) output_norm: Tensor,
    pub(super) layers: Vec<Layer>,
    pub(super) rotation: Rotation,
}

/// One transformer block.
pub(super) struct Layer {
    pub(super) attention_norm: Tensor,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    /// `[head_dim]`, qwen3.
    pub(super) query_norm: Option<Tensor>,
    /// `[head_dim]`, qwen3.
    pub(super) key_norm: Option<Tensor>,
    pub(super) attention_output: Linear,
    pub(super) feed_forward_norm: Tensor,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Weights {
    pub(super) fn load(config: ModelConfig, source: &impl WeightSource) -> Result<Self> {
        let loader = Loader { config: &config, source };
        let table = [config.vocab_size, config.hidden_size];
        let embedding = Arc::new(Matrix::load(&source.require("token_embd.weight", &table)?)?);
        let output = if config.tied_embeddings {
            Arc::clone(&embedding)
        } else {
            Arc::new(Matrix::load(&source.require("output.weight", &table)?)?)
        };
        let output_norm = loader.vector("output_norm.weight", config.hidden_size)?;
        let layers =
            (0..config.layers).map(|index| loader.layer(index)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            embedding,
            output,
            output_norm,
            layers,
            rotation: Rotation::new(&config.rope),
            config,
        })
    }
}

struct Loader<'a, S> {
    config: &'a ModelConfig,
    source: &'a S,
}

impl<S: WeightSource> Loader<'_, S> {
    fn vector(&self, name: &str, len: usize) -> Result<Tensor> {
        self.source.require(name, &[len])?.float()
    }

    fn linear(&self, name: &str, rows: usize, columns: usize) -> Result<Linear> {
        let stored = self.source.require(&format!("{name}.weight"), &[rows, columns])?;
        Ok(Linear { matrix: Matrix::load(&stored)?, bias: None })
    }

    /// q, k and v: with a bias in qwen2.
    fn projection(&self, name: &str, rows: usize) -> Result<Linear> {
        let mut linear = self.linear(name, rows, self.config.hidden_size)?;
        if self.config.qkv_bias {
            linear.bias = Some(self.vector(&format!("{name}.bias"), rows)?);
        }
        Ok(linear)
    }

    fn head_norm(&self, name: &str) -> Result<Option<Tensor>> {
        if !self.config.qk_norm {
            return Ok(None);
        }
        self.vector(name, self.config.head_dim).map(Some)
    }

    fn layer(&self, index: usize) -> Result<Layer> {
        let config = self.config;
        let name = |part: &str| format!("blk.{index}.{part}");
        let query_width = config.heads * config.head_dim;
        let kv_width = config.kv_heads * config.head_dim;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), hidden)?,
            query: self.projection(&name("attn_q"), query_width)?,
            key: self.projection(&name("attn_k"), kv_width)?,
            value: self.projection(&name("attn_v"), kv_width)?,
            query_norm: self.head_norm(&name("attn_q_norm.weight"))?,
            key_norm: self.head_norm(&name("attn_k_norm.weight"))?,
            attention_output: self.linear(&name("attn_output"), hidden, query_width)?,
            feed_forward_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            gate: self.linear(&name("ffn_gate"), inner, hidden)?,
            up: self.linear(&name("ffn_up"), inner, hidden)?,
            down: self.linear(&name("ffn_down"), hidden, inner)?,
        })
    }
}
