//! From messages, or the text around a cursor, to a prompt.

mod calls;
mod chat;
mod environment;
mod fim;
mod time;
mod tools;

pub use calls::{ToolCallStream, ToolEvent};
pub use chat::{ChatMessage, ChatTemplate, Role};
pub use fim::{FillInMiddle, FimFile, FimRequest, FimRoom};
pub use tools::{ToolCall, ToolDefinition};
