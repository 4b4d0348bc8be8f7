//! What clients of OpenAI's API send.
//!
//! Fields that change nothing here (`user`, `metadata`, `store`, ...) are accepted and ignored. Fields that would change
//! the answer in a way that is not supported are refused, not ignored.

use hapa_service::{
    ChatMessage, DEFAULT_MAX_TOKENS, OutputFormat, Request, Role, SamplingOptions, Task, ToolCall,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::tools::{ResponseFormat, ToolBody, ToolCallBody, offered};
use crate::problem::Problem;
use crate::wire::hapa::CacheOptions;

/// Most choices of one request (`n` times the number of prompts).
pub const MAX_CHOICES: usize = 16;

/// Declares a body with the fields that both kinds of completion have. They stand in the struct itself, and not in a
/// flattened one, so that an error can say which of them is wrong.
macro_rules! completion_body {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            /// Which of the models that are served; without it the default one.
            #[serde(default)]
            pub model: Option<String>,
            /// Most tokens of the answer.
            #[serde(default)]
            pub max_tokens: Option<usize>,
            /// 0 (the default here) is greedy.
            #[serde(default)]
            pub temperature: Option<f32>,
            /// Only the most probable tokens that together have this probability.
            #[serde(default)]
            pub top_p: Option<f32>,
            /// Only the k most probable tokens; 0 is all. Not OpenAI's.
            #[serde(default)]
            pub top_k: Option<usize>,
            /// Only tokens at least this probable, relative to the most probable. Not OpenAI's.
            #[serde(default)]
            pub min_p: Option<f32>,
            /// Divides the logits of tokens that were seen. Not OpenAI's.
            #[serde(default)]
            pub repetition_penalty: Option<f32>,
            /// Makes a sampled answer repeatable.
            #[serde(default)]
            pub seed: Option<i64>,
            /// The answer ends before any of these.
            #[serde(default)]
            pub stop: StopStrings,
            /// How many answers are wanted.
            #[serde(default)]
            pub n: Option<usize>,
            /// Whether events are sent as the answer is written.
            #[serde(default)]
            pub stream: Option<bool>,
            /// What a stream carries beside the text.
            #[serde(default)]
            pub stream_options: Option<StreamOptions>,
            /// What the response cache may do. Not OpenAI's.
            #[serde(default)]
            pub cache: Option<CacheOptions>,
            /// Whether (chat) or how many (completions) log-probabilities are wanted.
            #[serde(default)]
            pub logprobs: Option<Value>,
            /// Must be absent or 0.
            #[serde(default)]
            pub frequency_penalty: Option<f32>,
            /// Must be absent or 0.
            #[serde(default)]
            pub presence_penalty: Option<f32>,
            /// Must be absent or empty.
            #[serde(default)]
            pub logit_bias: Option<Value>,
        }

        impl $name {
            fn common(&mut self) -> Common {
                Common {
                    max_tokens: self.max_tokens,
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    repetition_penalty: self.repetition_penalty,
                    seed: self.seed,
                    stop: std::mem::take(&mut self.stop).into(),
                    n: self.n,
                    cache: self.cache.take(),
                    logprobs: None,
                    frequency_penalty: self.frequency_penalty,
                    presence_penalty: self.presence_penalty,
                    logit_bias: self.logit_bias.take(),
                }
            }

            /// Whether the request streams, and what the stream carries.
            pub(crate) fn streaming(&self) -> Option<StreamOptions> {
                (self.stream == Some(true)).then(|| self.stream_options.unwrap_or_default())
            }
        }
    };
}

/// The common fields of a body that make requests.
struct Common {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Vec<String>,
    n: Option<usize>,
    cache: Option<CacheOptions>,
    logprobs: Option<usize>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<Value>,
}

/// What a stream carries beside the text.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// A last event with the usage.
    #[serde(default)]
    pub include_usage: bool,
}

/// One stop string or several.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StopStrings {
    /// None.
    #[default]
    None,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl From<StopStrings> for Vec<String> {
    fn from(stop: StopStrings) -> Self {
        match stop {
            StopStrings::None => Vec::new(),
            StopStrings::One(text) => vec![text],
            StopStrings::Many(texts) => texts,
        }
    }
}

impl Common {
    fn refuse_unsupported(&self) -> Result<(), Problem> {
        let asked = |value: &Option<Value>| {
            !matches!(value, None | Some(Value::Null | Value::Bool(false)))
                && !value.as_ref().is_some_and(is_zero_or_empty)
        };
        let unsupported = [
            ("logit_bias", asked(&self.logit_bias)),
            ("frequency_penalty", self.frequency_penalty.unwrap_or(0.0) != 0.0),
            ("presence_penalty", self.presence_penalty.unwrap_or(0.0) != 0.0),
        ];
        match unsupported.into_iter().find(|(_, asked)| *asked) {
            Some((field, _)) => Err(Problem::invalid(field, "is not supported; leave it out")),
            None => Ok(()),
        }
    }

