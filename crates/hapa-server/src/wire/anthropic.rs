//! Anthropic's API: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

mod input;
mod models;

use hapa_service::{
    Answer, ChatMessage, FinishReason, OutputFormat, Request, Role, SamplingOptions, Task,
    ToolCall, ToolCallStream, ToolDefinition, ToolEvent, Usage,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::absent::count;
use super::choice::{Choice, offer, only};
use crate::problem::Problem;
use input::input;
pub(crate) use models::{ANTHROPIC_VERSION, ModelInfo, ModelInfoList};

/// Body of `POST /v1/messages`, and of `POST /v1/messages/count_tokens` (which needs no `max_tokens`).
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct MessagesBody {
    /// Which of the models that are served; without it the default one.
    #[serde(default)]
    pub model: Option<String>,
    /// The conversation.
    #[schema(min_items = 1, max_items = 512)]
    pub messages: Vec<TurnBody>,
    /// Most tokens of the answer.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_tokens: Option<usize>,
    /// Instructions.
    #[serde(default)]
    pub system: Option<Blocks>,
    /// The answer ends before any of these.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub stop_sequences: Option<Vec<String>>,
    /// Whether events are sent as the answer is written.
    #[serde(default)]
    pub stream: Option<bool>,
    /// 0 (the default here) is greedy.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Only the most probable tokens that together have this probability.
    #[serde(default)]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Only the k most probable tokens; 0 and -1 are all.
    #[serde(default, deserialize_with = "count")]
    #[schema(value_type = Option<i64>)]
    pub top_k: Option<usize>,
    /// Functions that the model may call; for models whose chat template has a place for them.
    #[serde(default)]
    #[schema(max_items = 128)]
    pub tools: Option<Vec<ToolSpec>>,
    /// `auto` (the default with tools), `none`, `any` or `tool`.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// The form of the answer. Of its fields only `format` changes anything here.
    #[serde(default)]
    pub output_config: Option<OutputConfig>,
    /// The older place of `output_config.format`.
    #[serde(default)]
    pub output_format: Option<OutputForm>,
}

/// How an answer is to be written.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct OutputConfig {
    /// Its form, enforced while it is written.
    #[serde(default)]
    pub format: Option<OutputForm>,
}

/// The form of an answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct OutputForm {
    /// Only `json_schema` is known.
    #[serde(rename = "type")]
    #[schema(pattern = "^json_schema$")]
    pub kind: String,
    /// The schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

impl OutputForm {
    fn into_format(self) -> Result<OutputFormat, Problem> {
        match (self.kind.as_str(), self.schema) {
            ("json_schema", Some(schema)) => Ok(OutputFormat::JsonSchema(schema.to_string())),
            _ => {
                let problem = "is not `json_schema` with a `schema`, which is the only known form";
                Err(Problem::invalid("output_config.format", problem))
            }
        }
    }
}

/// A turn of the conversation.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct TurnBody {
    /// Who speaks.
    pub role: Speaker,
    /// What is said.
    pub content: Blocks,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// A text, or blocks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Blocks {
    /// A text.
    Text(String),
    /// Blocks.
    Many(Vec<BlockBody>),
}

/// A block of a turn.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct BlockBody {
    /// `text`, `tool_use` or `tool_result`; `thinking` and `redacted_thinking` are left out.
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|tool_use|tool_result|thinking|redacted_thinking)$")]
    pub kind: String,
    /// Of a `text`.
    #[serde(default)]
    pub text: Option<String>,
    /// Of a `tool_use`: the function.
    #[serde(default)]
    pub name: Option<String>,
    /// Of a `tool_use`: its arguments.
    #[serde(default)]
    pub input: Option<Value>,
    /// Of a `tool_result`.
    #[serde(default)]
    #[schema(no_recursion)]
    pub content: Option<Box<Blocks>>,
}

/// A function that the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ToolSpec {
    /// Its name.
    #[schema(min_length = 1, max_length = 1024)]
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Its parameters as a JSON schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
}

