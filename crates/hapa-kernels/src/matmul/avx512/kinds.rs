//! How each kind of weights is read into 512-bit registers.

use crate::pack::PackedKind;
use std::arch::x86_64::*;

/// The eight groups of a block, sixteen rows each.
pub(super) type Weights = [__m512i; 8];

/// How a kind is read.
///
/// # Safety
/// Methods need AVX-512 F, BW and VL with F16C, and a tile that has the block.
pub(super) trait Kind {
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
        pub(super) struct $name;
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
        pub(super) struct $name;
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

pub(super) struct Q6K;

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