    /// One request a choice, in the order of `bases` and then of `n`.
    fn into_requests(
        self,
        bases: Vec<Request>,
        max_tokens: Option<usize>,
    ) -> Result<Vec<Request>, Problem> {
        self.refuse_unsupported()?;
        let n = self.n.unwrap_or(1);
        let choices = n.saturating_mul(bases.len());
        if choices == 0 || choices > MAX_CHOICES {
            return Err(Problem::invalid(
                "n",
                format!("asks for {choices} choices; 1 to {MAX_CHOICES} are allowed"),
            ));
        }
        let defaults = SamplingOptions::default();
        let seed = self.seed.map(i64::cast_unsigned);
        let sampling = SamplingOptions {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            seed,
            ..defaults
        };
        let cache: hapa_service::CacheControl = self.cache.unwrap_or_default().into();
        let mut requests = Vec::with_capacity(choices);
        for base in bases {
            for number in 0..n as u64 {
                let mut request = base.clone();
                request.sampling = SamplingOptions {
                    seed: seed.map(|seed| seed.wrapping_add(number)),
                    ..sampling.clone()
                };
                request.max_tokens = max_tokens.or(self.max_tokens).unwrap_or(DEFAULT_MAX_TOKENS);
                request.stop.clone_from(&self.stop);
                request.logprobs = self.logprobs;
                request.cache = cache.clone();
                requests.push(request);
            }
        }
        Ok(requests)
    }
}

fn is_zero_or_empty(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

completion_body! {
    /// Body of `POST /v1/chat/completions`.
    pub struct ChatBody {
        /// The conversation.
        pub messages: Vec<MessageBody>,
        /// The newer name of `max_tokens`; wins over it.
        #[serde(default)]
        pub max_completion_tokens: Option<usize>,
        /// llama-server's name of `max_tokens`; the others win over it, and -1 is absent. With 0 only the prompt is read, so that
        /// requests that begin like it are answered sooner.
        #[serde(default)]
        pub n_predict: Option<i64>,
        /// How many of the likeliest tokens are told with each token; needs `logprobs`.
        #[serde(default)]
        pub top_logprobs: Option<usize>,
        /// The form of the answer, enforced while it is written: `text`, `json_object` or `json_schema`.
        #[serde(default)]
        pub response_format: Option<ResponseFormat>,
        /// Functions that the model may call; for models whose chat template has a place for them.
        #[serde(default)]
        pub tools: Option<Vec<ToolBody>>,
        /// `auto` (the default with tools), `none`, `required`, or `{type: "function", function: {name}}`: a call that must be made is
        /// enforced while it is written.
        #[serde(default)]
        pub tool_choice: Option<Value>,
    }
}

/// One message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct MessageBody {
    /// Who says it.
    pub role: RoleBody,
    /// What is said.
    #[serde(default)]
    pub content: Content,
    /// Functions that an assistant's message calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCallBody>>,
}

/// Who says a message.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleBody {
    /// Instructions.
    #[serde(alias = "developer")]
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool's output.
    #[serde(alias = "function")]
    Tool,
}

/// What a message says: a text, or parts of which only texts are understood.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Nothing.
    #[default]
    Nothing,
    /// A text.
    Text(String),
    /// Parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ContentPart {
    /// Only `text` is understood.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

impl Content {
    fn into_text(self) -> Result<String, Problem> {
        match self {
            Self::Nothing => Ok(String::new()),
            Self::Text(text) => Ok(text),
            Self::Parts(parts) => {
                let mut joined = String::new();
                for part in parts {
                    match (part.kind.as_str(), part.text) {
                        ("text", Some(text)) => joined.push_str(&text),
                        (kind, _) => {
                            let shown: String = kind.chars().take(50).collect();
                            return Err(Problem::invalid(
                                "messages",
                                format!("a part of type `{shown}` is not understood; only text is"),
                            ));
                        }
                    }
                }
                Ok(joined)
            }
        }
    }
}

