//! Quantised weights with the 512-bit byte dot product.
//!
//! For each block of 32 columns the weights of two tiles, 32 rows, are unpacked to bytes in sixteen
//! registers, and every row of the panel runs past them: eight broadcast loads feed sixteen dot
//! products. The float sums of the panel's rows stay in the first-level cache. So the unpacking is
//! shared by all rows of the batch, and a batch of one still reads the packed bytes once, in order.
//! With AMX, batches go through [`amx`] instead, sixteen rows at a time; its sums have the same bits.

mod amx;
mod kinds;

pub(crate) use self::amx::multiply_tiles;
use self::kinds::*;
use super::UnitTiles;
use crate::activations::{Activations, BlockMeta, Panel};
use crate::lanes::LANES;
use crate::pack::{BLOCK, PackedKind};
use std::arch::x86_64::*;
use std::ops::Range;

/// Calls a function for the kind of a unit's weights.
macro_rules! for_kind {
    ($unit:expr, $function:ident($($argument:expr),*)) => {
        match $unit.kind {
            PackedKind::Q4 => $function::<Q4>($($argument),*),
            PackedKind::Q4Min => $function::<Q4Min>($($argument),*),
            PackedKind::Q5 => $function::<Q5>($($argument),*),
            PackedKind::Q5Min => $function::<Q5Min>($($argument),*),
            PackedKind::Q8 => $function::<Q8>($($argument),*),
            PackedKind::Q4K => $function::<Q4K>($($argument),*),
            PackedKind::Q5K => $function::<Q5K>($($argument),*),
            PackedKind::Q6K => $function::<Q6K>($($argument),*),
            PackedKind::F32 | PackedKind::F16 | PackedKind::BF16 => {
                unreachable!("dense kinds go elsewhere")
            }
        }
    };
}

/// Fills `sums`, `[tile][row]`, for all rows of a panel.
///
/// # Safety
/// Needs AVX-512 F, BW, DQ, VL and VNNI. Panel and tiles must have the same columns, and `sums`
/// room for each row of each tile.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn sum(unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    // SAFETY: passed on to the caller.
    unsafe { for_kind!(unit, sum_kind(unit, panel, sums)) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn sum_kind<K: Kind>(unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    // SAFETY: passed on to the caller.
    unsafe {
        match unit.tiles {
            [Some(a), Some(b)] => {
                sum_tiles::<K, 2>([a.as_ptr(), b.as_ptr()], panel, sums.as_mut_ptr());
            }
            [Some(a), None] => sum_tiles::<K, 1>([a.as_ptr()], panel, sums.as_mut_ptr()),
            [None, _] => {}
        }
    }
}

/// Fills `sums`, `[panel][tile][row]`, for panels of sixteen rows.
///
/// # Safety
/// Needs AVX-512 F, BW, DQ, VL, and AMX with the system's permission. Panels and tiles must have
/// the same columns, and `sums` room for two tiles of each panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn sum_panels(
    unit: &UnitTiles<'_>,
    panels: (&Activations, Range<usize>),
    sums: &mut [[f32; LANES]],
) {
    use amx::sum_unit;
    // SAFETY: passed on to the caller.
    unsafe { for_kind!(unit, sum_unit(unit, panels, sums)) }
}

