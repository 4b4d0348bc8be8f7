//! Fill-in-the-middle prompts: the text around a cursor, in the model's own special tokens.
//!
//! The layout is that of llama.cpp's `/infill`: `PREFIX before SUFFIX after MIDDLE`, and ahead of it, where
//! the model has tokens for that, other files of the project (the repository format of Qwen2.5-Coder). Text from
//! the editor is encoded without special tokens, so that a file about `<|fim_middle|>` is only text.

use crate::error::{ModelError, Result};
use crate::tokenizer::{EncodeOptions, SpecialRole, Tokenizer};

/// A file of the project that is not being edited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FimFile {
    /// Its path within the project.
    pub path: String,
    /// Its text, or the part that matters.
    pub text: String,
}

/// What to complete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FimRequest {
    /// The text before the cursor.
    pub prefix: String,
    /// The text after the cursor.
    pub suffix: String,
    /// The path of the file that is edited; used together with `extra`.
    pub path: Option<String>,
    /// Other files that may help.
    pub extra: Vec<FimFile>,
}

/// The fill-in-the-middle tokens of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillInMiddle {
    prefix: u32,
    suffix: u32,
    middle: u32,
    repository: Option<u32>,
    file: Option<u32>,
}

/// Stands between pieces of context for models without a token for that; llama.cpp's text.
const SNIPPET: &str = "\n\n--- snippet ---\n\n";

const AS_TEXT: EncodeOptions = EncodeOptions { add_bos: false, parse_special: false };

impl FillInMiddle {
    /// The tokens of a model; `None` when it was not trained for this.
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Option<Self> {
        Some(Self {
            prefix: tokenizer.role(SpecialRole::FimPrefix)?,
            suffix: tokenizer.role(SpecialRole::FimSuffix)?,
            middle: tokenizer.role(SpecialRole::FimMiddle)?,
            repository: tokenizer.role(SpecialRole::FimRepository),
            file: tokenizer.role(SpecialRole::FimFile),
        })
    }

    /// The tokens of a model, or an error that names it.
    ///
    /// # Errors
    /// [`ModelError::NoFillInMiddle`].
    pub fn require(tokenizer: &Tokenizer, model: &str) -> Result<Self> {
        Self::from_tokenizer(tokenizer)
            .ok_or_else(|| ModelError::NoFillInMiddle { model: model.to_owned() })
    }

    /// The prompt after which the model writes what belongs at the cursor. `tokenizer` must be the
    /// one that the tokens came from.
    ///
    /// # Errors
    /// See [`Tokenizer::encode`].
    pub fn prompt(&self, tokenizer: &Tokenizer, request: &FimRequest) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if tokenizer.adds_bos() {
            ids.extend(tokenizer.bos());
        }
        if !request.extra.is_empty() {
            self.push_context(tokenizer, request, &mut ids)?;
        }
        ids.push(self.prefix);
        ids.extend(tokenizer.encode(&request.prefix, AS_TEXT)?);
        ids.push(self.suffix);
        ids.extend(tokenizer.encode(&request.suffix, AS_TEXT)?);
        ids.push(self.middle);
        Ok(ids)
    }

    fn push_context(
        &self,
        tokenizer: &Tokenizer,
        request: &FimRequest,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut push = |token: Option<u32>, text: &str| -> Result<()> {
            ids.extend(token);
            ids.extend(tokenizer.encode(text, AS_TEXT)?);
            Ok(())
        };
        if self.repository.is_some() {
            push(self.repository, "project\n")?;
        }
        for file in &request.extra {
            if self.file.is_some() {
                let end = if file.text.ends_with('\n') { "" } else { "\n" };
                push(self.file, &format!("{}\n{}{end}", file.path, file.text))?;
            } else {
                push(None, &format!("{SNIPPET}{}", file.text))?;
            }
        }
        if self.file.is_some() {
            let path = request.path.as_deref().unwrap_or("main.py");
            push(self.file, &format!("{path}\n"))?;
        }
        Ok(())
    }
}
