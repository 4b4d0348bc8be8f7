//! Attention in tiles with a running softmax (FlashAttention, Dao et al. 2022, arXiv:2205.14135).
//!
//! A unit of work is one key head and a block of queries of one sequence, all query heads of the
//! group together. Keys and values are widened to floats one tile of tokens at a time and used by
//! every row of the block. Tiles start at fixed tokens and each row is computed by itself, so that
//! a query's result does not depend on what else is in the batch.

use super::plan::{SEGMENT, Unit, partial_floats};
use super::pool::Part;
use super::product::{Matrix, product};
use super::{AttentionOp, KvPool, KvShape};
use crate::isa::for_each_isa;
use crate::lanes::{LANES, Lanes};
use crate::shared::SharedMut;

/// Tokens of a tile.
const TILE: usize = 64;

/// Weighted values of rows and what they are relative to.
#[derive(Debug, Default)]
struct RowSums {
    /// `[row][dim]`.
    values: Vec<f32>,
    /// Largest score, and the sum of weights relative to it.
    running: Vec<(f32, f32)>,
}

impl RowSums {
    fn reset(&mut self, rows: usize, dim: usize) {
        self.values.clear();
        self.values.resize(rows * dim, 0.0);
        self.running.clear();
        self.running.resize(rows, (f32::NEG_INFINITY, 0.0));
    }
}

/// Working memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Scaled queries, `[row][dim]`.
    q: Vec<f32>,
    /// Keys of a tile, `[dim][TILE]`.
    k: Vec<f32>,
    /// Values of a tile, `[TILE][dim]`.
    v: Vec<f32>,
    /// Scores, then weights, `[row][TILE]`.
    s: Vec<f32>,
    /// Sums of the segment at hand.
    segment: RowSums,
    /// Sums of the segments before it.
    total: RowSums,
}

impl Scratch {
    fn reshape(&mut self, rows: usize, dim: usize) {
        self.q.clear();
        self.q.resize(rows * dim, 0.0);
        self.k.resize(dim * TILE, 0.0);
        self.v.resize(TILE * dim, 0.0);
        self.s.resize(rows * TILE, 0.0);
        self.total.reset(rows, dim);
    }
}

for_each_isa! {
    /// Computes one unit into its rows and heads of `out`, `[row][heads * head_dim]`, or into its
    /// part of `partials`.
    ///
    /// # Safety
    /// No one else may use these rows and heads, or this part, meanwhile.
    pub(crate) unsafe fn attend(
        pool: &KvPool,
        op: &AttentionOp<'_>,
        unit: Unit,
        scratch: &mut Scratch,
        out: (&SharedMut<'_, f32>, &SharedMut<'_, f32>),
    ) = attend_lanes
}

