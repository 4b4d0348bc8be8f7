//! OpenAI's API under `/v1`: chat completions, completions, models.
mod request;
mod response;

pub use request::{
    ChatBody, CompletionBody, Content, ContentPart, MAX_CHOICES, MessageBody, Prompt, RoleBody,
    StopStrings, StreamOptions,
};
pub use response::{
    Choice, Completion, Envelope, Kind, Message, ModelBody, ModelList, PromptDetails, Says,
    UsageBody,
};
