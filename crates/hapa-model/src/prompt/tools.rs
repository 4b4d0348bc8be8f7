//! Tools that a model may call, and calls of them: how a template is told of both.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolDefinition {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its parameters as a JSON schema.
    pub parameters: Value,
}

impl Serialize for ToolDefinition {
    /// In the form that templates expect: OpenAI's.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut function = json!({ "name": self.name });
        if let Some(description) = &self.description {
            function["description"] = json!(description);
        }
        function["parameters"] = self.parameters.clone();
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("type", "function")?;
        map.serialize_entry("function", &function)?;
        map.end()
    }
}

/// A call of a function by the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The function.
    pub name: String,
    /// Its arguments: a JSON object as text.
    pub arguments: String,
}

impl Serialize for ToolCall {
    /// In the form that templates expect: OpenAI's, with the arguments as an object.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let arguments = serde_json::from_str(&self.arguments)
            .unwrap_or_else(|_| Value::String(self.arguments.clone()));
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("type", "function")?;
        map.serialize_entry("function", &json!({ "name": self.name, "arguments": arguments }))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_see_openais_form() {
        let call = ToolCall { name: "f".to_owned(), arguments: r#"{"a":1}"#.to_owned() };
        let text = serde_json::to_string(&call).unwrap();
        assert_eq!(text, r#"{"type":"function","function":{"name":"f","arguments":{"a":1}}}"#);
    }
}
