//! Quantised weights with AMX: products of whole tiles of bytes.
//!
//! A block of a packed tile, unpacked, is what the second operand of `tdpbssd` looks like: eight
//! rows of 64 bytes, each with four columns of all sixteen weight rows. A panel is the first
//! operand as it lies. So one instruction multiplies sixteen rows of the batch with a block; its
//! integers go through the first-level cache to the vector units, which scale and add them in
//! registers, in the order and with the roundings of the byte dot product's code.
//!
//! Rust has no stable intrinsics for AMX, so its instructions stand here as assembly. The compiler
//! knows nothing of the tile registers and never uses them; they are in their initial state again
//! when [`sum_unit`] returns, so that the system saves no eight kilobytes at each switch of threads.

use super::kinds::{Kind, Weights};
use crate::activations::{Activations, Panel, TILE_PANEL_ROWS};
use crate::lanes::LANES;
use crate::matmul::{UNIT_TILES, UnitTiles};
use crate::pack::BLOCK;
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of the batch in a tile.
const ROWS: usize = TILE_PANEL_ROWS;

/// Blocks that are unpacked at a time: 16 KB, and as much of a panel's activations.
const CHUNK: usize = 32;

/// Products under way: their integers are read only when as many others have been started.
const AHEAD: usize = 4;

/// Bytes of one unpacked block.
const BLOCK_BYTES: usize = 16 * BLOCK;

/// What `ldtilecfg` reads: tiles 0 to 3 are products, 4 and 5 activations, 6 and 7 weights.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// For sixteen rows of the batch by `columns` columns, 64 at most.
    const fn new(columns: usize) -> Self {
        let (product, x) = (64, columns as u16);
        let (mut row_bytes, mut rows) = ([product; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            rows[tile] = ROWS as u8;
            if tile == 4 || tile == 5 {
                row_bytes[tile] = x;
            } else if tile > 5 {
                rows[tile] = (columns / 4) as u8;
            }
            tile += 1;
        }
        while tile < 16 {
            row_bytes[tile] = 0;
            tile += 1;
        }
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

/// Unpacked weights and scales of up to [`CHUNK`] blocks of one tile.
#[repr(C, align(64))]
struct Chunk {
    /// `[block][group of four columns]`, signed.
    weights: [[[u8; 64]; 8]; CHUNK],
    /// `[block][0]` scales, `[block][1]` second scales or minima, for each weight row.
    scales: [[[f32; LANES]; 2]; CHUNK],
}

/// Integer products, row of the batch by weight row.
#[repr(C, align(64))]
struct Products([[[i32; LANES]; ROWS]; AHEAD]);

/// A panel and the blocks of a chunk that meet.
#[derive(Clone, Copy)]
struct Meeting<'a> {
    panel: Panel<'a>,
    /// First block of the chunk.
    first: usize,
    /// Blocks of the chunk.
    blocks: usize,
    /// Packed bytes to ask for meanwhile, one block for each that is multiplied: the next chunk's.
    ahead: Option<*const u8>,
}

/// Fills `sums`, `[panel][tile][row]`.
///
/// # Safety
/// As [`super::sum_panels`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn sum_unit<K: Kind>(
    unit: &UnitTiles<'_>,
    (x, panels): (&Activations, Range<usize>),
    sums: &mut [[f32; LANES]],
) {
    let config = const { TileConfig::new(if K::SPLIT { BLOCK / 2 } else { BLOCK }) };
    let mut chunk = MaybeUninit::<Chunk>::uninit();
    let blocks = x.cols() / BLOCK;
    sums[..panels.len() * UNIT_TILES * ROWS].fill([0.0; LANES]);
    // SAFETY: blocks, panels and sums are there by the caller's promise.
    unsafe {
        configure(&config);
        for (at, tile) in unit.tiles.iter().flatten().enumerate() {
            for first in (0..blocks).step_by(CHUNK) {
                let blocks = CHUNK.min(blocks - first);
                unpack::<K>(tile.as_ptr(), first, blocks, chunk.as_mut_ptr());
                let mut ahead = Some(tile.as_ptr().wrapping_add((first + blocks) * K::BLOCK_BYTES));
                for (panel, sums) in panels.clone().zip(sums.chunks_mut(UNIT_TILES * ROWS)) {
                    let ahead = ahead.take();
                    let meeting = Meeting { panel: x.panel(panel), first, blocks, ahead };
                    meeting.run::<K>(chunk.as_ptr(), sums[at * ROWS..].as_mut_ptr());
                }
            }
        }
        release();
    }
}

