//! Weights in the order in which the kernels read them.
//!
//! Sixteen rows are interleaved: a *tile* is sixteen rows over all columns, and each 32-bit lane of
//! a 64-byte vector holds bytes of one row. Quants keep their own bit width, as the bytes of a
//! token bound the speed of decoding. The layout is the same for every instruction set; see
//! [`PackedKind`] for the records of each kind.

mod layout;
mod rows;
mod tiles;

pub(crate) use layout::{BLOCK, SUPER_BLOCK};
pub use layout::{LAYOUT_VERSION, PackedKind, PackedLayout, PackedView, TILE_ROWS};
pub(crate) use rows::RowBlock;
pub use tiles::{PackSource, pack_matrix, pack_tiles};
