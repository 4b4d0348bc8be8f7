//! GGUF files: read without trusting a byte of them.
//!
//! A GGUF file comes from the internet and drives allocations, offsets and table sizes, so this
//! reader checks everything before any other code (candle's reader included) sees the file: magic,
//! version, counts against the file's size, lengths of strings and arrays, alignment, shapes,
//! types, and that tensors lie inside the file without overlapping. An accepted file can be used
//! with plain slicing; a rejected one gives [`crate::ModelError::InvalidGguf`] with the field and
//! what was expected. Memory used is proportional to the header, which is a part of the file:
//! strings and arrays stay in the mapping and are only pointed at.
//!
//! The format is that of <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and
//! 3, little endian.

mod config;
mod cursor;
mod file;
pub(crate) mod map;
mod metadata;
mod stamp;
mod summary;
mod value;

pub(crate) use map::FileBytes;

pub use file::{GgufFile, TensorInfo};
pub use hapa_kernels::GgmlType;
pub use metadata::Metadata;
pub use stamp::FileStamp;
pub use summary::{Summary, TypeCount};
pub use value::{Array, StringArray, Value, ValueType};
