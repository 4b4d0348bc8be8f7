//! Quantised weights with the 512-bit byte dot product.
//!
//! For each block of 32 columns the weights of two tiles, 32 rows, are unpacked to bytes in sixteen
//! registers, and every row of the panel runs past them: eight broadcast loads feed sixteen dot
//! products. The float sums of the panel's rows stay in the first-level cache. So the unpacking is
//! shared by all rows of the batch, and a batch of one still reads the packed bytes once, in order.

use super::UnitTiles;
use crate::activations::{BlockMeta, Panel};
use crate::lanes::LANES;
use crate::pack::{BLOCK, PackedKind};
use std::arch::x86_64::*;

/// The eight groups of a block, sixteen rows each.
type Weights = [__m512i; 8];

/// How a kind is read.
///
/// # Safety
/// Methods need AVX-512 F, BW and VL with F16C, and a tile that has the block.
trait Kind {
    /// Log2 of the zero point; none where a minimum is added instead.
    const ZERO_SHIFT: Option<u32>;
    /// Whether the second scale belongs to columns 16 to 32 of a block. If not, and there is no
    /// zero point, it is the minimum.
    const SPLIT: bool = false;
    /// Bytes from one block to the next, on average.
    const BLOCK_BYTES: usize;

    unsafe fn weights(tile: *const u8, block: usize) -> Weights;
    /// Scale, and second scale or minimum.
    unsafe fn scales(tile: *const u8, block: usize) -> [__m512; 2];
}

#[inline(always)]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: the caller vouches for 64 bytes.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

#[inline(always)]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller vouches for 32 bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

#[inline(always)]
unsafe fn unsigned_bytes(at: *const u8) -> __m512 {
    // SAFETY: the caller vouches for 16 bytes.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()))) }
}

#[inline(always)]
unsafe fn signed_bytes(at: *const u8) -> __m512 {
    // SAFETY: the caller vouches for 16 bytes.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
}

