//! From rows of a GGUF file to tiles.

use super::{BLOCK, PackedKind, PackedLayout, SUPER_BLOCK, TILE_ROWS};
use crate::dequantize::{five_bits, k_scale_min, q3_k_quant, q3_k_scales, q4_k_quant, q6_k_quant};
use crate::error::KernelError;
use crate::{GgmlType, Team, dequantize_row};
use half::f16;
use std::ops::Range;
use std::sync::Mutex;

/// A matrix as a GGUF file holds it: rows one after the other.
#[derive(Debug, Clone, Copy)]
pub struct PackSource<'a> {
    /// Format of the rows.
    pub ty: GgmlType,
    /// All rows of the matrix.
    pub bytes: &'a [u8],
}

/// Packs the tiles `tiles` of a matrix into `dst`, which holds exactly those tiles. Independent
/// calls may pack different tiles at the same time.
///
/// # Errors
/// [`KernelError::PackSource`] where the source is not a matrix of this layout,
/// [`KernelError::PackedLength`] where `dst` has the wrong length.
pub fn pack_tiles(
    layout: &PackedLayout,
    source: PackSource<'_>,
    tiles: Range<usize>,
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let row_bytes = source.ty.row_bytes(layout.cols()).unwrap_or(0);
    if PackedKind::for_ggml(source.ty) != Some(layout.kind())
        || row_bytes.checked_mul(layout.rows()) != Some(source.bytes.len())
        || tiles.end > layout.tiles()
    {
        return Err(KernelError::PackSource {
            ty: source.ty,
            bytes: source.bytes.len(),
            rows: layout.rows(),
            cols: layout.cols(),
        });
    }
    let expected = tiles.len() * layout.tile_bytes();
    if dst.len() != expected {
        return Err(KernelError::PackedLength { expected, found: dst.len() });
    }
    for (tile, out) in tiles.zip(dst.chunks_exact_mut(layout.tile_bytes())) {
        out.fill(0);
        let first = tile * TILE_ROWS;
        for lane in 0..TILE_ROWS.min(layout.rows() - first) {
            let row = &source.bytes[(first + lane) * row_bytes..][..row_bytes];
            pack_row(layout, source.ty, row, LaneOf { tile: out, lane });
        }
    }
    Ok(())
}

