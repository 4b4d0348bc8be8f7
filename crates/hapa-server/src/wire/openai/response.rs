//! What clients of OpenAI's API get.

use hapa_service::{Answer, Usage};
use serde::Serialize;

use crate::wire::hapa::{CacheBody, TimingsBody, finish_reason};

/// Tokens of an answer, in OpenAI's shape.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct UsageBody {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens of all choices.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// More about the prompt.
    pub prompt_tokens_details: PromptDetails,
}

/// More about a prompt.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PromptDetails {
    /// Tokens that were not computed again.
    pub cached_tokens: usize,
}

impl UsageBody {
    /// The sum over choices; a prompt counts once for its `n` choices.
    pub(crate) fn sum(usages: &[Usage], n: usize) -> Self {
        let prompts = || usages.iter().step_by(n.max(1));
        let prompt_tokens = prompts().map(|usage| usage.prompt_tokens).sum();
        let completion_tokens = usages.iter().map(|usage| usage.generated_tokens).sum();
        let cached_tokens = prompts().map(|usage| usage.cached_tokens).sum();
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
        }
    }
}

/// Which of the two kinds of completion an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

/// What all objects of one response have in common.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Which kind of completion.
    pub kind: Kind,
    /// `chatcmpl-...` or `cmpl-...`.
    pub id: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name on the wire.
    pub model: String,
}

impl Envelope {
    /// The envelope of a request's response.
    pub fn new(kind: Kind, request_id: &str, model: &str, created: u64) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self { kind, id: format!("{prefix}-{request_id}"), created, model: model.to_owned() }
    }

    fn object(&self, streamed: bool, choices: Vec<Choice>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: match (self.kind, streamed) {
                (Kind::Chat, false) => "chat.completion",
                (Kind::Chat, true) => "chat.completion.chunk",
                (Kind::Text, _) => "text_completion",
            },
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: concat!("hapa-", env!("CARGO_PKG_VERSION")),
            choices,
            usage: None,
            cache: None,
            timings: None,
        }
    }

    /// A whole response.
    pub(crate) fn whole(&self, answers: &[Answer], n: usize) -> Completion {
        let choices = answers.iter().enumerate().map(|(index, answer)| {
            let text = answer.text.clone();
            let says = match self.kind {
                Kind::Chat => Says::Message {
                    message: Message { role: Some("assistant"), content: Some(text) },
                },
                Kind::Text => Says::Text { text },
            };
            Choice {
                index,
                says,
                logprobs: None,
                finish_reason: Some(finish_reason(answer.finish)),
            }
        });
        let usages: Vec<Usage> = answers.iter().map(|answer| answer.usage).collect();
        Completion {
            usage: Some(UsageBody::sum(&usages, n)),
            cache: answers.first().map(|answer| CacheBody::from(&answer.cache)),
            timings: answers.first().map(|answer| TimingsBody::from(&answer.timings)),
            ..self.object(false, choices.collect())
        }
    }

    /// The first event of a chat choice: who speaks.
    pub(crate) fn opening(&self, index: usize) -> Option<Completion> {
        let message = Message { role: Some("assistant"), content: Some(String::new()) };
        (self.kind == Kind::Chat).then(|| self.chunk(index, Says::Delta { delta: message }, None))
    }

    /// An event with text.
    pub(crate) fn delta(&self, index: usize, text: String) -> Completion {
        let says = match self.kind {
            Kind::Chat => Says::Delta { delta: Message { role: None, content: Some(text) } },
            Kind::Text => Says::Text { text },
        };
        self.chunk(index, says, None)
    }

    /// The last event of a choice.
    pub(crate) fn end(&self, index: usize, answer: &Answer) -> Completion {
        let says = match self.kind {
            Kind::Chat => Says::Delta { delta: Message { role: None, content: None } },
            Kind::Text => Says::Text { text: String::new() },
        };
        self.chunk(index, says, Some(finish_reason(answer.finish)))
    }

    /// The event after all choices, when it was asked for.
    pub(crate) fn usage(&self, usages: &[Usage], n: usize) -> Completion {
        Completion { usage: Some(UsageBody::sum(usages, n)), ..self.object(true, Vec::new()) }
    }

    fn chunk(&self, index: usize, says: Says, finish_reason: Option<&'static str>) -> Completion {
        self.object(true, vec![Choice { index, says, logprobs: None, finish_reason }])
    }
}

/// A response or one event of it.
#[derive(Debug, Clone, Serialize)]
pub struct Completion {
    /// Names the response.
    pub id: String,
    /// What this is.
    pub object: &'static str,
    /// When it was asked for, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The program that answered.
    pub system_fingerprint: &'static str,
    /// The answers, or pieces of them.
    pub choices: Vec<Choice>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageBody>,
    /// What the response cache did for the first choice. Not OpenAI's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheBody>,
    /// Times of the first choice. Not OpenAI's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<TimingsBody>,
}

/// One answer or a piece of it.
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    /// Which.
    pub index: usize,
    /// What it says.
    #[serde(flatten)]
    pub says: Says,
    /// Always null.
    pub logprobs: Option<()>,
    /// `stop` or `length` at the end, null before.
    pub finish_reason: Option<&'static str>,
}

/// What a choice says.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Says {
    /// A whole message.
    Message {
        /// The message.
        message: Message,
    },
    /// A piece of a message.
    Delta {
        /// The piece.
        delta: Message,
    },
    /// A text or a piece of one.
    Text {
        /// The text.
        text: String,
    },
}

/// A message or a piece of one.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// Who says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// What is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Answer of `GET /v1/models`.
#[derive(Debug, Clone, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelBody>,
}

/// One model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelBody {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When the server started, in seconds since 1970.
    pub created: u64,
    /// `hapa`.
    pub owned_by: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_once_for_its_choices() {
        let usage = |prompt_tokens, generated_tokens| Usage {
            prompt_tokens,
            generated_tokens,
            ..Usage::default()
        };
        let sum = UsageBody::sum(&[usage(5, 1), usage(5, 2), usage(7, 3), usage(7, 4)], 2);
        assert_eq!((sum.prompt_tokens, sum.completion_tokens, sum.total_tokens), (12, 10, 22));
    }
}
