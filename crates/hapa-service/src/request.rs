//! What a caller asks for.

use std::time::{Duration, Instant};

use hapa_cache::CacheControl;
use hapa_model::{
    ChatMessage, Priority, SamplingOptions, ToolCall, ToolCallStream, ToolDefinition,
};

/// One request to the pipeline.
///
/// Build one with [`Request::generate`], [`Request::complete`], [`Request::chat`] or [`Request::raw`]
/// and change the public fields as needed; [`crate::Service::predict`] validates it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to do.
    pub task: Task,
    /// How tokens are drawn. The default is greedy, which is what the response cache keeps.
    pub sampling: SamplingOptions,
    /// Most tokens of the answer, at least 1. What is more than [`Limits::max_tokens`](crate::Limits::max_tokens) or the model's context counts as that.
    pub max_tokens: usize,
    /// The answer ends before the first of these strings, unless it is a [call](OutputFormat::ToolCall), in whose arguments they
    /// mean nothing.
    pub stop: Vec<String>,
    /// The answer ends before the first line that begins with fewer blanks; the line that it begins in and empty ones don't count.
    pub min_indent: usize,
    /// The answer ends with the first line that is whole when this time has passed since its first token, as one that came to
    /// `max_tokens` does ([`hapa_model::FinishReason::Length`]): it is not kept.
    pub writing_time: Option<Duration>,
    /// Only the prompt is read, so that the engine need not read it again for requests that begin alike. The answer is empty.
    pub prompt_only: bool,
    /// The form that the answer must have.
    pub format: OutputFormat,
    /// What the response cache may do with this request.
    pub cache: CacheControl,
    /// The answer carries the log-probability of each token, and of this many of the likeliest ones.
    pub logprobs: Option<usize>,
    /// Names the request in logs and traces. It has no influence on the answer.
    pub request_id: Option<String>,
    /// The document that the request is about. A newer request of the same document and namespace supersedes this one,
    /// which is cancelled wherever it is and ends in [`ServiceError::Superseded`](crate::ServiceError::Superseded). It has no influence on the answer.
    pub document_id: Option<String>,
    /// The timeline of a request with an id also tells what each kernel of each step took. It has no influence on the
    /// answer; one that is not computed for this request, but found or shared, has none.
    pub trace_kernels: bool,
    /// When the answer must be whole. A request that would not get its first token by then is refused with
    /// [`ServiceError::TooSlow`](crate::ServiceError::TooSlow); one whose deadline passes ends in [`ServiceError::DeadlinePassed`](crate::ServiceError::DeadlinePassed), and its work is cancelled
    /// unless others wait for the same. It has no influence on the answer.
    pub deadline: Option<Instant>,
}

/// The form that an answer must have. It is enforced while the answer is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that fits this schema.
    JsonSchema(String),
    /// A call of one of the conversation's tools that have these names, with arguments that fit its schema as far as that can be
    /// enforced.
    ToolCall(Vec<String>),
}

/// What a request wants done.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Task {
    /// Answer a question with code.
    Generate {
        /// The question, in any language.
        question: String,
        /// Code that the question is about.
        context: Option<String>,
        /// The language of the wanted code, lower case; `python` is what the syntax check knows.
        language: String,
        /// Where the code belongs.
        file_path: Option<String>,
    },
    /// Fill in the text at a cursor.
    Complete {
        /// The text before the cursor.
        prefix: String,
        /// The text after the cursor.
        suffix: String,
        /// The language of the text, lower case. A completion of `python` ends with the block that the cursor is in.
        language: String,
        /// The file that is edited.
        file_path: Option<String>,
        /// Other files that may help: path and text.
        extra: Vec<(String, String)>,
    },
    /// Continue a conversation. Where it ends with a text of the assistant, the answer goes on with that text.
    Chat {
        /// The conversation so far.
        messages: Vec<ChatMessage>,
        /// What the model may call; calls are found in the answer by [`Request::tool_calls`].
        tools: Vec<ToolDefinition>,
    },
    /// Continue a text as it stands.
    Raw {
        /// The text, in pieces that follow one another.
        prompt: Vec<PromptPiece>,
    },
}