#[inline(always)]
unsafe fn attend_lanes<L: Lanes>(
    pool: &KvPool,
    op: &AttentionOp<'_>,
    unit: Unit,
    scratch: &mut Scratch,
    (out, partials): (&SharedMut<'_, f32>, &SharedMut<'_, f32>),
) {
    let shape = pool.shape();
    let (dim, padded) = (shape.head_dim, shape.padded_dim());
    let group = op.heads.heads / shape.kv_heads;
    let sequence = &op.sequences[unit.sequence];
    let rows = unit.queries * group;
    scratch.reshape(rows, padded);

    let first_row = sequence.query_start_row + unit.query;
    for (row, q) in scratch.q.chunks_exact_mut(padded).enumerate() {
        let head = unit.kv_head * group + row % group;
        let heads = &op.q[op.heads.range(first_row + row / group)];
        for (q, x) in q.iter_mut().zip(&heads[head * dim..(head + 1) * dim]) {
            *q = x * op.scale;
        }
    }

    for segment in unit.first_segment..unit.first_segment + unit.segments {
        // SAFETY: features are passed on to the caller; so is that no one else uses the unit's
        // part.
        unsafe {
            attend_segment::<L>(pool, op, unit, segment, scratch);
            if let Some(at) = unit.partial {
                let part = partials.slice(at, partial_floats(rows, padded));
                let (values, running) = part.split_at_mut(rows * padded);
                values.copy_from_slice(&scratch.segment.values);
                for (to, from) in running.as_chunks_mut().0.iter_mut().zip(&scratch.segment.running)
                {
                    *to = [from.0, from.1];
                }
                return;
            }
            let Scratch { segment, total, .. } = scratch;
            for (row, running) in segment.running.iter().enumerate() {
                let values = row * padded..(row + 1) * padded;
                let total = (&mut total.values[values.clone()], &mut total.running[row]);
                join_row::<L>(total, &segment.values[values], *running);
            }
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { finish(shape, op, unit, &scratch.total, out) };
}

for_each_isa! {
    /// Joins the segments of a unit that other units have computed.
    ///
    /// # Safety
    /// No one else may use the unit's rows and heads of `out` meanwhile.
    pub(crate) unsafe fn join(
        shape: &KvShape,
        op: &AttentionOp<'_>,
        unit: Unit,
        scratch: &mut Scratch,
        places: (&[f32], &SharedMut<'_, f32>),
    ) = join_lanes
}

#[inline(always)]
unsafe fn join_lanes<L: Lanes>(
    shape: &KvShape,
    op: &AttentionOp<'_>,
    unit: Unit,
    scratch: &mut Scratch,
    (partials, out): (&[f32], &SharedMut<'_, f32>),
) {
    let padded = shape.padded_dim();
    let rows = unit.queries * (op.heads.heads / shape.kv_heads);
    let total = &mut scratch.total;
    total.reset(rows, padded);
    let parts = partials[unit.partial.unwrap_or(0)..].chunks_exact(partial_floats(rows, padded));
    for part in parts.take(unit.segments) {
        let (values, running) = part.split_at(rows * padded);
        for (row, running) in running.as_chunks::<2>().0.iter().enumerate() {
            let at = row * padded..(row + 1) * padded;
            let total = (&mut total.values[at.clone()], &mut total.running[row]);
            // SAFETY: features are passed on to the caller.
            unsafe { join_row::<L>(total, &values[at], (running[0], running[1])) };
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { finish(shape, op, unit, total, out) };
}

/// Adds the sums of a row's next segment to those before.
#[inline(always)]
unsafe fn join_row<L: Lanes>(
    (total, running): (&mut [f32], &mut (f32, f32)),
    values: &[f32],
    (largest, sum): (f32, f32),
) {
    if largest == f32::NEG_INFINITY {
        // The row sees nothing of this segment.
        return;
    }
    let (before, sum_before) = *running;
    if before == f32::NEG_INFINITY {
        total.copy_from_slice(values);
        *running = (largest, sum);
        return;
    }
    let both = if largest > before { largest } else { before };
    // SAFETY: features are passed on to the caller.
    unsafe {
        let keep = L::splat(before).sub(L::splat(both)).exp();
        let take = L::splat(largest).sub(L::splat(both)).exp();
        for (total, new) in
            total.as_chunks_mut::<LANES>().0.iter_mut().zip(values.as_chunks::<LANES>().0)
        {
            L::load(total).mul(keep).add(L::load(new).mul(take)).store(total);
        }
        let mut sums = [0.0; LANES];
        L::splat(sum_before).mul(keep).add(L::splat(sum).mul(take)).store(&mut sums);
        *running = (both, sums[0]);
    }
}

/// Divides a unit's sums by their weights into the output.
///
/// # Safety
/// No one else may use the unit's rows and heads of `out` meanwhile.
#[inline(always)]
unsafe fn finish(
    shape: &KvShape,
    op: &AttentionOp<'_>,
    unit: Unit,
    total: &RowSums,
    out: &SharedMut<'_, f32>,
) {
    let group = op.heads.heads / shape.kv_heads;
    let first_row = op.sequences[unit.sequence].query_start_row + unit.query;
    for (row, values) in total.values.chunks_exact(shape.padded_dim()).enumerate() {
        let head = unit.kv_head * group + row % group;
        let at = ((first_row + row / group) * op.heads.heads + head) * shape.head_dim;
        let inverse = 1.0 / total.running[row].1;
        // SAFETY: passed on to the caller.
        let out = unsafe { out.slice(at, shape.head_dim) };
        for (out, value) in out.iter_mut().zip(values) {
            *out = value * inverse;
        }
    }
}

/// Computes a unit's sums over one segment into `scratch.segment`.
#[inline(always)]
unsafe fn attend_segment<L: Lanes>(
    pool: &KvPool,
    op: &AttentionOp<'_>,
    unit: Unit,
    segment: usize,
    scratch: &mut Scratch,
) {
    let padded = pool.shape().padded_dim();
    let group = op.heads.heads / pool.shape().kv_heads;
    let rows = unit.queries * group;
    scratch.segment.reset(rows, padded);
    let sequence = &op.sequences[unit.sequence];
    let first_position = sequence.kv_len - sequence.query_rows + unit.query;
    let end = (first_position + unit.queries).min((segment + 1) * SEGMENT);
    for tile in (segment * SEGMENT..end).step_by(TILE) {
        let tokens = TILE.min(end - tile);
        let vectors = tokens.div_ceil(LANES);
        // Queries before the tile's first token see nothing of it.
        let blind = tile.saturating_sub(first_position) * group;
        let seeing = rows - blind;
        // SAFETY: features are passed on to the caller; the sizes are those of `Scratch::reshape`.
        unsafe {
            widen_tile::<L>(
                pool,
                (op.layer, unit.kv_head),
                sequence.pages,
                tile..tile + tokens,
                scratch,
            );
            let Scratch { q, k, v, s, segment: RowSums { values, running }, .. } = scratch;
            let q = Matrix { data: &q[blind * padded..], stride: padded, depth: padded };
            product::<L>(q, (k, TILE, vectors), (&mut s[blind * TILE..], TILE, seeing), false);
            for row in blind..rows {
                let visible = (first_position + row / group + 1 - tile).min(tokens);
                let s = &mut s[row * TILE..][..vectors * LANES];
                soften::<L>(s, visible, &mut running[row], &mut values[row * padded..][..padded]);
            }
            let p = Matrix { data: &s[blind * TILE..], stride: TILE, depth: tokens };
            let o = (&mut values[blind * padded..], padded, seeing);
            product::<L>(p, (v, padded, padded / LANES), o, true);
        }
    }
}

/// Widens keys and values of some tokens (at most `TILE`, the first a multiple of it) into scratch.
#[inline(always)]
unsafe fn widen_tile<L: Lanes>(
    pool: &KvPool,
    (layer, head): (usize, usize),
    pages: &[u32],
    tokens: std::ops::Range<usize>,
    scratch: &mut Scratch,
) {
    let padded = pool.shape().padded_dim();
    let page_tokens = pool.shape().page_tokens;
    for at in tokens.clone().step_by(LANES) {
        let (page, offset) = (pages[at / page_tokens], at % page_tokens);
        let place = at - tokens.start;
        let elements = offset * padded..(offset + LANES) * padded;
        let k = scratch.k[place..].chunks_mut(TILE);
        let count = LANES.min(tokens.end - at);
        let v = scratch.v[place * padded..(place + count) * padded].chunks_exact_mut(LANES);
        // SAFETY: features are passed on to the caller.
        unsafe {
            match pool.part(layer, page, head, false) {
                Part::F16(keys) => {
                    for (to, from) in k.zip(keys[elements.clone()].as_chunks::<LANES>().0) {
                        store_first(L::load_half(from), to);
                    }
                }
                Part::Q8 { bytes, scales } => {
                    let scale = match scales[offset..].first_chunk::<LANES>() {
                        Some(scales) => L::load(scales),
                        None => L::splat(0.0),
                    };
                    for (to, from) in k.zip(bytes[elements.clone()].as_chunks::<LANES>().0) {
                        store_first(L::load_i8(from).mul(scale), to);
                    }
                }
            }
            match pool.part(layer, page, head, true) {
                Part::F16(values) => {
                    for (to, from) in v.zip(values[elements].as_chunks::<LANES>().0) {
                        store_first(L::load_half(from), to);
                    }
                }
                Part::Q8 { bytes, scales } => {
                    let vectors = padded / LANES;
                    for (i, (to, from)) in v.zip(bytes[elements].as_chunks::<LANES>().0).enumerate()
                    {
                        let scale = L::splat(scales[offset + i / vectors]);
                        store_first(L::load_i8(from).mul(scale), to);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn store_first<L: Lanes>(lanes: L, to: &mut [f32]) {
    if let Some(to) = to.first_chunk_mut::<LANES>() {
        // SAFETY: passed on to the caller.
        unsafe { lanes.store(to) }
    }
}

/// Turns the scores of one row into weights and brings what the row has so far to the new largest
/// score.
#[inline(always)]
unsafe fn soften<L: Lanes>(s: &mut [f32], visible: usize, running: &mut (f32, f32), o: &mut [f32]) {
    s[visible..].fill(f32::NEG_INFINITY);
    let s = s.as_chunks_mut::<LANES>().0;
    let (before, sum) = *running;
    // SAFETY: features are passed on to the caller.
    unsafe {
        let mut largest = L::splat(before);
        for chunk in s.iter() {
            largest = largest.max(L::load(chunk));
        }
        let largest = largest.largest();
        let shift = L::splat(largest);
        let mut added = L::splat(0.0);
        for chunk in s.iter_mut() {
            let weight = L::load(chunk).sub(shift).exp();
            weight.store(chunk);
            added = added.add(weight);
        }
        let mut sum_before = sum;
        if largest != before {
            let shrink = L::splat(before).sub(shift).exp();
            let mut one = [0.0; LANES];
            shrink.store(&mut one);
            sum_before *= one[0];
            for chunk in o.as_chunks_mut::<LANES>().0 {
                L::load(chunk).mul(shrink).store(chunk);
            }
        }
        *running = (largest, sum_before + added.sum());
    }
}
