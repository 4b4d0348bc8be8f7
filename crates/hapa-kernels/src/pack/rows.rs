//! From a tile back to one of its rows.

use half::{bf16, f16};

use super::{BLOCK, PackedKind, PackedView, SUPER_BLOCK, TILE_ROWS};
use crate::GgmlType;
use crate::dequantize::half_at;
use crate::error::KernelError;

impl PackedKind {
    /// Whether this kind gives back the weights of a ggml type as they were, to the last bit.
    pub fn is_exact_for(self, ty: GgmlType) -> bool {
        Self::for_ggml(ty) == Some(self) && ty != GgmlType::Q2K
    }
}

impl PackedView<'_> {
    /// Writes the weights of one row as floats: where the kind [is exact](PackedKind::is_exact_for), bit for bit
    /// what [`dequantize_row`](crate::dequantize_row) makes of the row that was packed.
    ///
    /// # Errors
    /// [`KernelError::PackedRow`] where there is no such row, or `out` is not as long as a row.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        let layout = *self.layout();
        if row >= layout.rows() || out.len() != layout.cols() {
            return Err(KernelError::PackedRow {
                row,
                len: out.len(),
                rows: layout.rows(),
                cols: layout.cols(),
            });
        }
        let (tile, lane) = (self.tile(row / TILE_ROWS), row % TILE_ROWS);
        let kind = layout.kind();
        if kind.is_dense() {
            for (column, out) in tile.chunks_exact(kind.record_bytes()).zip(out) {
                *out = match kind {
                    PackedKind::F16 => f16::from_le_bytes(value(column, lane)).to_f32(),
                    PackedKind::BF16 => bf16::from_le_bytes(value(column, lane)).to_f32(),
                    _ => f32::from_le_bytes(value(column, lane)),
                };
            }
        } else {
            for (index, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                RowBlock::read(kind, tile, index, lane).write(out);
            }
        }
        Ok(())
    }
}

/// The value of `N` bytes that a column holds for one row.
fn value<const N: usize>(column: &[u8], lane: usize) -> [u8; N] {
    column.as_chunks::<N>().0[lane]
}

/// The part of a block that belongs to one row: 32 weights.
pub(crate) struct RowBlock {
    /// Before the zero point is taken away.
    pub(crate) quants: [u8; BLOCK],
    pub(crate) zero: u8,
    /// Scales of the first and the second sixteen columns.
    pub(crate) scales: [f32; 2],
    /// What is added to each weight.
    pub(crate) min: Option<f32>,
}

impl RowBlock {
    /// Reads block `index` of a tile of quants, for the row in `lane`.
    pub(crate) fn read(kind: PackedKind, tile: &[u8], index: usize, lane: usize) -> Self {
        let (bits, zero) = match kind {
            PackedKind::Q4 => (4, 8),
            PackedKind::Q5 => (5, 16),
            PackedKind::Q6K => (6, 32),
            PackedKind::Q8 => (8, 128),
            PackedKind::Q5Min | PackedKind::Q5K => (5, 0),
            _ => (4, 0),
        };
        let half = |at: usize| half_at(tile, at + 2 * lane);
        let record = kind.record_bytes() * (BLOCK * index / kind.column_multiple());
        let block = index % (SUPER_BLOCK / BLOCK);
        let (quants_at, scales, min) = match kind {
            PackedKind::Q4K | PackedKind::Q5K => {
                let byte = |at: usize| f32::from(tile[record + at + 16 * block + lane]);
                let (scale, min) = (half(record) * byte(64), half(record + 32) * byte(192));
                (record + 320 + block * bits * 64, [scale; 2], Some(-min))
            }
            PackedKind::Q6K => {
                let byte = |part: usize| tile[record + 32 + 16 * (2 * block + part) + lane] as i8;
                let scales = [0, 1].map(|part| half(record) * f32::from(byte(part)));
                (record + 288 + block * bits * 64, scales, None)
            }
            _ => {
                let at = record + bits * 64;
                let has_min = matches!(kind, PackedKind::Q4Min | PackedKind::Q5Min);
                (record, [half(at); 2], has_min.then(|| half(at + 32)))
            }
        };
        let quants =
            std::array::from_fn(|k| read_quant(bits, &tile[quants_at..], 4 * lane + k % 4, k / 4));
        Self { quants, zero, scales, min }
    }

    fn write(&self, out: &mut [f32; BLOCK]) {
        for (k, (out, &quant)) in out.iter_mut().zip(&self.quants).enumerate() {
            let scale = self.scales[k / (BLOCK / 2)];
            let weight = scale * f32::from(i16::from(quant) - i16::from(self.zero));
            *out = self.min.map_or(weight, |min| weight + min);
        }
    }
}

/// The quant of group `group` at byte `byte` of the block's vectors.
fn read_quant(bits: usize, quants: &[u8], byte: usize, group: usize) -> u8 {
    if bits == 8 {
        return quants[64 * group + byte];
    }
    let low = (quants[64 * (group % 4) + byte] >> (4 * (group / 4))) & 0xF;
    let high = match bits {
        5 => (quants[256 + byte] >> group) & 1,
        6 => (quants[256 + 64 * (group / 4) + byte] >> (2 * (group % 4))) & 3,
        _ => 0,
    };
    low | (high << 4)
}
