//! Matrices that stay quantised in memory and are widened to f32 for each use.
//!
//! candle has a quantised matmul, but in a default build it is slow for most types: its SIMD is chosen at compile time, and its
//! cost grows with every row. Its f32 matmul (the gemm crate) chooses AVX2 or AVX-512 at run time. Measured on two AVX-512
//! cores with smollm2-135m (Q8_0, Q5_0, Q4_K, Q6_K mixed), widening each matrix for each use takes 0.19 s for one row and 0.43 s
//! for 16, candle's quantised matmul 0.62 s and 2.1 s. So everything is widened, always: fast enough, and the activations are not rounded
//! to 8 bits, which a reference should not do.
//!
//! A matrix is cut into blocks of rows that rayon's workers take one at a time: widen one, multiply by it while
//! it is still in the cache. At most [`BLOCK_ELEMENTS`] floats a worker are wide at any time, for an embedding table too.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::source::StoredTensor;

/// Most elements that one worker widens at a time: 1 MB of floats, half of a usual L2 cache.
const BLOCK_ELEMENTS: usize = 256 << 10;

/// A matrix of `[rows, columns]`, as stored.
pub(super) struct Matrix {
    blocks: Vec<Block>,
    rows_per_block: usize,
}

/// Some rows of a matrix.
enum Block {
    Quantised(QTensor),
    /// An f32 matrix, which has nothing to be widened.
    Float(Tensor),
}

impl Matrix {
    pub(super) fn load(stored: &StoredTensor<'_>) -> crate::Result<Self> {
        let (rows, columns) = (stored.shape[0], stored.shape[1]);
        let rows_per_block = (BLOCK_ELEMENTS / columns).clamp(1, rows);
        let starts: Vec<usize> = (0..rows).step_by(rows_per_block).collect();
        let blocks = starts
            .into_par_iter()
            .map(|from| {
                let block = stored.quantised_rows(from, rows.min(from + rows_per_block))?;
                Ok(match block.dtype() {
                    GgmlDType::F32 => Block::Float(block.dequantize(&Device::Cpu)?),
                    _ => Block::Quantised(block),
                })
            })
            .collect::<crate::Result<Vec<_>>>()?;
        Ok(Self { blocks, rows_per_block })
    }

    /// `x · matrixᵀ`: `[n, columns]` to `[n, rows]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let [block] = &self.blocks[..] {
            return block.forward(x);
        }
        let parts: Vec<Tensor> =
            self.blocks.par_iter().map(|block| block.forward(x)).collect::<Result<_>>()?;
        Tensor::cat(&parts, 1)
    }

    /// The rows with these numbers as f32: `[ids.len(), columns]`. Only they are widened.
    pub(super) fn gather(&self, ids: &[u32]) -> Result<Tensor> {
        let mut parts = Vec::new();
        let block_of = |id: u32| id as usize / self.rows_per_block;
        for run in ids.chunk_by(|&a, &b| block_of(a) == block_of(b)) {
            let Some(block) = self.blocks.get(block_of(run[0])) else {
                candle_core::bail!("row {} is outside the matrix", run[0]);
            };
            let first = (block_of(run[0]) * self.rows_per_block) as u32;
            let local: Vec<u32> = run.iter().map(|id| id - first).collect();
            let local = Tensor::from_vec(local, run.len(), &Device::Cpu)?;
            parts.push(match block {
                Block::Quantised(rows) => rows.embedding(&local)?,
                Block::Float(rows) => rows.index_select(&local, 0)?,
            });
        }
        match &parts[..] {
            [part] => Ok(part.clone()),
            parts => Tensor::cat(parts, 0),
        }
    }
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Float(weight) => x.matmul(&weight.t()?),
            Self::Quantised(weight) => x.matmul(&weight.dequantize(&Device::Cpu)?.t()?),
        }
    }
}

/// A matrix with an optional bias.
pub(super) struct Linear {
    pub(super) matrix: Matrix,
    /// `[rows]`.
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.matrix.forward(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
