//! Reading answers of all dialects: the fields have different names, none of which clash.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// What one event of a stream, or one whole answer, says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Chunk<'a> {
    /// Text of the answer; empty when the event brings none.
    pub(crate) text: Cow<'a, str>,
    /// Whether this ends the answer.
    pub(crate) end: bool,
    /// Tokens of the prompt and of the answer, as the server counts them.
    pub(crate) usage: Option<(u64, u64)>,
    /// When the first token was there by HAPA's receipt, from when the engine was asked.
    pub(crate) engine_first: Option<Duration>,
    /// The server's own words about a failure.
    pub(crate) error: Option<String>,
}

/// Any of the bodies.
#[derive(Deserialize)]
struct Body<'a> {
    /// HAPA: `delta`, `done`, `error`.
    #[serde(default, rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    /// HAPA's delta.
    #[serde(default, borrow)]
    text: Option<Cow<'a, str>>,
    /// HAPA's whole answers.
    #[serde(default, borrow)]
    generated_code: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    completions: Option<Vec<Cow<'a, str>>>,
    #[serde(default, borrow)]
    error_message: Option<Cow<'a, str>>,
    /// HAPA's receipt; llama-server's field of this name has others in it.
    #[serde(default)]
    timings: Option<Timings>,
    /// OpenAI.
    #[serde(default, borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
    /// llama-server.
    #[serde(default, borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(default)]
    stop: Option<Value>,
    #[serde(default)]
    tokens_evaluated: Option<u64>,
    #[serde(default)]
    tokens_predicted: Option<u64>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default, borrow)]
    delta: Option<Says<'a>>,
    #[serde(default, borrow)]
    message: Option<Says<'a>>,
    #[serde(default, borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Says<'a> {
    #[serde(default, borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    reasoning_content: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    time_to_first_token_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Reads the data of one event. OpenAI's `[DONE]` ends an answer; so do HAPA's `done` and llama-server's `stop`. An
/// event that is no JSON object of a known shape gives `None`.
pub(crate) fn read_chunk(data: &[u8]) -> Option<Chunk<'_>> {
    if data == b"[DONE]" {
        return Some(Chunk { end: true, ..Chunk::default() });
    }
    let body: Body<'_> = serde_json::from_slice(data).ok()?;
    let end = body.kind.as_deref() == Some("done") || body.stop == Some(Value::Bool(true));
    let known = body.kind.is_some()
        || body.choices.is_some()
        || body.content.is_some()
        || body.usage.is_some()
        || body.error.is_some();
    known.then(|| chunk(body, end, true))
}

/// Reads a whole answer; `None` when it is none.
pub(crate) fn read_whole(body: &[u8]) -> Option<Chunk<'_>> {
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    let known = body.generated_code.is_some()
        || body.completions.is_some()
        || body.choices.as_ref().is_some_and(|choices| !choices.is_empty())
        || body.content.is_some()
        || body.error.is_some()
        || body.error_message.is_some();
    known.then(|| chunk(body, true, false))
}

fn chunk(body: Body<'_>, end: bool, event: bool) -> Chunk<'_> {
    let usage = match (&body.usage, body.tokens_evaluated, body.tokens_predicted) {
        (Some(usage), ..) => Some((usage.prompt_tokens, usage.completion_tokens)),
        (None, Some(input), Some(output)) => Some((input, output)),
        _ => None,
    };
    let engine_first = body.timings.and_then(|timings| timings.time_to_first_token_seconds);
    let engine_first = engine_first.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let error = match body.error {
        Some(Value::Object(error)) => Some(match error.get("message") {
            Some(Value::String(message)) => message.clone(),
            _ => Value::Object(error).to_string(),
        }),
        Some(Value::Null) | None => body.error_message.map(Cow::into_owned),
        Some(other) => Some(other.to_string()),
    };
    let choice = body.choices.and_then(|choices| choices.into_iter().next());
    let said = choice.and_then(|choice| {
        let says = choice.delta.or(choice.message);
        let spoken = says.and_then(|says| {
            let content = says.content.filter(|text| !text.is_empty());
            content.or(says.reasoning_content)
        });
        spoken.or(choice.text)
    });
    let completion = body.completions.and_then(|all| all.into_iter().next());
    let text = said.or(body.content).or(body.text).or(completion);
    // HAPA's last event repeats the whole answer.
    let whole = if event && end { None } else { body.generated_code };
    let text = if event && end && body.kind.is_some() { None } else { text.or(whole) };
    Chunk { text: text.unwrap_or_default(), end, usage, engine_first, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str) -> (String, bool, Option<(u64, u64)>, Option<String>) {
        let chunk = read_chunk(data.as_bytes()).unwrap();
        (chunk.text.into_owned(), chunk.end, chunk.usage, chunk.error)
    }

    #[test]
    fn events_of_each_dialect() {
        let text = |data| event(data).0;
        assert_eq!(text(r#"{"type":"delta","text":"a\n","code":"a"}"#), "a\n");
        assert_eq!(text(r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#), "");
        assert_eq!(text(r#"{"choices":[{"index":0,"delta":{"content":"b"}}],"usage":null}"#), "b");
        assert_eq!(text(r#"{"choices":[{"index":0,"text":"c","logprobs":null}]}"#), "c");
        assert_eq!(text(r#"{"content":"d","stop":false}"#), "d");
        let done = r#"{"type":"done","generated_code":"x","status":"success","error_message":null,
                       "usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        assert_eq!(event(done), (String::new(), true, Some((3, 4)), None));
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        assert_eq!(event(usage), (String::new(), false, Some((3, 4)), None));
        let llama = r#"{"content":"","stop":true,"tokens_evaluated":3,"tokens_predicted":4}"#;
        assert_eq!(event(llama), (String::new(), true, Some((3, 4)), None));
        assert!(event("[DONE]").1);
    }

    #[test]
    fn failures_speak() {
        assert_eq!(event(r#"{"error":{"message":"no","type":"t"}}"#).3.as_deref(), Some("no"));
        assert_eq!(event(r#"{"type":"error","error_message":"no"}"#).3.as_deref(), Some("no"));
        for bad in ["<html>", "{\"type\":", "{}", "[1]", "3"] {
            assert_eq!(read_chunk(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn whole_answers_of_each_dialect() {
        let text = |body: &str| read_whole(body.as_bytes()).unwrap().text.into_owned();
        assert_eq!(text(r#"{"generated_code":"a","status":"success","error_message":null}"#), "a");
        assert_eq!(text(r#"{"completions":["b","x"],"status":"success"}"#), "b");
        assert_eq!(text(r#"{"choices":[{"message":{"role":"assistant","content":"c"}}]}"#), "c");
        assert_eq!(text(r#"{"choices":[{"text":"d"}]}"#), "d");
        assert_eq!(text(r#"{"content":"e","stop":true}"#), "e");
        assert_eq!(read_whole(b"<!doctype html><html></html>"), None);
        assert_eq!(read_whole(b"{}"), None);
    }
}