/// Multiplies tiles that lie in registers, four products in each turn: what the machine can do at most.
///
/// # Safety
/// Needs AMX with the system's permission.
pub(crate) unsafe fn multiply_tiles(turns: usize) {
    let config = const { TileConfig::new(2 * BLOCK) };
    // SAFETY: all tiles are configured, and nothing holds one across this.
    unsafe {
        configure(&config);
        for _ in 0..turns {
            asm!(
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm5, tmm7",
                "tdpbssd tmm2, tmm4, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                options(nostack, nomem, preserves_flags)
            );
        }
        release();
    }
}

/// Sets the shapes of the tile registers of this thread.
///
/// # Safety
/// Needs AMX with the system's permission.
#[inline(always)]
unsafe fn configure(config: &TileConfig) {
    // SAFETY: the configuration is of palette 1 and within its limits.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly, preserves_flags));
    }
}

/// Puts the tile registers of this thread into their initial state.
///
/// # Safety
/// Needs AMX.
#[inline(always)]
unsafe fn release() {
    // SAFETY: nothing holds a tile across this.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
}

/// Unpacks blocks `first..first + blocks` to signed bytes, and their scales.
///
/// # Safety
/// As [`sum_unit`]; `blocks` is at most [`CHUNK`].
#[inline(always)]
unsafe fn unpack<K: Kind>(tile: *const u8, first: usize, blocks: usize, chunk: *mut Chunk) {
    // SAFETY: passed on to the caller.
    unsafe {
        for at in 0..blocks {
            let weights: Weights = K::weights(tile, first + at);
            let to: *mut u8 = (&raw mut (*chunk).weights[at]).cast();
            for (group, mut weights) in weights.into_iter().enumerate() {
                if let Some(shift) = K::ZERO_SHIFT {
                    // With the zero point gone no correction is needed: 0..=255 minus 128 and all
                    // narrower quants are signed bytes.
                    weights = _mm512_sub_epi8(weights, _mm512_set1_epi8((1u8 << shift) as i8));
                }
                _mm512_store_si512(to.add(64 * group).cast(), weights);
            }
            let to: *mut f32 = (&raw mut (*chunk).scales[at]).cast();
            for (part, scales) in K::scales(tile, first + at).into_iter().enumerate() {
                _mm512_store_ps(to.add(LANES * part), scales);
            }
        }
    }
}

/// Asks for the packed bytes of the block of a part.
#[inline(always)]
fn prefetch<K: Kind>(packed: *const u8, part: usize) {
    let bytes = K::BLOCK_BYTES / parts::<K>();
    for line in 0..bytes.div_ceil(64) {
        // SAFETY: every machine with AMX has the instruction, and it may go anywhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(packed.wrapping_add(part * bytes + 64 * line).cast());
        }
    }
}

/// Products of a block that have one scale: all of it, or one of two halves.
const fn parts<K: Kind>() -> usize {
    if K::SPLIT { 2 } else { 1 }
}

