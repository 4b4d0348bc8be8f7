//! Tools that a model may call, and forms that an answer may have.

use hapa_service::{OutputFormat, ToolDefinition};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::wire::absent::nullable;
use crate::wire::choice::{Choice, offer};

/// A call of a function in a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ToolCallBody {
    /// What is called.
    pub function: CalledFunction,
}

/// A function and its arguments.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct CalledFunction {
    /// Its name.
    pub name: String,
    /// A JSON object as text.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub arguments: String,
}

/// A tool that the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ToolBody {
    /// Only `function` is understood.
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// The function.
    #[serde(default)]
    #[schema(value_type = FunctionBody, required)]
    pub function: Option<FunctionBody>,
}

/// Whether the model must call a tool.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "is neither a word nor {type: `function`, function: {name}}")]
pub enum ToolChoiceBody {
    /// `auto`, `none` or `required`.
    Word(String),
    /// This one, by its name.
    Function(ToolBody),
}

/// A function that the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct FunctionBody {
    /// Its name.
    #[schema(min_length = 1, max_length = 1024)]
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Its parameters as a JSON schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
}

/// The form of an answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|json_object|json_schema)$")]
    pub kind: String,
    /// The schema of `json_schema`.
    #[serde(default)]
    pub json_schema: Option<NamedSchema>,
    /// A schema of `json_object`: llama-server's way to say it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// A JSON schema.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedSchema {
    /// The schema; absent means any object.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

impl ResponseFormat {
    fn into_format(self) -> Result<OutputFormat, Problem> {
        match (self.kind.as_str(), self.json_schema) {
            ("text", _) => Ok(OutputFormat::Text),
            ("json_object", _) => Ok(self.schema.map_or(OutputFormat::JsonObject, |s| fits(&s))),
            ("json_schema", Some(NamedSchema { schema: None })) => Ok(OutputFormat::JsonObject),
            ("json_schema", Some(NamedSchema { schema: Some(schema) })) => Ok(fits(&schema)),
            ("json_schema", None) => {
                Err(Problem::invalid("response_format", "has no `json_schema`"))
            }
            (other, _) => {
                let shown: String = other.chars().take(50).collect();
                Err(Problem::invalid(
                    "response_format",
                    format!("`{shown}` is not known; text, json_object and json_schema are"),
                ))
            }
        }
    }
}

fn fits(schema: &Value) -> OutputFormat {
    OutputFormat::JsonSchema(schema.to_string())
}

/// The form that an answer must have, by the two fields that can ask for one.
pub(super) fn form(
    format: Option<ResponseFormat>,
    schema: Option<Value>,
) -> Result<OutputFormat, Problem> {
    let format = format.map_or(Ok(OutputFormat::Text), ResponseFormat::into_format)?;
    match (format, schema) {
        (format, None) => Ok(format),
        (OutputFormat::Text, Some(schema)) => Ok(fits(&schema)),
        (_, Some(_)) => {
            let problem = "is a second form beside `response_format`; leave one of them out";
            Err(Problem::invalid("json_schema", problem))
        }
    }
}

/// The tools that the model is told of, and the form of the call that it must make, if it must.
pub(super) fn offered(
    tools: Option<Vec<ToolBody>>,
    choice: Option<ToolChoiceBody>,
) -> Result<(Vec<ToolDefinition>, OutputFormat), Problem> {
    let tools = tools.unwrap_or_default().into_iter().map(|tool| match tool {
        ToolBody { kind, function: Some(function) } if kind == "function" => Ok(ToolDefinition {
            name: function.name,
            description: function.description,
            parameters: function
                .parameters
                .unwrap_or_else(|| serde_json::json!({ "type": "object", "properties": {} })),
        }),
        _ => Err(Problem::invalid("tools", "holds something that is no function")),
    });
    offer(tools.collect::<Result<_, _>>()?, &chosen(choice)?)
}

fn chosen(choice: Option<ToolChoiceBody>) -> Result<Choice, Problem> {
    match choice {
        None => Ok(Choice::Auto),
        Some(ToolChoiceBody::Word(word)) if word == "auto" => Ok(Choice::Auto),
        Some(ToolChoiceBody::Word(word)) if word == "none" => Ok(Choice::None),
        Some(ToolChoiceBody::Word(word)) if word == "required" => Ok(Choice::Required),
        Some(ToolChoiceBody::Function(ToolBody { kind, function: Some(function) }))
            if kind == "function" =>
        {
            Ok(Choice::Named(function.name))
        }
        Some(_) => {
            let known =
                "is neither `auto`, `none`, `required` nor {type: `function`, function: {name}}";
            Err(Problem::invalid("tool_choice", known))
        }
    }
}