/// Packs a whole matrix with all members of a team.
///
/// # Errors
/// As [`pack_tiles`].
pub fn pack_matrix(
    team: &mut Team,
    layout: &PackedLayout,
    source: PackSource<'_>,
    dst: &mut [u8],
) -> Result<(), KernelError> {
    if dst.len() != layout.bytes() {
        return Err(KernelError::PackedLength { expected: layout.bytes(), found: dst.len() });
    }
    // Locks, as the pieces go to whichever member is free; each is taken once.
    let tiles: Vec<_> = dst.chunks_exact_mut(layout.tile_bytes()).map(Mutex::new).collect();
    let failed = Mutex::new(None);
    team.for_each_piece(tiles.len(), 4, &|_, piece| {
        for tile in piece {
            let mut out = tiles[tile].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Err(error) = pack_tiles(layout, source, tile..tile + 1, &mut out) {
                *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            }
        }
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// One row's places in a tile.
struct LaneOf<'a> {
    tile: &'a mut [u8],
    lane: usize,
}

impl LaneOf<'_> {
    /// Writes a 16-bit value of this row into the sixteen at `at`.
    fn put_half(&mut self, at: usize, bits: [u8; 2]) {
        self.tile[at + 2 * self.lane..][..2].copy_from_slice(&bits);
    }

    /// Writes a byte of this row into the sixteen at `at`.
    fn put_byte(&mut self, at: usize, byte: u8) {
        self.tile[at + self.lane] = byte;
    }

    /// Writes the quants of one block of 32 columns, `bits` wide, at `at`.
    fn put_quants(&mut self, at: usize, bits: u32, quants: &[u8; BLOCK]) {
        for (k, &q) in quants.iter().enumerate() {
            let (group, byte) = (k / 4, 4 * self.lane + k % 4);
            if bits == 8 {
                self.tile[at + 64 * group + byte] = q;
                continue;
            }
            self.tile[at + 64 * (group % 4) + byte] |= (q & 0xF) << (4 * (group / 4));
            let high = q >> 4;
            match bits {
                5 => self.tile[at + 256 + byte] |= high << group,
                6 => self.tile[at + 256 + 64 * (group / 4) + byte] |= high << (2 * (group % 4)),
                _ => {}
            }
        }
    }
}

/// Packs one row into its lane of a zeroed tile.
fn pack_row(layout: &PackedLayout, ty: GgmlType, row: &[u8], mut lane: LaneOf<'_>) {
    let record = layout.kind().record_bytes();
    match ty {
        GgmlType::F32 => {
            for (k, value) in row.chunks_exact(4).enumerate() {
                let at = k * record + 4 * lane.lane;
                lane.tile[at..at + 4].copy_from_slice(value);
            }
        }
        GgmlType::F16 | GgmlType::BF16 => {
            for (k, value) in row.as_chunks::<2>().0.iter().enumerate() {
                lane.put_half(k * record, *value);
            }
        }
        GgmlType::Q2K => {
            let mut floats = [0.0; SUPER_BLOCK];
            for (i, block) in row.chunks_exact(ty.block_bytes()).enumerate() {
                // The lengths belong together by construction.
                let whole = dequantize_row(ty, block, &mut floats);
                debug_assert!(whole.is_ok());
                for (j, block) in floats.as_chunks::<BLOCK>().0.iter().enumerate() {
                    put_eight_bits(&mut lane, (i * (SUPER_BLOCK / BLOCK) + j) * record, block);
                }
            }
        }
        GgmlType::Q3K | GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => {
            for (i, block) in row.chunks_exact(ty.block_bytes()).enumerate() {
                put_super_block(&mut lane, i * record, ty, block);
            }
        }
        _ => {
            for (i, block) in row.chunks_exact(ty.block_bytes()).enumerate() {
                put_block(&mut lane, i * record, ty, block);
            }
        }
    }
}

/// A block of 32 of the simple types.
fn put_block(lane: &mut LaneOf<'_>, at: usize, ty: GgmlType, b: &[u8]) {
    let nibble = |low: &[u8], j: usize| if j < 16 { low[j] & 0xF } else { low[j - 16] >> 4 };
    let (bits, quants): (u32, [u8; BLOCK]) = match ty {
        GgmlType::Q4_0 => (4, std::array::from_fn(|j| nibble(&b[2..], j))),
        GgmlType::Q4_1 => (4, std::array::from_fn(|j| nibble(&b[4..], j))),
        GgmlType::Q5_0 => (5, std::array::from_fn(|j| five_bits(&b[2..6], &b[6..], j))),
        GgmlType::Q5_1 => (5, std::array::from_fn(|j| five_bits(&b[4..8], &b[8..], j))),
        // Q8_0; the sign bit turned makes the byte its value plus 128.
        _ => (8, std::array::from_fn(|j| b[2 + j] ^ 0x80)),
    };
    lane.put_quants(at, bits, &quants);
    let scales = at + quant_bytes(bits);
    lane.put_half(scales, [b[0], b[1]]);
    if matches!(ty, GgmlType::Q4_1 | GgmlType::Q5_1) {
        lane.put_half(scales + 32, [b[2], b[3]]);
    }
}

/// Bytes that the quants of one block take.
const fn quant_bytes(bits: u32) -> usize {
    bits as usize * 64
}

/// A super-block of 256 of the K types.
fn put_super_block(lane: &mut LaneOf<'_>, at: usize, ty: GgmlType, b: &[u8]) {
    let (bits, header) = match ty {
        GgmlType::Q4K => (4, 320),
        GgmlType::Q5K => (5, 320),
        _ => (6, 288),
    };
    if matches!(ty, GgmlType::Q4K | GgmlType::Q5K) {
        lane.put_half(at, [b[0], b[1]]);
        lane.put_half(at + 32, [b[2], b[3]]);
        for j in 0..8 {
            let (scale, min) = k_scale_min(j, &b[4..16]);
            lane.put_byte(at + 64 + 16 * j, scale);
            lane.put_byte(at + 192 + 16 * j, min);
        }
    } else {
        let d = ty.block_bytes() - 2;
        lane.put_half(at, [b[d], b[d + 1]]);
        let three = q3_k_scales(&b[96..108]);
        for (j, three) in three.into_iter().enumerate() {
            let scale = if ty == GgmlType::Q3K { three as u8 } else { b[192 + j] };
            lane.put_byte(at + 32 + 16 * j, scale);
        }
    }
    for j in 0..SUPER_BLOCK / BLOCK {
        let quants: [u8; BLOCK] = std::array::from_fn(|k| {
            let i = j * BLOCK + k;
            match ty {
                GgmlType::Q3K => (q3_k_quant(b, i) + 32) as u8,
                GgmlType::Q4K => q4_k_quant(&b[16..], i),
                GgmlType::Q5K => {
                    q4_k_quant(&b[48..], i) | (((b[16 + i % BLOCK] >> (i / BLOCK)) & 1) << 4)
                }
                _ => q6_k_quant(b, i),
            }
        });
        lane.put_quants(at + header + j * quant_bytes(bits), bits, &quants);
    }
}

/// A block of 32 floats as eight bits and a scale.
fn put_eight_bits(lane: &mut LaneOf<'_>, at: usize, floats: &[f32; BLOCK]) {
    let largest = floats.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let d = f16::from_f32(largest / 127.0);
    let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
    let quants = floats.map(|x| (x * inverse).round().clamp(-128.0, 127.0) as i8 as u8 ^ 0x80);
    lane.put_quants(at, 8, &quants);
    lane.put_half(at + 512, d.to_le_bytes());
}
