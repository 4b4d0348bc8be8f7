//! What a loaded model is.

use std::path::PathBuf;

use crate::backend::{ForwardCost, KvPrecision};

/// Facts about a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The name that it was asked for by.
    pub name: String,
    /// The file, or the folder of a safetensors model.
    pub path: PathBuf,
    /// SHA-256 of the file in hexadecimal; empty when it was not computed.
    pub digest: String,
    /// `llama`, `qwen2`, ...
    pub architecture: String,
    /// Weights in all tensors.
    pub parameters: u64,
    /// Element types and how many tensors have each, most frequent first.
    pub quantisation: Vec<(String, usize)>,
    /// Longest sequence that the model was trained for, in tokens.
    pub context_length: usize,
    /// It has a chat template.
    pub chat_template: bool,
    /// It has fill-in-the-middle tokens.
    pub fim: bool,
    /// Bytes of the file or files.
    pub file_bytes: u64,
    /// Bytes of memory that the loaded model holds at most: weights, KV cache, and the buffers of a step.
    pub memory_bytes: u64,
    /// Which backend runs it: `cpu`, `reference` or `candle-transformers`.
    pub backend: &'static str,
    /// How exactly keys and values are kept; `None` for the backends of candle, which keep floats.
    pub kv_precision: Option<KvPrecision>,
    /// What a forward pass costs at least; `None` for the backends of candle.
    pub forward_cost: Option<ForwardCost>,
}

impl ModelInfo {
    /// Names all of a loaded model that has an influence on answers: the weights, the arithmetic, and how exactly keys and
    /// values are kept. For keys of answers that are to be used again.
    pub fn answer_identity(&self) -> String {
        match self.kv_precision {
            Some(precision) => format!("{} {} kv-{precision}", self.digest, self.backend),
            None => format!("{} {}", self.digest, self.backend),
        }
    }
}
