//! The dialects: where each is asked, and what a request looks like.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Target;
use crate::error::LoadError;
use crate::prompt::{Ask, Prompt};

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// HAPA's `POST /api/v1/code/generate`.
    #[default]
    Hapa,
    /// HAPA's `POST /api/v1/code/complete`.
    HapaComplete,
    /// OpenAI's `POST /v1/chat/completions`.
    OpenaiChat,
    /// OpenAI's `POST /v1/completions`.
    OpenaiCompletions,
    /// llama-server's `POST /completion`.
    Llama,
    /// llama-server's `POST /infill`.
    LlamaInfill,
    /// `GET` of the address as it is: any web server, no tokens.
    Plain,
}

impl Api {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 7] = [
        ("hapa", Self::Hapa),
        ("hapa-complete", Self::HapaComplete),
        ("openai-chat", Self::OpenaiChat),
        ("openai-completions", Self::OpenaiCompletions),
        ("llama", Self::Llama),
        ("llama-infill", Self::LlamaInfill),
        ("plain", Self::Plain),
    ];

    /// The path of a request, given that of the address: a path of one's own stays, `/v1` is completed.
    pub(super) fn path(self, given: &str) -> String {
        let (own, base) = match self {
            Self::Hapa => ("/api/v1/code/generate", "/api/v1"),
            Self::HapaComplete => ("/api/v1/code/complete", "/api/v1"),
            Self::OpenaiChat => ("/v1/chat/completions", "/v1"),
            Self::OpenaiCompletions => ("/v1/completions", "/v1"),
            Self::Llama => ("/completion", ""),
            Self::LlamaInfill => ("/infill", ""),
            Self::Plain => return given.to_owned(),
        };
        let trimmed = given.trim_end_matches('/');
        if trimmed.is_empty() {
            own.to_owned()
        } else if !base.is_empty() && trimmed.ends_with(base) {
            format!("{}{own}", trimmed.trim_end_matches(base))
        } else {
            given.to_owned()
        }
    }

    pub(crate) fn streams(self) -> bool {
        self != Self::Plain
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, api)| api == self).map_or("", |(name, _)| name);
        f.pad(name)
    }
}

impl FromStr for Api {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, api)| *api);
        found.ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            LoadError::option("api", format!("`{text}` is none of {names}"))
        })
    }
}

impl Target {
    /// The body of the request for a prompt.
    pub(crate) fn body(&self, prompt: &Prompt) -> Vec<u8> {
        if self.api == Api::Plain {
            return Vec::new();
        }
        let mut body = Map::new();
        self.ask(&prompt.ask, &mut body);
        let tokens = match self.api {
            Api::Llama | Api::LlamaInfill => "n_predict",
            _ => "max_tokens",
        };
        body.insert(tokens.to_owned(), json!(prompt.max_tokens));
        body.insert("temperature".to_owned(), json!(prompt.temperature));
        if let Some(seed) = prompt.seed {
            body.insert("seed".to_owned(), json!(seed));
        }
        if let Some(model) = &self.model {
            body.insert("model".to_owned(), json!(model));
        }
        if !prompt.stop.is_empty() {
            body.insert("stop".to_owned(), json!(prompt.stop));
        }
        if prompt.ignore_end {
            body.insert("ignore_eos".to_owned(), json!(true));
        }
        body.insert("stream".to_owned(), json!(self.stream));
        if self.stream && matches!(self.api, Api::OpenaiChat | Api::OpenaiCompletions) {
            body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        Value::Object(body).to_string().into_bytes()
    }

    /// The fields that hold the question, in this dialect. Every kind of prompt has a form in every dialect, so that
    /// one file of prompts can drive all of them.
    fn ask(&self, ask: &Ask, body: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        match (self.api, ask) {
            (Api::Hapa, Ask::Question { question, context }) => {
                put("user_question", json!(question));
                if let Some(context) = context {
                    put("code_context", json!(context));
                }
            }
            (Api::Hapa, other) => put("user_question", json!(other.flat())),
            (Api::HapaComplete, Ask::Middle { prefix, suffix }) => {
                put("prefix", json!(prefix));
                put("suffix", json!(suffix));
            }
            (Api::HapaComplete, other) => put("prefix", json!(other.flat())),
            (Api::OpenaiChat, Ask::Messages(messages)) => put("messages", messages.clone()),
            (Api::OpenaiChat, other) => {
                put("messages", json!([{"role": "user", "content": other.flat()}]));
            }
            (Api::OpenaiCompletions, Ask::Middle { prefix, suffix }) => {
                put("prompt", json!(prefix));
                put("suffix", json!(suffix));
            }
            (Api::LlamaInfill, Ask::Middle { prefix, suffix }) => {
                put("input_prefix", json!(prefix));
                put("input_suffix", json!(suffix));
            }
            (Api::LlamaInfill, other) => put("input_prefix", json!(other.flat())),
            (Api::OpenaiCompletions | Api::Llama, other) => put("prompt", json!(other.flat())),
            (Api::Plain, _) => {}
        }
    }
}
