//! What clients of OpenAI's API send.
//!
//! Fields that change nothing here (`user`, `metadata`, `store`, ...) are accepted and ignored. Fields that would change
//! the answer in a way that is not supported are refused, not ignored.

use hapa_service::{
    DEFAULT_CHAT_TOKENS, DEFAULT_MAX_TOKENS, OutputFormat, PromptPiece, Request, SamplingOptions,
    Task,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::message::MessageBody;
use super::tools::{ResponseFormat, ToolBody, ToolChoiceBody, form, offered};
use crate::problem::Problem;
use crate::wire::absent::{count, nullable};
use crate::wire::choice::only;
use crate::wire::hapa::CacheOptions;
use crate::wire::prompt::Prompt;

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
            /// Most tokens of the answer. Without it, with null and with -1: 4,096 of a chat and 512 of a completion, and no more
            /// than the context holds.
            #[serde(default, deserialize_with = "count")]
            #[schema(value_type = Option<i64>)]
            pub max_tokens: Option<usize>,
            /// 0 (the default here) is greedy.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 2)]
            pub temperature: Option<f32>,
            /// Only the most probable tokens that together have this probability.
            #[serde(default)]
            #[schema(exclusive_minimum = 0, maximum = 1)]
            pub top_p: Option<f32>,
            /// Only the k most probable tokens; 0 and -1 are all. Not OpenAI's.
            #[serde(default, deserialize_with = "count")]
            #[schema(value_type = Option<i64>)]
            pub top_k: Option<usize>,
            /// Only tokens at least this probable, relative to the most probable. Not OpenAI's.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f32>,
            /// Divides the logits of tokens that were seen. Not OpenAI's.
            #[serde(default)]
            #[schema(minimum = 0.1, maximum = 10)]
            pub repetition_penalty: Option<f32>,
            /// Makes a sampled answer repeatable.
            #[serde(default)]
            pub seed: Option<i64>,
            /// The answer ends before any of these.
            #[serde(default)]
            pub stop: StopStrings,
            /// How many answers are wanted.
            #[serde(default)]
            #[schema(minimum = 1, maximum = 16)]
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
            /// Must be absent or 0.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 0)]
            pub frequency_penalty: Option<f32>,
            /// Must be absent or 0.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 0)]
            pub presence_penalty: Option<f32>,
            /// Must be absent or empty.
            #[serde(default)]
            #[schema(value_type = Option<Object>, additional_properties = false)]
            pub logit_bias: Option<Value>,
            /// The form of the answer, enforced while it is written: `text`, `json_object` or `json_schema`.
            #[serde(default)]
            pub response_format: Option<ResponseFormat>,
            /// A JSON schema that the answer must fit: llama-server's way to say it.
            #[serde(default)]
            #[schema(value_type = Option<Object>)]
            pub json_schema: Option<Value>,
            /// Must be absent or empty: llama-server's grammars are not understood.
            #[serde(default)]
            #[schema(max_length = 0)]
            pub grammar: Option<String>,
        }

        impl $name {
            fn common(&mut self) -> Common {
                Common {
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

            /// The form that the answer must have.
            fn form(&mut self) -> Result<OutputFormat, Problem> {
                if self.grammar.as_deref().is_some_and(|grammar| !grammar.trim().is_empty()) {
                    let problem = "is not understood; describe the form as a JSON schema, in `response_format` or `json_schema`";
                    return Err(Problem::invalid("grammar", problem));
                }
                form(self.response_format.take(), self.json_schema.take())
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
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<bool>)]
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
        max_tokens: usize,
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
                request.max_tokens = max_tokens;
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
        #[schema(min_items = 1, max_items = 512)]
        pub messages: Vec<MessageBody>,
        /// The newer name of `max_tokens`; wins over it.
        #[serde(default, deserialize_with = "count")]
        #[schema(value_type = Option<i64>)]
        pub max_completion_tokens: Option<usize>,
        /// llama-server's name of `max_tokens`; the others win over it, and -1 is absent. With 0 only the prompt is read, so that
        /// requests that begin like it are answered sooner.
        #[serde(default)]
        pub n_predict: Option<i64>,
        /// Whether the log-probability of each token is told.
        #[serde(default)]
        #[schema(value_type = Option<bool>)]
        pub logprobs: Option<Value>,
        /// How many of the likeliest tokens are told with each token; needs `logprobs`.
        #[serde(default)]
        #[schema(minimum = 0, maximum = 20)]
        pub top_logprobs: Option<usize>,
        /// Functions that the model may call; for models whose chat template has a place for them.
        #[serde(default)]
        #[schema(max_items = 128)]
        pub tools: Option<Vec<ToolBody>>,
        /// `auto` (the default with tools), `none`, `required`, or `{type: "function", function: {name}}`: a call that must be made is
        /// enforced while it is written.
        #[serde(default)]
        pub tool_choice: Option<ToolChoiceBody>,
        /// Must be absent or empty: the older form of `tools`.
        #[serde(default)]
        #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
        pub functions: Option<Value>,
        /// Must be absent or a word: the older form of `tool_choice`.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        pub function_call: Option<Value>,
    }
}

