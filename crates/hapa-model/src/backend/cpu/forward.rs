//! One step of the llama graph over a batch of rows.

use hapa_kernels::{
    Activations, AttentionOp, AttentionSeq, Epilogue, HeadRows, Kernels, KvPool, KvRows, KvSlot,
    MatMul, RopeTable,
};

use super::weights::{Layer, Weights};
use crate::backend::Kernel;
use crate::backend::timing::Stopwatch;
use crate::config::ModelConfig;
use crate::error::Result;

/// The rows of a step. Row `r` is token `tokens[r]` at `positions[r]` of its sequence.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) positions: &'a [u32],
    /// Where each row's keys and values go.
    pub(super) slots: &'a [KvSlot],
    pub(super) sequences: &'a [AttentionSeq<'a>],
    /// Rows that need logits, ascending.
    pub(super) logit_rows: &'a [usize],
}

/// What the graph needs besides weights: threads, positions, and buffers that grow to the largest batch.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) kernels: Kernels,
    pub(super) watch: Stopwatch,
    rope: RopeTable,
    acts: Activations,
    /// What the feed-forward layer's gate lets through.
    gated: Activations,
    /// The residual stream, `[rows][hidden_size]`.
    x: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
}

/// Where q, k and v are in a row of the fused projection.
#[derive(Clone, Copy)]
struct QkvRow {
    q: HeadRows,
    k: HeadRows,
    v_offset: usize,
}

impl QkvRow {
    fn new(config: &ModelConfig) -> Self {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let heads = |offset, heads| HeadRows {
            row_stride: q + 2 * kv,
            offset,
            heads,
            head_dim: config.head_dim,
        };
        Self { q: heads(0, config.heads), k: heads(q, config.kv_heads), v_offset: q + kv }
    }
}

impl Workspace {
    pub(super) fn new(kernels: Kernels, rope: RopeTable, weights: &Weights) -> Self {
        let acts = kernels.activations(weights.kinds());
        let gated = kernels.activations(weights.kinds());
        let [x, qkv, attended] = [const { Vec::new() }; 3];
        let watch = Stopwatch::default();
        Self { kernels, watch, rope, acts, gated, x, qkv, attended }
    }

    /// Runs the batch; `logits` gets a row for each of `logit_rows`, over whatever it held.
    pub(super) fn run(
        &mut self,
        (config, weights): (&ModelConfig, &Weights),
        pool: &mut KvPool,
        batch: &Batch<'_>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let rows = batch.tokens.len();
        let furthest = batch.positions.iter().max().map_or(0, |&p| p as usize + 1);
        self.rope.grow(furthest);
        self.x.resize(rows * config.hidden_size, 0.0);
        weights.embed(batch.tokens, &mut self.x)?;
        self.watch.lap(Kernel::Embedding, None);
        for (index, layer) in weights.layers.iter().enumerate() {
            self.project_and_attend((config, weights), (layer, index), pool, batch);
            let mut kept = rows;
            if index + 1 == weights.layers.len() {
                // Keys and values of the last layer are stored; beyond that only rows that sample matter.
                keep_rows(&mut self.x, config.hidden_size, batch.logit_rows);
                keep_rows(&mut self.attended, config.heads * config.head_dim, batch.logit_rows);
                kept = batch.logit_rows.len();
                if kept == 0 {
                    logits.clear();
                    return Ok(());
                }
            }
            self.mix((config, weights), (layer, index), kept);
        }
        self.kernels.rms_norm_quantize(
            &self.x,
            &weights.output_norm,
            config.rms_norm_eps,
            &mut self.acts,
        );
        // Zeros for what is new only: all of it is written, and a batch of 32 has 20 MB of logits.
        logits.resize(batch.logit_rows.len() * config.vocab_size, 0.0);
        let output = [weights.view(weights.output)];
        let op = MatMul { weights: &output, bias: None, epilogue: Epilogue::Store };
        self.kernels.matmul(&op, &self.acts, logits);
        self.watch.lap(Kernel::Logits, None);
        Ok(())
    }

    /// Norm, fused q|k|v, rotation, KV write and attention of one layer: fills `attended`.
    fn project_and_attend(
        &mut self,
        (config, weights): (&ModelConfig, &Weights),
        (layer, index): (&Layer, usize),
        pool: &mut KvPool,
        batch: &Batch<'_>,
    ) {
        let at = QkvRow::new(config);
        let rows = batch.tokens.len();
        self.qkv.resize(rows * at.q.row_stride, 0.0);
        self.attended.resize(rows * config.heads * config.head_dim, 0.0);
        let eps = config.rms_norm_eps;
        self.kernels.rms_norm_quantize(&self.x, &layer.attention_norm, eps, &mut self.acts);
        let qkv = layer.qkv.map(|m| weights.view(m));
        let bias = layer.qkv_bias.as_deref();
        let op = MatMul { weights: &qkv, bias, epilogue: Epilogue::Store };
        self.kernels.matmul(&op, &self.acts, &mut self.qkv);
        self.watch.lap(Kernel::Qkv, Some(index));
        if let Some((q, k)) = &layer.qk_norm {
            self.kernels.rms_norm_heads(&mut self.qkv, rows, at.q, (q, eps));
            self.kernels.rms_norm_heads(&mut self.qkv, rows, at.k, (k, eps));
        }
        self.kernels.rope(&mut self.qkv, at.q, batch.positions, &self.rope);
        self.kernels.rope(&mut self.qkv, at.k, batch.positions, &self.rope);
        let new = KvRows {
            data: &self.qkv,
            row_stride: at.q.row_stride,
            k_offset: at.k.offset,
            v_offset: at.v_offset,
        };
        self.kernels.kv_write(pool, index, &new, batch.slots);
        self.watch.lap(Kernel::Rotation, Some(index));
        let attention = AttentionOp {
            layer: index,
            q: &self.qkv,
            heads: at.q,
            sequences: batch.sequences,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        };
        self.kernels.attention(pool, &attention, &mut self.attended);
        self.watch.lap(Kernel::Attention, Some(index));
    }

    /// Output projection and feed-forward of one layer, both added to the residual stream.
    fn mix(
        &mut self,
        (config, weights): (&ModelConfig, &Weights),
        (layer, index): (&Layer, usize),
        rows: usize,
    ) {
        self.kernels.quantize(&self.attended, rows, config.heads * config.head_dim, &mut self.acts);
        let output = [weights.view(layer.attention_output)];
        let op = MatMul { weights: &output, bias: None, epilogue: Epilogue::Add };
        self.kernels.matmul(&op, &self.acts, &mut self.x);
        self.watch.lap(Kernel::Output, Some(index));
        self.kernels.rms_norm_quantize(
            &self.x,
            &layer.ffn_norm,
            config.rms_norm_eps,
            &mut self.acts,
        );
        let [gate, up] = layer.gate_up.map(|m| weights.view(m));
        self.kernels.matmul_silu_gate(gate, up, &self.acts, &mut self.gated);
        self.watch.lap(Kernel::GateUp, Some(index));
        let down = [weights.view(layer.down)];
        let op = MatMul { weights: &down, bias: None, epilogue: Epilogue::Add };
        self.kernels.matmul(&op, &self.gated, &mut self.x);
        self.watch.lap(Kernel::Down, Some(index));
    }
}

/// Keeps only the rows `kept` (ascending) of `[rows][width]`.
fn keep_rows(x: &mut Vec<f32>, width: usize, kept: &[usize]) {
    for (to, &from) in kept.iter().enumerate() {
        x.copy_within(from * width..(from + 1) * width, to * width);
    }
    x.truncate(kept.len() * width);
}