impl Meeting<'_> {
    /// Starts the products of up to [`AHEAD`] parts from `part` on, counted over the chunk.
    ///
    /// # Safety
    /// As [`sum_unit`]; the tile registers are configured.
    #[inline(always)]
    unsafe fn multiply<K: Kind>(&self, chunk: *const Chunk, part: usize, products: *mut Products) {
        /// Multiplies by way of one set of registers.
        macro_rules! product {
            ($at:literal, $product:literal, $x:literal, $weights:literal) => {
                if part + $at < self.blocks * parts::<K>() {
                    let (block, half) =
                        ((part + $at) / parts::<K>(), (part + $at) % parts::<K>());
                    let row = (self.first + block) * ROWS;
                    asm!(
                        concat!("tileloadd ", $x, ", [{x} + {x_stride}]"),
                        concat!("tileloadd ", $weights, ", [{weights} + {stride}]"),
                        concat!("tilezero ", $product),
                        concat!("tdpbssd ", $product, ", ", $x, ", ", $weights),
                        concat!("tilestored [{to} + {stride}], ", $product),
                        x = in(reg) self.panel.quants.as_ptr().add(row * BLOCK + half * (BLOCK / 2)),
                        x_stride = in(reg) BLOCK,
                        weights = in(reg) (&raw const (*chunk).weights[block][4 * half]),
                        stride = in(reg) 64usize,
                        to = in(reg) (&raw mut (*products).0[$at]),
                        options(nostack, preserves_flags),
                    );
                }
            };
        }
        const { assert!(AHEAD == 4 && size_of::<Chunk>() == CHUNK * (BLOCK_BYTES + 128)) };
        // SAFETY: the shapes that were configured are within panel, chunk and products.
        unsafe {
            product!(0, "tmm0", "tmm4", "tmm6");
            product!(1, "tmm1", "tmm5", "tmm7");
            product!(2, "tmm2", "tmm4", "tmm6");
            product!(3, "tmm3", "tmm5", "tmm7");
        }
    }

    /// Adds the scaled products of the part `part` to the sum of a row.
    ///
    /// # Safety
    /// As [`sum_unit`]; the products are there.
    #[inline(always)]
    unsafe fn add<K: Kind>(
        &self,
        (chunk, products): (*const Chunk, *const Products),
        part: usize,
        row: usize,
        sum: __m512,
    ) -> __m512 {
        let (block, half) = (part / parts::<K>(), part % parts::<K>());
        // SAFETY: passed on to the caller.
        unsafe {
            let meta = &*self.panel.meta.as_ptr().add((self.first + block) * ROWS + row);
            let scales = &(*chunk).scales[block];
            let product = (&raw const (*products).0[part % AHEAD][row]).cast();
            let product = _mm512_cvtepi32_ps(_mm512_load_si512(product));
            let scale =
                _mm512_mul_ps(_mm512_load_ps(scales[half].as_ptr()), _mm512_set1_ps(meta.scale));
            let sum = _mm512_fmadd_ps(product, scale, sum);
            if K::ZERO_SHIFT.is_some() {
                return sum;
            }
            let min = _mm512_load_ps(scales[1].as_ptr());
            _mm512_fmadd_ps(min, _mm512_set1_ps(meta.scaled_sum), sum)
        }
    }

    /// Adds the chunk to the sums of the panel's rows, which stay in registers meanwhile.
    ///
    /// # Safety
    /// As [`sum_unit`]; the tile registers are configured.
    #[inline(always)]
    unsafe fn run<K: Kind>(&self, chunk: *const Chunk, sums: *mut [f32; LANES]) {
        let [mut first, mut second] = [const { MaybeUninit::<Products>::uninit() }; 2];
        let (mut now, mut next) = (first.as_mut_ptr(), second.as_mut_ptr());
        let parts = self.blocks * parts::<K>();
        // SAFETY: passed on to the caller.
        unsafe {
            let mut kept: [__m512; ROWS] =
                std::array::from_fn(|row| _mm512_loadu_ps(sums.add(row).cast()));
            self.multiply::<K>(chunk, 0, now);
            for first in (0..parts).step_by(AHEAD) {
                self.multiply::<K>(chunk, first + AHEAD, next);
                for part in first..parts.min(first + AHEAD) {
                    if let Some(ahead) = self.ahead {
                        prefetch::<K>(ahead, part);
                    }
                    for (row, sum) in kept.iter_mut().enumerate() {
                        *sum = self.add::<K>((chunk, now), part, row, *sum);
                    }
                }
                std::mem::swap(&mut now, &mut next);
            }
            for (row, sum) in kept.into_iter().enumerate() {
                _mm512_storeu_ps(sums.add(row).cast(), sum);
            }
        }
    }
}
