//! Tokens with a role: which they are, which end a generation, and where they stand in a text.

use serde::Serialize;

use super::vocabulary::{TokenKind, Vocabulary};
use crate::error::Result;
use crate::gguf::Metadata;

/// What a special token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpecialRole {
    /// Begins a sequence.
    Bos,
    /// Ends a sequence.
    Eos,
    /// Ends a turn of a chat.
    Eot,
    /// Ends a message that expects a tool's answer.
    Eom,
    /// Stands for what the vocabulary cannot write.
    Unknown,
    /// Separates texts.
    Separator,
    /// Fills batches up.
    Padding,
    /// Stands before the text before the cursor.
    FimPrefix,
    /// Stands before the text after the cursor.
    FimSuffix,
    /// Stands where the missing text begins.
    FimMiddle,
    /// Fills fill-in-the-middle batches up.
    FimPadding,
    /// Stands before a repository's name.
    FimRepository,
    /// Stands before a file's path.
    FimFile,
    /// Any other control token.
    Control,
}

/// One special token, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// What it is for.
    pub role: SpecialRole,
    /// Whether a generation ends when the model emits it.
    pub ends_generation: bool,
}

use SpecialRole as Role;

/// Metadata keys of the roles; where two name one role, the later is the older name.
const KEYS: &[(Role, &str)] = &[
    (Role::Bos, "bos_token_id"),
    (Role::Eos, "eos_token_id"),
    (Role::Eot, "eot_token_id"),
    (Role::Eom, "eom_token_id"),
    (Role::Unknown, "unknown_token_id"),
    (Role::Separator, "seperator_token_id"),
    (Role::Padding, "padding_token_id"),
    (Role::FimPrefix, "fim_pre_token_id"),
    (Role::FimSuffix, "fim_suf_token_id"),
    (Role::FimMiddle, "fim_mid_token_id"),
    (Role::FimPadding, "fim_pad_token_id"),
    (Role::FimRepository, "fim_rep_token_id"),
    (Role::FimFile, "fim_sep_token_id"),
    (Role::FimPrefix, "prefix_token_id"),
    (Role::FimSuffix, "suffix_token_id"),
    (Role::FimMiddle, "middle_token_id"),
];

