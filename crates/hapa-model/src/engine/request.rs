//! What goes into the engine and what comes out.

use std::time::{Duration, Instant};

use crate::backend::KernelSpan;
use crate::grammar::Grammar;
use crate::sampling::{SamplingOptions, TokenLogprob};

/// One request for text.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// Token ids of the prompt; at least one, fewer than the context holds.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: SamplingOptions,
    /// Most tokens to generate. 0 answers at once and computes nothing.
    pub max_tokens: usize,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Requests share cached prompt prefixes within a namespace only, and the engine's time is shared fairly between namespaces.
    pub namespace: u64,
    /// Who is served first.
    pub priority: Priority,
    /// The form that the answer must have.
    pub grammar: Option<Grammar>,
    /// Report the log-probability of each token, and of this many of the likeliest ones.
    pub logprobs: Option<usize>,
    /// A token that ends an answer is a token like any other, so that the answer has `max_tokens`: for measurements.
    pub ignore_eos: bool,
    /// [`Finish::steps`] tells what each kernel of each step took.
    pub trace_kernels: bool,
}

impl GenerateRequest {
    /// A greedy request for at most `max_tokens` tokens.
    pub fn new(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            sampling: SamplingOptions::default(),
            max_tokens,
            stop: Vec::new(),
            namespace: 0,
            priority: Priority::Normal,
            grammar: None,
            logprobs: None,
            ignore_eos: false,
            trace_kernels: false,
        }
    }
}

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Somebody waits for it at a cursor. It is taken up and read before normal ones, but leaves those a share, and has a
    /// few places in the batch beyond those that all have.
    Interactive,
    /// Everything else.
    #[default]
    Normal,
}

/// One event of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    /// More text.
    Text(TextDelta),
    /// The end; nothing follows.
    Finished(Finish),
}

/// A piece of text, whole characters only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextDelta {
    /// The text; may be empty at the end of an answer, when its last tokens gave none.
    pub text: String,
    /// The tokens generated since the last event, in order. Their bytes may reach past `text` while a
    /// character is incomplete or a stop text may be beginning.
    pub tokens: Vec<u32>,
    /// One entry a token when asked for, else empty.
    pub logprobs: Vec<TokenLogprobs>,
}

/// How likely a token was, by the model alone (before temperature, penalties and cut-offs).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens, best first.
    pub top: Vec<TokenLogprob>,
}

/// Why and how an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// The stop text that came; with [`FinishReason::StopString`] alone.
    pub stop_string: Option<String>,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
    /// The steps that read the prompt, in order. Parts that the prefix cache had are in none; a request that was put
    /// aside for want of memory reads its tokens again.
    pub prefill_chunks: Vec<PrefillChunk>,
    /// The steps with their kernels, in order, where [`GenerateRequest::trace_kernels`] asked for them: those of about the
    /// first 50,000 kernels. Empty for a backend that cannot tell.
    pub steps: Vec<TracedStep>,
}

/// A step that a request was in, kernel by kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedStep {
    /// When it began.
    pub began: Instant,
    /// How long it took, until its tokens were chosen.
    pub took: Duration,
    /// Rows of the whole batch, those of other requests included.
    pub rows: usize,
    /// What it computed, in order.
    pub kernels: Vec<KernelSpan>,
}

/// One step's share of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefillChunk {
    /// When the step began.
    pub began: Instant,
    /// How long it took, the other requests of its batch included.
    pub took: Duration,
    /// Tokens of this prompt in it.
    pub tokens: usize,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// A stop text came.
    StopString,
    /// `max_tokens` were generated.
    Length,
    /// Prompt and answer fill the context.
    ContextFull,
}

impl FinishReason {
    /// The answer was cut: the model would have gone on.
    pub fn is_cut(self) -> bool {
        matches!(self, Self::Length | Self::ContextFull)
    }
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated; the token that ends an answer is not counted.
    pub generated_tokens: usize,
    /// Tokens that speculation proposed.
    pub drafted_tokens: usize,
    /// Those of them that the model agreed with.
    pub accepted_tokens: usize,
    /// Pages of the KV cache that prompt and answer lay in at the end, those that it shared with others included; 0 for a
    /// backend without pages.
    pub kv_pages: usize,
    /// Their bytes.
    pub kv_bytes: usize,
}

/// Where the time of one request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submission until the engine took it up.
    pub queue: Duration,
    /// From then until the first token.
    pub prefill: Duration,
    /// From the first token until the end.
    pub decode: Duration,
    /// From submission until the first token.
    pub time_to_first_token: Duration,
}
