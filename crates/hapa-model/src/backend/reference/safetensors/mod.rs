//! Models as Hugging Face publishes them: a folder with `config.json`, `tokenizer.json` and `*.safetensors`.
//!
//! Everything is checked before a weight is used: the header of each file (by the safetensors crate: lengths,
//! offsets, overlaps), the names, types and shapes of the tensors, and the figures of `config.json`.

mod config;
mod folder;

pub use folder::SafetensorsFolder;