/// A piece of a prompt that is continued as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPiece {
    /// Text. Names of special tokens in it are these tokens, so that whoever applies a template may send what it gave. One that a
    /// prompt begins with gets the token that begins a text, where the model wants one and it is not there.
    Text(String),
    /// Ids of tokens, as they are.
    Tokens(Vec<u32>),
}

/// The answer's length when nothing else is said.
pub const DEFAULT_MAX_TOKENS: usize = 512;
/// Length of an answer in a conversation when nothing else is said: agents that send no limit expect whole files to fit. It is
/// bounded by the context anyway.
pub const DEFAULT_CHAT_TOKENS: usize = 4_096;
/// Length of a completion when nothing else is said: what an editor can show.
pub const DEFAULT_COMPLETION_TOKENS: usize = 128;
/// Most candidates of one completion.
pub const MAX_CANDIDATES: usize = 5;
/// Most likely tokens that are reported with each token.
pub const MAX_LOGPROBS: usize = 20;
/// Temperature of the second and later candidates, so that they differ from the first.
const CANDIDATE_TEMPERATURE: f32 = 0.6;

impl Request {
    fn new(task: Task) -> Self {
        Self {
            task,
            sampling: SamplingOptions::default(),
            max_tokens: DEFAULT_MAX_TOKENS,
            stop: Vec::new(),
            min_indent: 0,
            writing_time: None,
            prompt_only: false,
            format: OutputFormat::Text,
            cache: CacheControl::default(),
            logprobs: None,
            request_id: None,
            document_id: None,
            trace_kernels: false,
            deadline: None,
        }
    }

    /// A question to be answered with Python code.
    pub fn generate(question: impl Into<String>) -> Self {
        Self::new(Task::Generate {
            question: question.into(),
            context: None,
            language: "python".to_owned(),
            file_path: None,
        })
    }

    /// The text between `prefix` and `suffix`.
    pub fn complete(prefix: impl Into<String>, suffix: impl Into<String>) -> Self {
        Self::new(Task::Complete {
            prefix: prefix.into(),
            suffix: suffix.into(),
            language: "python".to_owned(),
            file_path: None,
            extra: Vec::new(),
        })
    }

    /// The next message of a conversation.
    pub fn chat(messages: Vec<ChatMessage>) -> Self {
        Self::new(Task::Chat { messages, tools: Vec::new() })
    }

    /// The continuation of a text, without any template around it.
    pub fn raw(prompt: impl Into<String>) -> Self {
        Self::pieces(vec![PromptPiece::Text(prompt.into())])
    }

    /// The continuation of a prompt that is, or has in it, tokens.
    pub fn pieces(prompt: Vec<PromptPiece>) -> Self {
        Self::new(Task::Raw { prompt })
    }

    /// This request and `count - 1` more for other answers to it. The first is as asked; the others are sampled, with
    /// seeds, so that asking again gives the same ones.
    pub fn candidates(self, count: usize) -> Vec<Self> {
        let seed = self.sampling.seed.unwrap_or(0);
        let others = (1..count as u64).map(|number| {
            let mut request = self.clone();
            request.sampling.temperature = request.sampling.temperature.max(CANDIDATE_TEMPERATURE);
            request.sampling.seed = Some(seed.wrapping_add(number));
            request
        });
        let others: Vec<Self> = others.collect();
        std::iter::once(self).chain(others).collect()
    }

    /// What finds the calls in the answer; `None` where it is text as it stands: no tool was offered, or a form was enforced that is
    /// no call.
    pub fn tool_calls(&self) -> Option<ToolCallStream> {
        let Task::Chat { tools, .. } = &self.task else { return None };
        match &self.format {
            OutputFormat::Text if !tools.is_empty() => {
                Some(ToolCallStream::new(tools.iter().map(|tool| tool.name.as_str())))
            }
            OutputFormat::ToolCall(callable) => Some(ToolCallStream::demanded(callable)),
            _ => None,
        }
    }

