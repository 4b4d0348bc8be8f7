//! Which tools a model may call, and which it must: OpenAI's and Anthropic's `tool_choice`.

use hapa_service::{OutputFormat, ToolDefinition};

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
    let callable: Vec<String> = match choice {
        Choice::Auto => return Ok((tools, OutputFormat::Text)),
        Choice::None => return Ok((Vec::new(), OutputFormat::Text)),
        Choice::Required if tools.is_empty() => {
            return refuse("demands a call, and there are no `tools`".to_owned());
        }
        Choice::Required => tools.iter().map(|tool| tool.name.clone()).collect(),
        Choice::Named(name) if tools.iter().any(|tool| tool.name == *name) => vec![name.clone()],
        Choice::Named(name) => {
            let shown: String = name.chars().take(100).collect();
            return refuse(format!("names `{shown}`, which is not among `tools`"));
        }
    };
    Ok((tools, OutputFormat::ToolCall(callable)))
}

/// The one form that an answer has, of the one that was asked for (in `field`) and that of a call that must be made.
pub(super) fn only(
    field: &str,
    asked: OutputFormat,
    call: OutputFormat,
) -> Result<OutputFormat, Problem> {
    match (asked, call) {
        (asked, OutputFormat::Text) => Ok(asked),
        (OutputFormat::Text, call) => Ok(call),
        _ => {
            let problem =
                format!("demands a call, which has a form of its own; leave `{field}` out");
            Err(Problem::invalid("tool_choice", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_and_what_must_be_called() {
        let tool = |name: &str| ToolDefinition {
            name: name.to_owned(),
            description: None,
            parameters: serde_json::json!({}),
        };
        let tools = vec![tool("a"), tool("b")];
        let call = |names: &[&str]| {
            OutputFormat::ToolCall(names.iter().map(|&name| name.to_owned()).collect())
        };
        for (choice, told, form) in [
            (Choice::Auto, 2, OutputFormat::Text),
            (Choice::None, 0, OutputFormat::Text),
            (Choice::Required, 2, call(&["a", "b"])),
            (Choice::Named("b".to_owned()), 2, call(&["b"])),
        ] {
            let (offered, format) = offer(tools.clone(), &choice).unwrap();
            assert_eq!((offered.len(), format), (told, form), "{choice:?}");
        }
        for (tools, choice) in
            [(&tools[..], Choice::Named("c".to_owned())), (&[][..], Choice::Required)]
        {
            let problem = offer(tools.to_vec(), &choice).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("tool_choice"));
        }
    }
}
