//! RMS norm, SiLU gate, quantisation: the operators between matmuls.

use crate::activations::{ActivationRows, Activations, BlockMeta, Panel};
use crate::isa::{Proven, for_each_isa};
use crate::lanes::{LANES, Lanes, load_part, store_part};
use crate::pack::BLOCK;
use crate::team::Team;

/// Elements below which an operator runs on the calling thread: sharing it would take longer.
pub(crate) const ALONE: usize = 16 << 10;

/// Where the values to be quantised come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// As they are: `[rows][cols]`.
    Plain(&'a [f32]),
    /// RMS norm of `x`, `[rows][cols]`.
    Norm { x: &'a [f32], weight: &'a [f32], eps: f32 },
    /// `silu(gate) * up` where a row holds gate and up one after the other: `[rows][2 * cols]`.
    SiluGate(&'a [f32]),
}

impl<'a> Source<'a> {
    /// The source of one of `rows` rows.
    fn row(self, row: usize, rows: usize) -> Self {
        let part = |x: &'a [f32]| {
            let width = x.len() / rows;
            &x[row * width..(row + 1) * width]
        };
        match self {
            Self::Plain(x) => Self::Plain(part(x)),
            Self::Norm { x, weight, eps } => Self::Norm { x: part(x), weight, eps },
            Self::SiluGate(x) => Self::SiluGate(part(x)),
        }
    }
}

/// Makes `out` hold the `rows` by `cols` values of `source`.
pub(crate) fn fill(team: &mut Team, isa: Proven, source: Source<'_>, out: &mut Activations) {
    let (rows, cols) = (out.rows(), out.cols());
    let out = ActivationRows::new(out);
    // SAFETY: each row is filled once, and rows do not overlap.
    let one = |row: usize| unsafe { fill_one(isa, source.row(row, rows), row, &out) };
    if rows * cols < ALONE {
        (0..rows).for_each(one);
    } else {
        team.for_each_piece(rows, 4, &|_, piece| piece.for_each(one));
    }
}

for_each_isa! {
    /// Fills one row.
    ///
    /// # Safety
    /// No one else may use the row meanwhile.
    unsafe fn fill_one(source: Source<'_>, row: usize, out: &ActivationRows<'_>) = fill_row
}

/// Values of a row by index.
trait Values: Copy {
    /// The sixteen values from `at`.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn lanes<L: Lanes>(self, at: usize) -> L;
}

#[derive(Clone, Copy)]
struct PlainRow<'a>(&'a [f32]);

#[derive(Clone, Copy)]
struct NormRow<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    inverse: f32,
}

#[derive(Clone, Copy)]
struct SiluRow<'a> {
    gate: &'a [f32],
    up: &'a [f32],
}

/// The sixteen floats from `at`, zeros past the end.
#[inline(always)]
unsafe fn lanes_at<L: Lanes>(x: &[f32], at: usize) -> L {
    // SAFETY: passed on to the caller.
    unsafe {
        match x[at..].first_chunk::<LANES>() {
            Some(whole) => L::load(whole),
            None => load_part(&x[at..], 0.0),
        }
    }
}

impl Values for PlainRow<'_> {
    #[inline(always)]
    unsafe fn lanes<L: Lanes>(self, at: usize) -> L {
        // SAFETY: passed on to the caller.
        unsafe { lanes_at(self.0, at) }
    }
}

impl Values for NormRow<'_> {
    #[inline(always)]
    unsafe fn lanes<L: Lanes>(self, at: usize) -> L {
        // SAFETY: passed on to the caller.
        unsafe {
            let scaled = lanes_at::<L>(self.x, at).mul(L::splat(self.inverse));
            scaled.mul(lanes_at(self.weight, at))
        }
    }
}

impl Values for SiluRow<'_> {
    #[inline(always)]
    unsafe fn lanes<L: Lanes>(self, at: usize) -> L {
        // SAFETY: passed on to the caller.
        unsafe { silu(lanes_at::<L>(self.gate, at), lanes_at(self.up, at)) }
    }
}