impl ChatBody {
    /// The requests in the service's terms, one a choice.
    pub(crate) fn into_requests(mut self) -> Result<Vec<Request>, Problem> {
        let mut common = self.common();
        common.logprobs = match (self.logprobs.as_ref(), self.top_logprobs) {
            (Some(Value::Bool(true)), top) => Some(top.unwrap_or(0)),
            (None | Some(Value::Null | Value::Bool(false)), None | Some(0)) => None,
            (None | Some(Value::Null | Value::Bool(false)), Some(_)) => {
                return Err(Problem::invalid("top_logprobs", "needs `logprobs`: true"));
            }
            _ => return Err(Problem::invalid("logprobs", "is neither true nor false")),
        };
        let format = match self.response_format {
            Some(format) => format.into_format()?,
            None => OutputFormat::Text,
        };
        let (tools, call) = offered(self.tools, self.tool_choice.as_ref())?;
        let format = match (format, call) {
            (format, OutputFormat::Text) => format,
            (OutputFormat::Text, call) => call,
            _ => {
                let problem =
                    "demands a call, which has a form of its own; leave `response_format` out";
                return Err(Problem::invalid("tool_choice", problem));
            }
        };
        let mut messages = Vec::with_capacity(self.messages.len());
        for message in self.messages {
            let role = match message.role {
                RoleBody::System => Role::System,
                RoleBody::User => Role::User,
                RoleBody::Assistant => Role::Assistant,
                RoleBody::Tool => Role::Tool,
            };
            let mut said = ChatMessage::new(role, message.content.into_text()?);
            said.tool_calls = message
                .tool_calls
                .unwrap_or_default()
                .into_iter()
                .map(|call| ToolCall {
                    name: call.function.name,
                    arguments: call.function.arguments,
                })
                .collect();
            messages.push(said);
        }
        let mut base = Request::chat(messages);
        base.format = format;
        if let Task::Chat { tools: offered, .. } = &mut base.task {
            *offered = tools;
        }
        base.prompt_only = self.n_predict == Some(0);
        let written = self.n_predict.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        let max_tokens = self.max_completion_tokens.or(common.max_tokens).or(written);
        common.into_requests(vec![base], max_tokens)
    }
}

completion_body! {
    /// Body of `POST /v1/completions`.
    pub struct CompletionBody {
        /// The text to go on from.
        pub prompt: Prompt,
        /// The text that follows: fills in between.
        #[serde(default)]
        pub suffix: Option<String>,
        /// Must be absent or false.
        #[serde(default)]
        pub echo: Option<bool>,
        /// Must be absent or 1.
        #[serde(default)]
        pub best_of: Option<usize>,
    }
}

/// One prompt or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// One.
    One(String),
    /// Several; each gets its choices.
    Many(Vec<String>),
}

impl CompletionBody {
    /// The requests in the service's terms, one a choice.
    pub(crate) fn into_requests(mut self) -> Result<Vec<Request>, Problem> {
        if self.echo == Some(true) {
            return Err(Problem::invalid("echo", "is not supported; leave it out"));
        }
        if self.best_of.is_some_and(|best_of| best_of != 1) {
            return Err(Problem::invalid("best_of", "is not supported; leave it out"));
        }
        let mut common = self.common();
        common.logprobs = match self.logprobs.as_ref() {
            None | Some(Value::Null | Value::Bool(false)) => None,
            Some(count) => match count.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(count) => Some(count),
                None => return Err(Problem::invalid("logprobs", "is no whole number")),
            },
        };
        let prompts = match self.prompt {
            Prompt::One(prompt) => vec![prompt],
            Prompt::Many(prompts) => prompts,
        };
        if prompts.is_empty() {
            return Err(Problem::invalid("prompt", "is empty"));
        }
        let suffix = self.suffix.filter(|suffix| !suffix.is_empty());
        let bases = prompts
            .into_iter()
            .take(MAX_CHOICES + 1)
            .map(|prompt| match &suffix {
                Some(suffix) => between(prompt, suffix.clone()),
                None => Request::raw(prompt),
            })
            .collect();
        common.into_requests(bases, None)
    }
}

