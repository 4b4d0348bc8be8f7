//! A byte-level BPE vocabulary of a few hundred tokens that can encode any text.

use std::collections::HashMap;

use super::writer::{GgufWriter, WriterValue};
use crate::tokenizer::byte_to_char;

/// What the merges are made of: pieces of Python and a little Korean, so that tests see multi-byte tokens.
const WORDS: &[&str] = &[
    "    ",
    "\n    ",
    "def",
    " def",
    "return",
    " return",
    "import",
    " import",
    "for",
    " for",
    " in",
    " if",
    "else",
    "class",
    " class",
    "self",
    " self",
    "print",
    "range",
    "None",
    "True",
    "False",
    " =",
    " ==",
    " +",
    "):",
    "()",
    "__",
    "init",
    "list",
    " list",
    "str",
    " str",
    "int",
    "len",
    "user",
    "assistant",
    "system",
    " the",
    " a",
    "ing",
    " of",
    " and",
    "한",
    "글",
    "함수",
];

/// Tokens, merges and special tokens of a tiny model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TinyVocabulary {
    /// All tokens as GGUF writes them, special ones last.
    pub tokens: Vec<String>,
    /// Merges, best first.
    pub merges: Vec<String>,
    /// How many of the last tokens are special.
    pub specials: usize,
}

impl TinyVocabulary {
    /// The 256 bytes, merges for common pieces of Python, and special tokens; those for fill-in-the-middle
    /// when `fim` is set.
    pub fn new(fim: bool) -> Self {
        let mut tokens: Vec<String> = (0..=255u8).map(|b| byte_to_char(b).to_string()).collect();
        let mut known: HashMap<String, ()> = tokens.iter().map(|t| (t.clone(), ())).collect();
        let mut merges = Vec::new();
        for word in WORDS {
            let mut prefix = String::new();
            for byte in word.bytes() {
                let next = byte_to_char(byte);
                if !prefix.is_empty() {
                    let merged = format!("{prefix}{next}");
                    if known.insert(merged.clone(), ()).is_none() {
                        merges.push(format!("{prefix} {next}"));
                        tokens.push(merged);
                    }
                }
                prefix.push(next);
            }
        }
        let mut specials = vec!["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
        if fim {
            specials.extend([
                "<|fim_prefix|>",
                "<|fim_middle|>",
                "<|fim_suffix|>",
                "<|fim_pad|>",
                "<|repo_name|>",
                "<|file_sep|>",
            ]);
        }
        tokens.extend(specials.iter().map(|&s| s.to_owned()));
        Self { tokens, merges, specials: specials.len() }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never: the 256 bytes are always there.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|t| t == token).map(|i| i as u32)
    }

    /// Writes the `tokenizer.ggml.*` keys; `pre` names the pre-tokenizer.
    pub fn write(&self, out: &mut GgufWriter, pre: &str) {
        let normal = self.tokens.len() - self.specials;
        let types = (0..self.tokens.len()).map(|id| if id < normal { 1 } else { 3 }).collect();
        let id = |token: &str| WriterValue::U32(self.id(token).unwrap_or(0));
        out.pair("tokenizer.ggml.model", WriterValue::String("gpt2".into()))
            .pair("tokenizer.ggml.pre", WriterValue::String(pre.into()))
            .pair("tokenizer.ggml.tokens", WriterValue::Strings(self.tokens.clone()))
            .pair("tokenizer.ggml.token_type", WriterValue::I32s(types))
            .pair("tokenizer.ggml.merges", WriterValue::Strings(self.merges.clone()))
            .pair("tokenizer.ggml.bos_token_id", id("<|endoftext|>"))
            .pair("tokenizer.ggml.eos_token_id", id("<|im_end|>"))
            .pair("tokenizer.ggml.add_bos_token", WriterValue::Bool(false));
    }
}
