//! Messages as clients of OpenAI's API send them.

use hapa_service::{ChatMessage, Role, ToolCall};
use serde::Deserialize;
use utoipa::ToSchema;

use super::tools::{CalledFunction, ToolCallBody};
use crate::problem::Problem;

/// One message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct MessageBody {
    /// Who says it.
    #[schema(value_type = String, pattern = "^(system|developer|user|assistant|tool|function)$")]
    pub role: RoleBody,
    /// What is said.
    #[serde(default)]
    pub content: Content,
    /// Functions that an assistant's message calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCallBody>>,
    /// The older form of `tool_calls`.
    #[serde(default)]
    pub function_call: Option<CalledFunction>,
}

/// Who says a message.
#[derive(Debug, Clone, Copy, Deserialize)]
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
    #[schema(pattern = "^text$")]
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

impl MessageBody {
    /// The message in the service's terms.
    pub(super) fn into_message(self) -> Result<ChatMessage, Problem> {
        let role = match self.role {
            RoleBody::System => Role::System,
            RoleBody::User => Role::User,
            RoleBody::Assistant => Role::Assistant,
            RoleBody::Tool => Role::Tool,
        };
        let mut said = ChatMessage::new(role, self.content.into_text()?);
        let calls = self.tool_calls.unwrap_or_default().into_iter().map(|call| call.function);
        let calls = calls.chain(self.function_call);
        said.tool_calls = calls
            .map(|called| ToolCall { name: called.name, arguments: called.arguments })
            .collect();
        Ok(said)
    }
}
