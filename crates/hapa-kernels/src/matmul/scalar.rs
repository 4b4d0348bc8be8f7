//! Quantised weights in plain Rust: the oracle of the other instruction sets.

use super::UnitTiles;
use crate::activations::Panel;
use crate::dequantize::half_at;
use crate::lanes::LANES;
use crate::pack::{BLOCK, PackedKind};

/// One block of a tile: 16 rows by 32 columns.
struct Block {
    /// `[row][column]`, before the zero point is taken away.
    quants: [[u8; BLOCK]; LANES],
    zero: i32,
    /// Scales of the first and the second sixteen columns, for each row.
    scales: [[f32; LANES]; 2],
    /// What is added for each column, for each row.
    mins: Option<[f32; LANES]>,
}

/// Fills `sums`, `[tile][row]`, for all rows of a panel.
pub(super) fn sum(unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    for (tile, sums) in unit.tiles.iter().flatten().zip(sums.chunks_mut(panel.rows)) {
        sums.fill([0.0; LANES]);
        for index in 0..panel.cols / BLOCK {
            let block = read_block(unit.kind, tile, index);
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = index * panel.rows + row;
                let x = &panel.quants[at * BLOCK..(at + 1) * BLOCK];
                let meta = &panel.meta[at];
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let dot = |part: std::ops::Range<usize>| -> i32 {
                        let weights = &block.quants[lane][part.clone()];
                        weights
                            .iter()
                            .zip(&x[part])
                            .map(|(w, x)| i32::from(*w) * i32::from(*x))
                            .sum()
                    };
                    if unit.kind == PackedKind::Q6K {
                        let low = dot(0..16) + block.zero * meta.neg_low;
                        let high = dot(16..32) + block.zero * (meta.neg_sum - meta.neg_low);
                        *sum += low as f32 * (block.scales[0][lane] * meta.scale);
                        *sum += high as f32 * (block.scales[1][lane] * meta.scale);
                    } else {
                        let dot = dot(0..BLOCK) + block.zero * meta.neg_sum;
                        *sum += dot as f32 * (block.scales[0][lane] * meta.scale);
                    }
                    if let Some(mins) = &block.mins {
                        *sum += mins[lane] * meta.scaled_sum;
                    }
                }
            }
        }
    }
}

/// Reads block `index` of a tile.
fn read_block(kind: PackedKind, tile: &[u8], index: usize) -> Block {
    let record = kind.record_bytes();
    let halves =
        |at: usize| -> [f32; LANES] { std::array::from_fn(|lane| half_at(tile, at + 2 * lane)) };
    let (bits, zero) = match kind {
        PackedKind::Q4 => (4, 8),
        PackedKind::Q5 => (5, 16),
        PackedKind::Q6K => (6, 32),
        PackedKind::Q8 => (8, 128),
        PackedKind::Q5Min | PackedKind::Q5K => (5, 0),
        _ => (4, 0),
    };
    let (quants_at, scales, mins) = match kind {
        PackedKind::Q4K | PackedKind::Q5K => {
            let (at, block) = (index / 8 * record, index % 8);
            let (d, dmin) = (halves(at), halves(at + 32));
            let byte = |start: usize, lane: usize| f32::from(tile[at + start + 16 * block + lane]);
            let scales = std::array::from_fn(|lane| d[lane] * byte(64, lane));
            let mins = std::array::from_fn(|lane| -(dmin[lane] * byte(192, lane)));
            (at + 320 + block * bits * 64, [scales; 2], Some(mins))
        }
        PackedKind::Q6K => {
            let (at, block) = (index / 8 * record, index % 8);
            let d = halves(at);
            let scales = |half: usize| {
                let at = at + 32 + 16 * (2 * block + half);
                std::array::from_fn(|lane| d[lane] * f32::from(tile[at + lane] as i8))
            };
            (at + 288 + block * bits * 64, [scales(0), scales(1)], None)
        }
        _ => {
            let at = index * record;
            let scales = halves(at + bits * 64);
            let has_min = matches!(kind, PackedKind::Q4Min | PackedKind::Q5Min);
            (at, [scales; 2], has_min.then(|| halves(at + bits * 64 + 32)))
        }
    };
    let quants = std::array::from_fn(|lane| {
        std::array::from_fn(|k| read_quant(bits, &tile[quants_at..], 4 * lane + k % 4, k / 4))
    });
    Block { quants, zero, scales, mins }
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
