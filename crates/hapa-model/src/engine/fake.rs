//! A model for tests of the engine: its next token is a function of all tokens so far, so that a lost, doubled or
//! misplaced token shows; it repeats itself when asked to; its KV cache is a number of pages; it fails on request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use super::sequence::Vocabulary;
use crate::backend::{
    Backend, Chunk, Executor, ExecutorOptions, KvUsage, LogitsFor, Opened, SequenceId, StepOutcome,
};
use crate::config::{ModelConfig, Rope, RopePairing};
use crate::error::{ModelError, Result};

pub(super) const VOCAB: usize = 64;
/// Ends an answer.
pub(super) const END: u32 = 0;
/// As the last token of a prompt: the answer ends at once.
pub(super) const LAST_WORDS: u32 = 1;
/// A step that reads it panics.
pub(super) const POISON: u32 = 2;
/// A step that reads it fails.
pub(super) const FAULT: u32 = 3;

/// As the first token of a prompt whose second token is `n`: the model repeats what it said or read `n` tokens ago, but for
/// every [`CHANGE`]th token.
pub(super) const ECHO: u32 = 4;
pub(super) const CHANGE: usize = 23;

/// The token that the model says after these.
pub(super) fn next_token(history: &[u32]) -> u32 {
    if history.last() == Some(&LAST_WORDS) {
        return END;
    }
    if let [ECHO, lag, text @ ..] = history
        && text.len() >= *lag as usize
        && !history.len().is_multiple_of(CHANGE)
    {
        return text[text.len() - *lag as usize];
    }
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &token in history {
        hash = (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    10 + ((hash >> 32) % 50) as u32
}

/// Logits after these tokens: the next token stands out, the others differ.
pub(super) fn logits_after(history: &[u32]) -> impl Iterator<Item = f32> {
    let next = next_token(history);
    let salt = history.len() as u32;
    (0..VOCAB as u32).map(move |id| {
        match id {
            _ if id == next => 4.0,
            // The tokens with a meaning of their own are never drawn by chance.
            0..10 => -60.0,
            _ => ((id * 7 + salt) % 11) as f32 / 10.0,
        }
    })
}

/// Greedy continuation.
pub(super) fn continuation(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut all = prompt.to_vec();
    for _ in 0..tokens {
        all.push(next_token(&all));
    }
    all.split_off(prompt.len())
}

/// The text of tokens.
pub(super) fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|&token| letter(token) as char).collect()
}

fn letter(token: u32) -> u8 {
    b' ' + token as u8
}

/// One step as the fake saw it: `(sequence, tokens)` of each chunk.
pub(super) type StepLog = Vec<(u64, usize)>;

/// What tests see of the model.
#[derive(Default)]
pub(super) struct Probe {
    pub(super) open: AtomicUsize,
    pub(super) looks: AtomicUsize,
    pub(super) steps: Mutex<Vec<StepLog>>,
    gate: Mutex<Option<usize>>,
    moved: Condvar,
}

impl Probe {
    /// Stops the model before its next step.
    pub(super) fn hold(&self) {
        *self.gate.lock() = Some(0);
    }

    /// Lets that many steps pass.
    pub(super) fn allow(&self, steps: usize) {
        if let Some(allowed) = self.gate.lock().as_mut() {
            *allowed += steps;
        }
        self.moved.notify_all();
    }

    /// Lets everything pass.
    pub(super) fn release(&self) {
        *self.gate.lock() = None;
        self.moved.notify_all();
    }

    fn pass(&self) {
        let mut gate = self.gate.lock();
        loop {
            match gate.as_mut() {
                None => return,
                Some(0) => self.moved.wait(&mut gate),
                Some(allowed) => {
                    *allowed -= 1;
                    return;
                }
            }
        }
    }
}

pub(super) struct FakeBackend {
    config: ModelConfig,
    pub(super) probe: Arc<Probe>,
    /// Pages and their tokens; 0 pages for a cache without limit.
    pages: usize,
    page_tokens: usize,
    /// Open sequences take over what others hold.
    pub(super) shares: bool,
}

impl FakeBackend {
    pub(super) fn new(pages: usize, page_tokens: usize) -> Self {
        let config = ModelConfig {
            architecture: "fake".into(),
            vocab_size: VOCAB,
            hidden_size: 1,
            intermediate_size: 1,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: 1e4,
                dims: 2,
                pairing: RopePairing::Halves,
                frequency_factors: None,
                scale: 1.0,
            },
            context_length: 1 << 20,
            qkv_bias: false,
            qk_norm: false,
            tied_embeddings: true,
        };
        Self { config, probe: Arc::default(), pages, page_tokens, shares: false }
    }
}