/// The text between two others, in whatever language.
fn between(prompt: String, suffix: String) -> Request {
    let mut request = Request::complete(prompt, suffix);
    if let Task::Complete { language, .. } = &mut request.task {
        language.clear();
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(json: &str) -> Result<Vec<Request>, Problem> {
        serde_json::from_str::<ChatBody>(json).unwrap().into_requests()
    }

    fn text(json: &str) -> Result<Vec<Request>, Problem> {
        serde_json::from_str::<CompletionBody>(json).unwrap().into_requests()
    }

    #[test]
    fn chat_bodies() {
        let requests = chat(
            r#"{"model":"m","messages":[{"role":"developer","content":"s"},
                {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
                {"role":"assistant","content":null}],
                "max_tokens":5,"max_completion_tokens":7,"stop":"x","seed":-1,"temperature":1,"user":"u","frequency_penalty":0,
                "logprobs":false,"tools":[],"response_format":{"type":"text"}}"#,
        )
        .unwrap();
        let [request] = &requests[..] else { panic!("{requests:?}") };
        let Task::Chat { messages, .. } = &request.task else { panic!("{request:?}") };
        let said: Vec<(Role, &str)> =
            messages.iter().map(|m| (m.role, m.content.as_str())).collect();
        assert_eq!(said, [(Role::System, "s"), (Role::User, "ab"), (Role::Assistant, "")]);
        assert_eq!((request.max_tokens, request.sampling.seed), (7, Some(u64::MAX)));
        assert_eq!(request.stop, ["x"]);
    }

    #[test]
    fn llama_servers_length_of_an_answer() {
        for (fields, max_tokens, prompt_only) in [
            (r#""n_predict":7"#, 7, false),
            (r#""n_predict":-1"#, DEFAULT_MAX_TOKENS, false),
            (r#""n_predict":7,"max_tokens":5"#, 5, false),
            (r#""n_predict":0"#, DEFAULT_MAX_TOKENS, true),
        ] {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"a"}}],{fields}}}"#);
            let request = &chat(&body).unwrap()[0];
            assert_eq!((request.max_tokens, request.prompt_only), (max_tokens, prompt_only));
        }
    }

    #[test]
    fn what_would_change_the_answer_is_refused() {
        for (field, extra) in [
            ("tools", r#""tools":[{"type":"web_search"}]"#),
            ("tool_choice", r#""tool_choice":"required""#),
            ("tool_choice", r#""tool_choice":"sometimes""#),
            ("tool_choice", r#""tool_choice":{"type":"function","function":{"name":"f"}}"#),
            (
                "tool_choice",
                r#""tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required",
                   "response_format":{"type":"json_object"}"#,
            ),
            ("response_format", r#""response_format":{"type":"xml"}"#),
            ("response_format", r#""response_format":{"type":"json_schema"}"#),
            ("logprobs", r#""logprobs":3"#),
            ("top_logprobs", r#""top_logprobs":3"#),
            ("presence_penalty", r#""presence_penalty":0.1"#),
            ("logit_bias", r#""logit_bias":{"1":2}"#),
            ("n", r#""n":0"#),
            ("n", r#""n":17"#),
            ("n", r#""n":18446744073709551615"#),
        ] {
            let problem =
                chat(&format!(r#"{{"messages":[{{"role":"user","content":"a"}}],{extra}}}"#))
                    .unwrap_err();
            assert_eq!(problem.field.as_deref(), Some(field));
        }
        let image =
            chat(r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#).unwrap_err();
        assert_eq!(image.field.as_deref(), Some("messages"));
    }

    #[test]
    fn forms_tools_and_logprobs() {
        let requests = chat(
            r#"{"messages":[{"role":"user","content":"a"},
                {"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
                {"role":"tool","tool_call_id":"1","content":"2"}],
                "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto",
                "logprobs":true,"top_logprobs":2,
                "response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}"#,
        )
        .unwrap();
        let Task::Chat { messages, tools } = &requests[0].task else { panic!("a chat") };
        assert_eq!((messages[1].tool_calls[0].name.as_str(), tools[0].name.as_str()), ("f", "f"));
        assert_eq!(messages[2].role, Role::Tool);
        assert_eq!(requests[0].logprobs, Some(2));
        assert_eq!(requests[0].format, OutputFormat::JsonSchema(r#"{"type":"object"}"#.to_owned()));
        assert_eq!(text(r#"{"prompt":"a","logprobs":3}"#).unwrap()[0].logprobs, Some(3));
    }

    #[test]
    fn completion_bodies() {
        let requests = text(r#"{"prompt":["a","b"],"n":2,"seed":10,"stop":["x","y"]}"#).unwrap();
        let seeds: Vec<_> = requests.iter().map(|request| request.sampling.seed).collect();
        assert_eq!(seeds, [Some(10), Some(11), Some(10), Some(11)]);
        assert_eq!(requests[2].task, Task::Raw { prompt: "b".into() });
        let requests = text(r#"{"prompt":"a","suffix":"b"}"#).unwrap();
        assert!(
            matches!(&requests[0].task, Task::Complete { prefix, suffix, .. } if prefix == "a" && suffix == "b")
        );
        assert!(matches!(text(r#"{"prompt":"a","suffix":""}"#).unwrap()[0].task, Task::Raw { .. }));
        assert!(text(r#"{"prompt":[]}"#).is_err());
        assert!(text(r#"{"prompt":"a","echo":true}"#).is_err());
        assert!(text(r#"{"prompt":"a","best_of":2}"#).is_err());
    }
}