/// How far ahead of their use packed bytes are asked for, in blocks: some twelve kilobytes, into the
/// second-level cache, since the first has fewer places for lines on their way. Without this the
/// machine's own prefetchers reach half the bandwidth, as each page of memory is a new stream to
/// them.
const AHEAD: usize = 32;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn sum_tiles<K: Kind, const W: usize>(
    tiles: [*const u8; W],
    panel: &Panel<'_>,
    sums: *mut [f32; LANES],
) {
    let (rows, blocks) = (panel.rows, panel.cols / BLOCK);
    let tile_bytes = (blocks * K::BLOCK_BYTES).next_multiple_of(64);
    // SAFETY: blocks and rows are within tiles, panel and sums by the caller's promise; prefetches
    // may go anywhere.
    unsafe {
        for row in 0..W * rows {
            _mm512_storeu_ps(sums.add(row).cast(), _mm512_setzero_ps());
        }
        for block in 0..blocks {
            // The next unit's tiles follow this one's.
            let ahead = match block + AHEAD {
                ahead if ahead < blocks => ahead * K::BLOCK_BYTES,
                ahead => W * tile_bytes + (ahead - blocks) * K::BLOCK_BYTES,
            };
            for tile in tiles {
                for line in 0..K::BLOCK_BYTES.div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T1>(tile.wrapping_add(ahead + 64 * line).cast());
                }
            }
            let mut weights = [[_mm512_setzero_si512(); 8]; W];
            let mut scales = [[_mm512_setzero_ps(); 2]; W];
            for (w, tile) in tiles.into_iter().enumerate() {
                weights[w] = K::weights(tile, block);
                scales[w] = K::scales(tile, block);
            }
            let at = block * rows;
            let mut rest = Rest {
                x: panel.quants.as_ptr().add(at * BLOCK),
                meta: panel.meta.as_ptr().add(at),
                sums,
                rows,
            };
            for _ in 0..rows / 2 {
                rest.take::<K, W, 2>(&weights, &scales);
            }
            if !rows.is_multiple_of(2) {
                rest.take::<K, W, 1>(&weights, &scales);
            }
        }
    }
}

/// Rows of a panel that have not met the block in the registers.
struct Rest {
    x: *const i8,
    meta: *const BlockMeta,
    sums: *mut [f32; LANES],
    /// Distance of the sums of two tiles.
    rows: usize,
}

impl Rest {
    /// Takes the next `R` rows.
    ///
    /// # Safety
    /// There must be so many; and the features of [`sum`].
    #[inline(always)]
    unsafe fn take<K: Kind, const W: usize, const R: usize>(
        &mut self,
        weights: &[Weights; W],
        scales: &[[__m512; 2]; W],
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut dots = [[[_mm512_setzero_si512(); 2]; W]; R];
            for (r, dots) in dots.iter_mut().enumerate() {
                let meta = &*self.meta.add(r);
                if let Some(shift) = K::ZERO_SHIFT {
                    let shift = _mm_cvtsi32_si128(shift as i32);
                    let first = if K::SPLIT { meta.neg_low } else { meta.neg_sum };
                    let first = _mm512_sll_epi32(_mm512_set1_epi32(first), shift);
                    for dots in dots.iter_mut() {
                        dots[0] = first;
                    }
                    if K::SPLIT {
                        let second = _mm512_set1_epi32(meta.neg_sum - meta.neg_low);
                        let second = _mm512_sll_epi32(second, shift);
                        for dots in dots.iter_mut() {
                            dots[1] = second;
                        }
                    }
                }
            }
            for g in 0..8 {
                for (r, dots) in dots.iter_mut().enumerate() {
                    let four = self.x.add(r * BLOCK + 4 * g).cast::<i32>().read_unaligned();
                    let four = _mm512_set1_epi32(four);
                    for (dots, weights) in dots.iter_mut().zip(weights) {
                        let half = if K::SPLIT { g / 4 } else { 0 };
                        dots[half] = _mm512_dpbusd_epi32(dots[half], weights[g], four);
                    }
                }
            }
            for (r, dots) in dots.iter().enumerate() {
                let meta = &*self.meta.add(r);
                let x_scale = _mm512_set1_ps(meta.scale);
                for (w, (dots, scales)) in dots.iter().zip(scales).enumerate() {
                    let at: *mut f32 = self.sums.add(w * self.rows + r).cast();
                    let mut sum = _mm512_loadu_ps(at);
                    let scale = _mm512_mul_ps(scales[0], x_scale);
                    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[0]), scale, sum);
                    if K::SPLIT {
                        let scale = _mm512_mul_ps(scales[1], x_scale);
                        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[1]), scale, sum);
                    } else if K::ZERO_SHIFT.is_none() {
                        sum = _mm512_fmadd_ps(scales[1], _mm512_set1_ps(meta.scaled_sum), sum);
                    }
                    _mm512_storeu_ps(at, sum);
                }
            }
            self.x = self.x.add(R * BLOCK);
            self.meta = self.meta.add(R);
            self.sums = self.sums.add(R);
        }
    }
}
