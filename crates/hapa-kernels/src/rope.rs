//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864), plain and with frequency factors.

use crate::isa::for_each_isa;
use crate::lanes::{LANES, Lanes, load_part, store_part};

/// Which two elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `(0, 1), (2, 3), ...`: llama weights as GGUF holds them.
    Adjacent,
    /// `(i, i + dims / 2)`: qwen2, qwen3.
    Halves,
}

/// What a [`RopeTable`] is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeOptions {
    /// Leading elements of a head that turn; even. The others stay.
    pub dims: usize,
    /// Base of the frequencies.
    pub theta: f32,
    /// Which elements turn together.
    pub pairs: RopePairs,
    /// Divisor of each of the `dims / 2` frequencies (llama-3 scaling).
    pub frequency_factors: Option<Vec<f32>>,
    /// Factor on positions: 1, or less for linear context extension.
    pub position_scale: f32,
}

/// Cosines and sines of every position up to the furthest one seen.
#[derive(Debug, Clone)]
pub struct RopeTable {
    options: RopeOptions,
    frequencies: Vec<f64>,
    positions: usize,
    /// `[position][cos of dims / 2, sin of dims / 2]`.
    table: Vec<f32>,
}

/// Positions that the table grows by at least.
const GROWTH: usize = 512;

impl RopeTable {
    /// A table for positions below `positions`; it grows by itself.
    ///
    /// # Panics
    /// When `dims` is odd, or there are frequency factors but not `dims / 2` of them.
    pub fn new(options: RopeOptions, positions: usize) -> Self {
        let half = options.dims / 2;
        assert!(options.dims.is_multiple_of(2), "rope turns pairs: {} dims", options.dims);
        if let Some(factors) = &options.frequency_factors {
            assert_eq!(factors.len(), half, "one frequency factor for each pair");
        }
        let frequencies = (0..half)
            .map(|i| {
                let power = -2.0 * i as f64 / options.dims as f64;
                let factor = options.frequency_factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
                f64::from(options.theta).powf(power) / factor * f64::from(options.position_scale)
            })
            .collect();
        let mut table = Self { options, frequencies, positions: 0, table: Vec::new() };
        table.grow(positions);
        table
    }

    /// What it was made of.
    pub const fn options(&self) -> &RopeOptions {
        &self.options
    }

    /// Makes sure that positions below `positions` are there.
    pub fn grow(&mut self, positions: usize) {
        if positions <= self.positions {
            return;
        }
        let target = positions.next_multiple_of(GROWTH);
        self.table.reserve((target - self.positions) * self.options.dims);
        for position in self.positions..target {
            let angle = |frequency: &f64| position as f64 * frequency;
            self.table.extend(self.frequencies.iter().map(|f| angle(f).cos() as f32));
            self.table.extend(self.frequencies.iter().map(|f| angle(f).sin() as f32));
        }
        self.positions = target;
    }

    /// Cosines and sines of a position that is in the table.
    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let dims = self.options.dims;
        self.table[position * dims..(position + 1) * dims].split_at(dims / 2)
    }
}

/// Heads within rows of floats: head `h` of row `r` starts at `r * row_stride + offset + h *
/// head_dim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRows {
    /// Floats from one row to the next.
    pub row_stride: usize,
    /// Floats before the first head.
    pub offset: usize,
    /// Heads of a row.
    pub heads: usize,
    /// Floats of a head.
    pub head_dim: usize,
}

impl HeadRows {
    /// The floats of all heads of a row.
    pub(crate) fn range(&self, row: usize) -> std::ops::Range<usize> {
        let start = row * self.row_stride + self.offset;
        start..start + self.heads * self.head_dim
    }
}

for_each_isa! {
    /// Turns the heads of one row to `position`.
    pub(crate) fn turn_row(
        heads: &mut [f32],
        head_dim: usize,
        position: usize,
        table: &RopeTable,
    ) = turn_lanes
}

#[inline(always)]
unsafe fn turn_lanes<L: Lanes>(
    heads: &mut [f32],
    head_dim: usize,
    position: usize,
    table: &RopeTable,
) {
    let (cos, sin) = table.at(position);
    let dims = table.options.dims;
    for head in heads.chunks_exact_mut(head_dim) {
        match table.options.pairs {
            RopePairs::Adjacent => {
                let pairs = head[..dims].as_chunks_mut::<2>().0;
                for ((pair, c), s) in pairs.iter_mut().zip(cos).zip(sin) {
                    *pair = [pair[0] * c - pair[1] * s, pair[0] * s + pair[1] * c];
                }
            }
            RopePairs::Halves => {
                let (low, high) = head[..dims].split_at_mut(dims / 2);
                let parts = low.chunks_mut(LANES).zip(high.chunks_mut(LANES));
                for ((low, high), (c, s)) in parts.zip(cos.chunks(LANES).zip(sin.chunks(LANES))) {
                    // SAFETY: passed on to the caller.
                    unsafe {
                        let (a, b): (L, L) = (load_part(low, 0.0), load_part(high, 0.0));
                        let (c, s): (L, L) = (load_part(c, 0.0), load_part(s, 0.0));
                        store_part(a.mul(c).sub(b.mul(s)), low);
                        store_part(a.mul(s).add(b.mul(c)), high);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Proven};

    fn options(pairs: RopePairs) -> RopeOptions {
        RopeOptions { dims: 6, theta: 100.0, pairs, frequency_factors: None, position_scale: 1.0 }
    }

    #[test]
    fn miri_pairs_turn_by_their_angle_and_the_rest_stays() {
        for (pairs, first, second) in [(RopePairs::Adjacent, 2, 3), (RopePairs::Halves, 1, 4)] {
            let table = RopeTable::new(options(pairs), 10);
            let mut heads: Vec<f32> = (0..16).map(|i| i as f32).collect();
            turn_row(Proven::new(Isa::Scalar).unwrap(), &mut heads, 8, 9, &table);
            let angle = 9.0 * 100f64.powf(-2.0 / 6.0);
            let (a, b) = (f64::from(first as f32), f64::from(second as f32));
            let want = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()];
            assert!((f64::from(heads[first]) - want[0]).abs() < 1e-5);
            assert!((f64::from(heads[second]) - want[1]).abs() < 1e-5);
            assert_eq!(&heads[6..8], [6.0, 7.0]);
            assert_eq!(&heads[14..], [14.0, 15.0]);
        }
    }

    #[test]
    fn factors_divide_frequencies_and_the_table_grows() {
        let mut scaled = options(RopePairs::Halves);
        scaled.frequency_factors = Some(vec![1.0, 8.0, 1.0]);
        let mut table = RopeTable::new(scaled, 1);
        table.grow(2000);
        let plain = RopeTable::new(options(RopePairs::Halves), 2000);
        assert!((table.at(1999).0[0] - plain.at(1999).0[0]).abs() < 1e-6);
        let angle = 1999.0 * 100f64.powf(-2.0 / 6.0) / 8.0;
        assert!((f64::from(table.at(1999).0[1]) - angle.cos()).abs() < 1e-6);
    }
}