impl Backend for FakeBackend {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn executor(&self, options: &ExecutorOptions) -> Result<Box<dyn Executor>> {
        self.probe.open.store(0, Ordering::SeqCst);
        Ok(Box::new(FakeExecutor {
            probe: Arc::clone(&self.probe),
            pages: self.pages,
            page_tokens: self.page_tokens,
            shares: self.shares,
            options: options.clone(),
            sequences: HashMap::new(),
            next_id: 0,
        }))
    }
}

struct FakeExecutor {
    probe: Arc<Probe>,
    pages: usize,
    page_tokens: usize,
    shares: bool,
    options: ExecutorOptions,
    sequences: HashMap<SequenceId, Vec<u32>>,
    next_id: u64,
}

impl FakeExecutor {
    fn held(&self) -> usize {
        self.sequences.values().map(|tokens| tokens.len().div_ceil(self.page_tokens)).sum()
    }
}

impl Executor for FakeExecutor {
    fn open(&mut self, _prompt: &[u32], _namespace: u64) -> Result<Opened> {
        assert!(self.sequences.len() < self.options.max_sequences, "too many sequences");
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, Vec::new());
        self.probe.open.store(self.sequences.len(), Ordering::SeqCst);
        Ok(Opened { id, cached_tokens: 0 })
    }

    fn step(&mut self, chunks: &[Chunk<'_>], logits: &mut Vec<f32>) -> Result<StepOutcome> {
        self.probe.pass();
        logits.clear();
        let total: usize = chunks.iter().map(|c| c.tokens.len()).sum();
        assert!(total <= self.options.max_batch_tokens, "{total} tokens in a step");
        for chunk in chunks {
            if chunk.tokens.contains(&FAULT) {
                return Err(ModelError::Engine { problem: "fault".into() });
            }
            let len = self.sequences[&chunk.sequence].len() + chunk.tokens.len();
            assert!(len <= self.options.context_tokens, "{len} tokens in a sequence");
        }
        let grown: usize = chunks
            .iter()
            .map(|c| {
                let len = self.sequences[&c.sequence].len();
                (len + c.tokens.len()).div_ceil(self.page_tokens) - len.div_ceil(self.page_tokens)
            })
            .sum();
        if self.pages > 0 && self.held() + grown > self.pages {
            return Ok(StepOutcome::OutOfPages);
        }
        self.probe
            .steps
            .lock()
            .push(chunks.iter().map(|c| (c.sequence.0, c.tokens.len())).collect());
        for chunk in chunks {
            let held = self.sequences.get_mut(&chunk.sequence).expect("open");
            let before = held.len();
            held.extend_from_slice(chunk.tokens);
            assert!(!chunk.tokens.contains(&POISON), "poison");
            let wanted = match chunk.logits {
                LogitsFor::Nothing => 0..0,
                LogitsFor::Last => held.len() - 1..held.len(),
                LogitsFor::All => before..held.len(),
            };
            for at in wanted {
                logits.extend(logits_after(&held[..=at]));
            }
        }
        Ok(StepOutcome::Done)
    }

    fn len(&self, sequence: SequenceId) -> usize {
        self.sequences[&sequence].len()
    }

    fn shares_prefixes(&self) -> bool {
        self.shares
    }

    fn adopt(&mut self, sequence: SequenceId, prompt: &[u32]) -> usize {
        let held = self.sequences[&sequence].len();
        let common =
            |other: &Vec<u32>| other.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let most = self.sequences.values().map(common).max().unwrap_or(0).min(prompt.len() - 1);
        let held = held.max(most / self.page_tokens * self.page_tokens);
        self.sequences.insert(sequence, prompt[..held].to_vec());
        held
    }

    fn rows_are_independent(&self) -> bool {
        true
    }

    fn truncate(&mut self, sequence: SequenceId, tokens: usize) {
        self.sequences.get_mut(&sequence).expect("open").truncate(tokens);
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence).expect("open");
        self.probe.open.store(self.sequences.len(), Ordering::SeqCst);
    }

    fn kv_usage(&self) -> KvUsage {
        self.probe.looks.fetch_add(1, Ordering::SeqCst);
        KvUsage {
            held_pages: self.held(),
            cached_pages: 0,
            total_pages: self.pages,
            page_tokens: self.page_tokens,
            page_bytes: 100,
            bytes: 0,
        }
    }
}

pub(super) struct FakeVocabulary;

impl Vocabulary for FakeVocabulary {
    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        Cow::Owned(vec![letter(token)])
    }

    fn ends_generation(&self, token: u32) -> bool {
        token == END
    }
}
