//! Calls in what a model writes.
//!
//! The form is that of Hermes and Qwen: `<tool_call>` and `</tool_call>` around a JSON object with `name` and `arguments`. Small
//! models often leave the tags out; an answer that is nothing but such an object (in a fence or not) is a call too. Only what was
//! offered can be called: an object that names something else is text.

use std::sync::Arc;

use serde_json::Value;

use super::tools::ToolCall;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolEvent {
    /// Text for the reader.
    Text(String),
    /// A call, with what there is of its arguments. The last one of an answer that was cut may be a part of one: its arguments end
    /// where the answer does.
    Call(ToolCall),
    /// More of the arguments of the last call.
    Arguments(String),
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const FENCE: &str = "```";
/// What an object that is a call begins with.
const FIELDS: [&str; 3] = ["name", "arguments", "parameters"];

/// Takes the calls out of an answer while it is written. What comes out does not depend on how the text was cut into pieces, but
/// for where text and arguments themselves are cut. Text is held back only as long as it may be a call; the arguments of one
/// between tags, or of one that is demanded, come as they are written.
///
/// ```
/// use hapa_model::prompt::{ToolCallStream, ToolEvent};
///
/// let mut stream = ToolCallStream::new(["add"]);
/// assert_eq!(stream.push("Let me see.\n<tool"), [ToolEvent::Text("Let me see.".to_owned())]);
/// let call = stream.push("_call>\n{\"name\": \"add\", \"arguments\": {\"a");
/// assert!(matches!(&call[0], ToolEvent::Call(call) if call.name == "add" && call.arguments.is_empty()));
/// assert_eq!(call[1], ToolEvent::Arguments(r#"{"a"#.to_owned()));
/// assert_eq!(stream.push("\": 1}}\n</tool_call>"), [ToolEvent::Arguments(r#"": 1}"#.to_owned())]);
/// assert!(stream.finish(false).is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct ToolCallStream {
    /// What can be called.
    names: Arc<[String]>,
    held: String,
    /// Blanks before the opening tag: text, should it open no call.
    gap: String,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What there is may become a call without tags.
    Start,
    Text,
    /// Between the tags.
    Call,
    /// The answer began like a call without tags: its end decides.
    Bare,
    /// The answer is a call, whatever there is of it.
    Demanded,
    /// In the arguments of a call that is certain.
    Arguments(Scan),
    /// Behind them, in what else the call's object has.
    Rest(Scan),
    /// Behind the object: a closing tag may follow.
    Closing,
}

/// How deep in JSON that comes in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scan {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Scan {
    fn new(depth: usize) -> Self {
        Self { depth, in_text: false, escaped: false }
    }

    /// Where all brackets are closed, or a tag shows that they never will be.
    fn end(&mut self, json: &str) -> Option<usize> {
        for (at, byte) in json.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                b'<' => return Some(at),
                _ => {}
            }
        }
        None
    }
}

