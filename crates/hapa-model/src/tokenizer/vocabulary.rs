//! The table of tokens: text by id and id by text.

use std::borrow::Cow;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::bytes::char_to_byte;

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Undefined,
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenKind {
    pub(crate) fn from_id(id: i32) -> Self {
        match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Undefined,
        }
    }

    /// Whether text is searched for this token before anything else is done with it.
    pub(crate) fn is_parsed_first(self) -> bool {
        matches!(self, Self::Control | Self::Unknown | Self::UserDefined)
    }
}

/// How the text of a normal token turns into bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceStyle {
    /// GPT-2's mapping of bytes to characters.
    ByteLevel,
    /// U+2581 for a space, `<0xNN>` for a byte.
    SentencePiece,
    /// As it is.
    Plain,
}

/// All tokens of a model. Texts lie one after the other in one buffer: a vocabulary of 150,000 tokens is
/// built in a few milliseconds and without an allocation for each.
pub(crate) struct Vocabulary {
    text: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    style: PieceStyle,
}

impl Vocabulary {
    /// Indexes tokens. Of two with the same text the first keeps it. `None` when the text passes 4 GiB.
    pub(crate) fn new<'a>(
        tokens: impl ExactSizeIterator<Item = &'a [u8]>,
        style: PieceStyle,
    ) -> Option<Self> {
        let count = tokens.len();
        let mut vocabulary = Self {
            text: Vec::with_capacity(count * 8),
            ends: Vec::with_capacity(count),
            kinds: vec![TokenKind::Normal; count],
            index: HashTable::with_capacity(count),
            hasher: DefaultHashBuilder::default(),
            style,
        };
        for (id, token) in tokens.enumerate() {
            if token.is_empty() {
                // As llama.cpp names them: an empty text could be found everywhere.
                vocabulary.text.extend(format!("[EMPTY_{id}]").bytes());
            } else {
                vocabulary.text.extend(token);
            }
            vocabulary.ends.push(u32::try_from(vocabulary.text.len()).ok()?);
        }
        let Self { text, ends, index, hasher, .. } = &mut vocabulary;
        let get = |id: u32| piece(text, ends, id);
        for id in 0..u32::try_from(count).ok()? {
            let token = get(id);
            let hash = hasher.hash_one(token);
            if let hashbrown::hash_table::Entry::Vacant(entry) = index.entry(
                hash,
                |&other| get(other) == token,
                |&other| hasher.hash_one(get(other)),
            ) {
                entry.insert(id);
            }
        }
        Some(vocabulary)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn style(&self) -> PieceStyle {
        self.style
    }

    /// The text of a token as the vocabulary writes it; empty for an unknown id.
    pub(crate) fn text(&self, id: u32) -> &[u8] {
        piece(&self.text, &self.ends, id)
    }

    pub(crate) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Undefined)
    }

    pub(crate) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// The token of this text, written as the vocabulary writes it.
    pub(crate) fn id(&self, text: &[u8]) -> Option<u32> {
        self.index.find(self.hasher.hash_one(text), |&id| self.text(id) == text).copied()
    }

    /// The bytes that a token adds to the output. Control tokens add none unless `special` is set.
    pub(crate) fn bytes(&self, id: u32, special: bool) -> Cow<'_, [u8]> {
        let text = self.text(id);
        match self.kind(id) {
            TokenKind::Control | TokenKind::Unknown if !special => Cow::Borrowed(&[]),
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => Cow::Borrowed(text),
            TokenKind::Unused | TokenKind::Undefined => Cow::Borrowed(&[]),
            TokenKind::Byte => match byte_of_name(text) {
                Some(byte) => Cow::Owned(vec![byte]),
                None => Cow::Borrowed(text),
            },
            TokenKind::Normal => match self.style {
                PieceStyle::ByteLevel => Cow::Owned(from_byte_level(text)),
                PieceStyle::SentencePiece => Cow::Owned(from_sentence_piece(text)),
                PieceStyle::Plain => Cow::Borrowed(text),
            },
        }
    }
}

fn piece<'a>(text: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let id = id as usize;
    let Some(&end) = ends.get(id) else {
        return &[];
    };
    let start = match id {
        0 => 0,
        _ => ends[id - 1] as usize,
    };
    &text[start..end as usize]
}

/// `<0x0A>` is byte 10.
pub(crate) fn byte_of_name(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if hex.len() != 2 {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

fn from_byte_level(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match char_to_byte(c) {
                Some(byte) => bytes.push(byte),
                // Not of the alphabet: kept as it is rather than lost.
                None => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        bytes.extend(chunk.invalid());
    }
    bytes
}

fn from_sentence_piece(text: &[u8]) -> Vec<u8> {
    const SPACE: &[u8] = "\u{2581}".as_bytes();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        match rest.strip_prefix(SPACE) {
            Some(after) => {
                bytes.push(b' ');
                rest = after;
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}
