//! Tools that a model may call: how a template is told of them, and how calls are found in what the model writes.
//!
//! The form is that of Hermes and Qwen: `<tool_call>` and `</tool_call>` around a JSON object with `name` and `arguments`. Small
//! models often leave the tags out; an answer that is nothing but such an object (in a fence or not) is a call too.

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

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolEvent {
    /// Text for the reader.
    Text(String),
    /// A call.
    Call(ToolCall),
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Takes the calls out of an answer while it is written. What comes out does not depend on how the text was cut into pieces, but
/// for where the text itself is cut.
///
/// ```
/// use hapa_model::prompt::{ToolCallStream, ToolEvent};
///
/// let mut stream = ToolCallStream::default();
/// assert_eq!(stream.push("Let me see.\n<tool"), [ToolEvent::Text("Let me see.".to_owned())]);
/// let call = stream.push("_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>");
/// assert!(matches!(&call[..], [ToolEvent::Call(call)] if call.name == "add" && call.arguments == r#"{"a":1}"#));
/// assert!(stream.finish().is_empty());
/// ```
#[derive(Debug, Default)]
pub struct ToolCallStream {
    held: String,
    /// Blanks before the opening tag: text, should it open no call.
    gap: String,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but blanks so far.
    #[default]
    Start,
    Text,
    /// Between the tags.
    Call,
    /// The answer began like a call without tags: its end decides.
    Bare,
}

impl ToolCallStream {
    /// Adds text; returns what it made certain.
    pub fn push(&mut self, text: &str) -> Vec<ToolEvent> {
        self.held.push_str(text);
        let mut events = Vec::new();
        loop {
            match self.state {
                State::Start => match self.held.trim_start().chars().next() {
                    None => return events,
                    Some('{' | '`') => self.state = State::Bare,
                    Some(_) => self.state = State::Text,
                },
                State::Bare => return events,
                State::Text => {
                    if let Some(at) = self.held.find(OPEN) {
                        let rest = self.held.split_off(at + OPEN.len());
                        self.held.truncate(at);
                        let before = std::mem::replace(&mut self.held, rest);
                        let certain = before.trim_end();
                        self.gap = before[certain.len()..].to_owned();
                        push_text(&mut events, certain);
                        self.state = State::Call;
                    } else {
                        // Blanks may stand before a call, and the end may be the beginning of a tag.
                        let certain = self.held.len() - tag_begun(&self.held);
                        let certain = self.held[..certain].trim_end().len();
                        let rest = self.held.split_off(certain);
                        push_text(&mut events, &std::mem::replace(&mut self.held, rest));
                        return events;
                    }
                }
                State::Call => {
                    let Some(at) = self.held.find(CLOSE) else { return events };
                    let rest = self.held.split_off(at + CLOSE.len());
                    let whole = std::mem::replace(&mut self.held, rest);
                    match parse(&whole[..at]) {
                        Some(call) => events.push(ToolEvent::Call(call)),
                        None => push_text(&mut events, &format!("{}{OPEN}{whole}", self.gap)),
                    }
                    self.state = State::Text;
                }
            }
        }
    }

    /// Ends the answer; returns what was held back.
    pub fn finish(mut self) -> Vec<ToolEvent> {
        let mut events = Vec::new();
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Start => {}
            State::Text => push_text(&mut events, &held),
            State::Call => match parse(&held) {
                Some(call) => events.push(ToolEvent::Call(call)),
                None => push_text(&mut events, &format!("{}{OPEN}{held}", self.gap)),
            },
            State::Bare => match parse(without_fence(&held)) {
                Some(call) => events.push(ToolEvent::Call(call)),
                None => {
                    // Text after all; there may be calls with tags in it.
                    let mut again = Self { held, state: State::Text, ..Self::default() };
                    events.extend(again.push(""));
                    events.extend(again.finish());
                }
            },
        }
        events.retain(|event| !matches!(event, ToolEvent::Text(text) if text.trim().is_empty()));
        events
    }
}

fn push_text(events: &mut Vec<ToolEvent>, text: &str) {
    if !text.is_empty() {
        events.push(ToolEvent::Text(text.to_owned()));
    }
}

/// Bytes at the end of a text that may be the beginning of the opening tag.
fn tag_begun(text: &str) -> usize {
    (1..OPEN.len()).rev().find(|&length| text.ends_with(&OPEN[..length])).unwrap_or(0)
}

fn parse(text: &str) -> Option<ToolCall> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = match value.get("arguments").or_else(|| value.get("parameters"))? {
        // Some write the arguments as a text with JSON in it.
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(ToolCall { name, arguments })
}

fn without_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|text| text.strip_suffix("```")) else {
        return text;
    };
    inner.split_once('\n').map_or(inner, |(_, body)| body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&str]) -> (String, Vec<(String, String)>) {
        let mut stream = ToolCallStream::default();
        let mut events: Vec<ToolEvent> =
            pieces.iter().flat_map(|piece| stream.push(piece)).collect();
        events.extend(stream.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for event in events {
            match event {
                ToolEvent::Text(piece) => text.push_str(&piece),
                ToolEvent::Call(call) => calls.push((call.name, call.arguments)),
            }
        }
        (text, calls)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn calls_among_text() {
        let answer = "I look.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, \"</b>\"]}}\n</tool_call>\n\
                      <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>\n";
        let expected =
            ("I look.".to_owned(), vec![call("f", r#"{"x":[1,"</b>"]}"#), call("g", "{}")]);
        assert_eq!(read(&[answer]), expected);
        let pieces: Vec<String> = answer.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(read(&pieces), expected);
    }

    #[test]
    fn what_is_no_call_is_text() {
        for text in
            ["a < b", "<tool_cal", "x <tool_call> y </tool_call>", "{\"a\": 1}", "```py\nx\n```"]
        {
            assert_eq!(read(&[text]), (text.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn calls_without_tags_or_end() {
        let bare = "{\"name\": \"f\", \"arguments\": {\"a\": 1}}";
        for text in
            [bare.to_owned(), format!("```json\n{bare}\n```\n"), format!("<tool_call>{bare}")]
        {
            assert_eq!(read(&[&text]), (String::new(), vec![call("f", r#"{"a":1}"#)]), "{text}");
        }
    }

    #[test]
    fn templates_see_openais_form() {
        let call = ToolCall { name: "f".to_owned(), arguments: r#"{"a":1}"#.to_owned() };
        let text = serde_json::to_string(&call).unwrap();
        assert_eq!(text, r#"{"type":"function","function":{"name":"f","arguments":{"a":1}}}"#);
    }
}
