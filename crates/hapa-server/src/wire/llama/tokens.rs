//! Texts and their tokens: `/tokenize`, `/detokenize`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /tokenize`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct TokenizeBody {
    /// Which model; without it the default one.
    #[serde(default)]
    pub model: Option<String>,
    /// The text.
    pub content: String,
    /// Whether the model's begin-of-text token comes first; it does not without this.
    #[serde(default)]
    pub add_special: Option<bool>,
    /// Whether the texts of special tokens are those tokens, which they are without this, or only text.
    #[serde(default)]
    pub parse_special: Option<bool>,
    /// Whether each token comes with its text.
    #[serde(default)]
    pub with_pieces: Option<bool>,
}

/// Body of `POST /detokenize`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct DetokenizeBody {
    /// Which model; without it the default one.
    #[serde(default)]
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// Answer of `POST /tokenize`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Tokens {
    /// The tokens.
    pub tokens: Vec<TextToken>,
}

/// A token of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextToken {
    /// Its id.
    Id(u32),
    /// Id and text, where texts were asked for.
    WithPiece {
        /// Its id.
        id: u32,
        /// Its text.
        piece: Piece,
    },
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Piece {
    /// A text.
    Text(String),
    /// A part of a character.
    Bytes(Vec<u8>),
}

impl From<Vec<u8>> for Piece {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Text)
    }
}

/// Answer of `POST /detokenize`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Detokenized {
    /// The text.
    pub content: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_texts_where_they_can_be() {
        let token = |id, bytes: &[u8]| TextToken::WithPiece { id, piece: bytes.to_vec().into() };
        let tokens = Tokens { tokens: vec![TextToken::Id(7), token(1, b" a"), token(2, b"\xc3")] };
        let written = serde_json::to_string(&tokens).unwrap();
        assert_eq!(written, r#"{"tokens":[7,{"id":1,"piece":" a"},{"id":2,"piece":[195]}]}"#);
    }
}
