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

/// How many tokens a prompt may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FimRoom {
    /// Most tokens of all of it.
    pub prompt: usize,
    /// Most tokens of the edited file, a sixteenth of them after the cursor. What is read anew for each typed character is the
    /// text after the cursor, and at first all of it.
    pub window: usize,
}

/// Which part of the window may lie after the cursor. The next few lines tell most of what has to fit, and each token more
/// comes later at every character: docs/performance.md has the figures.
const AFTER_CURSOR: usize = 16;

impl FimRoom {
    /// Room for everything.
    pub const UNBOUNDED: Self = Self { prompt: usize::MAX, window: usize::MAX };
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
        self.prompt_within(tokenizer, request, FimRoom::UNBOUNDED)
    }

    /// [`Self::prompt`] within some room. Of the edited file its window is read; if that and the other files are more than the prompt
    /// may be, first other files are left out, the last ones first, then the end of the text after the cursor down to a quarter
    /// of the room, then the beginning of the text before it.
    ///
    /// That beginning is cut in steps of half the room, and at a line: while the user types, the prompt begins with the same tokens
    /// from one request to the next, whose keys and values are known. Cut to the exact length, each typed token would move all of them.
    ///
    /// # Errors
    /// See [`Tokenizer::encode`].
    pub fn prompt_within(
        &self,
        tokenizer: &Tokenizer,
        request: &FimRequest,
        room: FimRoom,
    ) -> Result<Vec<u32>> {
        let prefix = tokenizer.encode(&request.prefix, AS_TEXT)?;
        let mut suffix = tokenizer.encode(&request.suffix, AS_TEXT)?;
        suffix.truncate(room.window / AFTER_CURSOR);
        let document = (prefix.len() + suffix.len()).min(room.window);
        let mut ids = Vec::new();
        if tokenizer.adds_bos() {
            ids.extend(tokenizer.bos());
        }
        let left = room.prompt.saturating_sub(ids.len() + 3);
        let mut files = request.extra.len();
        let mut context = self.context(tokenizer, request, files)?;
        while files > 0 && context.len() + document > left {
            files -= 1;
            context = self.context(tokenizer, request, files)?;
        }
        let left = left.saturating_sub(context.len()).min(room.window);
        suffix.truncate(left.saturating_sub(prefix.len()).max(left / 4));
        let before = left.saturating_sub(suffix.len());
        ids.extend(context);
        ids.push(self.prefix);
        ids.extend(&prefix[stable_cut(tokenizer, &prefix, before)..]);
        ids.push(self.suffix);
        ids.extend(suffix);
        ids.push(self.middle);
        Ok(ids)
    }

    /// Other files of the project, and the name of the edited one. Nothing without other files.
    fn context(
        &self,
        tokenizer: &Tokenizer,
        request: &FimRequest,
        files: usize,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if files > 0 {
            self.push_context(tokenizer, request, files, &mut ids)?;
        }
        Ok(ids)
    }

    fn push_context(
        &self,
        tokenizer: &Tokenizer,
        request: &FimRequest,
        files: usize,
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
        for file in &request.extra[..files] {
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

/// Where to cut the beginning of `tokens` off so that at most `most` are left: 0 when they fit, else a place that stays the same
/// while tokens are added at the end, until half of `most` have been; after a line's end where one is near.
fn stable_cut(tokenizer: &Tokenizer, tokens: &[u32], most: usize) -> usize {
    if tokens.len() <= most {
        return 0;
    }
    let step = (most / 2).max(1);
    let cut = ((tokens.len() - most).div_ceil(step) * step).min(tokens.len());
    let ends_line = |&token: &u32| tokenizer.token_bytes(token).ends_with(b"\n");
    let near = &tokens[cut..(cut + step / 2).min(tokens.len())];
    cut + near.iter().position(ends_line).map_or(0, |at| at + 1)
}
