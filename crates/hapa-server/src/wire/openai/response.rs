//! What clients of OpenAI's API get.

use hapa_service::{Answer, TokenScore, ToolCall, ToolCallStream, ToolEvent, Usage};
use serde::Serialize;
use utoipa::ToSchema;

use crate::wire::hapa::{CacheBody, TimingsBody, finish_reason};

/// The kind of all calls.
const FUNCTION: &str = "function";

/// Tokens of an answer, in OpenAI's shape.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = OpenAiUsage)]
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
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
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
    /// What finds calls in the answers, where there may be some.
    pub calls: Option<ToolCallStream>,
}

/// Why an answer ended. Calls of one that was cut need not be whole.
fn ended(answer: &Answer, called: bool) -> &'static str {
    if called && !answer.finish.is_cut() { "tool_calls" } else { finish_reason(answer.finish) }
}

impl Envelope {
    /// The envelope of a request's response.
    pub fn new(kind: Kind, request_id: &str, model: &str, created: u64) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            kind,
            id: format!("{prefix}-{request_id}"),
            created,
            model: model.to_owned(),
            calls: None,
        }
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
            let says = match self.kind {
                Kind::Chat => Says::Message { message: self.message(index, answer) },
                Kind::Text => Says::Text { text: answer.text.clone() },
            };
            let called = matches!(&says, Says::Message { message } if message.tool_calls.is_some());
            let scores = answer.logprobs.as_deref();
            Choice {
                index,
                says,
                logprobs: scores.map(|scores| LogprobsBody::new(self.kind, scores, &mut 0)),
                finish_reason: Some(ended(answer, called)),
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

    /// A whole message, with the calls in its text taken out where there may be any.
    fn message(&self, index: usize, answer: &Answer) -> Message {
        let role = "assistant";
        let Some(stream) = self.calls.clone() else {
            let content = Some(answer.text.clone());
            return Message { role, content, refusal: None, tool_calls: None };
        };
        let (mut content, mut calls) = (String::new(), Vec::new());
        for event in stream.read(&answer.text, answer.finish.is_cut()) {
            match event {
                ToolEvent::Text(text) => content.push_str(&text),
                ToolEvent::Call(call) => calls.push(CallBody {
                    id: self.call_id((index, calls.len())),
                    kind: FUNCTION,
                    function: CallFunction { name: call.name, arguments: call.arguments },
                }),
                // Those of a whole answer are with their call.
                ToolEvent::Arguments(_) => {}
            }
        }
        Message {
            role,
            content: (!content.is_empty() || calls.is_empty()).then_some(content),
            refusal: None,
            tool_calls: (!calls.is_empty()).then_some(calls),
        }
    }

    /// Names the call of that number in the choice of that index.
    fn call_id(&self, (choice, number): (usize, usize)) -> String {
        format!("call_{}_{choice}_{number}", self.id.rsplit('-').next().unwrap_or_default())
    }

    /// An event with a call, and what there is of its arguments.
    pub(crate) fn calling(&self, index: usize, number: usize, call: ToolCall) -> Completion {
        let call = CallDelta {
            index: number,
            id: Some(self.call_id((index, number))),
            kind: Some(FUNCTION),
            function: FunctionDelta { name: Some(call.name), arguments: call.arguments },
        };
        self.call_delta(index, call)
    }

    /// An event with more of a call's arguments.
    pub(crate) fn arguments(&self, index: usize, number: usize, arguments: String) -> Completion {
        let function = FunctionDelta { name: None, arguments };
        self.call_delta(index, CallDelta { index: number, id: None, kind: None, function })
    }

    fn call_delta(&self, index: usize, call: CallDelta) -> Completion {
        let delta = Delta { tool_calls: Some(vec![call]), ..Delta::default() };
        self.chunk(index, Says::Delta { delta }, None)
    }

    /// The first event of a chat choice: who speaks.
    pub(crate) fn opening(&self, index: usize) -> Option<Completion> {
        let delta =
            Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
        (self.kind == Kind::Chat).then(|| self.chunk(index, Says::Delta { delta }, None))
    }

    /// An event with text.
    pub(crate) fn delta(
        &self,
        index: usize,
        text: String,
        logprobs: Option<LogprobsBody>,
    ) -> Completion {
        let says = match self.kind {
            Kind::Chat => Says::Delta { delta: Delta { content: Some(text), ..Delta::default() } },
            Kind::Text => Says::Text { text },
        };
        let mut chunk = self.chunk(index, says, None);
        if let Some(choice) = chunk.choices.first_mut() {
            choice.logprobs = logprobs;
        }
        chunk
    }

    /// The last event of a choice.
    pub(crate) fn end(&self, index: usize, answer: &Answer, called: bool) -> Completion {
        let says = match self.kind {
            Kind::Chat => Says::Delta { delta: Delta::default() },
            Kind::Text => Says::Text { text: String::new() },
        };
        self.chunk(index, says, Some(ended(answer, called)))
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
#[derive(Debug, Clone, Serialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Choice {
    /// Which.
    pub index: usize,
    /// What it says.
    #[serde(flatten)]
    pub says: Says,
    /// How likely the tokens were, where it was asked for.
    pub logprobs: Option<LogprobsBody>,
    /// `stop`, `length` or `tool_calls` at the end, null before.
    pub finish_reason: Option<&'static str>,
}

/// What a choice says.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
        delta: Delta,
    },
    /// A text or a piece of one.
    Text {
        /// The text.
        text: String,
    },
}

