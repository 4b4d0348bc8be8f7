//! Quantised weights with 256-bit instructions: AVX2 alone, or with its byte dot product
//! (AVX-VNNI).
//!
//! As in the 512-bit code each block of weights is unpacked to registers once and meets every row
//! of the panel; here half a tile, eight rows, fills eight of the sixteen registers. Without VNNI a
//! dot product is made of `maddubs` (u8 by i8 to pairs in i16), which must not saturate: see
//! [`dot`].

use super::UnitTiles;
use crate::activations::{BlockMeta, Panel};
use crate::lanes::LANES;
use crate::pack::{BLOCK, PackedKind};
use std::arch::x86_64::*;

/// The eight groups of a block, eight rows each.
type Weights = [__m256i; 8];

/// Rows of half a tile.
const HALF: usize = LANES / 2;

/// How a kind is read; see the 512-bit code. `half` is 0 or 1: which eight rows.
///
/// # Safety
/// Methods need AVX2 with F16C, and a tile that has the block.
trait Kind {
    /// Width of a quant.
    const BITS: u32;
    /// Log2 of the zero point; none where a minimum is added instead.
    const ZERO_SHIFT: Option<u32>;
    /// Whether the second scale belongs to columns 16 to 32 of a block. If not, and there is no
    /// zero point, it is the minimum.
    const SPLIT: bool = false;
    /// Bytes from one block to the next, on average.
    const BLOCK_BYTES: usize;
    /// Where the quants of a block start in a tile.
    fn quants_at(block: usize) -> usize;
    /// Scale, and second scale or minimum.
    unsafe fn scales(tile: *const u8, block: usize, half: usize) -> [__m256; 2];
}

#[inline(always)]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: the caller vouches for 32 bytes.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

#[inline(always)]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller vouches for 16 bytes.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

#[inline(always)]
unsafe fn unsigned_bytes(at: *const u8) -> __m256 {
    // SAFETY: the caller vouches for 8 bytes.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()))) }
}

#[inline(always)]
unsafe fn signed_bytes(at: *const u8) -> __m256 {
    // SAFETY: the caller vouches for 8 bytes.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
}

