//! Plain readers of every ggml format: the oracle that packed kernels are tested against, and the
//! row gather of token embeddings.
//!
//! Each function turns one block into floats exactly as `dequantize_row_*` of llama.cpp does.

use crate::error::KernelError;
use crate::ggml::GgmlType;
use half::{bf16, f16};

/// Writes the weights of one row as floats.
///
/// `row` holds `out.len()` weights in format `ty`.
///
/// # Errors
/// [`KernelError::RowLength`] where the lengths of `row` and `out` do not belong together.
pub fn dequantize_row(ty: GgmlType, row: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    if ty.row_bytes(out.len()) != Some(row.len()) {
        return Err(KernelError::RowLength { ty, bytes: row.len(), cols: out.len() });
    }
    let block = match ty {
        GgmlType::F32 => {
            |b: &[u8], o: &mut [f32]| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])
        }
        GgmlType::F16 => |b: &[u8], o: &mut [f32]| o[0] = half_at(b, 0),
        GgmlType::BF16 => {
            |b: &[u8], o: &mut [f32]| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()
        }
        GgmlType::Q4_0 => q4_0,
        GgmlType::Q4_1 => q4_1,
        GgmlType::Q5_0 => q5_0,
        GgmlType::Q5_1 => q5_1,
        GgmlType::Q8_0 => |b: &[u8], o: &mut [f32]| signed_bytes(half_at(b, 0), &b[2..], o),
        GgmlType::Q8_1 => |b: &[u8], o: &mut [f32]| signed_bytes(half_at(b, 0), &b[4..], o),
        GgmlType::Q2K => q2_k,
        GgmlType::Q3K => q3_k,
        GgmlType::Q4K => q4_k,
        GgmlType::Q5K => q5_k,
        GgmlType::Q6K => q6_k,
        GgmlType::Q8K => |b: &[u8], o: &mut [f32]| {
            signed_bytes(f32::from_le_bytes([b[0], b[1], b[2], b[3]]), &b[4..260], o);
        },
    };
    let (elements, bytes) = (ty.block_elements(), ty.block_bytes());
    for (b, o) in row.chunks_exact(bytes).zip(out.chunks_exact_mut(elements)) {
        block(b, o);
    }
    Ok(())
}

/// The f16 at a byte offset, as f32.
pub(crate) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum number `j` (0..8) of a Q4_K or Q5_K super-block.
pub(crate) fn k_scale_min(j: usize, packed: &[u8]) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            (packed[j + 4] & 0xF) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        )
    }
}

/// The 16 signed 6-bit scales of a Q3_K super-block, without their offset of 32 taken away.
pub(crate) fn q3_k_scales(packed: &[u8]) -> [i8; 16] {
    let mut scales = [0i8; 16];
    for (j, scale) in scales.iter_mut().enumerate() {
        let low = if j < 8 { packed[j] & 0xF } else { packed[j - 8] >> 4 };
        let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
        *scale = (low | (high << 4)) as i8 - 32;
    }
    scales
}

fn signed_bytes(d: f32, quants: &[u8], out: &mut [f32]) {
    for (o, &q) in out.iter_mut().zip(quants) {
        *o = d * f32::from(q as i8);
    }
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for j in 0..16 {
        out[j] = d * (f32::from(b[2 + j] & 0xF) - 8.0);
        out[j + 16] = d * (f32::from(b[2 + j] >> 4) - 8.0);
    }
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for j in 0..16 {
        out[j] = d * f32::from(b[4 + j] & 0xF) + m;
        out[j + 16] = d * f32::from(b[4 + j] >> 4) + m;
    }
}

/// The 5-bit number `j` (0..32) of a block with its high bits at `high` and its nibbles at `low`.
pub(crate) fn five_bits(high: &[u8], low: &[u8], j: usize) -> u8 {
    let nibble = if j < 16 { low[j] & 0xF } else { low[j - 16] >> 4 };
    nibble | (((high[j / 8] >> (j % 8)) & 1) << 4)
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (j, o) in out.iter_mut().enumerate() {
        *o = d * (f32::from(five_bits(&b[2..6], &b[6..22], j)) - 16.0);
    }
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (j, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(five_bits(&b[4..8], &b[8..24], j)) + m;
    }
}

fn q2_k(b: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&b[..16], &b[16..80]);
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (i, o) in out.iter_mut().enumerate() {
        // Each half of 128 takes 32 bytes; four planes of two bits; a scale for each 16.
        let (half, plane, at) = (i / 128, i % 128 / 32, i % 32);
        let q = (quants[half * 32 + at] >> (2 * plane)) & 3;
        let scale = scales[i / 16];
        *o = d * f32::from(scale & 0xF) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

/// The 3-bit number `i` (0..256) of a Q3_K super-block, from -4 to 3.
pub(crate) fn q3_k_quant(b: &[u8], i: usize) -> i8 {
    let (mask, quants) = (&b[..32], &b[32..96]);
    let (half, plane, at) = (i / 128, i % 128 / 32, i % 32);
    let low = (quants[half * 32 + at] >> (2 * plane)) & 3;
    let high = (mask[at] >> (half * 4 + plane)) & 1;
    low as i8 - if high == 1 { 0 } else { 4 }
}

fn q3_k(b: &[u8], out: &mut [f32]) {
    let scales = q3_k_scales(&b[96..108]);
    let d = half_at(b, 108);
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(scales[i / 16]) * f32::from(q3_k_quant(b, i));
    }
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (i, o) in out.iter_mut().enumerate() {
        let (sc, m) = k_scale_min(i / 32, &b[4..16]);
        *o = d * f32::from(sc) * f32::from(q4_k_quant(&b[16..144], i)) - dmin * f32::from(m);
    }
}

/// The nibble number `i` (0..256) of a Q4_K or Q5_K super-block.
pub(crate) fn q4_k_quant(low: &[u8], i: usize) -> u8 {
    let byte = low[i / 64 * 32 + i % 32];
    if i % 64 < 32 { byte & 0xF } else { byte >> 4 }
}

fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (i, o) in out.iter_mut().enumerate() {
        let (sc, m) = k_scale_min(i / 32, &b[4..16]);
        let high = (b[16 + i % 32] >> (i / 32)) & 1;
        let q = q4_k_quant(&b[48..176], i) | (high << 4);
        *o = d * f32::from(sc) * f32::from(q) - dmin * f32::from(m);
    }
}

/// The 6-bit number `i` (0..256) of a Q6_K super-block, from 0 to 63 (its zero is 32).
pub(crate) fn q6_k_quant(b: &[u8], i: usize) -> u8 {
    let (half, plane, at) = (i / 128, i % 128 / 32, i % 32);
    let low = b[half * 64 + (plane % 2) * 32 + at];
    let low = if plane < 2 { low & 0xF } else { low >> 4 };
    let high = (b[128 + half * 32 + at] >> (2 * plane)) & 3;
    low | (high << 4)
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 208);
    for (i, o) in out.iter_mut().enumerate() {
        let scale = b[192 + i / 16] as i8;
        *o = d * f32::from(scale) * (f32::from(q6_k_quant(b, i)) - 32.0);
    }
}