/// How likely the tokens of a choice were.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum LogprobsBody {
    /// Of a chat.
    Chat {
        /// One entry a token.
        content: Vec<ScoredToken>,
    },
    /// Of a completion.
    Text {
        /// The tokens.
        tokens: Vec<String>,
        /// Their log-probabilities.
        token_logprobs: Vec<f32>,
        /// The likeliest tokens of each place.
        #[schema(value_type = Vec<Object>)]
        top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
        /// Where in the text each token begins, in characters.
        text_offset: Vec<usize>,
    },
}

/// A token of a chat.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScoredToken {
    /// The token.
    #[serde(flatten)]
    pub token: LikelyBody,
    /// The likeliest tokens in its place.
    pub top_logprobs: Vec<LikelyBody>,
}

/// A token and its log-probability.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LikelyBody {
    /// The token as text; what is no whole character is shown as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Vec<u8>,
}

impl LogprobsBody {
    /// The body for tokens of which the first begins at character `offset`; moves that on.
    pub(crate) fn new(kind: Kind, scores: &[TokenScore], offset: &mut usize) -> Self {
        // JSON has no infinity: what is impossible is very unlikely, as OpenAI has it.
        let finite = |logprob: f32| if logprob.is_finite() { logprob } else { -9999.0 };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let likely = |bytes: &[u8], logprob| LikelyBody {
            token: text(bytes),
            logprob: finite(logprob),
            bytes: bytes.to_vec(),
        };
        if kind == Kind::Chat {
            let content = scores.iter().map(|score| ScoredToken {
                token: likely(&score.bytes, score.logprob),
                top_logprobs: score.top.iter().map(|top| likely(&top.bytes, top.logprob)).collect(),
            });
            return Self::Chat { content: content.collect() };
        }
        let tokens: Vec<String> = scores.iter().map(|score| text(&score.bytes)).collect();
        let text_offset = tokens.iter().map(|token| {
            let begins = *offset;
            *offset += token.chars().count();
            begins
        });
        Self::Text {
            text_offset: text_offset.collect(),
            token_logprobs: scores.iter().map(|score| finite(score.logprob)).collect(),
            top_logprobs: scores
                .iter()
                .map(|score| {
                    let top = score.top.iter();
                    top.map(|top| (text(&top.bytes), finite(top.logprob).into())).collect()
                })
                .collect(),
            tokens,
        }
    }
}

/// A message.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Message {
    /// `assistant`.
    pub role: &'static str,
    /// What is said; null where there are only calls.
    #[schema(required)]
    pub content: Option<String>,
    /// Always null: no model here refuses in a field of its own.
    #[schema(required)]
    pub refusal: Option<String>,
    /// Functions that it calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<CallBody>>,
}

/// A piece of a message.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Delta {
    /// Who says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// What is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Functions that it calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<CallDelta>>,
}

/// A piece of a call: the first has its id, type and name; more of its arguments may follow.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CallDelta {
    /// Which call of the message.
    pub index: usize,
    /// Names the call; a tool's message refers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What is called.
    pub function: FunctionDelta,
}

/// A function and a piece of its arguments.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FunctionDelta {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The piece, of JSON.
    pub arguments: String,
}

/// A call of a function.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CallBody {
    /// Names the call; a tool's message refers to it.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is called.
    pub function: CallFunction,
}

/// A function and its arguments.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CallFunction {
    /// Its name.
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

/// Answer of `GET /v1/models`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelBody>,
}

/// One model.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
