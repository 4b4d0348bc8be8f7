//! The transformer that llama, qwen2 and qwen3 share.
//!
//! Pre-norm blocks: RMS norm (Zhang and Sennrich, <https://arxiv.org/abs/1910.07467>), grouped-query attention
//! (Ainslie et al., <https://arxiv.org/abs/2305.13245>) with rotary positions, and a SiLU-gated feed-forward layer
//! (Shazeer, <https://arxiv.org/abs/2002.05202>). qwen2 adds biases to q, k and v; qwen3 normalises q and k by head.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::{rms_norm, softmax_last_dim};

use super::kv::SequenceKv;
use super::rope::Angles;
use super::weights::{Layer, Weights};
use crate::backend::LogitsFor;

/// Most attention scores that are held at a time: 64 MB.
const SCORE_ELEMENTS: usize = 16 << 20;

/// Consecutive tokens of one sequence.
pub(super) struct Segment<'a> {
    pub(super) tokens: &'a [u32],
    /// Tokens that come before these; their keys and values are in `kv`, which has room for the new ones.
    pub(super) position: usize,
    pub(super) kv: &'a SequenceKv,
    pub(super) logits: LogitsFor,
}

/// Computes all segments as one batch: the wanted rows of logits, `[rows, vocab_size]`, or `None` when none are wanted.
pub(super) fn forward(weights: &Weights, segments: &[Segment<'_>]) -> Result<Option<Tensor>> {
    let ids: Vec<u32> = segments.iter().flat_map(|s| s.tokens).copied().collect();
    let positions: Vec<usize> =
        segments.iter().flat_map(|s| s.position..s.position + s.tokens.len()).collect();
    let angles = weights.rotation.angles(&positions)?;
    let eps = weights.config.rms_norm_eps;

    let mut x = weights.embedding.gather(&ids)?;
    for (index, layer) in weights.layers.iter().enumerate() {
        let normed = rms_norm(&x, &layer.attention_norm, eps)?;
        x = (x + attention(weights, index, &normed, &angles, segments)?)?;
        let normed = rms_norm(&x, &layer.feed_forward_norm, eps)?;
        x = (x + feed_forward(layer, &normed)?)?;
    }

    let wanted = wanted_rows(segments);
    if wanted.is_empty() {
        return Ok(None);
    }
    let rows = wanted.len();
    let x = x.index_select(&Tensor::from_vec(wanted, rows, &Device::Cpu)?, 0)?;
    let x = rms_norm(&x, &weights.output_norm, eps)?;
    weights.output.forward(&x).map(Some)
}

/// The rows of the batch whose logits are wanted.
fn wanted_rows(segments: &[Segment<'_>]) -> Vec<u32> {
    let mut wanted = Vec::new();
    let mut end = 0;
    for segment in segments {
        end += segment.tokens.len() as u32;
        let rows = segment.logits.rows(segment.tokens.len()) as u32;
        wanted.extend(end - rows..end);
    }
    wanted
}

fn feed_forward(layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let gate = layer.gate.forward(x)?.silu()?;
    layer.down.forward(&(gate * layer.up.forward(x)?)?)
}

/// `[tokens, hidden_size]` to the same; the projections see all segments at once, the scores each one apart.
fn attention(
    weights: &Weights,
    index: usize,
    x: &Tensor,
    angles: &Angles,
    segments: &[Segment<'_>],
) -> Result<Tensor> {
    let (layer, config) = (&weights.layers[index], &weights.config);
    let tokens = x.dim(0)?;
    // [tokens, heads · head_dim] to [heads, tokens, head_dim]
    let by_head = |x: Tensor, heads: usize| {
        x.reshape((tokens, heads, config.head_dim))?.transpose(0, 1)?.contiguous()
    };
    let norm = |x: Tensor, weight: &Option<Tensor>| match weight {
        Some(weight) => rms_norm(&x, weight, config.rms_norm_eps),
        None => Ok(x),
    };
    let q = norm(by_head(layer.query.forward(x)?, config.heads)?, &layer.query_norm)?;
    let k = norm(by_head(layer.key.forward(x)?, config.kv_heads)?, &layer.key_norm)?;
    let v = by_head(layer.value.forward(x)?, config.kv_heads)?;
    let scale = 1.0 / (config.head_dim as f64).sqrt();
    let q = (weights.rotation.apply(&q, angles)? * scale)?;
    let k = weights.rotation.apply(&k, angles)?;

    let mut outputs = Vec::with_capacity(segments.len());
    let mut from = 0;
    for segment in segments {
        let len = segment.tokens.len();
        let own = |x: &Tensor| x.narrow(1, from, len)?.contiguous();
        let (keys, values) = segment.kv.append(index, segment.position, (&own(&k)?, &own(&v)?))?;
        // Queries in blocks, so that a long context doesn't need a huge matrix of scores.
        let block = (SCORE_ELEMENTS / (config.heads * keys.dim(1)?)).clamp(1, len);
        for start in (0..len).step_by(block) {
            let count = block.min(len - start);
            let queries = q.narrow(1, from + start, count)?.contiguous()?;
            outputs.push(attend(&queries, &keys, &values, segment.position + start)?);
        }
        from += len;
    }
    layer.attention_output.forward(&Tensor::cat(&outputs, 0)?)
}

/// Causal attention of `[heads, count, head_dim]` queries, the first of which stands at `position`, over
/// `[kv_heads, len, head_dim]` keys and values: `[count, heads · head_dim]`.
fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor, position: usize) -> Result<Tensor> {
    let (heads, count, head_dim) = queries.dims3()?;
    // Keys after the last query are never seen.
    let seen = position + count;
    let (keys, values) = (keys.narrow(1, 0, seen)?, values.narrow(1, 0, seen)?);
    let kv_heads = keys.dim(0)?;
    let group = heads / kv_heads;
    // The heads of a group share keys and values: they are more rows of the same product.
    let queries = queries.reshape((kv_heads, group * count, head_dim))?;
    let mut scores = queries.matmul(&keys.t()?)?;
    if count > 1 {
        let mask: Vec<f32> = (0..count)
            .flat_map(|i| {
                (0..seen).map(move |j| if j > position + i { f32::NEG_INFINITY } else { 0.0 })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (1, 1, count, seen), &Device::Cpu)?;
        scores = scores
            .reshape((kv_heads, group, count, seen))?
            .broadcast_add(&mask)?
            .reshape((kv_heads, group * count, seen))?;
    }
    let output = softmax_last_dim(&scores)?.matmul(&values)?;
    output.reshape((heads, count, head_dim))?.transpose(0, 1)?.contiguous()?.flatten_from(D::Minus2)
}
