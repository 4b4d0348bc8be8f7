//! The shape of a model: what a backend must know before it reads a weight.

/// Hyper-parameters of a decoder-only transformer (llama, qwen2 and qwen3 share this graph).
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture`: `llama`, `qwen2`, `qwen3`, ...
    pub architecture: String,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads (grouped-query attention when fewer than `heads`).
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Epsilon of RMS norm.
    pub rms_norm_eps: f32,
    /// How positions turn heads.
    pub rope: Rope,
    /// Longest sequence the model was trained for, in tokens.
    pub context_length: usize,
    /// q, k and v carry a bias (qwen2).
    pub qkv_bias: bool,
    /// q and k are normalised by head (qwen3).
    pub qk_norm: bool,
    /// The output matrix is the embedding table.
    pub tied_embeddings: bool,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Number of dimensions of a head that are rotated.
    pub dims: usize,
    /// Which pairs are rotated together.
    pub pairing: RopePairing,
    /// Per-frequency divisors (`rope_freqs.weight`, llama-3 scaling), `dims / 2` long.
    pub frequency_factors: Option<Vec<f32>>,
    /// Linear position scale (1 when absent).
    pub scale: f32,
}

/// Which two elements of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// `(0, 1), (2, 3), ...`: llama weights as GGUF stores them.
    Adjacent,
    /// `(i, i + dims / 2)`: qwen2, qwen3, and llama as Hugging Face stores it.
    Halves,
}
