//! How a batch of attention is cut into units of work.

use super::{AttentionSeq, KvShape};

/// Rows (queries times query heads of a group) that a unit aims at.
const UNIT_ROWS: usize = 64;

/// Tokens of a segment: a row's sums start anew at each, and are joined in order. It is what
/// several threads can work on for one query, and the same whether they do or not. A multiple of a
/// tile.
pub(super) const SEGMENT: usize = 512;

/// A block of queries for one key head, over some segments of its tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    /// First query, counted from the sequence's first in the batch.
    pub(super) query: usize,
    pub(super) queries: usize,
    pub(super) first_segment: usize,
    pub(super) segments: usize,
    /// Where the sums of its one segment go, when others join them; see [`Plan::joins`].
    pub(super) partial: Option<usize>,
}

/// The units of a batch.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Independent units.
    pub(crate) units: Vec<Unit>,
    /// Units whose segments lie in `partials` once all `units` are done, from [`Unit::partial`] on.
    pub(crate) joins: Vec<Unit>,
    /// Sums of segments: for each, weighted values `[row][dim]` and then `[row]` of largest score
    /// and sum.
    pub(crate) partials: Vec<f32>,
}

impl Plan {
    /// Lists the units of a batch. Long sequences are split where there are too few units for the
    /// threads.
    pub(crate) fn make(
        &mut self,
        sequences: &[AttentionSeq<'_>],
        shape: &KvShape,
        group: usize,
        threads: usize,
    ) {
        self.units.clear();
        self.joins.clear();
        let block = (UNIT_ROWS / group).max(1);
        let blocks: usize = sequences.iter().map(|s| s.query_rows.div_ceil(block)).sum();
        let split = threads > 1 && blocks * shape.kv_heads < 2 * threads;
        let mut floats = 0;
        for (sequence, s) in sequences.iter().enumerate() {
            for query in (0..s.query_rows).step_by(block) {
                let queries = block.min(s.query_rows - query);
                let segments = (s.kv_len - s.query_rows + query + queries).div_ceil(SEGMENT);
                for kv_head in 0..shape.kv_heads {
                    let whole = Unit {
                        sequence,
                        kv_head,
                        query,
                        queries,
                        first_segment: 0,
                        segments,
                        partial: None,
                    };
                    if !split || segments == 1 {
                        self.units.push(whole);
                        continue;
                    }
                    self.joins.push(Unit { partial: Some(floats), ..whole });
                    for first_segment in 0..segments {
                        self.units.push(Unit {
                            first_segment,
                            segments: 1,
                            partial: Some(floats),
                            ..whole
                        });
                        floats += partial_floats(queries * group, shape.padded_dim());
                    }
                }
            }
        }
        self.partials.resize(floats, 0.0);
    }
}

/// Floats that the sums of one segment take.
pub(super) const fn partial_floats(rows: usize, dim: usize) -> usize {
    rows * (dim + 2)
}
