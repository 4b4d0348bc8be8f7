//! Sequences in flight.

use std::collections::HashMap;
use std::sync::Arc;

use super::graph::{Segment, forward};
use super::kv::{PAGE_TOKENS, SequenceKv, token_bytes};
use super::weights::Weights;
use crate::backend::{Chunk, Executor, ExecutorOptions, KvUsage, Opened, SequenceId, StepOutcome};
use crate::error::{ModelError, Result};

/// KV caches of the open sequences. There is no prefix cache: every sequence computes its whole prompt.
pub(super) struct ReferenceExecutor {
    weights: Arc<Weights>,
    options: ExecutorOptions,
    sequences: HashMap<SequenceId, Entry>,
    next_id: u64,
}

#[derive(Default)]
struct Entry {
    kv: SequenceKv,
    len: usize,
}

impl ReferenceExecutor {
    pub(super) fn new(weights: Arc<Weights>, options: ExecutorOptions) -> Self {
        Self { weights, options, sequences: HashMap::new(), next_id: 0 }
    }

    fn page_bytes(&self) -> usize {
        token_bytes(&self.weights.config) * PAGE_TOKENS
    }

    fn total_pages(&self) -> usize {
        self.options.kv_budget_bytes / self.page_bytes().max(1)
    }

    fn held_pages(&self) -> usize {
        self.sequences.values().map(|entry| entry.kv.capacity() / PAGE_TOKENS).sum()
    }

    fn check(&self, chunks: &[Chunk<'_>]) -> Result<()> {
        for chunk in chunks {
            let entry = self.sequences.get(&chunk.sequence);
            let problem = match entry {
                None => "the sequence is not open".to_owned(),
                Some(_) if chunk.tokens.is_empty() => "the chunk is empty".to_owned(),
                Some(entry) if entry.len + chunk.tokens.len() > self.options.context_tokens => {
                    format!(
                        "{} tokens after {} are more than the context of {}",
                        chunk.tokens.len(),
                        entry.len,
                        self.options.context_tokens
                    )
                }
                Some(_) => continue,
            };
            return Err(ModelError::Engine { problem });
        }
        Ok(())
    }

    /// Makes room for all chunks, or says that there is none.
    fn reserve(&mut self, chunks: &[Chunk<'_>]) -> Result<StepOutcome> {
        let mut free = self.total_pages().saturating_sub(self.held_pages());
        let mut growth: Vec<(SequenceId, usize)> = Vec::new();
        for chunk in chunks {
            let entry = &self.sequences[&chunk.sequence];
            let needed = (entry.len + chunk.tokens.len()).div_ceil(PAGE_TOKENS);
            let held = entry.kv.capacity() / PAGE_TOKENS;
            if needed > held {
                let Some(left) = free.checked_sub(needed - held) else {
                    return Ok(StepOutcome::OutOfPages);
                };
                free = left;
                growth.push((chunk.sequence, needed));
            }
        }
        let context_pages = self.options.context_tokens.div_ceil(PAGE_TOKENS);
        for (id, needed) in growth {
            let Some(entry) = self.sequences.get_mut(&id) else { continue };
            // Doubling keeps copies rare; near the end of the budget only what is needed is taken.
            let doubled =
                (entry.kv.capacity() / PAGE_TOKENS * 2).clamp(needed, context_pages.max(needed));
            let extra = (doubled - needed).min(free);
            free -= extra;
            entry.kv.grow(&self.weights.config, entry.len, (needed + extra) * PAGE_TOKENS)?;
        }
        Ok(StepOutcome::Done)
    }
}

impl Executor for ReferenceExecutor {
    fn open(&mut self, _prompt: &[u32], _namespace: u64) -> Result<Opened> {
        if self.sequences.len() >= self.options.max_sequences {
            return Err(ModelError::Engine {
                problem: format!("{} sequences are open already", self.sequences.len()),
            });
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, Entry::default());
        Ok(Opened { id, cached_tokens: 0 })
    }

    fn step(&mut self, chunks: &[Chunk<'_>], logits: &mut Vec<f32>) -> Result<StepOutcome> {
        logits.clear();
        self.check(chunks)?;
        if self.reserve(chunks)? == StepOutcome::OutOfPages {
            return Ok(StepOutcome::OutOfPages);
        }
        let segments: Vec<Segment<'_>> = chunks
            .iter()
            .map(|chunk| {
                let entry = &self.sequences[&chunk.sequence];
                Segment {
                    tokens: chunk.tokens,
                    position: entry.len,
                    kv: &entry.kv,
                    logits: chunk.logits,
                }
            })
            .collect();
        if let Some(rows) = forward(&self.weights, &segments)? {
            logits.extend(rows.flatten_all()?.to_vec1::<f32>()?);
        }
        drop(segments);
        // Only now: a step that failed has written keys and values that nobody will read.
        for chunk in chunks {
            if let Some(entry) = self.sequences.get_mut(&chunk.sequence) {
                entry.len += chunk.tokens.len();
            }
        }
        Ok(StepOutcome::Done)
    }

    fn len(&self, sequence: SequenceId) -> usize {
        self.sequences.get(&sequence).map_or(0, |entry| entry.len)
    }

    fn truncate(&mut self, sequence: SequenceId, tokens: usize) {
        if let Some(entry) = self.sequences.get_mut(&sequence) {
            entry.len = entry.len.min(tokens);
        }
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    fn kv_usage(&self) -> KvUsage {
        let held = self.held_pages();
        KvUsage {
            held_pages: held,
            cached_pages: 0,
            total_pages: self.total_pages(),
            page_tokens: PAGE_TOKENS,
            page_bytes: self.page_bytes(),
            bytes: held * self.page_bytes(),
        }
    }
}