/// Unpacks the eight rows that start at `at` in the first vector of a block.
#[inline(always)]
unsafe fn unpack(bits: u32, at: *const u8) -> Weights {
    // SAFETY: the caller vouches for a block of quants; this half's bytes are within it.
    unsafe {
        let mut w = [_mm256_setzero_si256(); 8];
        if bits == 8 {
            for (g, w) in w.iter_mut().enumerate() {
                *w = load(at.add(64 * g));
            }
            return w;
        }
        let mask = _mm256_set1_epi8(0x0F);
        for v in 0..4 {
            let both = load(at.add(64 * v));
            w[v] = _mm256_and_si256(both, mask);
            w[v + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
        }
        if bits == 5 {
            let (high, bit) = (load(at.add(256)), _mm256_set1_epi8(0x10));
            for (g, w) in w.iter_mut().enumerate() {
                // A count in a register: the loop is unrolled and the count becomes a constant.
                let (left, right) = (4usize.saturating_sub(g), g.saturating_sub(4));
                let plane = _mm256_sll_epi16(high, _mm_cvtsi32_si128(left as i32));
                let plane = _mm256_srl_epi16(plane, _mm_cvtsi32_si128(right as i32));
                *w = _mm256_or_si256(*w, _mm256_and_si256(plane, bit));
            }
        }
        if bits == 6 {
            let two = _mm256_set1_epi8(0x30);
            for h in 0..2 {
                let high = load(at.add(256 + 64 * h));
                let planes = [
                    _mm256_slli_epi16::<4>(high),
                    _mm256_slli_epi16::<2>(high),
                    high,
                    _mm256_srli_epi16::<2>(high),
                ];
                for (w, plane) in w[4 * h..].iter_mut().zip(planes) {
                    *w = _mm256_or_si256(*w, _mm256_and_si256(plane, two));
                }
            }
        }
        w
    }
}

/// Kinds with one record for each block: quants, scale, perhaps a minimum.
macro_rules! simple_kind {
    ($name:ident, $bits:expr, $zero:expr) => {
        struct $name;
        impl Kind for $name {
            const BITS: u32 = $bits;
            const ZERO_SHIFT: Option<u32> = $zero;
            const BLOCK_BYTES: usize = PackedKind::$name.block_bytes();

            #[inline(always)]
            fn quants_at(block: usize) -> usize {
                block * PackedKind::$name.record_bytes()
            }

            #[inline(always)]
            unsafe fn scales(tile: *const u8, block: usize, half: usize) -> [__m256; 2] {
                // SAFETY: passed on to the caller.
                unsafe {
                    let at = tile.add(Self::quants_at(block) + 64 * $bits + 16 * half);
                    let min = if Self::ZERO_SHIFT.is_none() {
                        halves(at.add(32))
                    } else {
                        _mm256_setzero_ps()
                    };
                    [halves(at), min]
                }
            }
        }
    };
}

simple_kind!(Q4, 4, Some(3));
simple_kind!(Q4Min, 4, None);
simple_kind!(Q5, 5, Some(4));
simple_kind!(Q5Min, 5, None);
simple_kind!(Q8, 8, Some(7));

/// Q4_K and Q5_K: a header for eight blocks.
macro_rules! min_super_kind {
    ($name:ident, $bits:expr) => {
        struct $name;
        impl Kind for $name {
            const BITS: u32 = $bits;
            const ZERO_SHIFT: Option<u32> = None;
            const BLOCK_BYTES: usize = PackedKind::$name.block_bytes();

            #[inline(always)]
            fn quants_at(block: usize) -> usize {
                block / 8 * PackedKind::$name.record_bytes() + 320 + block % 8 * 64 * $bits
            }

            #[inline(always)]
            unsafe fn scales(tile: *const u8, block: usize, half: usize) -> [__m256; 2] {
                // SAFETY: passed on to the caller.
                unsafe {
                    let header = tile.add(block / 8 * PackedKind::$name.record_bytes());
                    let at = header.add(64 + 16 * (block % 8) + 8 * half);
                    let d = halves(header.add(16 * half));
                    let dmin = halves(header.add(32 + 16 * half));
                    let min = _mm256_mul_ps(dmin, unsigned_bytes(at.add(128)));
                    [_mm256_mul_ps(d, unsigned_bytes(at)), _mm256_sub_ps(_mm256_setzero_ps(), min)]
                }
            }
        }
    };
}

min_super_kind!(Q4K, 4);
min_super_kind!(Q5K, 5);

struct Q6K;

impl Kind for Q6K {
    const BITS: u32 = 6;
    const ZERO_SHIFT: Option<u32> = Some(5);
    const SPLIT: bool = true;
    const BLOCK_BYTES: usize = PackedKind::Q6K.block_bytes();

    #[inline(always)]
    fn quants_at(block: usize) -> usize {
        block / 8 * PackedKind::Q6K.record_bytes() + 288 + block % 8 * 384
    }

    #[inline(always)]
    unsafe fn scales(tile: *const u8, block: usize, half: usize) -> [__m256; 2] {
        // SAFETY: passed on to the caller.
        unsafe {
            let header = tile.add(block / 8 * PackedKind::Q6K.record_bytes());
            let at = header.add(32 + 32 * (block % 8) + 8 * half);
            let d = halves(header.add(16 * half));
            [_mm256_mul_ps(d, signed_bytes(at)), _mm256_mul_ps(d, signed_bytes(at.add(16)))]
        }
    }
}

/// Fills `sums`, `[tile][row]`, for all rows of a panel, with AVX2 alone.
///
/// # Safety
/// Needs AVX2, FMA and F16C. Panel and tiles must have the same columns, and `sums` room for each
/// row of each tile.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn sum(unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    // SAFETY: passed on to the caller.
    unsafe { sum_kinds::<false>(unit, panel, sums) }
}