impl ToolCallStream {
    /// For an answer in which functions of these names may be called.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::begin(names, State::Start)
    }

    /// For an answer that is a call of one of these functions and nothing else, since that form was enforced.
    pub fn demanded(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::begin(names, State::Demanded)
    }

    fn begin(names: impl IntoIterator<Item = impl Into<String>>, state: State) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self { names, held: String::new(), gap: String::new(), state }
    }

    /// Takes the calls out of a whole answer, each with its arguments; see [`Self::finish`] for `cut`.
    pub fn read(mut self, text: &str, cut: bool) -> Vec<ToolEvent> {
        let mut events: Vec<ToolEvent> = Vec::new();
        for event in self.push(text).into_iter().chain(self.finish(cut)) {
            match (event, events.last_mut()) {
                (ToolEvent::Arguments(more), Some(ToolEvent::Call(call))) => {
                    call.arguments.push_str(&more);
                }
                (event, _) => events.push(event),
            }
        }
        events
    }

    /// Adds text; returns what it made certain.
    pub fn push(&mut self, text: &str) -> Vec<ToolEvent> {
        self.held.push_str(text);
        let mut events = Vec::new();
        loop {
            match self.state {
                State::Start => match head(&self.held, &self.names) {
                    Err(Doubt::TooShort) => return events,
                    Err(Doubt::NoCall) => self.state = State::Text,
                    Ok(_) => self.state = State::Bare,
                },
                State::Bare => return events,
                State::Arguments(mut scan) => {
                    let Some(end) = scan.end(&self.held) else {
                        self.state = State::Arguments(scan);
                        push_arguments(&mut events, std::mem::take(&mut self.held));
                        return events;
                    };
                    let rest = self.held.split_off(end);
                    push_arguments(&mut events, std::mem::replace(&mut self.held, rest));
                    self.state = State::Rest(Scan::new(1));
                }
                State::Rest(mut scan) => {
                    let Some(end) = scan.end(&self.held) else {
                        self.state = State::Rest(scan);
                        self.held.clear();
                        return events;
                    };
                    self.held.drain(..end);
                    self.state = State::Closing;
                }
                State::Closing => {
                    let text = self.held.trim_start();
                    if let Some(rest) = text.strip_prefix(CLOSE) {
                        self.held = rest.to_owned();
                    } else if CLOSE.starts_with(text) {
                        return events;
                    }
                    self.state = State::Text;
                }
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
                        let certain = self.held.len() - begun_at_end(&self.held, OPEN);
                        let certain = self.held[..certain].trim_end().len();
                        let rest = self.held.split_off(certain);
                        push_text(&mut events, &std::mem::replace(&mut self.held, rest));
                        return events;
                    }
                }
                State::Call | State::Demanded => {
                    if self.open_call(&mut events) {
                        continue;
                    }
                    if self.state == State::Demanded {
                        return events;
                    }
                    let Some(at) = self.held.find(CLOSE) else { return events };
                    let rest = self.held.split_off(at + CLOSE.len());
                    let whole = std::mem::replace(&mut self.held, rest);
                    match parse(&whole[..at], &self.names) {
                        Some(call) => events.push(ToolEvent::Call(call)),
                        None => push_text(&mut events, &format!("{}{OPEN}{whole}", self.gap)),
                    }
                    self.state = State::Text;
                }
            }
        }
    }

    /// Tells of the call that begins with what is held, once it is certain that what follows is an object: its arguments.
    fn open_call(&mut self, events: &mut Vec<ToolEvent>) -> bool {
        let Some((name, arguments)) = named(&self.held, &self.names) else { return false };
        if !arguments.starts_with('{') {
            return false;
        }
        events.push(ToolEvent::Call(ToolCall { name: name.to_owned(), arguments: String::new() }));
        self.held = arguments.to_owned();
        self.state = State::Arguments(Scan::new(0));
        true
    }

    /// Ends the answer; returns what was held back. `cut` says that the answer was cut off, and not ended by the model: a call that
    /// it had begun is told as far as it came, and is no text.
    pub fn finish(mut self, cut: bool) -> Vec<ToolEvent> {
        let mut events = Vec::new();
        let held = std::mem::take(&mut self.held);
        let begun = |text: &str| cut.then(|| begun(text, &self.names)).flatten();
        match self.state {
            State::Start | State::Text => push_text(&mut events, &held),
            // The call has been told of, as far as it came.
            State::Arguments(_) | State::Rest(_) | State::Closing => {}
            State::Call => {
                let inside = &held[..held.len() - begun_at_end(&held, CLOSE)];
                match parse(inside, &self.names).or_else(|| begun(inside)) {
                    Some(call) => events.push(ToolEvent::Call(call)),
                    None => push_text(&mut events, &format!("{}{OPEN}{held}", self.gap)),
                }
            }
            State::Bare => {
                match parse(without_fence(&held), &self.names).or_else(|| begun(&held)) {
                    Some(call) => events.push(ToolEvent::Call(call)),
                    None => {
                        // Text after all; there may be calls with tags in it.
                        let again = Self { held: String::new(), state: State::Text, ..self };
                        events.extend(again.read(&held, cut));
                    }
                }
            }
            // The form is HAPA's own: no reader wants to see it, however little of it there is.
            State::Demanded => {
                let only = || match &self.names[..] {
                    [name] => Some(ToolCall { name: name.clone(), arguments: String::new() }),
                    _ => None,
                };
                let call = parse(&held, &self.names).or_else(|| self::begun(&held, &self.names));
                events.extend(call.or_else(only).map(ToolEvent::Call));
            }
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

fn push_arguments(events: &mut Vec<ToolEvent>, arguments: String) {
    if !arguments.is_empty() {
        events.push(ToolEvent::Arguments(arguments));
    }
}

/// Bytes at the end of a text that may be the beginning of a tag.
fn begun_at_end(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&length| text.ends_with(&tag[..length])).unwrap_or(0)
}

fn parse(text: &str, names: &[String]) -> Option<ToolCall> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let name =
        value.get("name")?.as_str().filter(|name| names.iter().any(|known| known == name))?;
    let arguments = match value.get("arguments").or_else(|| value.get("parameters"))? {
        // Some write the arguments as a text with JSON in it.
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(ToolCall { name: name.to_owned(), arguments })
}

fn without_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(inside) = text.strip_prefix(FENCE) else { return text };
    // An answer that was cut may have a part of the closing fence, or none.
    inside.strip_prefix("json").unwrap_or(inside).trim_end_matches('`')
}