impl ChatBody {
    /// Most tokens of the answer, where the client has said so.
    pub(crate) fn limit(&self) -> Option<usize> {
        let written = self.n_predict.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        self.max_completion_tokens.or(self.max_tokens).or(written)
    }

    fn refuse_functions(&self) -> Result<(), Problem> {
        let no_functions = match &self.functions {
            None | Some(Value::Null) => true,
            Some(functions) => functions.as_array().is_some_and(Vec::is_empty),
        };
        if !no_functions {
            let problem = "is the older form of `tools` and not understood; send them as `tools`";
            return Err(Problem::invalid("functions", problem));
        }
        // A word is what the model may do with functions, of which there are none.
        if !matches!(self.function_call, None | Some(Value::Null | Value::String(_))) {
            let problem =
                "is the older form of `tool_choice` and not understood; send it as `tool_choice`";
            return Err(Problem::invalid("function_call", problem));
        }
        Ok(())
    }

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
        self.refuse_functions()?;
        let max_tokens = self.limit().unwrap_or(DEFAULT_CHAT_TOKENS);
        let form = self.form()?;
        let (tools, call) = offered(self.tools, self.tool_choice)?;
        let format = only("response_format", form, call)?;
        let messages = self.messages.into_iter().map(MessageBody::into_message);
        let messages = messages.collect::<Result<_, _>>()?;
        let mut base = Request::chat(messages);
        base.format = format;
        if let Task::Chat { tools: offered, .. } = &mut base.task {
            *offered = tools;
        }
        base.prompt_only = self.n_predict == Some(0);
        common.into_requests(vec![base], max_tokens)
    }
}

completion_body! {
    /// Body of `POST /v1/completions`.
    pub struct CompletionBody {
        /// The text to go on from, or its tokens. Each of several gets its choices.
        pub prompt: Prompt,
        /// The text that follows: fills in between.
        #[serde(default)]
        pub suffix: Option<String>,
        /// The log-probability of each token is told, and of so many of the likeliest.
        #[serde(default)]
        #[schema(value_type = Option<usize>, maximum = 20)]
        pub logprobs: Option<Value>,
        /// Must be absent or false.
        #[serde(default)]
        pub echo: Option<bool>,
        /// Must be absent or 1.
        #[serde(default)]
        #[schema(minimum = 1, maximum = 1)]
        pub best_of: Option<usize>,
    }
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
        let format = self.form()?;
        let mut common = self.common();
        common.logprobs = match self.logprobs.as_ref() {
            None | Some(Value::Null | Value::Bool(false)) => None,
            Some(count) => match count.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(count) => Some(count),
                None => return Err(Problem::invalid("logprobs", "is no whole number")),
            },
        };
        let suffix = self.suffix.filter(|suffix| !suffix.is_empty());
        let base = |prompt: Vec<PromptPiece>| {
            let base = match &suffix {
                Some(suffix) => between(&prompt, suffix.clone())?,
                None => Request::pieces(prompt),
            };
            Ok(Request { format: format.clone(), ..base })
        };
        let prompts = self.prompt.into_prompts(MAX_CHOICES + 1)?;
        let bases: Result<_, Problem> = prompts.into_iter().map(base).collect();
        common.into_requests(bases?, self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS))
    }
}

