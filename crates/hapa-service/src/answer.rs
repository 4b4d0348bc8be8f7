//! What a caller gets back.

use std::sync::Arc;
use std::time::Duration;

use hapa_cache::KeyDigest;
use hapa_model::{FinishReason, Usage};
use serde::{Deserialize, Serialize};

use crate::post::SyntaxReport;

/// A whole answer with its receipt.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What the model wrote, after stop rules: the raw answer of a question, the text to insert at a cursor.
    pub text: String,
    /// The code of an answer to a question (or of a chat message); the whole text of a completion; `None` when
    /// there is none.
    pub code: Option<String>,
    /// The text around the code.
    pub explanation: Option<String>,
    /// Whether the code is valid Python.
    pub syntax: SyntaxReport,
    /// Why the answer ended.
    pub finish: FinishReason,
    /// Which of the request's stop strings ended it; with [`FinishReason::StopString`] alone.
    pub stop_string: Option<String>,
    /// Tokens. An answer out of the cache carries the figures of the generation that made it.
    pub usage: Usage,
    /// Name of the model that answered.
    pub model: Arc<str>,
    /// The tokens of the text with their log-probabilities; `None` unless the request asked for them.
    pub logprobs: Option<Vec<TokenScore>>,
    /// What the response cache did for this request.
    pub cache: CacheReport,
    /// Where this request's time went.
    pub timings: Timings,
}

impl Answer {
    /// The bytes that an answer takes in the cache, beside the entry's own overhead.
    pub(crate) fn weight_bytes(&self) -> usize {
        let issues: usize = self.syntax.issues.iter().map(|issue| issue.message.len() + 64).sum();
        size_of::<Self>()
            + self.text.len()
            + self.code.as_ref().map_or(0, String::len)
            + self.explanation.as_ref().map_or(0, String::len)
            + self.stop_string.as_ref().map_or(0, String::len)
            + issues
            + self.logprobs.iter().flatten().map(TokenScore::weight_bytes).sum::<usize>()
    }

    /// How probable the model finds its own answer: the mean of its tokens' log-probabilities, where they were asked for.
    pub fn mean_logprob(&self) -> Option<f32> {
        let scores = self.logprobs.as_ref().filter(|scores| !scores.is_empty())?;
        Some(scores.iter().map(|score| score.logprob).sum::<f32>() / scores.len() as f32)
    }
}

/// A token of an answer and how likely it was, by the model alone (before temperature, penalties and cut-offs).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenScore {
    /// The token's bytes; they may be a part of a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens in its place, best first.
    pub top: Vec<LikelyToken>,
}

/// One of the likeliest tokens of a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LikelyToken {
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

impl TokenScore {
    fn weight_bytes(&self) -> usize {
        let top: usize =
            self.top.iter().map(|token| size_of::<LikelyToken>() + token.bytes.len()).sum();
        size_of::<Self>() + self.bytes.len() + top
    }
}

/// One event of a streamed answer.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerEvent {
    /// The tokens that begin in the text so far or in the next piece, where they were asked for. All of them joined are
    /// [`Answer::logprobs`].
    Logprobs(Vec<TokenScore>),
    /// The next piece of [`Answer::text`]; never empty.
    Text(String),
    /// The end: the same answer as [`crate::Service::predict`] gives. Its text is all pieces joined.
    Finished(Box<Answer>),
}

/// What the response cache did for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheReport {
    /// Where the answer came from.
    pub outcome: CacheOutcome,
    /// Digest of everything that changes the answer, in hexadecimal.
    pub key: String,
    /// Digest of the prompt alone.
    pub prompt_hash: String,
    /// Digest of the context alone, if there is one.
    pub context_hash: Option<String>,
    /// The answer is the rest of an earlier completion, whose beginning the user has typed since.
    pub typed_through: bool,
}

impl CacheReport {
    pub(crate) fn new(outcome: CacheOutcome, digest: &KeyDigest) -> Self {
        Self {
            outcome,
            key: digest.key.to_hex(),
            prompt_hash: digest.prompt_hash.to_hex(),
            context_hash: digest.context_hash.map(|hash| hash.to_hex()),
            typed_through: false,
        }
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheOutcome {
    /// Out of memory.
    HitL1,
    /// Out of the second tier.
    HitL2,
    /// Another request was generating it already.
    Shared,
    /// It was generated.
    Miss,
    /// It was generated, and the cache was not asked.
    Bypass,
}

impl CacheOutcome {
    /// The name on the wire: `hit-l1`, `hit-l2`, `shared`, `miss` or `bypass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HitL1 => "hit-l1",
            Self::HitL2 => "hit-l2",
            Self::Shared => "shared",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }

    /// Whether the answer was there before the request.
    pub fn is_hit(self) -> bool {
        matches!(self, Self::HitL1 | Self::HitL2)
    }
}

impl std::fmt::Display for CacheOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a request's time went. Everything but `total` is zero for an answer out of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From the request's arrival to its answer, as this caller saw it.
    pub total: Duration,
    /// Waiting for the model to be loaded.
    pub model_loading: Duration,
    /// Building and tokenising the prompt.
    pub prompt: Duration,
    /// Waiting in the engine's queue.
    pub queue: Duration,
    /// Computing the prompt.
    pub prefill: Duration,
    /// Computing the answer.
    pub decode: Duration,
    /// From entering the engine's queue to the first token.
    pub time_to_first_token: Duration,
    /// Taking the answer apart and checking its syntax.
    pub post_processing: Duration,
}
