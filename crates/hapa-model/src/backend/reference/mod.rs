//! The reference backend: candle tensors, simple, and the measure that other backends are held to.
//!
//! One graph (`graph`) serves llama, qwen2 and qwen3, out of GGUF files and out of safetensors folders.
//! Weights are immutable behind an `Arc`; each sequence has its own KV cache; one batch may hold chunks of many
//! sequences: matrices see all their rows at once, attention sees each sequence apart. Architectures
//! that only candle-transformers knows run through `transformers`.
//!
//! Weights stay quantised in memory, the embedding table too: `linear` says when they are widened.
//! candle chooses its number of compute threads itself, once a process (`RAYON_NUM_THREADS`, else the physical
//! cores), so [`ExecutorOptions::threads`] has no effect here.

mod executor;
mod graph;
mod kv;
mod linear;
mod rope;
mod safetensors;
mod source;
mod transformers;
mod weights;

use std::path::Path;
use std::sync::Arc;

use self::executor::ReferenceExecutor;
use self::source::GgufSource;
use self::transformers::TransformersBackend;
use self::weights::Weights;
use super::{Backend, Executor, ExecutorOptions};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::gguf::GgufFile;

pub use self::safetensors::SafetensorsFolder;

/// A model of the llama, qwen2 or qwen3 architecture on candle tensors.
pub struct ReferenceBackend {
    weights: Arc<Weights>,
}

impl ReferenceBackend {
    /// Copies the weights out of a GGUF file, as they are stored.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedArchitecture`], [`ModelError::Unsupported`] for tensor types that candle lacks,
    /// [`ModelError::InvalidGguf`] for missing or misshapen tensors.
    pub fn from_gguf(file: &Arc<GgufFile>) -> Result<Self> {
        let config = ModelConfig::from_gguf(file)?;
        let weights = Weights::load(config, &GgufSource::new(file))?;
        Ok(Self { weights: Arc::new(weights) })
    }

    /// Copies the weights out of a folder with `config.json` and `*.safetensors`.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedArchitecture`], and [`ModelError::InvalidSafetensors`] for anything that is
    /// missing, contradictory or of another type than f32, f16 and bf16.
    pub fn from_safetensors(folder: &SafetensorsFolder) -> Result<Self> {
        let weights = Weights::load(folder.config().clone(), folder)?;
        Ok(Self { weights: Arc::new(weights) })
    }
}

impl Backend for ReferenceBackend {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    fn executor(&self, options: &ExecutorOptions) -> Result<Box<dyn Executor>> {
        Ok(Box::new(ReferenceExecutor::new(Arc::clone(&self.weights), options.clone())))
    }
}

/// Loads any GGUF file that candle can run: this crate's own graph where it knows the architecture, else the model
/// of candle-transformers.
///
/// # Errors
/// As [`ReferenceBackend::from_gguf`]; [`ModelError::UnsupportedArchitecture`] when neither knows it.
pub fn load_gguf(file: &Arc<GgufFile>) -> Result<Arc<dyn Backend>> {
    match ReferenceBackend::from_gguf(file) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(ModelError::UnsupportedArchitecture { architecture, .. }) => {
            Ok(Arc::new(TransformersBackend::from_gguf(file, &architecture)?))
        }
        Err(error) => Err(error),
    }
}

/// Loads a folder of safetensors files.
///
/// # Errors
/// As [`SafetensorsFolder::open`] and [`ReferenceBackend::from_safetensors`].
pub fn load_safetensors(folder: &Path) -> Result<Arc<dyn Backend>> {
    let folder = SafetensorsFolder::open(folder)?;
    Ok(Arc::new(ReferenceBackend::from_safetensors(&folder)?))
}

#[cfg(test)]
mod tests;