/// [`sum`] with the byte dot product.
///
/// # Safety
/// As [`sum`], and AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn sum_vnni(unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    // SAFETY: passed on to the caller.
    unsafe { sum_kinds::<true>(unit, panel, sums) }
}

#[inline(always)]
unsafe fn sum_kinds<const VNNI: bool>(
    unit: &UnitTiles<'_>,
    panel: &Panel<'_>,
    sums: &mut [[f32; LANES]],
) {
    for (tile, sums) in unit.tiles.iter().flatten().zip(sums.chunks_mut(panel.rows)) {
        let (tile, sums) = (tile.as_ptr(), sums.as_mut_ptr());
        // SAFETY: passed on to the caller.
        unsafe {
            match unit.kind {
                PackedKind::Q4 => sum_tile::<Q4, VNNI>(tile, panel, sums),
                PackedKind::Q4Min => sum_tile::<Q4Min, VNNI>(tile, panel, sums),
                PackedKind::Q5 => sum_tile::<Q5, VNNI>(tile, panel, sums),
                PackedKind::Q5Min => sum_tile::<Q5Min, VNNI>(tile, panel, sums),
                PackedKind::Q8 => sum_tile::<Q8, VNNI>(tile, panel, sums),
                PackedKind::Q4K => sum_tile::<Q4K, VNNI>(tile, panel, sums),
                PackedKind::Q5K => sum_tile::<Q5K, VNNI>(tile, panel, sums),
                PackedKind::Q6K => sum_tile::<Q6K, VNNI>(tile, panel, sums),
                PackedKind::F32 | PackedKind::F16 | PackedKind::BF16 => {
                    unreachable!("dense kinds go elsewhere")
                }
            }
        }
    }
}

/// How far ahead of their use packed bytes are asked for, in blocks; see the 512-bit code.
const AHEAD: usize = 16;

#[inline(always)]
unsafe fn sum_tile<K: Kind, const VNNI: bool>(
    tile: *const u8,
    panel: &Panel<'_>,
    sums: *mut [f32; LANES],
) {
    let (rows, blocks) = (panel.rows, panel.cols / BLOCK);
    let tile_bytes = (blocks * K::BLOCK_BYTES).next_multiple_of(64);
    // SAFETY: blocks and rows are within tile, panel and sums by the caller's promise.
    unsafe {
        for row in 0..rows {
            sums.add(row).write([0.0; LANES]);
        }
        for block in 0..blocks {
            // The next tile follows this one.
            let ahead = match block + AHEAD {
                ahead if ahead < blocks => ahead * K::BLOCK_BYTES,
                ahead => tile_bytes + (ahead - blocks) * K::BLOCK_BYTES,
            };
            for line in 0..K::BLOCK_BYTES.div_ceil(64) {
                _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(ahead + 64 * line).cast());
            }
            let (x, meta) = (
                panel.quants.as_ptr().add(block * rows * BLOCK),
                panel.meta.as_ptr().add(block * rows),
            );
            for half in 0..2 {
                let mut weights = unpack(K::BITS, tile.add(K::quants_at(block) + 32 * half));
                if K::BITS == 8 && !VNNI {
                    // `maddubs` by magnitudes would saturate beyond 128: signed bytes, see `dot`.
                    for w in &mut weights {
                        *w = _mm256_xor_si256(*w, _mm256_set1_epi8(-128));
                    }
                }
                let scales = K::scales(tile, block, half);
                for row in 0..rows {
                    let out = sums.add(row).cast::<f32>().add(half * HALF);
                    add_row::<K, VNNI>(
                        &weights,
                        &scales,
                        (x.add(row * BLOCK), &*meta.add(row)),
                        out,
                    );
                }
            }
        }
    }
}