/// Which tools are to be used.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ToolChoice {
    /// `auto`, `none`, `any` (one of them) or `tool` (that of `name`): a call that must be made is enforced while it is written.
    #[serde(rename = "type")]
    #[schema(pattern = "^(auto|none|any|tool)$")]
    pub kind: String,
    /// The tool of `tool`.
    #[serde(default)]
    pub name: Option<String>,
}

impl Blocks {
    /// The texts, joined.
    fn into_text(self) -> Result<String, Problem> {
        let blocks = match self {
            Self::Text(text) => return Ok(text),
            Self::Many(blocks) => blocks,
        };
        let texts = blocks.into_iter().map(|block| match (block.kind.as_str(), block.text) {
            ("text", Some(text)) => Ok(text),
            (kind, _) => Err(not_understood(kind)),
        });
        texts.collect()
    }
}

fn not_understood(kind: &str) -> Problem {
    let shown: String = kind.chars().take(50).collect();
    Problem::invalid(
        "messages",
        format!("a block of type `{shown}` is not understood; text, tool_use and tool_result are"),
    )
}

/// A turn as messages: its tools' results are messages of their own.
fn messages_of(turn: TurnBody, messages: &mut Vec<ChatMessage>) -> Result<(), Problem> {
    let role = match turn.role {
        Speaker::User => Role::User,
        Speaker::Assistant => Role::Assistant,
    };
    let blocks = match turn.content {
        Blocks::Text(text) => {
            messages.push(ChatMessage::new(role, text));
            return Ok(());
        }
        Blocks::Many(blocks) => blocks,
    };
    let mut said = ChatMessage::new(role, "");
    let mut has_text = false;
    for block in blocks {
        match block {
            BlockBody { kind, text: Some(text), .. } if kind == "text" => {
                said.content.push_str(&text);
                has_text = true;
            }
            BlockBody { kind, name: Some(name), input, .. } if kind == "tool_use" => {
                let arguments = input.map_or_else(|| "{}".to_owned(), |input| input.to_string());
                said.tool_calls.push(ToolCall { name, arguments });
            }
            BlockBody { kind, content, .. } if kind == "tool_result" => {
                let text =
                    content.map_or_else(|| Ok(String::new()), |content| content.into_text())?;
                messages.push(ChatMessage::new(Role::Tool, text));
            }
            // What another model thought, signed or encrypted for its maker.
            BlockBody { kind, .. } if kind == "thinking" || kind == "redacted_thinking" => {}
            BlockBody { kind, .. } => return Err(not_understood(&kind)),
        }
    }
    if has_text || !said.tool_calls.is_empty() {
        messages.push(said);
    }
    Ok(())
}

impl MessagesBody {
    /// The request in the service's terms.
    pub(crate) fn into_request(self) -> Result<Request, Problem> {
        let max_tokens = self
            .max_tokens
            .ok_or_else(|| Problem::invalid("max_tokens", "is missing; it is required here"))?;
        let mut messages = Vec::with_capacity(self.messages.len() + 1);
        let system = self.system.map(Blocks::into_text).transpose()?.unwrap_or_default();
        if !system.is_empty() {
            messages.push(ChatMessage::new(Role::System, system));
        }
        for turn in self.messages {
            messages_of(turn, &mut messages)?;
        }
        let choice = match self.tool_choice {
            None => Choice::Auto,
            Some(choice) => match (choice.kind.as_str(), choice.name) {
                ("auto", _) => Choice::Auto,
                ("none", _) => Choice::None,
                ("any", _) => Choice::Required,
                ("tool", Some(name)) => Choice::Named(name),
                _ => {
                    let problem = "is neither `auto`, `none`, `any` nor `tool` with a `name`";
                    return Err(Problem::invalid("tool_choice", problem));
                }
            },
        };
        let tools = self.tools.unwrap_or_default().into_iter().map(|tool| ToolDefinition {
            name: tool.name,
            description: tool.description,
            parameters: tool
                .input_schema
                .unwrap_or_else(|| serde_json::json!({ "type": "object" })),
        });
        let (tools, call) = offer(tools.collect(), &choice)?;
        let form = self.output_config.and_then(|config| config.format).or(self.output_format);
        let form = form.map_or(Ok(OutputFormat::Text), OutputForm::into_format)?;
        let format = only("output_config.format", form, call)?;
        let mut request = Request::chat(messages);
        if let Task::Chat { tools: offered, .. } = &mut request.task {
            *offered = tools;
        }
        request.format = format;
        request.max_tokens = max_tokens;
        request.stop = self.stop_sequences.unwrap_or_default();
        let defaults = SamplingOptions::default();
        request.sampling = SamplingOptions {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            ..defaults
        };
        Ok(request)
    }
}

