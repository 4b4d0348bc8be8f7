//! From text to token ids and back, equal to llama.cpp.
//!
//! A [`Tokenizer`] comes from a GGUF file's metadata (byte-level BPE and SentencePiece vocabularies) or from
//! Hugging Face's `tokenizer.json`. The first two are written here, because loading one is a part of a
//! server's warm start: see the head of `bpe.rs` for why. `tokenizer.json` goes through the
//! `tokenizers` crate, which defines that format.

mod bpe;
mod bytes;
mod json;
mod pretokenize;
mod sentencepiece;
mod special;
mod unicode;
mod vocabulary;

use std::borrow::Cow;
use std::path::Path;

pub use special::{SpecialRole, SpecialToken};

#[cfg(any(test, feature = "testing"))]
pub(crate) use bytes::byte_to_char;

use crate::error::{ModelError, Result};
use crate::gguf::{GgufFile, Metadata};
use bpe::{Bpe, Scratch};
use json::JsonTokenizer;
use pretokenize::PreTokenizer;
use sentencepiece::SentencePiece;
use special::{Part, Specials};
use vocabulary::{PieceStyle, TokenKind, Vocabulary};

/// How to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Whether to begin with the begin-of-sequence token, for models that want one.
    pub add_bos: bool,
    /// Whether texts of special tokens become those tokens. Off for text from outside that must not
    /// steer the model: `<|im_end|>` is then ordinary text.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_bos: true, parse_special: true }
    }
}

/// The tokenizer of one model. Immutable; share it by reference.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    specials: Specials,
    algorithm: Algorithm,
    adds_bos: bool,
}

enum Algorithm {
    Bpe { split: PreTokenizer, merges: Box<Bpe> },
    SentencePiece(Box<SentencePiece>),
    Json(Box<JsonTokenizer>),
}

