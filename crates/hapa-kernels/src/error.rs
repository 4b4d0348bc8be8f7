//! What can go wrong before any arithmetic starts.

use crate::ggml::GgmlType;
use crate::isa::Isa;

/// An input that no kernel can take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A row of weights and its length do not belong together.
    #[error("a {ty} row of {cols} weights does not take {bytes} bytes")]
    RowLength {
        /// Format of the row.
        ty: GgmlType,
        /// Bytes that were given.
        bytes: usize,
        /// Weights that were asked for.
        cols: usize,
    },
    /// A buffer for packed weights is too short or too long.
    #[error(
        "packed weights take {expected} bytes here, the buffer has {found}; pack the model again"
    )]
    PackedLength {
        /// Bytes of the layout.
        expected: usize,
        /// Bytes of the buffer.
        found: usize,
    },
    /// A matrix that cannot be packed into the layout that was asked for.
    #[error("{bytes} bytes of {ty} are no {rows} x {cols} matrix of the packed kind asked for")]
    PackSource {
        /// Format of the matrix.
        ty: GgmlType,
        /// Its bytes.
        bytes: usize,
        /// Rows of the layout.
        rows: usize,
        /// Columns of the layout.
        cols: usize,
    },
    /// A row that a packed matrix does not have.
    #[error("row {row} with {len} weights was asked for; the packed matrix is {rows} x {cols}")]
    PackedRow {
        /// The row.
        row: usize,
        /// Room for its weights.
        len: usize,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// No instruction set has this name.
    #[error("`{name}` is no instruction set; use scalar, avx2, avxvnni, avx512vnni or amx")]
    UnknownIsa {
        /// The name.
        name: String,
    },
    /// The machine lacks an instruction set.
    #[error("this machine has no {isa}; unset HAPA_ISA to use the best it has")]
    UnsupportedIsa {
        /// The instruction set.
        isa: Isa,
    },
    /// A KV cache that cannot be made.
    #[error("a KV cache of {bytes} bytes cannot be made: {why}")]
    KvShape {
        /// Bytes it would take; `usize::MAX` when that overflows.
        bytes: usize,
        /// What is wrong.
        why: &'static str,
    },
}