/// Answer of `POST /v1/messages`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MessageResponse {
    /// Names the answer.
    pub id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `assistant`.
    pub role: &'static str,
    /// The model.
    pub model: String,
    /// What is said and called.
    pub content: Vec<AnswerBlock>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; null while it is written.
    pub stop_reason: Option<&'static str>,
    /// Which of the stop sequences ended the answer.
    pub stop_sequence: Option<String>,
    /// Tokens.
    pub usage: MessageUsage,
}

/// A block of an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnswerBlock {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
    /// A call.
    ToolUse {
        /// Names the call; its result refers to it.
        id: String,
        /// The function.
        name: String,
        /// Its arguments.
        input: Value,
    },
}

/// Tokens of an answer.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct MessageUsage {
    /// Tokens of the prompt that were computed.
    pub input_tokens: usize,
    /// Tokens of the prompt that were not computed again.
    pub cache_read_input_tokens: usize,
    /// Always 0: nothing is charged for keeping a prompt.
    pub cache_creation_input_tokens: usize,
    /// Tokens of the answer.
    pub output_tokens: usize,
}

impl From<&Usage> for MessageUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            cache_read_input_tokens: usage.cached_tokens,
            cache_creation_input_tokens: 0,
            output_tokens: usage.generated_tokens,
        }
    }
}

/// Answer of `POST /v1/messages/count_tokens`.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct TokenCount {
    /// Tokens of the prompt.
    pub input_tokens: usize,
}

/// What all parts of one answer have in common.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    id: String,
    model: String,
    /// What finds calls in the answer, where there may be some.
    pub(crate) finder: Option<ToolCallStream>,
}

impl Letter {
    pub(crate) fn new(request_id: &str, model: &str, request: &Request) -> Self {
        let finder = request.tool_calls();
        Self { id: request_id.to_owned(), model: model.to_owned(), finder }
    }

