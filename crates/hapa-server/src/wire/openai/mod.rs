//! OpenAI's API under `/v1`: chat completions, completions, models.
mod request;
mod response;
mod tools;

pub use request::{
    ChatBody, CompletionBody, Content, ContentPart, MAX_CHOICES, MessageBody, Prompt, RoleBody,
    StopStrings, StreamOptions,
};
pub use response::{
    CallBody, CallFunction, Choice, Completion, Envelope, Kind, LikelyBody, LogprobsBody, Message,
    ModelBody, ModelList, PromptDetails, Says, ScoredToken, UsageBody,
};
pub use tools::{
    CalledFunction, FunctionBody, NamedSchema, ResponseFormat, ToolBody, ToolCallBody,
};
