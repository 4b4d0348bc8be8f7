//! From messages, or the text around a cursor, to a prompt.

mod chat;
mod environment;
mod fim;
mod time;
mod tools;

pub use chat::{ChatMessage, ChatTemplate, Role};
pub use fim::{FillInMiddle, FimFile, FimRequest, FimRoom};
pub use tools::{ToolCall, ToolCallStream, ToolDefinition, ToolEvent};