    /// Tokens that so many answers to the request may take, with its prompt: the prompt's are guessed from its length, a token
    /// every four bytes, since counting them takes the model.
    pub fn most_tokens(&self, answers: usize) -> usize {
        let answer = if self.prompt_only { 0 } else { self.max_tokens };
        self.guessed_prompt_tokens().saturating_add(answer.saturating_mul(answers))
    }

    /// Tokens of the prompt, guessed from its length.
    pub(crate) fn guessed_prompt_tokens(&self) -> usize {
        self.prompt_bytes().div_ceil(4)
    }

    /// Bytes of all that the prompt is made of.
    pub(crate) fn prompt_bytes(&self) -> usize {
        match &self.task {
            Task::Generate { question, context, .. } => {
                question.len() + context.as_deref().map_or(0, str::len)
            }
            Task::Complete { prefix, suffix, extra, .. } => {
                let files: usize = extra.iter().map(|(path, text)| path.len() + text.len()).sum();
                prefix.len() + suffix.len() + files
            }
            Task::Chat { messages, tools } => {
                messages.iter().map(message_bytes).sum::<usize>()
                    + tools.iter().map(tool_bytes).sum::<usize>()
            }
            Task::Raw { prompt } => prompt.iter().map(piece_bytes).sum(),
        }
    }

    /// Somebody waits at a cursor for a completion; whoever asks for more waits longer.
    pub(crate) fn priority(&self) -> Priority {
        match self.task {
            Task::Complete { .. } if !self.prompt_only => Priority::Interactive,
            _ => Priority::Normal,
        }
    }

    /// Whether the same request always gets the same answer: greedy, or sampled with a seed.
    pub fn is_deterministic(&self) -> bool {
        self.sampling.temperature <= 0.0 || self.sampling.seed.is_some()
    }
}

/// A token counts as the four bytes that it stands for in the guess.
fn piece_bytes(piece: &PromptPiece) -> usize {
    match piece {
        PromptPiece::Text(text) => text.len(),
        PromptPiece::Tokens(tokens) => tokens.len().saturating_mul(4),
    }
}

fn message_bytes(message: &ChatMessage) -> usize {
    message.content.len() + message.tool_calls.iter().map(call_bytes).sum::<usize>()
}

pub(crate) fn call_bytes(call: &ToolCall) -> usize {
    call.name.len() + call.arguments.len()
}

pub(crate) fn tool_bytes(tool: &ToolDefinition) -> usize {
    let description = tool.description.as_deref().map_or(0, str::len);
    tool.name.len() + description + tool.parameters.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hapa_model::Role;

    #[test]
    fn calls_are_looked_for_where_there_may_be_some() {
        let mut request = Request::chat(vec![ChatMessage::new(Role::User, "hi")]);
        assert!(request.tool_calls().is_none());
        if let Task::Chat { tools, .. } = &mut request.task {
            let parameters = Default::default();
            tools.push(ToolDefinition { name: "f".to_owned(), description: None, parameters });
        }
        assert!(request.tool_calls().is_some());
        // What looks like a call is what was asked for.
        request.format = OutputFormat::JsonObject;
        assert!(request.tool_calls().is_none());
        request.format = OutputFormat::ToolCall(vec!["f".to_owned()]);
        assert!(request.tool_calls().is_some());
    }

    #[test]
    fn candidates_differ_and_can_be_asked_for_again() {
        let asked = Request::complete("x = ", "");
        let candidates = asked.clone().candidates(3);
        assert_eq!(candidates.len(), 3);
        assert_eq!(candidates[0], asked);
        assert!(candidates.iter().all(Request::is_deterministic));
        assert!(candidates[1..].iter().all(|request| request.sampling.temperature > 0.0));
        assert_ne!(candidates[1].sampling.seed, candidates[2].sampling.seed);
        assert_eq!(asked.clone().candidates(3), candidates);
        assert_eq!(asked.clone().candidates(1), [asked]);
    }

    #[test]
    fn determinism_is_greedy_or_seeded() {
        let mut request = Request::generate("x");
        assert!(request.is_deterministic());
        request.sampling.temperature = 0.7;
        assert!(!request.is_deterministic());
        request.sampling.seed = Some(1);
        assert!(request.is_deterministic());
    }
}
