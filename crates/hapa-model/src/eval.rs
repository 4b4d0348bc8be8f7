//! Measures of a model's quality.

use crate::error::{ModelError, SharedError};
use crate::model::Model;
use crate::tokenizer::EncodeOptions;

/// Perplexity of a model over a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The exponential of the mean negative log-probability of the scored tokens.
    pub perplexity: f64,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Chunks that the text was cut into.
    pub chunks: usize,
}

/// Perplexity over `text` in chunks of `chunk_tokens` tokens, computed as llama.cpp's `llama-perplexity` does, so that figures
/// compare: the text is cut into whole chunks (the rest is left out), each is read from an empty context, and tokens from
/// the second half of each are scored, so that every scored token has at least half a chunk before it. Where the model wants a
/// token that begins a text, it takes the place of each chunk's first token.
///
/// # Errors
/// [`ModelError::InvalidOption`] for chunks of fewer than 4 tokens or a text shorter than one chunk, and those of
/// [`Model::score`].
pub fn perplexity(
    model: &Model,
    text: &str,
    chunk_tokens: usize,
) -> Result<Perplexity, SharedError> {
    perplexity_over(model, text, chunk_tokens, usize::MAX)
}

/// [`perplexity`] over at most the first `max_chunks` chunks.
///
/// # Errors
/// As [`perplexity`].
pub fn perplexity_over(
    model: &Model,
    text: &str,
    chunk_tokens: usize,
    max_chunks: usize,
) -> Result<Perplexity, SharedError> {
    if chunk_tokens < 4 {
        return Err(ModelError::InvalidOption {
            option: "chunk",
            value: chunk_tokens.to_string(),
            expected: "at least 4 tokens",
        }
        .into());
    }
    let tokenizer = model.tokenizer();
    let encode = |add_bos| tokenizer.encode(text, EncodeOptions { add_bos, parse_special: false });
    let tokens = encode(true)?;
    let begins = tokens.first().copied().filter(|first| Some(*first) == tokenizer.bos());
    let begins = begins.filter(|_| encode(false).is_ok_and(|plain| plain.len() < tokens.len()));
    if tokens.len() < chunk_tokens {
        return Err(ModelError::InvalidOption {
            option: "text",
            value: format!("{} tokens", tokens.len()),
            expected: "at least one whole chunk of tokens",
        }
        .into());
    }
    // llama.cpp looks at the logits of positions n/2 .. n-2, which predict the tokens one further on.
    let first = chunk_tokens / 2 + 1;
    let mut negative_log_likelihood = 0.0f64;
    let mut scored = 0;
    let mut chunks = 0;
    for chunk in tokens.chunks_exact(chunk_tokens).take(max_chunks) {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = begins {
            chunk[0] = bos;
        }
        let values = model.score_from(chunk, first)?;
        negative_log_likelihood -= values.iter().map(|&v| f64::from(v)).sum::<f64>();
        scored += values.len();
        chunks += 1;
    }
    Ok(Perplexity {
        perplexity: (negative_log_likelihood / scored.max(1) as f64).exp(),
        tokens: scored,
        chunks,
    })
}
