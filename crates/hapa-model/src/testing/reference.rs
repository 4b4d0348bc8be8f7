//! What llama.cpp answers: the recordings in `tests/fixtures`.

use serde::Deserialize;

use crate::error::{ModelError, Result};
use crate::prompt::ChatMessage;

/// Recordings of one model.
#[derive(Debug, Clone, Deserialize)]
pub struct Reference {
    /// The program that was recorded: `llama.cpp b11434`.
    pub engine: String,
    /// The model's file.
    pub model: String,
    /// What was asked.
    pub cases: Vec<ReferenceCase>,
}

/// One question and its answer.
#[derive(Debug, Clone, Deserialize)]
pub struct ReferenceCase {
    /// A name for messages.
    pub name: String,
    /// The conversation, for chats.
    pub messages: Option<Vec<ChatMessage>>,
    /// The prompt; for chats what the template made of the conversation.
    pub prompt: String,
    /// The prompt's tokens.
    pub tokens: Vec<u32>,
    /// The most probable continuation.
    #[serde(default)]
    pub greedy_tokens: Vec<u32>,
    /// Its text.
    #[serde(default)]
    pub greedy_text: String,
    /// The five best tokens of the first step with the logarithms of their probabilities.
    #[serde(default)]
    pub first_step_top5: Vec<(u32, f32)>,
    /// For each step how far the runner-up was behind, in logits. Below about 0.2 another rounding may
    /// choose otherwise.
    #[serde(default)]
    pub margins: Vec<f32>,
}

/// The recordings of a model of the catalogue: `qwen2.5-coder-0.5b` or `smollm2-135m`.
///
/// # Errors
/// [`ModelError::UnknownModel`] for another one.
pub fn reference(id: &str) -> Result<Reference> {
    let json = match id {
        "qwen2.5-coder-0.5b" => include_str!("../../tests/fixtures/qwen2.5-coder-0.5b.json"),
        "smollm2-135m" => include_str!("../../tests/fixtures/smollm2-135m.json"),
        other => {
            return Err(ModelError::UnknownModel {
                name: other.to_owned(),
                help: "there are recordings of qwen2.5-coder-0.5b and smollm2-135m".to_owned(),
            });
        }
    };
    serde_json::from_str(json)
        .map_err(|error| ModelError::Engine { problem: format!("recordings of {id}: {error}") })
}

/// Text for perplexity: prompts and solutions of HumanEval (MIT).
pub const PERPLEXITY_TEXT: &str = include_str!("../../tests/fixtures/ppl.txt");
