//! Sequences, pages and steps: the [`Executor`] of the cpu backend.

use std::sync::Arc;

use hapa_kernels::{AttentionSeq, KvPool, KvSlot};

use super::forward::{Batch, Workspace};
use super::kv::{KvCache, PageCopy};
use super::weights::Weights;
use crate::backend::{
    Chunk, Executor, KernelSpan, KvUsage, LogitsFor, Opened, SequenceId, StepOutcome,
};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};

/// Limits and fixed sizes of an executor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) context_tokens: usize,
    pub(super) max_sequences: usize,
}

/// KV pages and scratch space over shared weights.
pub(super) struct CpuExecutor {
    pub(super) config: Arc<ModelConfig>,
    pub(super) weights: Arc<Weights>,
    pub(super) limits: Limits,
    pub(super) kv: KvCache,
    pub(super) pool: KvPool,
    pub(super) workspace: Workspace,
    pub(super) rows: Rows,
}

/// The rows of the step in progress, kept between steps so that nothing is allocated anew.
#[derive(Debug, Default)]
pub(super) struct Rows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<KvSlot>,
    logit_rows: Vec<usize>,
    copies: Vec<PageCopy>,
}

impl CpuExecutor {
    fn check(&self, chunks: &[Chunk<'_>]) -> Result<()> {
        let fault = |problem| Err(ModelError::Engine { problem });
        for (index, chunk) in chunks.iter().enumerate() {
            let id = chunk.sequence;
            let Some(len) = self.kv.len(id) else { return fault(format!("{id:?} is not open")) };
            let after = len + chunk.tokens.len();
            if chunk.tokens.is_empty() || after > self.limits.context_tokens {
                let most = self.limits.context_tokens;
                return fault(format!(
                    "{id:?} would hold {after} tokens, the context holds {most}"
                ));
            }
            if let Some(token) =
                chunk.tokens.iter().find(|&&t| t as usize >= self.config.vocab_size)
            {
                return fault(format!("token {token} is not in the vocabulary"));
            }
            if chunks[..index].iter().any(|c| c.sequence == id) {
                return fault(format!("{id:?} has two chunks in one step"));
            }
        }
        Ok(())
    }

    /// Makes room for every chunk, or for none.
    fn reserve(&mut self, chunks: &[Chunk<'_>]) -> StepOutcome {
        self.rows.copies.clear();
        let mut outcome = StepOutcome::Done;
        for chunk in chunks {
            if self.kv.reserve(chunk.sequence, chunk.tokens.len(), &mut self.rows.copies).is_err() {
                outcome = StepOutcome::OutOfPages;
                break;
            }
        }
        for copy in &self.rows.copies {
            self.pool.copy_page(copy.from, copy.to);
        }
        if outcome == StepOutcome::OutOfPages {
            for chunk in chunks {
                self.kv.trim(chunk.sequence);
            }
        }
        outcome
    }

    fn lay_out(&mut self, chunks: &[Chunk<'_>]) {
        let page_tokens = self.pool.shape().page_tokens;
        let rows = &mut self.rows;
        rows.tokens.clear();
        rows.positions.clear();
        rows.slots.clear();
        rows.logit_rows.clear();
        for chunk in chunks {
            let start = self.kv.len(chunk.sequence).unwrap_or(0);
            let pages = self.kv.pages(chunk.sequence);
            let first_row = rows.tokens.len();
            rows.tokens.extend_from_slice(chunk.tokens);
            for position in start..start + chunk.tokens.len() {
                rows.positions.push(position as u32);
                let offset = (position % page_tokens) as u32;
                rows.slots.push(KvSlot { page: pages[position / page_tokens], offset });
            }
            let end = rows.tokens.len();
            match chunk.logits {
                LogitsFor::Nothing => {}
                LogitsFor::Last => rows.logit_rows.push(end - 1),
                LogitsFor::All => rows.logit_rows.extend(first_row..end),
            }
        }
    }
}

impl Executor for CpuExecutor {
    fn open(&mut self, prompt: &[u32], namespace: u64) -> Result<Opened> {
        if self.kv.sequences() >= self.limits.max_sequences {
            return Err(ModelError::Engine {
                problem: format!("{} sequences are open already", self.limits.max_sequences),
            });
        }
        let (opened, copy) = self.kv.open(prompt, namespace);
        if let Some(copy) = copy {
            self.pool.copy_page(copy.from, copy.to);
        }
        Ok(opened)
    }

    fn step(&mut self, chunks: &[Chunk<'_>], logits: &mut Vec<f32>) -> Result<StepOutcome> {
        let old = std::mem::take(logits);
        self.check(chunks)?;
        if chunks.is_empty() {
            return Ok(StepOutcome::Done);
        }
        if self.reserve(chunks) == StepOutcome::OutOfPages {
            return Ok(StepOutcome::OutOfPages);
        }
        *logits = old;
        self.lay_out(chunks);
        let mut next_row = 0;
        let sequences: Vec<AttentionSeq<'_>> = chunks
            .iter()
            .map(|chunk| {
                let query_start_row = next_row;
                next_row += chunk.tokens.len();
                AttentionSeq {
                    pages: self.kv.pages(chunk.sequence),
                    kv_len: self.kv.len(chunk.sequence).unwrap_or(0) + chunk.tokens.len(),
                    query_start_row,
                    query_rows: chunk.tokens.len(),
                }
            })
            .collect();
        let batch = Batch {
            tokens: &self.rows.tokens,
            positions: &self.rows.positions,
            slots: &self.rows.slots,
            sequences: &sequences,
            logit_rows: &self.rows.logit_rows,
        };
        self.workspace.run((&self.config, &self.weights), &mut self.pool, &batch, logits)?;
        for chunk in chunks {
            self.kv.append(chunk.sequence, chunk.tokens);
        }
        Ok(StepOutcome::Done)
    }

    fn step_timed(
        &mut self,
        chunks: &[Chunk<'_>],
        logits: &mut Vec<f32>,
        kernels: &mut Vec<KernelSpan>,
    ) -> Result<StepOutcome> {
        self.workspace.watch.start(std::mem::take(kernels));
        let outcome = self.step(chunks, logits);
        *kernels = self.workspace.watch.stop();
        outcome
    }

    fn len(&self, sequence: SequenceId) -> usize {
        self.kv.len(sequence).unwrap_or(0)
    }

    fn shares_prefixes(&self) -> bool {
        true
    }

    fn adopt(&mut self, sequence: SequenceId, prompt: &[u32]) -> usize {
        self.kv.adopt(sequence, prompt)
    }

    /// The kernels sum every row by itself and in a fixed order.
    fn rows_are_independent(&self) -> bool {
        true
    }

    fn truncate(&mut self, sequence: SequenceId, tokens: usize) {
        self.kv.truncate(sequence, tokens);
    }

    fn close(&mut self, sequence: SequenceId) {
        self.kv.close(sequence);
    }

    fn kv_usage(&self) -> KvUsage {
        self.kv.usage(self.pool.shape().page_bytes())
    }
}
