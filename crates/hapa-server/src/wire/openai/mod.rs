//! OpenAI's API under `/v1`: chat completions, completions, models.
mod message;
mod request;
mod response;
mod tools;

pub use message::{Content, ContentPart, MessageBody, RoleBody};
pub use request::{ChatBody, CompletionBody, MAX_CHOICES, StopStrings, StreamOptions};
pub use response::{
    CallBody, CallDelta, CallFunction, Choice, Completion, Delta, Envelope, FunctionDelta, Kind,
    LikelyBody, LogprobsBody, Message, ModelBody, ModelList, PromptDetails, Says, ScoredToken,
    UsageBody,
};
pub use tools::{
    CalledFunction, FunctionBody, NamedSchema, ResponseFormat, ToolBody, ToolCallBody,
    ToolChoiceBody,
};