#[inline(always)]
unsafe fn nibbles(at: *const u8) -> Weights {
    // SAFETY: the caller vouches for 256 bytes.
    unsafe {
        let mask = _mm512_set1_epi8(0x0F);
        let mut w = [_mm512_setzero_si512(); 8];
        for v in 0..4 {
            let both = load(at.add(64 * v));
            w[v] = _mm512_and_si512(both, mask);
            w[v + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
        }
        w
    }
}

/// `low | (high & mask)`.
#[inline(always)]
unsafe fn join(low: __m512i, high: __m512i, mask: __m512i) -> __m512i {
    // SAFETY: passed on to the caller.
    unsafe { _mm512_ternarylogic_epi64::<0xF8>(low, high, mask) }
}

#[inline(always)]
unsafe fn five_bits(at: *const u8) -> Weights {
    // SAFETY: the caller vouches for 320 bytes.
    unsafe {
        let mut w = nibbles(at);
        let (high, bit) = (load(at.add(256)), _mm512_set1_epi8(0x10));
        w[0] = join(w[0], _mm512_slli_epi16::<4>(high), bit);
        w[1] = join(w[1], _mm512_slli_epi16::<3>(high), bit);
        w[2] = join(w[2], _mm512_slli_epi16::<2>(high), bit);
        w[3] = join(w[3], _mm512_slli_epi16::<1>(high), bit);
        w[4] = join(w[4], high, bit);
        w[5] = join(w[5], _mm512_srli_epi16::<1>(high), bit);
        w[6] = join(w[6], _mm512_srli_epi16::<2>(high), bit);
        w[7] = join(w[7], _mm512_srli_epi16::<3>(high), bit);
        w
    }
}

#[inline(always)]
unsafe fn six_bits(at: *const u8) -> Weights {
    // SAFETY: the caller vouches for 384 bytes.
    unsafe {
        let mut w = nibbles(at);
        let bits = _mm512_set1_epi8(0x30);
        for h in 0..2 {
            let high = load(at.add(256 + 64 * h));
            w[4 * h] = join(w[4 * h], _mm512_slli_epi16::<4>(high), bits);
            w[4 * h + 1] = join(w[4 * h + 1], _mm512_slli_epi16::<2>(high), bits);
            w[4 * h + 2] = join(w[4 * h + 2], high, bits);
            w[4 * h + 3] = join(w[4 * h + 3], _mm512_srli_epi16::<2>(high), bits);
        }
        w
    }
}

/// Kinds with one record for each block: quants, scale, perhaps a minimum.
macro_rules! simple_kind {
    ($name:ident, $packed:ident, $zero:expr, $quants:expr, $read:expr) => {
        struct $name;
        impl Kind for $name {
            const ZERO_SHIFT: Option<u32> = $zero;
            const BLOCK_BYTES: usize = PackedKind::$packed.record_bytes();

            #[inline(always)]
            unsafe fn weights(tile: *const u8, block: usize) -> Weights {
                // SAFETY: passed on to the caller.
                unsafe { $read(tile.add(block * Self::BLOCK_BYTES)) }
            }

            #[inline(always)]
            unsafe fn scales(tile: *const u8, block: usize) -> [__m512; 2] {
                // SAFETY: passed on to the caller.
                unsafe {
                    let at = tile.add(block * Self::BLOCK_BYTES + $quants);
                    let min = if Self::ZERO_SHIFT.is_none() {
                        halves(at.add(32))
                    } else {
                        _mm512_setzero_ps()
                    };
                    [halves(at), min]
                }
            }
        }
    };
}

#[inline(always)]
unsafe fn whole_bytes(at: *const u8) -> Weights {
    // SAFETY: the caller vouches for 512 bytes.
    unsafe {
        let mut w = [_mm512_setzero_si512(); 8];
        for (g, w) in w.iter_mut().enumerate() {
            *w = load(at.add(64 * g));
        }
        w
    }
}

simple_kind!(Q4, Q4, Some(3), 256, nibbles);
simple_kind!(Q4Min, Q4Min, None, 256, nibbles);
simple_kind!(Q5, Q5, Some(4), 320, five_bits);
simple_kind!(Q5Min, Q5Min, None, 320, five_bits);
simple_kind!(Q8, Q8, Some(7), 512, whole_bytes);

/// Q4_K and Q5_K: a header for eight blocks.
macro_rules! min_super_kind {
    ($name:ident, $packed:ident, $quants:expr, $read:expr) => {
        struct $name;
        impl Kind for $name {
            const ZERO_SHIFT: Option<u32> = None;
            const BLOCK_BYTES: usize = PackedKind::$packed.block_bytes();

            #[inline(always)]
            unsafe fn weights(tile: *const u8, block: usize) -> Weights {
                let at = block / 8 * PackedKind::$packed.record_bytes() + 320 + block % 8 * $quants;
                // SAFETY: passed on to the caller.
                unsafe { $read(tile.add(at)) }
            }

            #[inline(always)]
            unsafe fn scales(tile: *const u8, block: usize) -> [__m512; 2] {
                // SAFETY: passed on to the caller.
                unsafe {
                    let header = tile.add(block / 8 * PackedKind::$packed.record_bytes());
                    let at = header.add(64 + 16 * (block % 8));
                    let scale = _mm512_mul_ps(halves(header), unsigned_bytes(at));
                    let min = _mm512_mul_ps(halves(header.add(32)), unsigned_bytes(at.add(128)));
                    [scale, _mm512_sub_ps(_mm512_setzero_ps(), min)]
                }
            }
        }
    };
}

min_super_kind!(Q4K, Q4K, 256, nibbles);
min_super_kind!(Q5K, Q5K, 320, five_bits);

struct Q6K;

impl Kind for Q6K {
    const ZERO_SHIFT: Option<u32> = Some(5);
    const SPLIT: bool = true;
    const BLOCK_BYTES: usize = PackedKind::Q6K.block_bytes();

    #[inline(always)]
    unsafe fn weights(tile: *const u8, block: usize) -> Weights {
        let at = block / 8 * PackedKind::Q6K.record_bytes() + 288 + block % 8 * 384;
        // SAFETY: passed on to the caller.
        unsafe { six_bits(tile.add(at)) }
    }

    #[inline(always)]
    unsafe fn scales(tile: *const u8, block: usize) -> [__m512; 2] {
        // SAFETY: passed on to the caller.
        unsafe {
            let header = tile.add(block / 8 * PackedKind::Q6K.record_bytes());
            let at = header.add(32 + 32 * (block % 8));
            let d = halves(header);
            [_mm512_mul_ps(d, signed_bytes(at)), _mm512_mul_ps(d, signed_bytes(at.add(16)))]
        }
    }
}

/// Fills `sums`, `[tile][row]`, for all rows of a panel.
///
/// # Safety
/// Needs AVX-512 F, BW, DQ, VL and VNNI. Panel and tiles must have the same columns, and `sums`
/// room for each row of each tile.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn sum(unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    // SAFETY: passed on to the caller.
    unsafe {
        match unit.kind {
            PackedKind::Q4 => sum_kind::<Q4>(unit, panel, sums),
            PackedKind::Q4Min => sum_kind::<Q4Min>(unit, panel, sums),
            PackedKind::Q5 => sum_kind::<Q5>(unit, panel, sums),
            PackedKind::Q5Min => sum_kind::<Q5Min>(unit, panel, sums),
            PackedKind::Q8 => sum_kind::<Q8>(unit, panel, sums),
            PackedKind::Q4K => sum_kind::<Q4K>(unit, panel, sums),
            PackedKind::Q5K => sum_kind::<Q5K>(unit, panel, sums),
            PackedKind::Q6K => sum_kind::<Q6K>(unit, panel, sums),
            PackedKind::F32 | PackedKind::F16 | PackedKind::BF16 => {
                unreachable!("dense kinds go elsewhere")
            }
        }
    }
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

/// How far ahead of their use packed bytes are asked for, in blocks: some six kilobytes. Without
/// this the machine's own prefetchers reach half the bandwidth, as each page of memory is a new
/// stream to them.
const AHEAD: usize = 16;

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
                    _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(ahead + 64 * line).cast());
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
