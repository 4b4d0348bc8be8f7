//! What can go wrong before any arithmetic starts.

use crate::ggml::GgmlType;

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
}