/// What a dot product starts from so that the weights' zero point is taken away.
#[inline(always)]
unsafe fn zero<K: Kind, const VNNI: bool>(neg_sum: i32) -> __m256i {
    // SAFETY: passed on to the caller.
    unsafe {
        match K::ZERO_SHIFT {
            // Signed bytes have their zero at zero.
            Some(7) if !VNNI => _mm256_setzero_si256(),
            Some(shift) => _mm256_set1_epi32(neg_sum << shift),
            None => _mm256_setzero_si256(),
        }
    }
}

/// Adds one row's products with a block to its sums.
#[inline(always)]
unsafe fn add_row<K: Kind, const VNNI: bool>(
    weights: &Weights,
    scales: &[__m256; 2],
    (x, meta): (*const i8, &BlockMeta),
    out: *mut f32,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let x_scale = _mm256_set1_ps(meta.scale);
        let mut sum = _mm256_loadu_ps(out);
        if K::SPLIT {
            let low = dot::<K, VNNI>(&weights[..4], x, zero::<K, VNNI>(meta.neg_low));
            let high = dot::<K, VNNI>(
                &weights[4..],
                x.add(16),
                zero::<K, VNNI>(meta.neg_sum - meta.neg_low),
            );
            let (low_scale, high_scale) =
                (_mm256_mul_ps(scales[0], x_scale), _mm256_mul_ps(scales[1], x_scale));
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), low_scale, sum);
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), high_scale, sum);
        } else {
            let all = dot::<K, VNNI>(weights, x, zero::<K, VNNI>(meta.neg_sum));
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(all), _mm256_mul_ps(scales[0], x_scale), sum);
            if K::ZERO_SHIFT.is_none() {
                sum = _mm256_fmadd_ps(scales[1], _mm256_set1_ps(meta.scaled_sum), sum);
            }
        }
        _mm256_storeu_ps(out, sum);
    }
}

/// `start` plus the dot products of some groups with the same columns of a row.
///
/// Without VNNI a pair of products must fit 16 bits, and so must the pairs that are added before
/// they are widened: `2 * 127 * (2^BITS - 1)` each, so four pairs of 4 or 5 bits (31,496) and two
/// of 6 (32,004). Eight-bit weights are signed here: magnitudes of at most 128 times activations
/// that carry the sign, 32,512.
#[inline(always)]
unsafe fn dot<K: Kind, const VNNI: bool>(
    weights: &[__m256i],
    x: *const i8,
    start: __m256i,
) -> __m256i {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sum = start;
        if VNNI {
            for (g, w) in weights.iter().enumerate() {
                sum = _mm256_dpbusd_avx_epi32(sum, *w, four(x, g));
            }
            return sum;
        }
        let ones = _mm256_set1_epi16(1);
        let together = match K::BITS {
            8 => 1,
            6 => 2,
            _ => 4,
        };
        for (i, weights) in weights.chunks(together).enumerate() {
            let mut pairs = _mm256_setzero_si256();
            for (j, w) in weights.iter().enumerate() {
                pairs = _mm256_add_epi16(pairs, pair(K::BITS, *w, four(x, i * together + j)));
            }
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        sum
    }
}

/// Four activations in every lane.
#[inline(always)]
unsafe fn four(x: *const i8, group: usize) -> __m256i {
    // SAFETY: the caller vouches for the group.
    unsafe { _mm256_set1_epi32(x.add(4 * group).cast::<i32>().read_unaligned()) }
}

#[inline(always)]
unsafe fn pair(bits: u32, weights: __m256i, x: __m256i) -> __m256i {
    // SAFETY: passed on to the caller.
    unsafe {
        if bits == 8 {
            _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights))
        } else {
            _mm256_maddubs_epi16(weights, x)
        }
    }
}
