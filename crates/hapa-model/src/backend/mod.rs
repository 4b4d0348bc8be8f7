//! The seam between the engine's step loop and the arithmetic.
//!
//! A [`Backend`] holds weights: immutable, shared by reference count. An [`Executor`] holds what
//! changes: the KV cache and scratch space of the sequences in flight. The engine owns one executor
//! on its own thread; several executors may share one backend.

pub mod cpu;
pub mod reference;
mod timing;

use std::fmt;
use std::str::FromStr;

pub use timing::{Kernel, KernelSpan};

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};

/// Loaded weights of one model.
pub trait Backend: Send + Sync {
    /// A short name for logs and receipts: `cpu` or `reference`.
    fn name(&self) -> &'static str;
    /// The model's shape.
    fn config(&self) -> &ModelConfig;
    /// What one token costs at least, where the backend knows it.
    fn forward_cost(&self) -> Option<ForwardCost> {
        None
    }
    /// Makes the mutable side: KV cache and scratch for as many sequences as `options` allow.
    ///
    /// # Errors
    /// When the KV cache cannot be allocated.
    fn executor(&self, options: &ExecutorOptions) -> Result<Box<dyn Executor>>;
}

/// What a forward pass costs at least, whatever the batch: against a machine's limits it says how fast a model can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardCost {
    /// Bytes of weights that a step reads.
    pub weight_bytes: u64,
    /// Products of weights and activations for each token, without the output matrix.
    pub token_macs: u64,
    /// Further products for each token whose logits are wanted.
    pub logits_macs: u64,
}

/// Limits of one executor.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorOptions {
    /// Longest sequence, prompt and answer together, in tokens.
    pub context_tokens: usize,
    /// Most sequences that are open at once.
    pub max_sequences: usize,
    /// Bytes that the KV cache may take.
    pub kv_budget_bytes: usize,
    /// Most tokens in one [`Executor::step`].
    pub max_batch_tokens: usize,
    /// Compute threads; 0 means one per physical core.
    pub threads: usize,
    /// Element type of the KV cache; the reference backend always keeps floats.
    pub kv_precision: KvPrecision,
}

/// How exactly the cpu backend keeps keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum KvPrecision {
    /// IEEE halves.
    #[default]
    F16,
    /// Bytes with one scale for each token and head: about half the memory, rounded more coarsely.
    Q8,
}

impl KvPrecision {
    /// Bytes of one token's key, or value, in one head of `head_dim` numbers.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => 2 * head_dim,
            Self::Q8 => head_dim + size_of::<f32>(),
        }
    }
}

impl fmt::Display for KvPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Q8 => "q8",
        })
    }
}

impl FromStr for KvPrecision {
    type Err = ModelError;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            other => Err(ModelError::InvalidOption {
                option: "kv_precision",
                value: other.to_owned(),
                expected: "f16 or q8",
            }),
        }
    }
}

/// Names an open sequence of one executor. Never reused while the executor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// Which rows of a chunk need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsFor {
    /// None: a chunk in the middle of a prompt.
    Nothing,
    /// The last token of the chunk: the usual case.
    Last,
    /// Every token: perplexity, and the verification of drafted tokens.
    All,
}

impl LogitsFor {
    /// Rows of logits that a chunk of `tokens` tokens gives.
    pub fn rows(self, tokens: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Last => usize::from(tokens > 0),
            Self::All => tokens,
        }
    }
}

/// A run of consecutive tokens of one sequence, appended after what the sequence holds already.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens; at least one.
    pub tokens: &'a [u32],
    /// Which of them need logits.
    pub logits: LogitsFor,
}

/// A sequence that was just opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its name.
    pub id: SequenceId,
    /// Leading tokens of the prompt whose keys and values were found in the prefix cache. Always less than the
    /// prompt's length, so that at least one token is computed and gives logits.
    pub cached_tokens: usize,
}

/// What one step could not do for want of KV space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// Every chunk was computed.
    Done,
    /// KV pages ran out before anything was computed; close a sequence (its tokens can be recomputed) and try again.
    OutOfPages,
}

/// KV cache and scratch space of the sequences in flight.
pub trait Executor: Send {
    /// Opens a sequence for `prompt`, reusing the longest cached prefix within `namespace` (tenants do not share).
    ///
    /// # Errors
    /// When too many sequences are open.
    fn open(&mut self, prompt: &[u32], namespace: u64) -> Result<Opened>;

    /// Computes all chunks as one batch. `logits` is cleared and receives the rows that were asked for,
    /// `vocab_size` floats each, in the order of the chunks.
    ///
    /// # Errors
    /// [`crate::ModelError::Engine`] for an unknown sequence or a chunk past the context; nothing is computed then.
    fn step(&mut self, chunks: &[Chunk<'_>], logits: &mut Vec<f32>) -> Result<StepOutcome>;

    /// [`Self::step`], and what each kernel of it took, behind what `kernels` holds; nothing where a backend cannot tell.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn step_timed(
        &mut self,
        chunks: &[Chunk<'_>],
        logits: &mut Vec<f32>,
        kernels: &mut Vec<KernelSpan>,
    ) -> Result<StepOutcome> {
        let _ = kernels;
        self.step(chunks, logits)
    }

    /// Tokens that a sequence holds.
    fn len(&self, sequence: SequenceId) -> usize;

    /// Whether there is a prefix cache, which [`Self::open`] and [`Self::adopt`] look into.
    fn shares_prefixes(&self) -> bool {
        false
    }

    /// Takes over keys and values that other sequences of its namespace, running ones too, have computed since it was
    /// opened, as far as `prompt` agrees with theirs, and returns how many tokens it holds then. `prompt` is the whole prompt,
    /// of which the sequence holds a beginning; as in [`Self::open`] at least one token is left to compute. Called between
    /// steps, when nobody holds drafted tokens.
    fn adopt(&mut self, sequence: SequenceId, prompt: &[u32]) -> usize {
        let _ = prompt;
        self.len(sequence)
    }

    /// Whether a row's logits are the same to the last bit whatever else is in the batch, and however its sequence was cut into
    /// chunks. Only then does verifying drafted tokens in one batch choose what one after the other would have.
    fn rows_are_independent(&self) -> bool {
        false
    }

    /// Forgets all but the first `tokens` tokens of a sequence: rejected drafts.
    fn truncate(&mut self, sequence: SequenceId, tokens: usize);

    /// Closes a sequence. Its pages stay in the prefix cache until evicted when the executor has one.
    fn close(&mut self, sequence: SequenceId);

    /// How full the KV cache is.
    fn kv_usage(&self) -> KvUsage;
}

/// Occupancy of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvUsage {
    /// Pages held by open sequences.
    pub held_pages: usize,
    /// Pages kept only for reuse; free at need.
    pub cached_pages: usize,
    /// All pages; 0 when the executor is not paged.
    pub total_pages: usize,
    /// Tokens in one page.
    pub page_tokens: usize,
    /// Bytes of one page.
    pub page_bytes: usize,
    /// Bytes of KV memory in use.
    pub bytes: usize,
}