/// Why a text is not known to begin like a call.
enum Doubt {
    /// It may still become one.
    TooShort,
    /// It never will.
    NoCall,
}

/// The beginning of a call without tags. Where it begins with the name: that, and what follows it.
fn head<'a>(text: &'a str, names: &[String]) -> Result<Option<(&'a str, &'a str)>, Doubt> {
    let text = text.trim_start();
    let text = match text.strip_prefix(FENCE) {
        None if FENCE.starts_with(text) => return Err(Doubt::TooShort),
        None => text,
        Some(inside) if "json".starts_with(inside) => return Err(Doubt::TooShort),
        Some(inside) => inside.strip_prefix("json").unwrap_or(inside),
    };
    let (field, rest) = word(after(text, "{")?, &FIELDS)?;
    if field != "name" {
        return Ok(None);
    }
    word(after(rest, ":")?, names).map(Some)
}

/// What follows `start`, which may stand after blanks.
fn after<'a>(text: &'a str, start: &str) -> Result<&'a str, Doubt> {
    let text = text.trim_start();
    match text.strip_prefix(start) {
        Some(rest) => Ok(rest),
        None if start.starts_with(text) => Err(Doubt::TooShort),
        None => Err(Doubt::NoCall),
    }
}

/// A text in quotes that is one of those known, and what follows it.
fn word<'a>(text: &'a str, known: &[impl AsRef<str>]) -> Result<(&'a str, &'a str), Doubt> {
    let text = after(text, "\"")?;
    let mut known = known.iter().map(AsRef::as_ref);
    match text.split_once('"') {
        Some((word, rest)) if known.any(|known| known == word) => Ok((word, rest)),
        None if known.any(|known| known.starts_with(text)) => Err(Doubt::TooShort),
        _ => Err(Doubt::NoCall),
    }
}

/// A call that is not whole: its name, and as much as there is of its arguments.
fn begun(text: &str, names: &[String]) -> Option<ToolCall> {
    let (name, arguments) = named(text, names)?;
    Some(ToolCall { name: name.to_owned(), arguments: arguments.to_owned() })
}

