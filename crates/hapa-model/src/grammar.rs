//! Answers of a given form: before each draw, tokens that would break the form are ruled out.
//!
//! llguidance turns a JSON schema into a grammar and, for each place of an answer, into a mask over the vocabulary. With the mask
//! applied to the logits, greedy choice takes the most probable of the tokens that are allowed, and drawing keeps their proportions.
//! Speculation is not in the way: a drafted token that the grammar forbids is not the one that is chosen.

mod calls;

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// Longest schema, in bytes.
const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// Blanks between JSON's tokens: enough for lines and indents, but no endless row of them, into which small models fall.
const BLANKS: &str = r"[ \n\t]{0,32}";

/// Makes grammars for one vocabulary. Building it reads the whole vocabulary once.
pub struct GrammarCompiler {
    factory: ParserFactory,
}

/// The form of one answer, and where in it the answer is.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    source: Arc<str>,
}

impl GrammarCompiler {
    /// A compiler for the tokens of a model.
    ///
    /// # Errors
    /// [`ModelError::Grammar`] when the model has no token that ends an answer.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let tokens = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let end = tokenizer
            .eos()
            .or_else(|| (0..tokens).find(|&id| tokenizer.is_end_of_generation(id)))
            .ok_or_else(|| problem("the model has no token that ends an answer"))?;
        let words: Vec<Vec<u8>> = (0..tokens).map(|id| word(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(tokens, end), &words);
        let environment: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&environment).map_err(|error| problem(error.to_string()))?;
        // What it has to say comes back as an error.
        factory.quiet();
        Ok(Self { factory })
    }

    /// The form of a JSON object, whatever is in it.
    ///
    /// # Errors
    /// [`ModelError::Grammar`].
    pub fn json_object(&self) -> Result<Grammar> {
        self.json_schema(r#"{"type":"object"}"#)
    }

    /// The form of JSON that fits a schema (JSON Schema 2020-12, without what llguidance does not know).
    ///
    /// # Errors
    /// [`ModelError::Grammar`] when the schema is none, asks for what cannot be enforced, or can never be met.
    pub fn json_schema(&self, schema: &str) -> Result<Grammar> {
        self.compile(schema, false)
    }

    /// `lenient` leaves out what cannot be enforced.
    fn compile(&self, schema: &str, lenient: bool) -> Result<Grammar> {
        if schema.len() > MAX_SCHEMA_BYTES {
            return Err(problem(format!(
                "the schema has {} bytes; at most {MAX_SCHEMA_BYTES} are allowed",
                schema.len()
            )));
        }
        let mut value: Value = serde_json::from_str(schema)
            .map_err(|error| problem(format!("the schema is no JSON: {error}")))?;
        if let Value::Object(fields) = &mut value {
            fields
                .entry("x-guidance")
                .or_insert_with(|| json!({ "whitespace_pattern": BLANKS, "lenient": lenient }));
        }
        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(value));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(problem(format!("the schema cannot be enforced: {error}"))),
            None => Ok(Grammar { matcher, source: Arc::from(schema) }),
        }
    }
}

impl Grammar {
    /// Rules out what may not come next: its logits become minus infinity.
    pub(crate) fn restrict(&mut self, logits: &mut [f32]) -> Result<()> {
        let mask = self.matcher.compute_mask_or_eos().map_err(fault)?;
        let known = mask.len().min(logits.len());
        logits[known..].fill(f32::NEG_INFINITY);
        mask.iter_unset_entries(|id| {
            if let Some(logit) = logits.get_mut(id) {
                *logit = f32::NEG_INFINITY;
            }
        });
        Ok(())
    }

    /// Takes the token that was chosen.
    pub(crate) fn take(&mut self, token: u32) -> Result<()> {
        self.matcher.consume_token(token).map_err(fault)
    }

    /// The answer is whole and nothing can follow.
    pub(crate) fn is_whole(&self) -> bool {
        self.matcher.is_stopped()
    }
}

/// The bytes of a token as llguidance wants them: special ones are marked, so that no text is made of them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if tokenizer.is_special(id) || tokenizer.is_end_of_generation(id) {
        let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        word.extend(tokenizer.token_text(id).bytes());
        return word;
    }
    let bytes = tokenizer.token_bytes(id).into_owned();
    // The marker is a byte that UTF-8 never has.
    if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { bytes }
}

fn problem(problem: impl Into<String>) -> ModelError {
    ModelError::Grammar { problem: problem.into() }
}

fn fault(error: impl fmt::Display) -> ModelError {
    ModelError::Engine { problem: format!("the grammar of an answer failed: {error}") }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrammarCompiler")
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("source", &self.source).finish_non_exhaustive()
    }
}

impl PartialEq for Grammar {
    /// The same form; how far an answer has come in it does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
