//! A loaded model: tokenizer, prompts and engine in one handle.

mod info;
mod load;
mod memory;
mod options;
mod parts;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::parts::Parts;
use crate::engine::{Engine, EngineStats, GenerateRequest, Generation, Priority};
use crate::error::{ModelError, Result, SharedError};
use crate::grammar::{Grammar, GrammarCompiler};
use crate::prompt::{ChatMessage, ChatTemplate, FillInMiddle, FimRequest, FimRoom, ToolDefinition};
use crate::tokenizer::{EncodeOptions, Tokenizer};

pub use self::info::ModelInfo;
pub use self::options::{BackendChoice, LoadOptions};

/// A model that is ready to answer. Cheap to clone; the last clone that is dropped stops the engine and gives the
/// memory back.
///
/// ```no_run
/// use hapa_model::{GenerateEvent, GenerateRequest, LoadOptions, Model, NoProgress};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = Model::load_file("model.gguf".as_ref(), &LoadOptions::default(), &NoProgress)?;
/// let prompt = model.encode("def add(a, b):")?;
/// let mut answer = model.generate(GenerateRequest::new(prompt, 32))?;
/// while let Some(event) = answer.blocking_next() {
///     match event? {
///         GenerateEvent::Text(delta) => print!("{}", delta.text),
///         GenerateEvent::Finished(finish) => println!("\n{:?}", finish.reason),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    // First: its thread stops before the rest goes.
    engine: Engine,
    info: ModelInfo,
    parts: Parts,
    /// Made for the first answer that must have a form.
    grammars: OnceLock<Result<GrammarCompiler, String>>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("info", &self.inner.info).finish_non_exhaustive()
    }
}

impl Model {
    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.parts.tokenizer
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.inner.parts.template.as_ref()
    }

    /// The model's fill-in-the-middle tokens, if it has them.
    pub fn fim(&self) -> Option<&FillInMiddle> {
        self.inner.parts.fim.as_ref()
    }

    /// Longest sequence in tokens, prompt and answer together: the context that the model was loaded with.
    pub fn context_tokens(&self) -> usize {
        self.inner.engine.context_tokens()
    }

    /// Tokens of a plain text, with the token that begins a text when the model wants one. Names of special tokens in the
    /// text are plain text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer().encode(text, EncodeOptions { add_bos: true, parse_special: false })
    }

    /// Tokens of a conversation, up to where the assistant is to write: see [`ChatTemplate::render_prompt`].
    ///
    /// # Errors
    /// [`ModelError::Template`] when the model has no chat template or it fails, [`ModelError::Tokenizer`].
    pub fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<Vec<u32>> {
        self.chat_prompt_with_tools(messages, &[])
    }

    /// [`Self::chat_prompt`] for a conversation in which the model may call tools.
    ///
    /// # Errors
    /// As [`Self::chat_prompt`], and when the template has no place for tools.
    pub fn chat_prompt_with_tools(
        &self,
        messages: &[ChatMessage],
        tools: &[ToolDefinition],
    ) -> Result<Vec<u32>> {
        let template = self.chat_template().ok_or_else(|| ModelError::Template {
            problem: format!(
                "model `{}` has none; use an instruct model, or send a plain prompt",
                self.inner.info.name
            ),
        })?;
        let prompt = template.render_prompt(messages, tools)?;
        template.encode(self.tokenizer(), &prompt)
    }

    /// The form of an answer that is JSON: any object, or what fits a schema. The first call reads the whole vocabulary, which takes
    /// a moment.
    ///
    /// # Errors
    /// [`ModelError::Grammar`].
    pub fn json_grammar(&self, schema: Option<&str>) -> Result<Grammar> {
        match schema {
            Some(schema) => self.grammars()?.json_schema(schema),
            None => self.grammars()?.json_object(),
        }
    }

    /// The form of an answer that is a call of one of the tools that `callable` names; see [`GrammarCompiler::tool_call`].
    ///
    /// # Errors
    /// [`ModelError::ToolParameters`], [`ModelError::Grammar`].
    pub fn tool_call_grammar(
        &self,
        tools: &[ToolDefinition],
        callable: &[String],
    ) -> Result<Grammar> {
        self.grammars()?.tool_call(tools, callable)
    }

    fn grammars(&self) -> Result<&GrammarCompiler> {
        let compiler = self.inner.grammars.get_or_init(|| {
            GrammarCompiler::new(self.tokenizer()).map_err(|error| error.to_string())
        });
        compiler.as_ref().map_err(|problem| ModelError::Grammar { problem: problem.clone() })
    }

    /// Tokens of a request to write what belongs between a prefix and a suffix.
    ///
    /// # Errors
    /// [`ModelError::NoFillInMiddle`], [`ModelError::Tokenizer`].
    pub fn fim_prompt(&self, request: &FimRequest) -> Result<Vec<u32>> {
        let fim = self
            .fim()
            .ok_or_else(|| ModelError::NoFillInMiddle { model: self.inner.info.name.clone() })?;
        fim.prompt(self.tokenizer(), request)
    }

    /// [`Self::fim_prompt`] within some room: what is farthest from the cursor is left out.
    ///
    /// # Errors
    /// As [`Self::fim_prompt`].
    pub fn fim_prompt_within(&self, request: &FimRequest, room: FimRoom) -> Result<Vec<u32>> {
        let fim = self
            .fim()
            .ok_or_else(|| ModelError::NoFillInMiddle { model: self.inner.info.name.clone() })?;
        fim.prompt_within(self.tokenizer(), request, room)
    }

    /// Submits a request. Never blocks; the answer streams through the [`Generation`].
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`], [`ModelError::PromptTooLong`], [`ModelError::InvalidOption`] for the request;
    /// [`ModelError::QueueFull`], [`ModelError::EngineClosed`] for the engine.
    pub fn generate(&self, request: GenerateRequest) -> Result<Generation> {
        self.inner.engine.submit(request)
    }

    /// How long a request of that namespace and priority would wait for its first token if it were submitted now, from what
    /// waits, what runs and how fast the engine was lately; `None` while too little was measured. An estimate: it knows
    /// neither what the prefix cache holds nor when memory for keys and values will be short.
    pub fn first_token_in(&self, flow: (u64, Priority), prompt_tokens: usize) -> Option<Duration> {
        self.inner.engine.first_token_in(flow, prompt_tokens)
    }

    /// Natural logarithm of the probability of each token given all before it, from the second token on: one value fewer
    /// than tokens, since nothing comes before the first. Blocks; takes its turn among other requests.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`], [`ModelError::PromptTooLong`], [`ModelError::QueueFull`], [`ModelError::EngineClosed`].
    pub fn score(&self, tokens: Vec<u32>) -> Result<Vec<f32>, SharedError> {
        self.score_from(tokens, 1)
    }

    /// [`Self::score`] for `tokens[first..]` only. The tokens before them are read without computing logits, which
    /// is cheaper.
    ///
    /// # Errors
    /// As [`Self::score`]; [`ModelError::InvalidOption`] when `first` is 0 or past the end.
    pub fn score_from(&self, tokens: Vec<u32>, first: usize) -> Result<Vec<f32>, SharedError> {
        self.inner.engine.score(tokens, first)
    }

    /// What the engine is doing.
    pub fn engine_stats(&self) -> EngineStats {
        self.inner.engine.stats()
    }
}
