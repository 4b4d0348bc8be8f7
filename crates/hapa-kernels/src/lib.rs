//! Quantised matrix multiplication and attention kernels for CPUs.
//!
//! Slices in, slices out: this crate knows nothing of files, models or tensors. [`Kernels`] holds a
//! [`Team`] of threads and an instruction set chosen at run time ([`Isa`]); its methods are the
//! operators of a transformer's forward pass. Weights are [packed](PackedLayout) once from the
//! blocks of a GGUF file; activations are quantised once ([`Activations`]) and read by any number
//! of matmuls; keys and values live in the pages of a [`KvPool`].
//!
//! This is the one crate of the workspace with `unsafe` code. Its public functions are safe:
//! lengths are checked at every entry, and the CPU's features once, when a [`Kernels`] is made.
//!
//! ```
//! use hapa_kernels::{
//!     Epilogue, GgmlType, Isa, Kernels, MatMul, PackSource, PackedLayout, PackedView, Team,
//!     pack_matrix,
//! };
//!
//! // A matrix of two rows by 32 columns: the first row ones, the second twos.
//! let floats: Vec<u8> =
//!     [1.0f32; 32].into_iter().chain([2.0; 32]).flat_map(f32::to_le_bytes).collect();
//! let mut kernels = Kernels::new(Team::new(2), Isa::detect())?;
//! let layout = PackedLayout::for_ggml(GgmlType::F32, 2, 32).ok_or("shape")?;
//! let mut packed = vec![0; layout.bytes()];
//! let source = PackSource { ty: GgmlType::F32, bytes: &floats };
//! pack_matrix(kernels.team(), &layout, source, &mut packed)?;
//!
//! let weights = [PackedView::new(layout, &packed)?];
//! let op = MatMul { weights: &weights, bias: None, epilogue: Epilogue::Store };
//! let mut x = kernels.activations([layout.kind()]);
//! kernels.quantize(&[0.5; 32], 1, 32, &mut x);
//! let mut out = [0.0; 2];
//! kernels.matmul(&op, &x, &mut out);
//! assert_eq!(out, [16.0, 32.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod activations;
mod aligned;
mod attention;
mod dequantize;
mod elementwise;
mod error;
mod ggml;
mod isa;
mod kernels;
mod lanes;
mod limits;
mod matmul;
mod memory;
mod pack;
mod rope;
mod shared;
mod team;

pub use activations::{ActivationForms, Activations};
pub use aligned::AlignedBytes;
pub use attention::{AttentionOp, AttentionSeq, KvKind, KvPool, KvRows, KvShape, KvSlot};
pub use dequantize::dequantize_row;
pub use error::KernelError;
pub use ggml::GgmlType;
pub use isa::Isa;
pub use kernels::Kernels;
pub use limits::MachineLimits;
pub use matmul::{Epilogue, MatMul};
pub use memory::release_freed_memory;
pub use pack::{
    LAYOUT_VERSION, PackSource, PackedKind, PackedLayout, PackedView, TILE_ROWS, pack_matrix,
    pack_tiles,
};
pub use rope::{HeadRows, RopeOptions, RopePairs, RopeTable};
pub use team::{Team, physical_cores};