/// The name that an object begins with, and what there is of its arguments.
fn named<'a>(text: &'a str, names: &[String]) -> Option<(&'a str, &'a str)> {
    let (name, rest) = head(text, names).ok()??;
    let arguments = after(rest, ",")
        .and_then(|rest| word(rest, &FIELDS))
        .and_then(|(_, rest)| after(rest, ":"))
        .map_or("", str::trim_start);
    Some((name, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(events: Vec<ToolEvent>) -> (String, Vec<(String, String)>) {
        let (mut text, mut calls) = (String::new(), Vec::new());
        for event in events {
            match event {
                ToolEvent::Text(piece) => text.push_str(&piece),
                ToolEvent::Call(call) => calls.push((call.name, call.arguments)),
                ToolEvent::Arguments(more) => calls.last_mut().unwrap().1.push_str(&more),
            }
        }
        (text, calls)
    }

    /// What comes out, which must be the same for the whole text and for each of its characters alone.
    #[track_caller]
    fn read_as(stream: &ToolCallStream, text: &str, cut: bool) -> (String, Vec<(String, String)>) {
        let mut pieces = stream.clone();
        let mut events: Vec<ToolEvent> =
            text.chars().flat_map(|piece| pieces.push(piece.encode_utf8(&mut [0; 4]))).collect();
        events.extend(pieces.finish(cut));
        let whole = sorted(stream.clone().read(text, cut));
        assert_eq!(sorted(events), whole, "{text}");
        whole
    }

    #[track_caller]
    fn read(text: &str) -> (String, Vec<(String, String)>) {
        read_as(&ToolCallStream::new(["f", "go"]), text, false)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn calls_among_text() {
        let answer = "I look.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, \"</b>\"]}}\n</tool_call>\n\
                      <tool_call>{\"name\": \"go\", \"arguments\": {}}</tool_call>\n";
        let expected =
            ("I look.".to_owned(), vec![call("f", r#"{"x": [1, "</b>"]}"#), call("go", "{}")]);
        assert_eq!(read(answer), expected);
    }

    #[test]
    fn what_is_no_call_is_text() {
        for text in [
            "a < b",
            "<tool_cal",
            "x <tool_call> y </tool_call>",
            "{\"a\": 1}",
            "```py\nx\n```",
            "```",
            "{\"na",
            "{\"name\": \"f\"}",
            "{\"name\": \"f\", \"arguments\": {}} is how it is called",
        ] {
            assert_eq!(read(text), (text.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn what_was_not_offered_is_not_called() {
        let object = r#"{"name": "Ada", "arguments": {"born": 1815}}"#;
        for text in [
            object.to_owned(),
            format!("```json\n{object}\n```"),
            format!("<tool_call>{object}</tool_call>"),
            r#"{"arguments": {}, "name": "Ada"}"#.to_owned(),
        ] {
            assert_eq!(read(&text), (text.clone(), vec![]));
        }
    }

    #[test]
    fn calls_without_tags_or_end() {
        let bare = "{\"name\": \"f\", \"arguments\": {\"a\": 1}}";
        for text in [
            bare.to_owned(),
            format!("```json\n{bare}\n```\n"),
            format!("``` {bare}```"),
            r#"{"parameters": {"a": 1}, "name": "f"}"#.to_owned(),
            r#"<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>"#.to_owned(),
            r#"<tool_call>{"name": "f", "arguments": "{\"a\":1}"}"#.to_owned(),
        ] {
            assert_eq!(read(&text), (String::new(), vec![call("f", r#"{"a":1}"#)]), "{text}");
        }
        let expected = (String::new(), vec![call("f", r#"{"a": 1}"#)]);
        assert_eq!(read(&format!("<tool_call>{bare}")), expected);
    }

    #[test]
    fn arguments_come_as_they_are_written() {
        let arguments = r#"{"path": "a.py", "text": "x = '</tool_call>' # \"}\\"}"#;
        let object = format!(r#"{{"name": "f", "arguments": {arguments}}}"#);
        for (mut stream, opened) in
            [(ToolCallStream::new(["f"]), "<tool_call>\n"), (ToolCallStream::demanded(["f"]), "")]
        {
            let (mut shown, mut events) = (String::new(), 0);
            for piece in format!("{opened}{object}").chars() {
                for event in stream.push(piece.encode_utf8(&mut [0; 4])) {
                    match event {
                        ToolEvent::Text(text) => panic!("{text}"),
                        ToolEvent::Call(call) => assert_eq!((&*call.name, shown.len()), ("f", 0)),
                        ToolEvent::Arguments(more) => shown.push_str(&more),
                    }
                    events += 1;
                }
            }
            assert_eq!((&*shown, events), (arguments, 1 + arguments.len()));
            assert!(stream.finish(false).is_empty());
        }
    }

    #[test]
    fn what_follows_a_call_is_not_lost() {
        let object = r#"{"name": "f", "arguments": {"a": 1}"#;
        let one = || vec![call("f", r#"{"a": 1}"#)];
        for (rest, text) in [
            (", \"id\": {\"n\": 1}}</tool_call>", ""),
            ("}\n</tool_call>\nDone.", "\nDone."),
            ("}\nDone.", "\nDone."),
            ("}</tool_calls>", "</tool_calls>"),
            ("</tool_call> Done.", " Done."),
        ] {
            let answer = format!("<tool_call>{object}{rest}");
            assert_eq!(read(&answer), (text.to_owned(), one()), "{answer}");
        }
        let twice = format!("<tool_call>{object}}}\n<tool_call>{object}}}\n</tool_call>");
        assert_eq!(read(&twice), (String::new(), [one(), one()].concat()));
    }

    #[test]
    fn text_is_held_back_only_while_it_may_be_a_call() {
        for (held, more) in [
            ("```", "p"),
            ("```js", "\n"),
            ("{\"na", "tion"),
            ("{ \"name\": \"", "A"),
            ("```json\n", "["),
            ("{", "}"),
        ] {
            let mut stream = ToolCallStream::new(["f"]);
            assert!(stream.push(held).is_empty(), "{held}");
            let shown = sorted(stream.push(more)).0;
            assert_eq!(shown, format!("{held}{more}").trim_end(), "{held}");
        }
    }

    #[test]
    fn what_was_cut_is_a_call_as_far_as_it_came() {
        let stream = ToolCallStream::new(["f", "go"]);
        let begun = r#"{"name": "f", "arguments": {"a": [1, "x"#;
        let expected = (String::new(), vec![call("f", r#"{"a": [1, "x"#)]);
        for text in [begun.to_owned(), format!("```json\n{begun}")] {
            assert_eq!(read_as(&stream, &text, true), expected);
            assert_eq!(read(&text), (text.clone(), vec![]), "the model ended it so");
        }
        // A tag says that it is one, however it ends.
        let tagged = format!("<tool_call>\n{begun}");
        assert_eq!(read_as(&stream, &tagged, true), expected);
        assert_eq!(read(&tagged), expected);
        let whole = r#"{"name": "f", "arguments": {"a": 1}}"#;
        for (text, arguments) in [
            (format!("<tool_call>{whole}</tool_"), r#"{"a": 1}"#),
            (format!("```json\n{whole}\n``"), r#"{"a":1}"#),
        ] {
            let expected = (String::new(), vec![call("f", arguments)]);
            assert_eq!(read_as(&stream, &text, true), expected, "{text}");
        }
        let text = "Well {\"name\": \"f\",";
        assert_eq!(read_as(&stream, text, true), (text.to_owned(), vec![]));
    }

    #[test]
    fn the_form_of_a_demanded_call_is_never_text() {
        let one = ToolCallStream::demanded(["f"]);
        let any = ToolCallStream::demanded(["f", "go"]);
        for (text, arguments) in [
            (r#"{"name": "f", "arguments": {"a": 1}}"#, r#"{"a": 1}"#),
            (r#"{"name": "f", "arguments": {"a""#, r#"{"a""#),
            (r#"{"name": "f", "argu"#, ""),
        ] {
            for stream in [&one, &any] {
                let expected = (String::new(), vec![call("f", arguments)]);
                assert_eq!(read_as(stream, text, true), expected, "{text}");
            }
        }
        assert_eq!(read_as(&one, r#"{"na"#, true), (String::new(), vec![call("f", "")]));
        assert_eq!(read_as(&any, r#"{"na"#, true), (String::new(), vec![]));
    }
}
