//! The key of a request to a code assistant.

use super::digest::{CacheKey, Digest};
use super::encoder::KeyEncoder;
use crate::CacheError;

/// Version of [`RequestKey`]'s encoding. Raise it with every change of the fields, their order or
/// their meaning; keys of another version never match.
pub const KEY_VERSION: u32 = 1;

const DOMAIN: &str = "hapa.request";
const GROUP_DOMAIN: &str = "hapa.request.group";

/// Everything that can change the answer to a request.
///
/// [`digest`](Self::digest) takes the struct apart without `..`, so a new field does not compile
/// until somebody has decided its place in the key.
///
/// What is deliberately not here: request ids, deadlines, whether the answer is streamed, and the
/// name under which the model was asked for (its digest is what counts).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestKey<'a> {
    /// The tenant: requests of different namespaces never share an answer, so that timing tells
    /// one tenant nothing about another's prompts.
    pub namespace: &'a str,
    /// SHA-256 of the weights (or whatever names them exactly).
    pub model_digest: &'a str,
    /// Identity and version of the prompt template and system prompt around the fields below.
    pub template: &'a str,
    /// The kind of task: `generate`, `complete`, `chat`, ...
    pub task: &'a str,
    /// The question, or the text before the cursor. Its digest is visible as `prompt_hash`.
    pub prompt: &'a str,
    /// Code or text that goes with it. Its digest is visible as `context_hash`.
    pub context: Option<&'a str>,
    /// The language that was asked for.
    pub language: &'a str,
    /// The file's path, where the prompt shows it to the model.
    pub file_path: Option<&'a str>,
    /// What else the prompt is made of, in order: `("suffix", ..)`, `("user", ..)`, ...
    pub parts: &'a [(&'a str, &'a str)],
    /// How tokens are chosen.
    pub sampling: SamplingKey,
    /// The longest answer, in tokens.
    pub max_tokens: u64,
    /// Texts that end the answer, in order.
    pub stop: &'a [String],
    /// What the answer carries beside its text.
    pub shape: StreamShape,
}

/// How tokens are chosen. The default is greedy.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingKey {
    /// 0 is greedy: the most probable token.
    pub temperature: f32,
    /// Only the k most probable tokens; 0 is all.
    pub top_k: u64,
    /// Only the most probable tokens that together have this probability.
    pub top_p: f32,
    /// Only tokens at least this probable, relative to the most probable.
    pub min_p: f32,
    /// Divisor for the logits of tokens that were seen; 1 is none.
    pub repetition_penalty: f32,
    /// How many tokens back the penalty looks.
    pub repetition_window: u64,
    /// The seed of the random numbers, if one was given.
    pub seed: Option<u64>,
}

impl SamplingKey {
    /// Whether the same request always gets the same answer: greedy, or random with a seed.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        self.temperature == 0.0 || self.seed.is_some()
    }
}

/// What an answer carries beside its text; an answer without log-probabilities can't serve a
/// request that asks for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamShape {
    /// How many log-probabilities a token, if any.
    pub logprobs: Option<u64>,
}

/// A request's key, and the digests of its two long texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyDigest {
    /// The key of the whole request.
    pub key: CacheKey,
    /// BLAKE3 of the prompt alone (what `b3sum` prints).
    pub prompt_hash: Digest,
    /// BLAKE3 of the context alone, if there is one.
    pub context_hash: Option<Digest>,
}

impl RequestKey<'_> {
    /// The request's key.
    ///
    /// At temperature 0 the seed and the cuts (top-k, top-p, min-p) can't change the answer and
    /// are left out, so greedy requests that differ only there share one entry.
    ///
    /// # Errors
    /// [`CacheError::NotFinite`] when a sampling number is NaN or infinite.
    pub fn digest(&self) -> Result<KeyDigest, CacheError> {
        let prompt_hash = Digest::of(self.prompt.as_bytes());
        let context_hash = self.context.map(|context| Digest::of(context.as_bytes()));
        let mut encoder = KeyEncoder::new(DOMAIN, KEY_VERSION);
        self.encode(&mut encoder, Some(&prompt_hash), context_hash.as_ref())?;
        Ok(KeyDigest { key: encoder.finish(), prompt_hash, context_hash })
    }

    /// The digest of everything but the prompt: what two requests share when only the text before the cursor differs.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn group(&self) -> Result<Digest, CacheError> {
        let context_hash = self.context.map(|context| Digest::of(context.as_bytes()));
        let mut encoder = KeyEncoder::new(GROUP_DOMAIN, KEY_VERSION);
        self.encode(&mut encoder, None, context_hash.as_ref())?;
        Ok(encoder.finish())
    }

    fn encode(
        &self,
        encoder: &mut KeyEncoder,
        prompt_hash: Option<&Digest>,
        context_hash: Option<&Digest>,
    ) -> Result<(), CacheError> {
        let Self {
            namespace,
            model_digest,
            template,
            task,
            // Both enter as digests.
            prompt: _,
            context: _,
            language,
            file_path,
            parts,
            sampling,
            max_tokens,
            stop,
            shape,
        } = self;
        encoder
            .text(1, namespace)
            .text(2, model_digest)
            .text(3, template)
            .text(4, task)
            .optional_digest(5, prompt_hash)
            .optional_digest(6, context_hash)
            .text(7, language)
            .optional_text(8, *file_path)
            .pairs(9, parts);
        sampling.encode(encoder)?;
        let StreamShape { logprobs } = shape;
        encoder.unsigned(20, *max_tokens).texts(21, stop).optional_unsigned(22, *logprobs);
        Ok(())
    }
}

impl SamplingKey {
    fn encode(&self, encoder: &mut KeyEncoder) -> Result<(), CacheError> {
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, repetition_window, seed } =
            *self;
        let greedy = temperature == 0.0;
        encoder.float(10, "temperature", temperature)?;
        // Refused even where they have no effect: a NaN is a caller's mistake either way.
        encoder.float(11, "top_p", if greedy { 0.0 * check("top_p", top_p)? } else { top_p })?;
        encoder.float(12, "min_p", if greedy { 0.0 * check("min_p", min_p)? } else { min_p })?;
        encoder.unsigned(13, if greedy { 0 } else { top_k });
        encoder.optional_unsigned(14, if greedy { None } else { seed });
        encoder.float(15, "repetition_penalty", repetition_penalty)?;
        // Without a penalty the window is never looked at.
        let no_penalty = repetition_penalty == 1.0;
        encoder.unsigned(16, if no_penalty { 0 } else { repetition_window });
        Ok(())
    }
}

fn check(field: &'static str, value: f32) -> Result<f32, CacheError> {
    if value.is_finite() { Ok(value) } else { Err(CacheError::NotFinite { field, value }) }
}
