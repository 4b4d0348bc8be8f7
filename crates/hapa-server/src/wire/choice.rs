//! Which tools a model may call, and which it must: OpenAI's and Anthropic's `tool_choice`.

use hapa_service::{OutputFormat, ToolDefinition};
use serde_json::{Value, json};

use crate::problem::Problem;

/// What a request wants of its tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// The model decides.
    Auto,
    /// No calls; the model is not told of any tool.
    None,
    /// A call of one of them.
    Required,
    /// A call of this one.
    Named(String),
}

/// The tools that the model is told of, and the form that its answer must have where it must call one: that of the call, which
/// is enforced while it is written.
pub(super) fn offer(
    tools: Vec<ToolDefinition>,
    choice: &Choice,
) -> Result<(Vec<ToolDefinition>, OutputFormat), Problem> {
    let refuse = |problem: String| Err(Problem::invalid("tool_choice", problem));
    let callable: Vec<&ToolDefinition> = match choice {
        Choice::Auto => return Ok((tools, OutputFormat::Text)),
        Choice::None => return Ok((Vec::new(), OutputFormat::Text)),
        Choice::Required => tools.iter().collect(),
        Choice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
    };
    let schema = match (callable.as_slice(), choice) {
        ([], Choice::Named(name)) => {
            let shown: String = name.chars().take(100).collect();
            return refuse(format!("names `{shown}`, which is not among `tools`"));
        }
        ([], _) => return refuse("demands a call, and there are no `tools`".to_owned()),
        ([tool], _) => call(tool, "#"),
        (tools, _) => {
            let forms = tools.iter().enumerate();
            let forms: Vec<Value> =
                forms.map(|(index, tool)| call(tool, &format!("#/anyOf/{index}"))).collect();
            json!({ "anyOf": forms })
        }
    };
    Ok((tools, OutputFormat::JsonSchema(schema.to_string())))
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

    fn schema(tools: &[ToolDefinition], choice: &Choice) -> Value {
        let (offered, form) = offer(tools.to_vec(), choice).unwrap();
        assert_eq!(offered, tools, "the model is told of all of them");
        let OutputFormat::JsonSchema(schema) = form else { panic!("{form:?}") };
        serde_json::from_str(&schema).unwrap()
    }

    #[test]
    fn a_call_is_a_form() {
        let tools = [tool("a", json!({ "type": "object" })), tool("b", json!({}))];
        assert_eq!(
            offer(tools.to_vec(), &Choice::Auto).unwrap(),
            (tools.to_vec(), OutputFormat::Text)
        );
        assert_eq!(offer(tools.to_vec(), &Choice::None).unwrap(), (Vec::new(), OutputFormat::Text));
        let any = schema(&tools, &Choice::Required);
        assert_eq!(any["anyOf"][1]["properties"]["name"]["const"], "b");
        let named = schema(&tools, &Choice::Named("a".to_owned()));
        assert_eq!(named["properties"]["arguments"], json!({ "type": "object" }));
        for (tools, choice) in
            [(&tools[..], Choice::Named("c".to_owned())), (&[][..], Choice::Required)]
        {
            let problem = offer(tools.to_vec(), &choice).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("tool_choice"));
        }
    }

    #[test]
    fn references_go_along() {
        let parameters = json!({
            "$defs": { "n": { "type": "integer" } },
            "properties": { "$ref": { "type": "string" }, "x": { "items": [{ "$ref": "#/$defs/n" }] } },
        });
        let tools = [tool("a", json!({})), tool("b", parameters)];
        let any = schema(&tools, &Choice::Required);
        let found =
            any["anyOf"][1]["properties"]["arguments"]["properties"]["x"]["items"][0]["$ref"]
                .as_str();
        let target = found.and_then(|found| any.pointer(found.strip_prefix('#')?));
        assert_eq!(target, Some(&json!({ "type": "integer" })));
    }
}