/// Texts by which a role is found when the metadata does not name its token; the list is llama.cpp's.
const TEXTS: &[(Role, &[&str])] = &[
    (
        Role::Eot,
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    (Role::Eom, &["<|eom_id|>"]),
    (
        Role::FimPrefix,
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        Role::FimSuffix,
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        Role::FimMiddle,
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (Role::FimPadding, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (Role::FimRepository, &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (Role::FimFile, &["<|file_sep|>"]),
];

/// Texts of tokens that end a generation wherever they occur; again llama.cpp's list.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
];

/// Roles whose tokens end a generation: a model that writes one has left the text it was to write.
const ENDING_ROLES: &[Role] =
    &[Role::Eos, Role::Eot, Role::Eom, Role::FimPadding, Role::FimRepository, Role::FimFile];

/// The special tokens of one model.
#[derive(Debug, Default)]
pub(super) struct Specials {
    roles: Vec<(Role, u32)>,
    /// Sorted ids of the tokens that end a generation.
    ends: Vec<u32>,
    /// Ids that a text is searched for, longest text first.
    parsed: Vec<u32>,
    /// By first byte: lengths of the texts of `parsed` that start with it.
    lengths: Vec<Vec<usize>>,
}

impl Specials {
    /// Collects roles from metadata, then from known texts. Tokens that turn out to be special become
    /// control tokens of the vocabulary.
    pub(super) fn from_metadata(
        vocabulary: &mut Vocabulary,
        metadata: &Metadata,
        defaults: &[(Role, u32)],
    ) -> Result<Self> {
        let mut specials = Self::default();
        for &(role, name) in KEYS {
            let key = format!("tokenizer.ggml.{name}");
            if let Some(id) = metadata.opt_u64(&key)? {
                if id >= vocabulary.len() as u64 {
                    return Err(metadata.invalid(
                        &key,
                        format!("is {id}, but the vocabulary has {} tokens", vocabulary.len()),
                    ));
                }
                specials.set(role, id as u32);
            }
        }
        for &(role, id) in defaults {
            if (id as usize) < vocabulary.len() {
                specials.set(role, id);
            }
        }
        specials.complete(vocabulary);
        Ok(specials)
    }

    /// Takes given roles, then finds others by their texts.
    pub(super) fn from_roles(vocabulary: &mut Vocabulary, roles: &[(Role, u32)]) -> Self {
        let mut specials = Self::default();
        for &(role, id) in roles {
            if role == Role::Eos {
                // There may be several.
                specials.ends.push(id);
            }
            specials.set(role, id);
        }
        specials.complete(vocabulary);
        specials
    }

    /// The first token of a role keeps it.
    fn set(&mut self, role: Role, id: u32) {
        if self.role(role).is_none() {
            self.roles.push((role, id));
        }
    }

    fn complete(&mut self, vocabulary: &mut Vocabulary) {
        for &(role, texts) in TEXTS {
            if self.role(role).is_some() {
                continue;
            }
            if let Some(id) = texts.iter().find_map(|t| vocabulary.id(t.as_bytes())) {
                self.set(role, id);
                vocabulary.set_kind(id, TokenKind::Control);
            }
        }
        for text in ENDS {
            if let Some(id) = vocabulary.id(text.as_bytes()) {
                self.ends.push(id);
                vocabulary.set_kind(id, TokenKind::Control);
            }
        }
        self.ends.extend(
            ENDING_ROLES
                .iter()
                .filter_map(|&role| self.roles.iter().find(|(r, _)| *r == role).map(|&(_, id)| id)),
        );
        self.ends.sort_unstable();
        self.ends.dedup();
        self.index(vocabulary);
    }

    fn index(&mut self, vocabulary: &Vocabulary) {
        self.parsed = (0..vocabulary.len() as u32)
            .filter(|&id| vocabulary.kind(id).is_parsed_first())
            .collect();
        self.parsed.sort_by_key(|&id| (std::cmp::Reverse(vocabulary.text(id).len()), id));
        self.lengths = vec![Vec::new(); 256];
        for &id in &self.parsed {
            if let [first, ..] = vocabulary.text(id) {
                let lengths = &mut self.lengths[usize::from(*first)];
                let len = vocabulary.text(id).len();
                if lengths.last() != Some(&len) {
                    lengths.push(len);
                }
            }
        }
    }

    pub(super) fn role(&self, role: Role) -> Option<u32> {
        self.roles.iter().find(|(known, _)| *known == role).map(|&(_, id)| id)
    }

    pub(super) fn ends_generation(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// All special tokens: those with a role, then other control tokens by id.
    pub(super) fn list(&self, vocabulary: &Vocabulary) -> Vec<SpecialToken> {
        let describe = |(role, id): (Role, u32)| SpecialToken {
            id,
            text: String::from_utf8_lossy(vocabulary.text(id)).into_owned(),
            role,
            ends_generation: self.ends_generation(id),
        };
        let mut others: Vec<u32> = self
            .parsed
            .iter()
            .copied()
            .filter(|&id| vocabulary.kind(id) == TokenKind::Control)
            .filter(|id| !self.roles.iter().any(|(_, known)| known == id))
            .collect();
        others.sort_unstable();
        self.roles
            .iter()
            .copied()
            .chain(others.into_iter().map(|id| (Role::Control, id)))
            .map(describe)
            .collect()
    }

    /// Cuts a text at special tokens and calls `part` with each piece in order.
    ///
    /// As llama.cpp does it: longest tokens first over the whole text, leftmost first for one token. With
    /// `parse_special` off only user-defined tokens are found.
    pub(super) fn split<'t>(
        &self,
        vocabulary: &Vocabulary,
        text: &'t str,
        parse_special: bool,
        mut part: impl FnMut(Part<'t>) -> Result<()>,
    ) -> Result<()> {
        let mut present = self.present(vocabulary, text);
        present.retain(|&id| parse_special || vocabulary.kind(id) == TokenKind::UserDefined);
        let mut parts = vec![Part::Text(text)];
        for id in present {
            let Ok(token) = std::str::from_utf8(vocabulary.text(id)) else {
                continue;
            };
            let mut cut = Vec::with_capacity(parts.len());
            for part in parts {
                match part {
                    Part::Text(text) => {
                        let mut pieces = text.split(token);
                        cut.extend(pieces.next().map(Part::Text));
                        for piece in pieces {
                            cut.push(Part::Token(id));
                            cut.push(Part::Text(piece));
                        }
                    }
                    token => cut.push(token),
                }
            }
            parts = cut;
        }
        parts.into_iter().filter(|part| !matches!(part, Part::Text(""))).try_for_each(&mut part)
    }

    /// Which special tokens a text contains, in the order in which they are to be cut out. One pass; the
    /// usual text contains none and is not scanned again.
    fn present(&self, vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
        let mut present: Vec<u32> = Vec::new();
        let bytes = text.as_bytes();
        for (at, &first) in bytes.iter().enumerate() {
            for &len in &self.lengths[usize::from(first)] {
                let found = bytes.get(at..at + len).and_then(|t| vocabulary.id(t));
                if let Some(id) = found
                    && vocabulary.kind(id).is_parsed_first()
                    && !present.contains(&id)
                {
                    present.push(id);
                }
            }
        }
        present.sort_by_key(|&id| (std::cmp::Reverse(vocabulary.text(id).len()), id));
        present
    }
}

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Text without special tokens; not empty.
    Text(&'t str),
    /// A special token.
    Token(u32),
}
