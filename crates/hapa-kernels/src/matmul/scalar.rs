//! Quantised weights in plain Rust: the oracle of the other instruction sets.

use super::UnitTiles;
use crate::activations::Panel;
use crate::lanes::LANES;
use crate::pack::{BLOCK, PackedKind, RowBlock};

/// Fills `sums`, `[tile][row]`, for all rows of a panel.
pub(super) fn sum(unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    for (tile, sums) in unit.tiles.iter().flatten().zip(sums.chunks_mut(panel.rows)) {
        sums.fill([0.0; LANES]);
        for index in 0..panel.cols / BLOCK {
            let block: [RowBlock; LANES] =
                std::array::from_fn(|lane| RowBlock::read(unit.kind, tile, index, lane));
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = index * panel.rows + row;
                let x = &panel.quants[at * BLOCK..(at + 1) * BLOCK];
                let meta = &panel.meta[at];
                for (block, sum) in block.iter().zip(sums) {
                    let zero = i32::from(block.zero);
                    let dot = |part: std::ops::Range<usize>| -> i32 {
                        let weights = &block.quants[part.clone()];
                        weights
                            .iter()
                            .zip(&x[part])
                            .map(|(w, x)| i32::from(*w) * i32::from(*x))
                            .sum()
                    };
                    if unit.kind == PackedKind::Q6K {
                        let low = dot(0..16) + zero * meta.neg_low;
                        let high = dot(16..32) + zero * (meta.neg_sum - meta.neg_low);
                        *sum += low as f32 * (block.scales[0] * meta.scale);
                        *sum += high as f32 * (block.scales[1] * meta.scale);
                    } else {
                        let dot = dot(0..BLOCK) + zero * meta.neg_sum;
                        *sum += dot as f32 * (block.scales[0] * meta.scale);
                    }
                    if let Some(min) = block.min {
                        *sum += min * meta.scaled_sum;
                    }
                }
            }
        }
    }
}
