//! Float weights times float activations.

use super::UnitTiles;
use crate::activations::Panel;
use crate::isa::{Proven, for_each_isa};
use crate::lanes::{LANES, Lanes};
use crate::pack::PackedKind;

for_each_isa! {
    /// Fills `sums`, `[tile][row]`, for all rows of a panel.
    fn sum_tile(
        kind: PackedKind,
        tile: &[u8],
        panel: &Panel<'_>,
        sums: &mut [[f32; LANES]],
    ) = sum_lanes
}

/// Fills `sums`, `[tile][row]`, for all rows of a panel.
pub(super) fn sum(isa: Proven, unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    for (tile, sums) in unit.tiles.iter().flatten().zip(sums.chunks_mut(panel.rows)) {
        sum_tile(isa, unit.kind, tile, panel, sums);
    }
}

/// Widens a column of weights.
trait Column {
    const BYTES: usize;
    unsafe fn load<L: Lanes>(bytes: &[u8]) -> L;
}

struct Single;
struct Half;
struct Brain;

/// Sixteen little-endian values of `N` bytes.
#[inline(always)]
fn column<const N: usize>(bytes: &[u8]) -> &[[u8; N]; LANES] {
    match bytes.as_chunks::<N>().0.first_chunk() {
        Some(column) => column,
        None => unreachable!("a column has sixteen weights"),
    }
}

#[inline(always)]
fn words(bytes: &[u8]) -> [u32; LANES] {
    // SAFETY: as many bytes, and every bit pattern is a value.
    let words: [u32; LANES] = unsafe { std::mem::transmute(*column::<4>(bytes)) };
    if cfg!(target_endian = "big") { words.map(u32::swap_bytes) } else { words }
}

#[inline(always)]
fn half_words(bytes: &[u8]) -> [u16; LANES] {
    // SAFETY: as many bytes, and every bit pattern is a value.
    let words: [u16; LANES] = unsafe { std::mem::transmute(*column::<2>(bytes)) };
    if cfg!(target_endian = "big") { words.map(u16::swap_bytes) } else { words }
}

impl Column for Single {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn load<L: Lanes>(bytes: &[u8]) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_bits(&words(bytes)) }
    }
}

impl Column for Half {
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn load<L: Lanes>(bytes: &[u8]) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_half(&half_words(bytes)) }
    }
}

impl Column for Brain {
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn load<L: Lanes>(bytes: &[u8]) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_brain(&half_words(bytes)) }
    }
}

#[inline(always)]
unsafe fn sum_lanes<L: Lanes>(
    kind: PackedKind,
    tile: &[u8],
    panel: &Panel<'_>,
    sums: &mut [[f32; LANES]],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        match kind {
            PackedKind::F16 => sum_columns::<L, Half>(tile, panel, sums),
            PackedKind::BF16 => sum_columns::<L, Brain>(tile, panel, sums),
            _ => sum_columns::<L, Single>(tile, panel, sums),
        }
    }
}

#[inline(always)]
unsafe fn sum_columns<L: Lanes, C: Column>(
    tile: &[u8],
    panel: &Panel<'_>,
    sums: &mut [[f32; LANES]],
) {
    let mut row = 0;
    while row < panel.rows {
        let x = &panel.floats[row * panel.cols..];
        let sums = &mut sums[row..panel.rows];
        // SAFETY: passed on to the caller.
        row += unsafe {
            match sums.len() {
                8.. => sum_rows::<L, C, 8>(tile, x, panel.cols, sums),
                4.. => sum_rows::<L, C, 4>(tile, x, panel.cols, sums),
                2.. => sum_rows::<L, C, 2>(tile, x, panel.cols, sums),
                _ => sum_rows::<L, C, 1>(tile, x, panel.cols, sums),
            }
        };
    }
}

/// `R` rows at once; each is one chain of multiply-adds over the columns.
#[inline(always)]
unsafe fn sum_rows<L: Lanes, C: Column, const R: usize>(
    tile: &[u8],
    x: &[f32],
    cols: usize,
    out: &mut [[f32; LANES]],
) -> usize {
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &x[r * cols..(r + 1) * cols];
    }
    // SAFETY: features are passed on to the caller.
    unsafe {
        let mut sums = [L::splat(0.0); R];
        for (k, column) in tile.chunks_exact(C::BYTES).take(cols).enumerate() {
            let weights = C::load::<L>(column);
            for (sum, row) in sums.iter_mut().zip(&rows) {
                *sum = weights.mul_add(L::splat(row[k]), *sum);
            }
        }
        for (sum, out) in sums.into_iter().zip(out) {
            sum.store(out);
        }
    }
    R
}
