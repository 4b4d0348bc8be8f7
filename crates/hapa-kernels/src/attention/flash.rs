//! Attention in tiles with a running softmax (FlashAttention, Dao et al. 2022, arXiv:2205.14135).
//!
//! A unit of work is one key head and a block of queries of one sequence, all query heads of the group together.
//! Keys and values are widened to floats one tile of tokens at a time and used by every row of the
//! block. Tiles start at fixed tokens and each row is computed by itself, so that a query's result
//! does not depend on what else is in the batch.

use super::pool::Part;
use super::{AttentionOp, AttentionSeq, KvPool};
use crate::isa::for_each_isa;
use crate::lanes::{LANES, Lanes};
use crate::shared::SharedMut;

/// Tokens of a tile.
const TILE: usize = 64;

/// Rows (queries times query heads of a group) that a unit aims at.
const UNIT_ROWS: usize = 64;

/// A block of queries for one key head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    sequence: usize,
    kv_head: usize,
    /// First query, counted from the sequence's first in the batch.
    query: usize,
    queries: usize,
}

/// Lists the units of a batch.
pub(crate) fn units(
    sequences: &[AttentionSeq<'_>],
    kv_heads: usize,
    group: usize,
    out: &mut Vec<Unit>,
) {
    out.clear();
    let block = (UNIT_ROWS / group).max(1);
    for (sequence, s) in sequences.iter().enumerate() {
        for query in (0..s.query_rows).step_by(block) {
            let queries = block.min(s.query_rows - query);
            out.extend((0..kv_heads).map(|kv_head| Unit { sequence, kv_head, query, queries }));
        }
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
    /// Weighted values so far, `[row][dim]`.
    o: Vec<f32>,
    /// Largest score so far, and the sum of weights relative to it.
    running: Vec<(f32, f32)>,
}

impl Scratch {
    fn reshape(&mut self, rows: usize, dim: usize) {
        self.q.clear();
        self.q.resize(rows * dim, 0.0);
        self.k.resize(dim * TILE, 0.0);
        self.v.resize(TILE * dim, 0.0);
        self.s.resize(rows * TILE, 0.0);
        self.o.clear();
        self.o.resize(rows * dim, 0.0);
        self.running.clear();
        self.running.resize(rows, (f32::NEG_INFINITY, 0.0));
    }
}

for_each_isa! {
    /// Computes one unit into its rows and heads of `out`, `[row][heads * head_dim]`.
    ///
    /// # Safety
    /// No one else may use these rows and heads meanwhile.
    pub(crate) unsafe fn attend(
        pool: &KvPool,
        op: &AttentionOp<'_>,
        unit: Unit,
        scratch: &mut Scratch,
        out: &SharedMut<'_, f32>,
    ) = attend_lanes
}

#[inline(always)]
unsafe fn attend_lanes<L: Lanes>(
    pool: &KvPool,
    op: &AttentionOp<'_>,
    unit: Unit,
    scratch: &mut Scratch,
    out: &SharedMut<'_, f32>,
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

    let first_position = sequence.kv_len - sequence.query_rows + unit.query;
    let kv_end = first_position + unit.queries;
    for tile in (0..kv_end).step_by(TILE) {
        let tokens = TILE.min(kv_end - tile);
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
            let q = &scratch.q[blind * padded..];
            let s = &mut scratch.s[blind * TILE..];
            product::<L>(
                Matrix { data: q, stride: padded, depth: padded },
                (&scratch.k, TILE, vectors),
                (s, TILE, seeing),
                false,
            );
            for row in blind..rows {
                let visible = (first_position + row / group + 1 - tile).min(tokens);
                let s = &mut scratch.s[row * TILE..][..vectors * LANES];
                let o = &mut scratch.o[row * padded..][..padded];
                soften::<L>(s, visible, &mut scratch.running[row], o);
            }
            let p = &scratch.s[blind * TILE..];
            let o = &mut scratch.o[blind * padded..];
            product::<L>(
                Matrix { data: p, stride: TILE, depth: tokens },
                (&scratch.v, padded, padded / LANES),
                (o, padded, seeing),
                true,
            );
        }
    }

    for (row, o) in scratch.o.chunks_exact(padded).enumerate() {
        let head = unit.kv_head * group + row % group;
        let at = ((first_row + row / group) * op.heads.heads + head) * dim;
        let inverse = 1.0 / scratch.running[row].1;
        // SAFETY: rows and heads of different units differ.
        let out = unsafe { out.slice(at, dim) };
        for (out, o) in out.iter_mut().zip(o) {
            *out = o * inverse;
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

/// Turns the scores of one row into weights and brings what the row has so far to the new largest score.
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

/// Rows of floats, `stride` apart, `depth` of each used.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    stride: usize,
    depth: usize,
}

/// `c = a * b`, or `c += a * b`: `b` is (floats, stride, vectors of a row), `c` is (floats, stride, rows).
///
/// Each element is one chain of multiply-adds over the depth, whatever the blocking.
#[inline(always)]
unsafe fn product<L: Lanes>(
    a: Matrix<'_>,
    b: (&[f32], usize, usize),
    c: (&mut [f32], usize, usize),
    add: bool,
) {
    let (b, b_stride, vectors) = b;
    let (c, c_stride, rows) = c;
    assert!(
        rows == 0 || a.depth == 0 || vectors == 0 || {
            a.data.len() >= (rows - 1) * a.stride + a.depth
                && b.len() >= (a.depth - 1) * b_stride + vectors * LANES
                && c.len() >= (rows - 1) * c_stride + vectors * LANES
        }
    );
    let mut column = 0;
    while column < vectors {
        let width = match vectors - column {
            4.. if L::WIDE => 4,
            2.. => 2,
            _ => 1,
        };
        let at = column * LANES;
        let mut row = 0;
        while row < rows {
            let height = (rows - row).min(if L::WIDE { 4 } else { 2 });
            // SAFETY: rows, columns and depth are within the slices, as asserted above; features are passed on.
            unsafe {
                let strip = Strip {
                    a: a.data.as_ptr().add(row * a.stride),
                    a_stride: a.stride,
                    depth: a.depth,
                    b: b.as_ptr().add(at),
                    b_stride,
                    c: c.as_mut_ptr().add(row * c_stride + at),
                    c_stride,
                    add,
                };
                match (height, width) {
                    (4, 4) => strip.run::<L, 4, 4>(),
                    (3, 4) => strip.run::<L, 3, 4>(),
                    (2, 4) => strip.run::<L, 2, 4>(),
                    (1, 4) => strip.run::<L, 1, 4>(),
                    (4, 2) => strip.run::<L, 4, 2>(),
                    (3, 2) => strip.run::<L, 3, 2>(),
                    (2, 2) => strip.run::<L, 2, 2>(),
                    (1, 2) => strip.run::<L, 1, 2>(),
                    (4, _) => strip.run::<L, 4, 1>(),
                    (3, _) => strip.run::<L, 3, 1>(),
                    (2, _) => strip.run::<L, 2, 1>(),
                    _ => strip.run::<L, 1, 1>(),
                }
            }
            row += height;
        }
        column += width;
    }
}

/// A part of [`product`] whose sums fit the registers.
#[derive(Clone, Copy)]
struct Strip {
    a: *const f32,
    a_stride: usize,
    depth: usize,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    add: bool,
}

impl Strip {
    /// # Safety
    /// `R` rows of `a` and `c` and `N` vectors of `b` and `c` must be there, and the features of `L`.
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize, const N: usize>(self) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sums = [[L::splat(0.0); N]; R];
            if self.add {
                for (r, row) in sums.iter_mut().enumerate() {
                    for (n, sum) in row.iter_mut().enumerate() {
                        *sum = L::load(&*self.c.add(r * self.c_stride + n * LANES).cast());
                    }
                }
            }
            for k in 0..self.depth {
                let b = self.b.add(k * self.b_stride);
                let mut columns = [L::splat(0.0); N];
                for (n, column) in columns.iter_mut().enumerate() {
                    *column = L::load(&*b.add(n * LANES).cast());
                }
                for (r, row) in sums.iter_mut().enumerate() {
                    let x = L::splat(*self.a.add(r * self.a_stride + k));
                    for (sum, column) in row.iter_mut().zip(columns) {
                        *sum = column.mul_add(x, *sum);
                    }
                }
            }
            for (r, row) in sums.iter().enumerate() {
                for (n, sum) in row.iter().enumerate() {
                    sum.store(&mut *self.c.add(r * self.c_stride + n * LANES).cast());
                }
            }
        }
    }
}
