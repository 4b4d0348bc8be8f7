//! Models for tests: tiny random GGUF files, written in a few milliseconds, real ones of the catalogue, and
//! recordings of what llama.cpp answers with these.
//!
//! Enabled by the feature `testing`; meant for dev-dependencies and benchmarks only.
//!
//! ```
//! use hapa_model::gguf::{GgmlType, GgufFile};
//! use hapa_model::testing::TinyModel;
//!
//! let bytes = TinyModel::qwen2().weights(GgmlType::Q4K).seed(7).to_bytes();
//! let file = GgufFile::from_bytes(bytes, "tiny.gguf")?;
//! assert_eq!(hapa_model::ModelConfig::from_gguf(&file)?.layers, 2);
//! # Ok::<(), hapa_model::ModelError>(())
//! ```

mod random;
mod real;
mod reference;
mod tiny;
mod vocabulary;
mod writer;

pub use crate::backend::cpu::{KvOperations, kv_operations};
pub use real::{real_model, real_store};
pub use reference::{PERPLEXITY_TEXT, Reference, ReferenceCase, reference};
pub use tiny::TinyModel;
pub use vocabulary::TinyVocabulary;
pub use writer::{GgufWriter, WriterValue};
