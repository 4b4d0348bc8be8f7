//! From a model's text to what a caller wanted: code, explanation, syntax.
//!
//! Whatever is done to a stream is defined by doing it to the stream: [`extract`] pushes the whole
//! answer through the same [`CodeStream`], so what was streamed and what is reported cannot differ.
mod block;
mod code;
mod completion;
mod indent;
mod suffix;
mod syntax;

pub use block::BlockGuard;
pub use code::{CodeStream, Extracted, extract};
pub(crate) use completion::CompletionGuard;
pub use suffix::SuffixGuard;
pub use syntax::{Severity, SyntaxIssue, SyntaxReport, validate_python};
