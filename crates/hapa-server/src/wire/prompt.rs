//! A prompt that is continued as it stands: text, tokens, or both.

use hapa_service::PromptPiece;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::problem::Problem;

/// A text; an array of token ids, in which texts may stand too; or an array of several prompts, each a text or such an array.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a text, an array of texts, an array of token ids, or an array of such arrays"
)]
pub enum Prompt {
    /// One.
    Text(String),
    /// Several texts, each a prompt of its own; or one prompt, in which a token stands.
    Array(Vec<PromptItem>),
}

/// One of an array.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PromptItem {
    /// A part of the only prompt, or a text that is one.
    Part(PromptPart),
    /// A prompt.
    Prompt(Vec<PromptPart>),
}

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PromptPart {
    /// A token.
    Token(u32),
    /// A text.
    Text(String),
}

impl Prompt {
    /// The prompts, in order. No more than `most`, where more would be refused anyway.
    pub(super) fn into_prompts(self, most: usize) -> Result<Vec<Vec<PromptPiece>>, Problem> {
        let items = match self {
            Self::Text(text) => return Ok(vec![vec![PromptPiece::Text(text)]]),
            Self::Array(items) => items,
        };
        if items.is_empty() {
            return Err(Problem::invalid("prompt", "is empty"));
        }
        let is_token = |item: &PromptItem| matches!(item, PromptItem::Part(PromptPart::Token(_)));
        if items.iter().any(is_token) {
            let part = |item| match item {
                PromptItem::Part(part) => Ok(part),
                PromptItem::Prompt(_) => {
                    let problem =
                        "has tokens beside arrays; put each prompt's tokens in an array of its own";
                    Err(Problem::invalid("prompt", problem))
                }
            };
            let parts: Result<Vec<_>, _> = items.into_iter().map(part).collect();
            return Ok(vec![joined(parts?)]);
        }
        let prompt = |item| match item {
            PromptItem::Part(part) => joined([part]),
            PromptItem::Prompt(parts) => joined(parts),
        };
        Ok(items.into_iter().take(most).map(prompt).collect())
    }
}

/// Tokens that follow one another are one piece.
fn joined(parts: impl IntoIterator<Item = PromptPart>) -> Vec<PromptPiece> {
    let mut pieces = Vec::new();
    for part in parts {
        match (part, pieces.last_mut()) {
            (PromptPart::Token(token), Some(PromptPiece::Tokens(tokens))) => tokens.push(token),
            (PromptPart::Token(token), _) => pieces.push(PromptPiece::Tokens(vec![token])),
            (PromptPart::Text(text), _) => pieces.push(PromptPiece::Text(text)),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(json: &str) -> Result<Vec<Vec<PromptPiece>>, Problem> {
        serde_json::from_str::<Prompt>(json).unwrap().into_prompts(3)
    }

    #[test]
    fn each_shape() {
        let text = |text: &str| PromptPiece::Text(text.to_owned());
        let tokens = |tokens: &[u32]| PromptPiece::Tokens(tokens.to_vec());
        for (json, expected) in [
            (r#""a""#, vec![vec![text("a")]]),
            (r#"["a"]"#, vec![vec![text("a")]]),
            (r#"["a","b"]"#, vec![vec![text("a")], vec![text("b")]]),
            ("[1]", vec![vec![tokens(&[1])]]),
            ("[1,2]", vec![vec![tokens(&[1, 2])]]),
            ("[[1,2],[3]]", vec![vec![tokens(&[1, 2])], vec![tokens(&[3])]]),
            (r#"[1,2,"a",3]"#, vec![vec![tokens(&[1, 2]), text("a"), tokens(&[3])]]),
            (r#"["a",[1,"b"]]"#, vec![vec![text("a")], vec![tokens(&[1]), text("b")]]),
            (r#"["a","b","c","d"]"#, vec![vec![text("a")], vec![text("b")], vec![text("c")]]),
            ("[[]]", vec![vec![]]),
        ] {
            assert_eq!(prompts(json).unwrap(), expected, "{json}");
        }
        assert!(prompts("[]").is_err());
        assert!(prompts("[1,[2]]").is_err());
        for wrong in ["null", "1", "{}", "[-1]", "[1.5]", "[4294967296]", "[[[1]]]", "[null]"] {
            let error = serde_json::from_str::<Prompt>(wrong).unwrap_err().to_string();
            assert!(error.contains("an array of token ids"), "{wrong}: {error}");
        }
    }
}