/// One over the root mean square of a row.
#[inline(always)]
unsafe fn inverse_rms<L: Lanes>(x: &[f32], eps: f32) -> f32 {
    // SAFETY: passed on to the caller.
    unsafe {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let (mut even, mut odd) = (L::splat(0.0), L::splat(0.0));
        let (pairs, single) = chunks.as_chunks::<2>();
        for [a, b] in pairs {
            let (a, b) = (L::load(a), L::load(b));
            even = a.mul_add(a, even);
            odd = b.mul_add(b, odd);
        }
        for a in single {
            let a = L::load(a);
            even = a.mul_add(a, even);
        }
        let a: L = load_part(rest, 0.0);
        let sum = a.mul_add(a, even.add(odd)).sum();
        1.0 / (sum / x.len() as f32 + eps).sqrt()
    }
}

#[inline(always)]
unsafe fn fill_row<L: Lanes>(source: Source<'_>, row: usize, out: &ActivationRows<'_>) {
    // SAFETY: passed on to the caller.
    unsafe {
        match source {
            Source::Plain(x) => write_row::<L, _>(PlainRow(x), row, out),
            Source::Norm { x, weight, eps } => {
                let inverse = inverse_rms::<L>(x, eps);
                write_row::<L, _>(NormRow { x, weight, inverse }, row, out);
            }
            Source::SiluGate(x) => {
                let (gate, up) = x.split_at(x.len() / 2);
                write_row::<L, _>(SiluRow { gate, up }, row, out);
            }
        }
    }
}

#[inline(always)]
unsafe fn write_row<L: Lanes, V: Values>(values: V, row: usize, out: &ActivationRows<'_>) {
    // SAFETY: features are passed on to the caller; no one else uses this row.
    unsafe {
        for block in 0..out.cols / BLOCK {
            let at = block * BLOCK;
            write_block::<L>([values.lanes(at), values.lanes(at + LANES)], (row, block), out);
        }
        if out.forms.floats {
            for at in (out.cols / BLOCK * BLOCK..out.cols).step_by(LANES) {
                let to = out.floats.slice(row * out.cols + at, LANES.min(out.cols - at));
                store_part(values.lanes::<L>(at), to);
            }
        }
    }
}

/// Writes 32 columns of a row in the forms that are kept.
#[inline(always)]
unsafe fn write_block<L: Lanes>(
    [low, high]: [L; 2],
    (row, block): (usize, usize),
    out: &ActivationRows<'_>,
) {
    // SAFETY: features are passed on to the caller; no one else uses this block.
    unsafe {
        if out.forms.floats
            && let [a, b] =
                out.floats.slice(row * out.cols + block * BLOCK, BLOCK).as_chunks_mut().0
        {
            low.store(a);
            high.store(b);
        }
        if out.forms.quantised {
            let (first, step) = out.places.of(row);
            let at = first + block * step;
            let bytes = out.quants.slice(at * BLOCK, BLOCK).as_chunks_mut().0;
            out.meta.slice(at, 1)[0] = quantise_block(low, high, bytes);
        }
    }
}

for_each_isa! {
    /// Writes `silu(gate) * up` of a unit's sums, `[tile][row]`, to `columns` of the panel's rows.
    ///
    /// # Safety
    /// No one else may use these columns of these rows meanwhile.
    pub(crate) unsafe fn gate_unit(
        sums: (&[[f32; LANES]], &[[f32; LANES]]),
        panel: &Panel<'_>,
        columns: std::ops::Range<usize>,
        out: &ActivationRows<'_>,
    ) = gate_lanes
}

#[inline(always)]
unsafe fn gate_lanes<L: Lanes>(
    (gate, up): (&[[f32; LANES]], &[[f32; LANES]]),
    panel: &Panel<'_>,
    columns: std::ops::Range<usize>,
    out: &ActivationRows<'_>,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        for row in 0..panel.rows {
            let to = panel.first_row + row;
            let low = silu::<L>(L::load(&gate[row]), L::load(&up[row]));
            let second = panel.rows + row;
            if columns.len() == BLOCK {
                let high = silu::<L>(L::load(&gate[second]), L::load(&up[second]));
                write_block([low, high], (to, columns.start / BLOCK), out);
            } else {
                // The last columns of a width that is no multiple of 32: floats only.
                let to = out.floats.slice(to * out.cols + columns.start, columns.len());
                let (first, rest) = to.split_at_mut(LANES.min(to.len()));
                store_part(low, first);
                if !rest.is_empty() {
                    store_part(silu::<L>(L::load(&gate[second]), L::load(&up[second])), rest);
                }
            }
        }
    }
}

