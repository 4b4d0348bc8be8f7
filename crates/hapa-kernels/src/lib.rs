//! Quantised matrix multiplication and attention kernels for CPUs.

mod dequantize;
mod error;
mod ggml;

pub use dequantize::dequantize_row;
pub use error::KernelError;
pub use ggml::GgmlType;
