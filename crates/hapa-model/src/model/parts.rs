//! What surrounds the weights: tokenizer, chat template, fill-in-the-middle tokens.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::engine::Vocabulary;
use crate::error::Result;
use crate::gguf::GgufFile;
use crate::prompt::{ChatTemplate, FillInMiddle};
use crate::tokenizer::Tokenizer;

pub(super) struct Parts {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) template: Option<ChatTemplate>,
    pub(super) fim: Option<FillInMiddle>,
}

impl Parts {
    pub(super) fn from_gguf(file: &GgufFile) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(file)?;
        Ok(Self {
            template: ChatTemplate::from_gguf(file, &tokenizer)?,
            fim: FillInMiddle::from_tokenizer(&tokenizer),
            tokenizer: Arc::new(tokenizer),
        })
    }

    /// Reads `tokenizer.json` and the files beside it.
    pub(super) fn from_folder(folder: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_json_file(&folder.join("tokenizer.json"))?;
        Ok(Self {
            template: ChatTemplate::from_folder(folder, &tokenizer)?,
            fim: FillInMiddle::from_tokenizer(&tokenizer),
            tokenizer: Arc::new(tokenizer),
        })
    }
}

impl Vocabulary for Tokenizer {
    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        Tokenizer::token_bytes(self, token)
    }

    fn ends_generation(&self, token: u32) -> bool {
        self.is_end_of_generation(token)
    }
}
