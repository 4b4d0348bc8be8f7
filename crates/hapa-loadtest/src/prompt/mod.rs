//! What is asked: problems of HumanEval, lines of a file, or synthetic text of a stated length.

mod file;
mod synthetic;
mod workload;

use serde_json::Value;

pub use synthetic::Synthetic;
pub(crate) use workload::Bodies;
pub use workload::{Mix, Workload, WorkloadSource};

/// One request, in no dialect yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// What is asked.
    pub ask: Ask,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Makes a sampled answer repeatable.
    pub seed: Option<u64>,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// Ask the server to go on to `max_tokens` whatever the model says (`ignore_eos`; not every server can).
    pub ignore_end: bool,
}

impl Prompt {
    /// A greedy request.
    pub fn new(ask: Ask, max_tokens: u32) -> Self {
        Self { ask, max_tokens, temperature: 0.0, seed: None, stop: Vec::new(), ignore_end: false }
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Text: a question to a chat dialect, the text to go on from to a completion dialect.
    Text(String),
    /// A question about code.
    Question {
        /// The question.
        question: String,
        /// The code.
        context: Option<String>,
    },
    /// The text around a cursor.
    Middle {
        /// Before it.
        prefix: String,
        /// After it.
        suffix: String,
    },
    /// OpenAI's `messages`.
    Messages(Value),
}

impl Ask {
    /// The same as one text, for dialects that know no better.
    pub(crate) fn flat(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Question { question, context: None } => question.clone(),
            Self::Question { question, context: Some(context) } => {
                format!("{question}\n\n{context}")
            }
            Self::Middle { prefix, .. } => prefix.clone(),
            Self::Messages(messages) => {
                let contents = messages.as_array().into_iter().flatten();
                let contents = contents.filter_map(|message| message["content"].as_str());
                contents.collect::<Vec<_>>().join("\n\n")
            }
        }
    }

    /// The same question in another wording, so that no cache knows it: a comment ahead of everything, which
    /// neither prefix nor response caches can see past.
    pub(crate) fn variant(&self, number: u64) -> Self {
        let mark = format!("# variant {number}\n");
        match self {
            Self::Text(text) => Self::Text(mark + text),
            Self::Question { question, context } => {
                Self::Question { question: mark + question, context: context.clone() }
            }
            Self::Middle { prefix, suffix } => {
                Self::Middle { prefix: mark + prefix, suffix: suffix.clone() }
            }
            Self::Messages(messages) => {
                let mut messages = messages.clone();
                if let Some(Value::String(content)) = messages.pointer_mut("/0/content") {
                    content.insert_str(0, &mark);
                }
                Self::Messages(messages)
            }
        }
    }
}
