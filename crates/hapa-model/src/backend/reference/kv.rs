//! Keys and values of one sequence.

use candle_core::{DType, Device, Tensor};

use crate::config::ModelConfig;

/// Capacity grows by whole pages of this many tokens.
pub(super) const PAGE_TOKENS: usize = 64;

/// Keys and values of all layers, written in place; capacity doubles, so that appending copies each entry a bounded
/// number of times.
#[derive(Default)]
pub(super) struct SequenceKv {
    /// `(keys, values)` by layer, each `[kv_heads, capacity, head_dim]`.
    layers: Vec<(Tensor, Tensor)>,
    capacity: usize,
}

/// Bytes that one token takes in all layers.
pub(super) fn token_bytes(config: &ModelConfig) -> usize {
    2 * config.layers * config.kv_heads * config.head_dim * size_of::<f32>()
}

impl SequenceKv {
    /// Tokens that fit without growing.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `capacity` tokens, keeping the first `len`.
    pub(super) fn grow(
        &mut self,
        config: &ModelConfig,
        len: usize,
        capacity: usize,
    ) -> candle_core::Result<()> {
        let shape = (config.kv_heads, capacity, config.head_dim);
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let keys = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
            let values = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
            if let (Some((old_keys, old_values)), true) = (self.layers.get(layer), len > 0) {
                keys.slice_set(&old_keys.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
                values.slice_set(&old_values.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
            }
            layers.push((keys, values));
        }
        self.layers = layers;
        self.capacity = capacity;
        Ok(())
    }

    /// Writes `[kv_heads, tokens, head_dim]` at `position` and gives everything up to its end.
    pub(super) fn append(
        &self,
        layer: usize,
        position: usize,
        (keys, values): (&Tensor, &Tensor),
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (all_keys, all_values) = &self.layers[layer];
        all_keys.slice_set(keys, 1, position)?;
        all_values.slice_set(values, 1, position)?;
        let len = position + keys.dim(1)?;
        Ok((all_keys.narrow(1, 0, len)?, all_values.narrow(1, 0, len)?))
    }
}
