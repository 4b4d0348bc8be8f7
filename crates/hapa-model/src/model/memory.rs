//! What a model holds in memory while it is loaded, from the head of its file alone.

use std::path::Path;

use super::options::LoadOptions;
use crate::backend::KvPrecision;
use crate::backend::reference::SafetensorsFolder;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::gguf::GgufFile;

/// Whether a model is a folder of safetensors files (or one of them), and no GGUF file.
pub(super) fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|ext| ext == "safetensors")
}

/// Bytes of one token's keys and values in all layers; candle's backends keep floats.
pub(super) fn kv_token_bytes(config: &ModelConfig, precision: Option<KvPrecision>) -> usize {
    let head_bytes = match precision {
        Some(precision) => precision.head_bytes(config.head_dim),
        None => size_of::<f32>() * config.head_dim,
    };
    2 * config.layers * config.kv_heads * head_bytes
}

/// Bytes of a folder's weights, which are floats once they are loaded.
pub(super) fn floats_bytes(folder: &SafetensorsFolder) -> u64 {
    folder.parameters().saturating_mul(size_of::<f32>() as u64)
}

impl LoadOptions {
    /// What the model at a path would hold. Reads the head of its file; takes milliseconds.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn memory_bytes_of(&self, path: &Path) -> Result<u64> {
        if is_folder(path) {
            let folder = SafetensorsFolder::open(path)?;
            return Ok(self.memory_bytes(folder.config(), floats_bytes(&folder)));
        }
        let file = GgufFile::open(path)?;
        Ok(self.memory_bytes(&ModelConfig::from_gguf(&file)?, file.file_bytes().len() as u64))
    }

    /// Weights (packed ones have the size of the file's), the whole budget of the KV cache or what all sequences together can
    /// use of it, and the floats of the largest step: rows through the layers, logits of all sequences.
    pub(super) fn memory_bytes(&self, config: &ModelConfig, weight_bytes: u64) -> u64 {
        let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let context = self.context_tokens.unwrap_or(config.context_length);
        // A little more than a page for each, since pages are taken whole.
        let all_tokens = self.max_sequences.saturating_mul(context.saturating_add(64));
        // What candle's backends keep is larger, and bounded by the same budget.
        let token_bytes = kv_token_bytes(config, None);
        let kv = self.kv_budget().min(all_tokens.saturating_mul(token_bytes));
        let heads = (config.heads + 2 * config.kv_heads) * config.head_dim;
        let row = 3 * config.hidden_size + heads + 2 * config.intermediate_size;
        let rows = self.prefill_chunk_tokens.saturating_add(self.max_sequences);
        let step = rows
            .saturating_mul(row)
            .saturating_add(self.max_sequences.saturating_mul(config.vocab_size))
            .saturating_mul(size_of::<f32>());
        [bytes(kv), bytes(step)].into_iter().fold(weight_bytes, u64::saturating_add)
    }
}
