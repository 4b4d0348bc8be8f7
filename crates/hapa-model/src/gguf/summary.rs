//! What a person wants to know about a model file: the data behind `hapa model inspect`.

use std::path::PathBuf;

use serde::Serialize;

use super::file::GgufFile;
use crate::error::Result;
use crate::tokenizer::{SpecialToken, Tokenizer};

/// A description of a GGUF file, without loading its weights. Works for unsupported architectures too.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The file.
    pub path: PathBuf,
    /// Size of the file.
    pub file_bytes: u64,
    /// Version of the format.
    pub gguf_version: u32,
    /// `general.name`.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// `general.license`.
    pub license: Option<String>,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Tensor counts by type, most bytes first.
    pub tensor_types: Vec<TypeCount>,
    /// Longest sequence the model was trained for, in tokens.
    pub context_length: Option<u64>,
    /// Number of transformer blocks.
    pub layers: Option<u64>,
    /// Width of the residual stream.
    pub embedding_length: Option<u64>,
    /// Number of tokens in the vocabulary.
    pub vocab_size: Option<usize>,
    /// `tokenizer.ggml.model` and `.pre`.
    pub tokenizer: Option<String>,
    /// Source of the chat template.
    pub chat_template: Option<String>,
    /// Tokens with a role of their own; empty when the tokenizer is of an unknown kind.
    pub special_tokens: Vec<SpecialToken>,
}

/// How much of a file is stored in one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeCount {
    /// Name of the type: `Q4_K`, `F32`.
    #[serde(rename = "type")]
    pub ty: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes together.
    pub bytes: u64,
}

impl Summary {
    /// Describes a file.
    ///
    /// # Errors
    /// When a key that is read has the wrong type.
    pub fn new(file: &GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        let architecture = metadata.str("general.architecture")?.to_owned();
        let size = |name: &str| metadata.opt_u64(&format!("{architecture}.{name}"));
        let text = |key: &str| metadata.opt_str(key).map(|s| s.map(str::to_owned));
        let tokenizer = match metadata.opt_str("tokenizer.ggml.model")? {
            None => None,
            Some(model) => Some(match metadata.opt_str("tokenizer.ggml.pre")? {
                Some(pre) => format!("{model} ({pre})"),
                None => model.to_owned(),
            }),
        };
        Ok(Self {
            path: file.path().to_owned(),
            file_bytes: file.file_bytes().len() as u64,
            gguf_version: file.version(),
            name: text("general.name")?,
            license: text("general.license")?,
            parameters: file.tensors().iter().map(|t| t.elements() as u64).sum(),
            tensor_types: count_types(file),
            context_length: size("context_length")?,
            layers: size("block_count")?,
            embedding_length: size("embedding_length")?,
            vocab_size: metadata.opt_strings("tokenizer.ggml.tokens")?.map(|tokens| tokens.len()),
            tokenizer,
            chat_template: text("tokenizer.chat_template")?,
            special_tokens: Tokenizer::from_gguf(file)
                .map(|tokenizer| tokenizer.special_tokens())
                .unwrap_or_default(),
            architecture,
        })
    }
}

fn count_types(file: &GgufFile) -> Vec<TypeCount> {
    let mut counts: Vec<TypeCount> = Vec::new();
    for tensor in file.tensors() {
        let name = tensor.ty.name();
        let index = counts.iter().position(|c| c.ty == name).unwrap_or_else(|| {
            counts.push(TypeCount { ty: name.to_owned(), tensors: 0, bytes: 0 });
            counts.len() - 1
        });
        counts[index].tensors += 1;
        counts[index].bytes += tensor.bytes as u64;
    }
    counts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.ty.cmp(&b.ty)));
    counts
}
