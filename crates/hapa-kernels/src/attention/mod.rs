//! Keys and values in pages, and attention over them.

mod flash;
mod plan;
mod pool;
mod product;

pub(crate) use flash::{Scratch, attend, join};
pub(crate) use plan::Plan;
pub(crate) use pool::write;
pub use pool::{KvKind, KvPool, KvRows, KvShape, KvSlot};

use crate::rope::HeadRows;

/// One sequence of an attention batch. Its queries are the last `query_rows` of its `kv_len`
/// tokens.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSeq<'a> {
    /// Pages that hold its tokens, in order.
    pub pages: &'a [u32],
    /// Tokens whose keys and values are in the pages, the queries' own included.
    pub kv_len: usize,
    /// Row of the batch that its first query is.
    pub query_start_row: usize,
    /// Number of its queries.
    pub query_rows: usize,
}

/// Causal attention of a batch of queries over one layer of a [`KvPool`].
#[derive(Debug, Clone, Copy)]
pub struct AttentionOp<'a> {
    /// Layer of the pool.
    pub layer: usize,
    /// Rows that hold queries.
    pub q: &'a [f32],
    /// Where in a row its query heads are; query head `h` reads key head `h / (heads / kv_heads)`.
    pub heads: HeadRows,
    /// The sequences.
    pub sequences: &'a [AttentionSeq<'a>],
    /// Factor on scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}