/// The text between two others, in whatever language.
fn between(prompt: &[PromptPiece], suffix: String) -> Result<Request, Problem> {
    let [PromptPiece::Text(prefix)] = prompt else {
        return Err(Problem::invalid("suffix", "needs a prompt that is text, not tokens"));
    };
    let mut request = Request::complete(prefix.as_str(), suffix);
    if let Task::Complete { language, .. } = &mut request.task {
        language.clear();
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hapa_service::Role;

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
            (r#""n_predict":-1"#, DEFAULT_CHAT_TOKENS, false),
            (r#""n_predict":7,"max_tokens":5"#, 5, false),
            (r#""n_predict":0"#, DEFAULT_CHAT_TOKENS, true),
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
            ("functions", r#""functions":[{"name":"f"}]"#),
            ("function_call", r#""function_call":{"name":"f"}"#),
            ("grammar", r#""grammar":"root ::= \"a\"""#),
            ("json_schema", r#""json_schema":{},"response_format":{"type":"json_object"}"#),
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
                {"role":"tool","tool_call_id":"1","content":"2"},
                {"role":"assistant","function_call":{"name":"g","arguments":null}}],
                "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto",
                "logprobs":true,"top_logprobs":2,
                "response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}"#,
        )
        .unwrap();
        let Task::Chat { messages, tools } = &requests[0].task else { panic!("a chat") };
        assert_eq!((messages[1].tool_calls[0].name.as_str(), tools[0].name.as_str()), ("f", "f"));
        assert_eq!((messages[2].role, messages[3].tool_calls[0].name.as_str()), (Role::Tool, "g"));
        assert_eq!(requests[0].logprobs, Some(2));
        assert_eq!(requests[0].format, OutputFormat::JsonSchema(r#"{"type":"object"}"#.to_owned()));
        assert_eq!(text(r#"{"prompt":"a","logprobs":3}"#).unwrap()[0].logprobs, Some(3));
    }

    #[test]
    fn what_is_left_out_in_other_words() {
        let default = chat(r#"{"messages":[{"role":"user","content":"a"}]}"#).unwrap();
        assert_eq!(default[0].max_tokens, DEFAULT_CHAT_TOKENS);
        let nothing = chat(
            r#"{"messages":[{"role":"user","content":"a","tool_calls":null,"function_call":null}],
                "max_tokens":-1,"max_completion_tokens":null,"top_k":-1,"stop":null,"n":null,"stream":null,
                "stream_options":{"include_usage":null},"tools":null,"tool_choice":null,"response_format":null,"json_schema":null,
                "grammar":"","functions":[],"function_call":"none","logit_bias":null,"seed":null,"cache":null}"#,
        )
        .unwrap();
        assert_eq!(nothing, default);
        assert_eq!(
            text(r#"{"prompt":"a","max_tokens":-1}"#).unwrap()[0].max_tokens,
            DEFAULT_MAX_TOKENS
        );
    }

    #[test]
    fn forms_in_other_words() {
        let schema = OutputFormat::JsonSchema(r#"{"type":"array"}"#.to_owned());
        let user = r#""messages":[{"role":"user","content":"a"}]"#;
        for field in [
            r#""json_schema":{"type":"array"}"#,
            r#""json_schema":{"type":"array"},"response_format":{"type":"text"}"#,
            r#""response_format":{"type":"json_object","schema":{"type":"array"}}"#,
        ] {
            assert_eq!(chat(&format!("{{{user},{field}}}")).unwrap()[0].format, schema, "{field}");
            assert_eq!(text(&format!(r#"{{"prompt":"a",{field}}}"#)).unwrap()[0].format, schema);
        }
    }

    #[test]
    fn completion_bodies() {
        let requests = text(r#"{"prompt":["a","b"],"n":2,"seed":10,"stop":["x","y"]}"#).unwrap();
        let seeds: Vec<_> = requests.iter().map(|request| request.sampling.seed).collect();
        assert_eq!(seeds, [Some(10), Some(11), Some(10), Some(11)]);
        assert_eq!(requests[2].task, Request::raw("b").task);
        let tokens = |tokens: &[u32]| PromptPiece::Tokens(tokens.to_vec());
        let requests = text(r#"{"prompt":[[1,2],[3]]}"#).unwrap();
        assert_eq!(requests[1].task, Request::pieces(vec![tokens(&[3])]).task);
        let problem = text(r#"{"prompt":[1,2],"suffix":"b"}"#).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("suffix"));
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
