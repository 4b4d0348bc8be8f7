//! The form of a call that a model must make.

use serde_json::{Value, json};

use super::{Grammar, GrammarCompiler};
use crate::error::{ModelError, Result};
use crate::prompt::ToolDefinition;

impl GrammarCompiler {
    /// The form of a call of one of the tools that `callable` names. Their schemas are written to tell a model something, not to be
    /// enforced to the letter: keywords and formats that cannot be are left out, and `oneOf` is taken as `anyOf`.
    ///
    /// # Errors
    /// [`ModelError::ToolParameters`] for a schema that is none or can never be met, [`ModelError::Grammar`] when it is no single
    /// one's fault, or none of the tools is named.
    pub fn tool_call(&self, tools: &[ToolDefinition], callable: &[String]) -> Result<Grammar> {
        let called: Vec<(usize, &ToolDefinition)> =
            tools.iter().enumerate().filter(|(_, tool)| callable.contains(&tool.name)).collect();
        let compile = |called: &[(usize, &ToolDefinition)]| {
            self.compile(&form(called.iter().map(|(_, tool)| *tool)).to_string(), true)
        };
        compile(&called).map_err(|error| {
            // For the compiler all are one schema; whose it is shows when each stands alone.
            let alone = |tool: &(usize, &ToolDefinition)| match compile(&[*tool]) {
                Err(ModelError::Grammar { problem }) => Some((tool.0, problem)),
                _ => None,
            };
            match called.iter().find_map(alone) {
                Some((tool, problem)) => ModelError::ToolParameters { tool, problem },
                None => error,
            }
        })
    }
}

/// The schema of a call of one of some tools.
fn form<'a>(tools: impl ExactSizeIterator<Item = &'a ToolDefinition>) -> Value {
    let is_only = tools.len() == 1;
    let place = |at: usize| if is_only { "#".to_owned() } else { format!("#/anyOf/{at}") };
    let mut forms: Vec<Value> =
        tools.enumerate().map(|(at, tool)| call(tool, &place(at))).collect();
    match forms.pop() {
        Some(only) if is_only => only,
        last => {
            forms.extend(last);
            json!({ "anyOf": forms })
        }
    }
}

/// The schema of a call as models write it, at a place of a larger schema.
fn call(tool: &ToolDefinition, place: &str) -> Value {
    let mut arguments = tool.parameters.clone();
    rebase(&mut arguments, &format!("{place}/properties/arguments"));
    json!({
        "type": "object",
        "properties": { "name": { "const": tool.name }, "arguments": arguments },
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}

/// Turns references to the root of a schema into references to where it stands now.
fn rebase(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => {
                        if let Some(rest) = target.strip_prefix('#') {
                            *target = format!("{place}{rest}");
                        }
                    }
                    value => rebase(value, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, place)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, parameters: Value) -> ToolDefinition {
        ToolDefinition { name: name.to_owned(), description: None, parameters }
    }

    #[test]
    fn a_call_is_a_form() {
        let tools = [tool("a", json!({ "type": "object" })), tool("b", json!({}))];
        let any = form(tools.iter());
        assert_eq!(any["anyOf"][1]["properties"]["name"]["const"], "b");
        let one = form(tools[..1].iter());
        assert_eq!(one["properties"]["arguments"], json!({ "type": "object" }));
    }

    #[test]
    fn references_go_along() {
        let parameters = json!({
            "$defs": { "n": { "type": "integer" } },
            "properties": { "$ref": { "type": "string" }, "x": { "items": [{ "$ref": "#/$defs/n" }] } },
        });
        let tools = [tool("a", json!({})), tool("b", parameters)];
        let any = form(tools.iter());
        let found =
            any["anyOf"][1]["properties"]["arguments"]["properties"]["x"]["items"][0]["$ref"]
                .as_str();
        let target = found.and_then(|found| any.pointer(found.strip_prefix('#')?));
        assert_eq!(target, Some(&json!({ "type": "integer" })));
    }
}
