//! Hugging Face's `tokenizer.json`, through the crate that defines it.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::DecoderWrapper;

use super::special::SpecialRole;
use super::vocabulary::{PieceStyle, TokenKind, Vocabulary};
use crate::error::{ModelError, Result};

/// Largest id taken; vocabularies have a few hundred thousand tokens.
const MAX_TOKENS: u32 = 1 << 24;

/// A `tokenizer.json` and what the files beside it say about special tokens.
pub(super) struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    /// The same, but blind for special tokens; made when first asked for.
    blind: OnceLock<Box<tokenizers::Tokenizer>>,
    roles: Vec<(SpecialRole, u32)>,
}

fn error(path: &Path, problem: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer { problem: format!("{}: {problem}", path.display()) }
}

impl JsonTokenizer {
    /// Reads the file. Gives its vocabulary too, and whether sequences begin with a begin-of-sequence token.
    pub(super) fn open(path: &Path) -> Result<(Self, Vocabulary, bool)> {
        let mut inner = tokenizers::Tokenizer::from_file(path).map_err(|e| error(path, e))?;
        // A file may ask for padding or cutting, which is not for a tokenizer of prompts to do.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| error(path, e))?;
        let vocabulary = read_vocabulary(&inner, path)?;
        let settings = read_json(&path.with_file_name("tokenizer_config.json"))?;
        let roles = read_roles(&vocabulary, &settings, path)?;
        let adds_bos =
            settings.get("add_bos_token").and_then(Value::as_bool).unwrap_or_else(|| {
                // Llama's files say it by their post-processor instead.
                let bos = roles.iter().find(|(role, _)| *role == SpecialRole::Bos);
                let first =
                    inner.encode_fast("a", true).ok().and_then(|e| e.get_ids().first().copied());
                bos.is_some_and(|&(_, bos)| first == Some(bos))
            });
        let json = Self { inner, blind: OnceLock::new(), roles };
        Ok((json, vocabulary, adds_bos))
    }

    pub(super) fn roles(&self) -> &[(SpecialRole, u32)] {
        &self.roles
    }

    pub(super) fn encode(&self, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<()> {
        let tokenizer = if parse_special {
            &self.inner
        } else {
            self.blind.get_or_init(|| {
                let mut blind = self.inner.clone();
                blind.set_encode_special_tokens(true);
                Box::new(blind)
            })
        };
        let encoding = tokenizer.encode_fast(text, false).map_err(|e| ModelError::Tokenizer {
            problem: format!("the text could not be encoded: {e}"),
        })?;
        out.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

fn read_vocabulary(inner: &tokenizers::Tokenizer, path: &Path) -> Result<Vocabulary> {
    let by_text = inner.get_vocab(true);
    let count = by_text.values().max().map_or(0, |&max| max.saturating_add(1));
    if count == 0 || count > MAX_TOKENS {
        return Err(error(
            path,
            format!("has ids up to {count}, expected 1 to {MAX_TOKENS} tokens"),
        ));
    }
    let mut texts: Vec<&[u8]> = vec![&[]; count as usize];
    for (text, &id) in &by_text {
        texts[id as usize] = text.as_bytes();
    }
    let mut vocabulary = Vocabulary::new(texts.iter().copied(), style(inner))
        .ok_or_else(|| error(path, "has more than 4 GiB of tokens"))?;
    for (id, text) in (0..).zip(&texts) {
        if text.is_empty() {
            vocabulary.set_kind(id, TokenKind::Unused);
        } else if vocabulary.style() == PieceStyle::SentencePiece
            && super::vocabulary::byte_of_name(text).is_some()
        {
            vocabulary.set_kind(id, TokenKind::Byte);
        }
    }
    for (id, token) in inner.get_added_tokens_decoder() {
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        vocabulary.set_kind(id, kind);
    }
    Ok(vocabulary)
}

/// How tokens are written follows from how they are to be decoded.
fn style(inner: &tokenizers::Tokenizer) -> PieceStyle {
    fn of(decoder: &DecoderWrapper) -> Option<PieceStyle> {
        match decoder {
            DecoderWrapper::ByteLevel(_) => Some(PieceStyle::ByteLevel),
            DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_) => {
                Some(PieceStyle::SentencePiece)
            }
            DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().find_map(of),
            _ => None,
        }
    }
    inner.get_decoder().and_then(of).unwrap_or(PieceStyle::Plain)
}

/// A JSON file; null when there is none.
fn read_json(path: &Path) -> Result<Value> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| error(path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(error(path, e)),
    }
}

fn read_roles(
    vocabulary: &Vocabulary,
    settings: &Value,
    path: &Path,
) -> Result<Vec<(SpecialRole, u32)>> {
    let mut roles = Vec::new();
    for (key, role) in [
        ("bos_token", SpecialRole::Bos),
        ("eos_token", SpecialRole::Eos),
        ("unk_token", SpecialRole::Unknown),
        ("pad_token", SpecialRole::Padding),
    ] {
        // Either a text or an object that holds it.
        let text = settings
            .get(key)
            .and_then(|v| v.as_str().or_else(|| v.get("content").and_then(Value::as_str)));
        roles.extend(text.and_then(|t| vocabulary.id(t.as_bytes())).map(|id| (role, id)));
    }
    for name in ["generation_config.json", "config.json"] {
        let config = read_json(&path.with_file_name(name))?;
        for (key, role) in [("bos_token_id", SpecialRole::Bos), ("eos_token_id", SpecialRole::Eos)]
        {
            // Either one id or a list.
            let ids: Vec<u64> = match config.get(key) {
                Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
                Some(id) => id.as_u64().into_iter().collect(),
                None => Vec::new(),
            };
            roles.extend(
                ids.into_iter()
                    .filter(|&id| id < vocabulary.len() as u64)
                    .map(|id| (role, id as u32)),
            );
        }
    }
    Ok(roles)
}
