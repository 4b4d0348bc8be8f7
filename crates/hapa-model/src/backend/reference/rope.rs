//! Rotary position embedding (Su et al., <https://arxiv.org/abs/2104.09864>).

use candle_core::{D, Device, Tensor};
use candle_nn::rotary_emb::{rope, rope_i};

use crate::config::{Rope, RopePairing};

/// How fast each pair of a head turns.
pub(super) struct Rotation {
    pairing: RopePairing,
    dims: usize,
    /// Radians a position, one for each pair.
    frequencies: Vec<f64>,
}

/// Cosines and sines of the positions of one batch, each `[tokens, dims / 2]`.
pub(super) struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    pub(super) fn new(rope: &Rope) -> Self {
        let frequencies = (0..rope.dims / 2)
            .map(|pair| {
                let exponent = 2.0 * pair as f64 / rope.dims as f64;
                let factor = rope
                    .frequency_factors
                    .as_ref()
                    .and_then(|factors| factors.get(pair))
                    .map_or(1.0, |&factor| f64::from(factor));
                f64::from(rope.scale) / (f64::from(rope.theta).powf(exponent) * factor)
            })
            .collect();
        Self { pairing: rope.pairing, dims: rope.dims, frequencies }
    }

    /// Angles of these positions.
    pub(super) fn angles(&self, positions: &[usize]) -> candle_core::Result<Angles> {
        let shape = (positions.len(), self.frequencies.len());
        let table = |f: fn(f64) -> f64| {
            let angles = positions
                .iter()
                .flat_map(|&position| self.frequencies.iter().map(move |w| position as f64 * w));
            let values: Vec<f32> = angles.map(|angle| f(angle) as f32).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        Ok(Angles { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Turns `[heads, tokens, head_dim]`.
    pub(super) fn apply(&self, x: &Tensor, angles: &Angles) -> candle_core::Result<Tensor> {
        let head_dim = x.dim(D::Minus1)?;
        if self.dims < head_dim {
            let turned = self.turn(&x.narrow(2, 0, self.dims)?.contiguous()?, angles)?;
            let rest = x.narrow(2, self.dims, head_dim - self.dims)?;
            return Tensor::cat(&[&turned, &rest], 2)?.contiguous();
        }
        self.turn(x, angles)
    }

    fn turn(&self, x: &Tensor, angles: &Angles) -> candle_core::Result<Tensor> {
        let x = x.unsqueeze(0)?;
        let turned = match self.pairing {
            RopePairing::Adjacent => rope_i(&x, &angles.cos, &angles.sin)?,
            RopePairing::Halves => rope(&x, &angles.cos, &angles.sin)?,
        };
        turned.squeeze(0)
    }
}