    /// The answer before anything is written.
    pub(crate) fn empty(&self) -> MessageResponse {
        MessageResponse {
            id: format!("msg_{}", self.id),
            kind: "message",
            role: "assistant",
            model: self.model.clone(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: MessageUsage::default(),
        }
    }

    /// The block of a call that has that number among all.
    pub(crate) fn call(&self, call: ToolCall, number: usize) -> AnswerBlock {
        AnswerBlock::ToolUse {
            id: format!("toolu_{}_{number}", self.id),
            name: call.name,
            input: input(&call.arguments),
        }
    }

    /// Why an answer ended, and the text that ended it.
    pub(crate) fn stopped(answer: &Answer, called: bool) -> (&'static str, Option<&str>) {
        match answer.finish {
            // A call of an answer that was cut need not be whole.
            FinishReason::Length | FinishReason::ContextFull => ("max_tokens", None),
            _ if called => ("tool_use", None),
            FinishReason::Stop => ("end_turn", None),
            FinishReason::StopString => ("stop_sequence", answer.stop_string.as_deref()),
        }
    }

    pub(crate) fn whole(&self, answer: &Answer) -> MessageResponse {
        let events = match self.finder.clone() {
            Some(finder) => finder.read(&answer.text, answer.finish.is_cut()),
            None => vec![ToolEvent::Text(answer.text.clone())],
        };
        let mut content: Vec<AnswerBlock> = Vec::new();
        for event in events {
            match (content.last_mut(), event) {
                (Some(AnswerBlock::Text { text }), ToolEvent::Text(more)) => text.push_str(&more),
                (_, ToolEvent::Text(text)) => content.push(AnswerBlock::Text { text }),
                (_, ToolEvent::Call(call)) => content.push(self.call(call, content.len())),
                // Those of a whole answer are with their call.
                (_, ToolEvent::Arguments(_)) => {}
            }
        }
        let called = content.iter().any(|block| matches!(block, AnswerBlock::ToolUse { .. }));
        let (reason, stop_sequence) = Self::stopped(answer, called);
        MessageResponse {
            content,
            stop_reason: Some(reason),
            stop_sequence: stop_sequence.map(str::to_owned),
            usage: MessageUsage::from(&answer.usage),
            ..self.empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> Result<Request, Problem> {
        serde_json::from_str::<MessagesBody>(json).unwrap().into_request()
    }

    #[test]
    fn turns_become_messages() {
        let made = request(
            r#"{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],
                "messages":[{"role":"user","content":"a"},
                {"role":"assistant","content":[{"type":"text","text":"b"},{"type":"tool_use","id":"1","name":"f","input":{"x":1}}]},
                {"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"2"}]},
                {"type":"text","text":"c"}]}],
                "tools":[{"name":"f","input_schema":{"type":"object"}}],"stop_sequences":["x"],"top_k":3}"#,
        )
        .unwrap();
        let Task::Chat { messages, tools } = &made.task else { panic!("a chat") };
        let said: Vec<(Role, &str)> =
            messages.iter().map(|m| (m.role, m.content.as_str())).collect();
        assert_eq!(
            said,
            [
                (Role::System, "s"),
                (Role::User, "a"),
                (Role::Assistant, "b"),
                (Role::Tool, "2"),
                (Role::User, "c")
            ]
        );
        assert_eq!(messages[2].tool_calls[0].arguments, r#"{"x":1}"#);
        assert_eq!((tools.len(), made.max_tokens, made.sampling.top_k), (1, 5, 3));
    }

    #[test]
    fn what_was_thought_before_is_left_out() {
        let made = request(
            r#"{"max_tokens":5,"messages":[{"role":"user","content":"a"},
                {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"x"},
                {"type":"redacted_thinking","data":"y"},{"type":"text","text":"b"}]}]}"#,
        )
        .unwrap();
        let Task::Chat { messages, .. } = &made.task else { panic!("a chat") };
        assert_eq!(messages[1], ChatMessage::new(Role::Assistant, "b"));
    }

    #[test]
    fn forms() {
        let form = r#"{"type":"json_schema","schema":{"type":"object"}}"#;
        for field in [
            format!(r#""output_config":{{"effort":"low","format":{form}}}"#),
            format!(r#""output_format":{form}"#),
        ] {
            let made = request(&format!(
                r#"{{"max_tokens":5,"messages":[{{"role":"user","content":"a"}}],{field}}}"#
            ));
            let schema = r#"{"type":"object"}"#.to_owned();
            assert_eq!(made.unwrap().format, OutputFormat::JsonSchema(schema));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let user = r#"{"role":"user","content":"a"}"#;
        for (field, json) in [
            ("max_tokens", format!(r#"{{"messages":[{user}]}}"#)),
            (
                "messages",
                r#"{"max_tokens":1,"messages":[{"role":"user","content":[{"type":"image"}]}]}"#
                    .to_owned(),
            ),
            (
                "tool_choice",
                format!(r#"{{"max_tokens":1,"messages":[{user}],"tool_choice":{{"type":"any"}}}}"#),
            ),
            (
                "output_config.format",
                format!(
                    r#"{{"max_tokens":1,"messages":[{user}],"output_config":{{"format":{{"type":"grammar"}}}}}}"#
                ),
            ),
        ] {
            assert_eq!(request(&json).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
