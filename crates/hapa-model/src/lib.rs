//! Local code models: from a name to streamed text.
pub mod backend;
mod config;
mod error;
pub mod gguf;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tokenizer;

pub use config::{ModelConfig, Rope, RopePairing};
pub use error::{ModelError, Result, SharedError};