/// `gate * sigmoid(gate) * up`.
#[inline(always)]
unsafe fn silu<L: Lanes>(gate: L, up: L) -> L {
    // SAFETY: passed on to the caller.
    unsafe {
        let inverse = L::splat(1.0).add(L::splat(0.0).sub(gate).exp());
        gate.div(inverse).mul(up)
    }
}

/// Rounds 32 values to bytes of `largest / 127`.
#[inline(always)]
unsafe fn quantise_block<L: Lanes>(low: L, high: L, bytes: &mut [[i8; LANES]]) -> BlockMeta {
    // SAFETY: passed on to the caller.
    unsafe {
        let largest = low.abs().max(high.abs()).largest();
        let inverse = L::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let (low, high) = (low.mul(inverse).round(), high.mul(inverse).round());
        low.store_i8(&mut bytes[0]);
        high.store_i8(&mut bytes[1]);
        // Integers of at most 32 * 127: exact in floats.
        let (low_sum, sum) = (low.sum(), low.add(high).sum());
        let scale = largest / 127.0;
        BlockMeta {
            scale,
            scaled_sum: scale * sum,
            neg_sum: -(sum as i32),
            neg_low: -(low_sum as i32),
        }
    }
}

for_each_isa! {
    /// RMS norm of consecutive rows of `weight.len()`, in place.
    pub(crate) fn norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) = norm_rows
}

#[inline(always)]
unsafe fn norm_rows<L: Lanes>(x: &mut [f32], weight: &[f32], eps: f32) {
    // SAFETY: passed on to the caller.
    unsafe {
        for row in x.chunks_exact_mut(weight.len()) {
            let inverse = inverse_rms::<L>(row, eps);
            for (out, weight) in row.chunks_mut(LANES).zip(weight.chunks(LANES)) {
                let lanes: L = NormRow { x: out, weight, inverse }.lanes(0);
                store_part(lanes, out);
            }
        }
    }
}

for_each_isa! {
    /// The place of the largest value, the first of several; 0 for an empty slice.
    pub(crate) fn argmax(x: &[f32]) -> usize = argmax_lanes
}

#[inline(always)]
unsafe fn argmax_lanes<L: Lanes>(x: &[f32]) -> usize {
    // The largest value first, then its place: both passes are simple, and the second ends early.
    // SAFETY: passed on to the caller.
    let largest = unsafe {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut largest = load_part::<L>(rest, f32::NEG_INFINITY);
        for chunk in chunks {
            // A lane that is not a number loses, whichever side it is on.
            largest = L::load(chunk).max(largest);
        }
        largest.largest()
    };
    x.iter().position(|value| *value == largest).unwrap_or(0)
}

for_each_isa! {
    /// Turns logits into probabilities, in place.
    pub(crate) fn softmax(x: &mut [f32]) = softmax_lanes
}

#[inline(always)]
unsafe fn softmax_lanes<L: Lanes>(x: &mut [f32]) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut largest = L::splat(f32::NEG_INFINITY);
        for chunk in x.chunks(LANES) {
            largest = largest.max(load_part(chunk, f32::NEG_INFINITY));
        }
        let shift = L::splat(largest.largest());
        let mut sum = L::splat(0.0);
        for chunk in x.chunks_mut(LANES) {
            let e = load_part::<L>(chunk, f32::NEG_INFINITY).sub(shift).exp();
            sum = sum.add(e);
            store_part(e, chunk);
        }
        let inverse = L::splat(1.0 / sum.sum());
        for chunk in x.chunks_mut(LANES) {
            let scaled = load_part::<L>(chunk, 0.0).mul(inverse);
            store_part(scaled, chunk);
        }
    }
}
