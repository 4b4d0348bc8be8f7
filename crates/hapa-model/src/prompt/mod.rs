//! From messages, or the text around a cursor, to a prompt.

mod chat;
mod environment;
mod fim;
mod time;

pub use chat::{ChatMessage, ChatTemplate, Role};
pub use fim::{FillInMiddle, FimFile, FimRequest};