impl Tokenizer {
    /// Reads the tokenizer from a model file's metadata.
    ///
    /// # Errors
    /// [`ModelError::InvalidGguf`] for missing or contradictory values, [`ModelError::Unsupported`] for kinds of
    /// tokenizers that are not known.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        match metadata.str("tokenizer.ggml.model")? {
            "gpt2" => Self::bpe_from(metadata),
            "llama" => Self::sentencepiece_from(metadata),
            other => Err(ModelError::Unsupported {
                what: format!("tokenizer model `{}`", excerpt(other)),
                help: "use a model with a tokenizer of kind gpt2 (byte-level BPE) or llama (SentencePiece)"
                    .to_owned(),
            }),
        }
    }

    /// Reads a `tokenizer.json`. `tokenizer_config.json`, `generation_config.json` and `config.json` beside it, where present,
    /// name the special tokens.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when a file cannot be read or understood.
    pub fn from_json_file(path: &Path) -> Result<Self> {
        let (json, mut vocabulary, adds_bos) = JsonTokenizer::open(path)?;
        let specials = Specials::from_roles(&mut vocabulary, json.roles());
        Ok(Self { vocabulary, specials, algorithm: Algorithm::Json(Box::new(json)), adds_bos })
    }

    fn bpe_from(metadata: &Metadata) -> Result<Self> {
        let pre = metadata.opt_str("tokenizer.ggml.pre")?.unwrap_or("default");
        let spec = pretokenize::by_name(pre).ok_or_else(|| ModelError::Unsupported {
            what: format!("pre-tokenizer `{}`", excerpt(pre)),
            help: format!("known are {}", pretokenize::KNOWN),
        })?;
        let mut vocabulary = read_vocabulary(metadata, PieceStyle::ByteLevel)?;
        const MERGES: &str = "tokenizer.ggml.merges";
        let merges = Bpe::new(&vocabulary, metadata.strings(MERGES)?, spec.ignore_merges)
            .map_err(|problem| metadata.invalid(MERGES, problem))?;
        let specials = Specials::from_metadata(&mut vocabulary, metadata, &[])?;
        Ok(Self {
            adds_bos: adds_bos(metadata, spec.add_bos)?,
            vocabulary,
            specials,
            algorithm: Algorithm::Bpe { split: spec.split, merges: Box::new(merges) },
        })
    }

    fn sentencepiece_from(metadata: &Metadata) -> Result<Self> {
        let mut vocabulary = read_vocabulary(metadata, PieceStyle::SentencePiece)?;
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = metadata.opt_f32s(SCORES)?.unwrap_or_default();
        if scores.len() < vocabulary.len() {
            return Err(metadata.invalid(
                SCORES,
                format!("has {} entries, expected {}", scores.len(), vocabulary.len()),
            ));
        }
        let defaults = [(SpecialRole::Bos, 1), (SpecialRole::Eos, 2), (SpecialRole::Unknown, 0)];
        let specials = Specials::from_metadata(&mut vocabulary, metadata, &defaults)?;
        let add_space_prefix =
            metadata.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let model = SentencePiece::new(
            &vocabulary,
            scores,
            specials.role(SpecialRole::Unknown),
            add_space_prefix,
        );
        Ok(Self {
            adds_bos: adds_bos(metadata, true)?,
            vocabulary,
            specials,
            algorithm: Algorithm::SentencePiece(Box::new(model)),
        })
    }

    /// Turns text into token ids.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when a regular expression of a rare pre-tokenizer gives up.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        if options.add_bos && self.adds_bos {
            ids.extend(self.bos());
        }
        match &self.algorithm {
            Algorithm::Json(json) => json.encode(text, options.parse_special, &mut ids)?,
            Algorithm::Bpe { split, merges } => {
                let mut scratch = Scratch::default();
                self.specials.split(&self.vocabulary, text, options.parse_special, |part| {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(text) => split
                            .split(text, &mut |word| {
                                merges.encode_word(&self.vocabulary, word, &mut scratch, &mut ids);
                            })
                            .map_err(|error| ModelError::Tokenizer {
                                problem: format!("the text could not be split into words: {error}"),
                            })?,
                    }
                    Ok(())
                })?;
            }
            Algorithm::SentencePiece(model) => {
                let mut after_special = true;
                self.specials.split(&self.vocabulary, text, options.parse_special, |part| {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(text) => {
                            model.encode(&self.vocabulary, text, after_special, &mut ids);
                        }
                    }
                    after_special = matches!(part, Part::Token(_));
                    Ok(())
                })?;
            }
        }
        Ok(ids)
    }

    /// Tokens of a prompt in which special tokens are written by name. The one that begins a text, where the model wants it, stands
    /// once, whether the prompt brings it or not.
    ///
    /// # Errors
    /// See [`Self::encode`].
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(prompt, EncodeOptions { add_bos: true, parse_special: true })?;
        if let (true, Some(bos), [first, second, ..]) = (self.adds_bos, self.bos(), &ids[..])
            && (*first, *second) == (bos, bos)
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// The bytes that a token adds to the output: possibly a part of a character, none for control tokens
    /// and unknown ids.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        self.vocabulary.bytes(id, false)
    }

    /// A token's text as the vocabulary writes it (`Ġreturn`, `<|im_end|>`), for people.
    pub fn token_text(&self, id: u32) -> Cow<'_, str> {
        String::from_utf8_lossy(self.vocabulary.text(id))
    }

    /// Turns token ids into text. Control tokens add nothing; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(&self.token_bytes(id));
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The token of this text, written as the vocabulary writes it.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocabulary.id(text.as_bytes())
    }

    /// Whether a generation ends when the model emits this token.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.specials.ends_generation(id)
    }

    /// Whether this is a control token: one with a meaning of its own and no text.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), TokenKind::Control | TokenKind::Unknown)
    }

    /// The token that begins a sequence, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.role(SpecialRole::Bos)
    }

    /// The token that ends a sequence, if there is one.
    pub fn eos(&self) -> Option<u32> {
        self.role(SpecialRole::Eos)
    }

    /// The token of a role, if there is one.
    pub fn role(&self, role: SpecialRole) -> Option<u32> {
        self.specials.role(role)
    }

    /// Whether sequences of this model begin with [`Self::bos`].
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// All special tokens.
    pub fn special_tokens(&self) -> Vec<SpecialToken> {
        self.specials.list(&self.vocabulary)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("style", &self.vocabulary.style())
            .field("adds_bos", &self.adds_bos)
            .finish_non_exhaustive()
    }
}

fn read_vocabulary(metadata: &Metadata, style: PieceStyle) -> Result<Vocabulary> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const TYPES: &str = "tokenizer.ggml.token_type";
    let tokens = metadata.strings(TOKENS)?;
    if tokens.is_empty() {
        return Err(metadata.invalid(TOKENS, "is empty, expected at least one token"));
    }
    let mut vocabulary = Vocabulary::new(tokens.iter_bytes(), style)
        .ok_or_else(|| metadata.invalid(TOKENS, "has more than 4 GiB of text"))?;
    if let Some(types) = metadata.opt_i32s(TYPES)? {
        if types.len() < vocabulary.len() {
            return Err(metadata.invalid(
                TYPES,
                format!("has {} entries, expected {}", types.len(), vocabulary.len()),
            ));
        }
        for (id, &kind) in (0..vocabulary.len() as u32).zip(&types) {
            vocabulary.set_kind(id, TokenKind::from_id(kind));
        }
    }
    Ok(vocabulary)
}

fn adds_bos(metadata: &Metadata, default: bool) -> Result<bool> {
    Ok(metadata.opt_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(default))
}

/// The start of a text from a file, for messages.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}
