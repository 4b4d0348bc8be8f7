//! What can go wrong between a model's name and its last token.

use std::path::PathBuf;
use std::sync::Arc;

/// An error of this crate.
///
/// Every variant says what was tried, on what, and what would help. Errors of a load reach many
/// waiters at once and travel as [`SharedError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A GGUF file breaks the format's rules. `field` is where, `problem` what was found and expected.
    #[error("{}: not a usable GGUF file: {field}: {problem}", path.display())]
    InvalidGguf {
        /// The file.
        path: PathBuf,
        /// The header field, metadata key or tensor that is wrong.
        field: String,
        /// What was found, and what was expected.
        problem: String,
    },
    /// Somebody wrote into a model file while it was being loaded, so that what was read may be a mixture.
    #[error(
        "{}: the file was changed while it was being loaded; ask again when it is whole (one that is renamed into place is whole at any time)",
        path.display()
    )]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// A safetensors model folder lacks something or contradicts itself.
    #[error("{}: not a usable safetensors model: {problem}", path.display())]
    InvalidSafetensors {
        /// The folder or file.
        path: PathBuf,
        /// What was found, and what was expected.
        problem: String,
    },
    /// The operating system refused something.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase: "open", "create the folder".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The name is neither a catalogue entry, nor a file, nor a hub repository.
    #[error("unknown model `{name}`: {help}")]
    UnknownModel {
        /// The name as given.
        name: String,
        /// Close names, and what forms are accepted.
        help: String,
    },
    /// No backend knows this architecture.
    #[error("architecture `{architecture}` is not supported; supported are {supported}")]
    UnsupportedArchitecture {
        /// `general.architecture` of the file.
        architecture: String,
        /// The architectures that would work.
        supported: String,
    },
    /// The file is of a supported architecture but a part of it is not.
    #[error("{what} is not supported: {help}")]
    Unsupported {
        /// The part.
        what: String,
        /// What would work.
        help: String,
    },
    /// The bytes are not the bytes that were asked for.
    #[error("{}: SHA-256 is {actual}, expected {expected}; the file was not kept, try again or remove it by hand", path.display())]
    DigestMismatch {
        /// The file.
        path: PathBuf,
        /// The pinned or published digest, in hexadecimal.
        expected: String,
        /// The digest of what arrived.
        actual: String,
    },
    /// Not enough room for a download.
    #[error("{} has {available_bytes} bytes free, {needed_bytes} are needed; free some space or set HAPA_HOME to another disk", path.display())]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// What the download needs.
        needed_bytes: u64,
        /// What the disk has.
        available_bytes: u64,
    },
    /// The model is not on this machine and fetching was forbidden.
    #[error(
        "model `{name}` is not on this machine and --offline (or HF_HUB_OFFLINE) forbids fetching it; run `hapa model pull {name}` while online"
    )]
    Offline {
        /// The model.
        name: String,
    },
    /// Whoever asked for the model does not want it any more.
    #[error("cancelled; what has arrived is kept, and the next try goes on from there")]
    Cancelled,
    /// Another process is at work on the model's files.
    #[error("another process is fetching model `{name}`; try again when it is done")]
    Busy {
        /// The model.
        name: String,
    },
    /// Every route to the model failed; `attempts` lists them.
    #[error("could not fetch model `{name}`:{}", attempts.iter().map(|a| format!("\n  - {a}")).collect::<String>())]
    Fetch {
        /// The model.
        name: String,
        /// One line a route: which, and why it failed.
        attempts: Vec<String>,
    },
    /// The tokenizer could not be built or applied.
    #[error("tokenizer: {problem}")]
    Tokenizer {
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The chat template failed, ran out of fuel or wrote too much.
    #[error("chat template: {problem}")]
    Template {
        /// What the template engine said, or which limit was hit.
        problem: String,
    },
    /// The form that an answer was to have cannot be enforced.
    #[error("the form of the answer: {problem}")]
    Grammar {
        /// What is wrong with it.
        problem: String,
    },
    /// The schema of a tool's parameters is none, or can never be met.
    #[error("the parameters of tool {tool}: {problem}")]
    ToolParameters {
        /// Which of the tools.
        tool: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The model has no fill-in-the-middle tokens.
    #[error(
        "model `{model}` has no fill-in-the-middle tokens; use one that has, such as qwen2.5-coder-0.5b"
    )]
    NoFillInMiddle {
        /// The model.
        model: String,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// The prompt and at least one generated token do not fit the context.
    #[error(
        "the prompt has {prompt_tokens} tokens, the context holds {context_tokens}; shorten the prompt or raise the context length"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens that the context holds.
        context_tokens: usize,
    },
    /// An option is out of its range.
    #[error("{option} is {value}; expected {expected}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// The accepted range.
        expected: &'static str,
    },
    /// The engine's queue is full; the request was refused without any work done.
    #[error("{limit} requests are waiting already; try again later or raise the queue limit")]
    QueueFull {
        /// The queue's limit.
        limit: usize,
    },
    /// A sequence needs more KV pages than there are, with no other sequence in the cache.
    #[error(
        "prompt and answer have {sequence_tokens} tokens so far, the KV cache holds {cache_tokens}; shorten the prompt, ask for fewer tokens, or give the KV cache more memory (`engine.kv_memory`)"
    )]
    KvCacheTooSmall {
        /// Tokens that had to fit.
        sequence_tokens: usize,
        /// Tokens that the cache holds.
        cache_tokens: usize,
    },
    /// The engine was shut down while the request was in it.
    #[error("the engine was shut down")]
    EngineClosed,
    /// The load was abandoned since nobody waited for it any more.
    #[error("the load was abandoned: nobody was waiting for it any more")]
    LoadAbandoned,
    /// A fault inside the engine (a bug, or memory running out); the request is lost, the engine goes on.
    #[error("internal engine fault: {problem}")]
    Engine {
        /// What happened.
        problem: String,
    },
    /// candle failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

impl ModelError {
    /// Whether the prompt and an answer do not fit: a shorter prompt would help, another try would not.
    pub fn is_prompt_too_long(&self) -> bool {
        matches!(self, Self::PromptTooLong { .. } | Self::KvCacheTooSmall { .. })
    }
}

/// An error that several waiters share.
pub type SharedError = Arc<ModelError>;

/// A result of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
