//! Prompts out of a file of JSON lines, or one prompt a line of plain text.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Ask, Prompt};
use crate::error::LoadError;

#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    question: Option<String>,
    user_question: Option<String>,
    code_context: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    messages: Option<Value>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    seed: Option<u64>,
    #[serde(default)]
    stop: Vec<String>,
}

/// Reads prompts, one a line: JSON objects with `prompt`, `user_question` (and `code_context`), `prefix` (and `suffix`)
/// or `messages`, and optionally `max_tokens`, `temperature`, `seed`, `stop`. Empty lines are passed over.
pub(crate) fn read(path: &Path, max_tokens: u32) -> Result<Vec<Prompt>, LoadError> {
    let text = std::fs::read_to_string(path).map_err(|source| LoadError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut prompts = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let prompt = parse(line, max_tokens).map_err(|reason| LoadError::BadLine {
            path: path.to_owned(),
            line: index + 1,
            reason,
        })?;
        prompts.push(prompt);
    }
    if prompts.is_empty() {
        return Err(LoadError::BadLine {
            path: path.to_owned(),
            line: 1,
            reason: "the file has no prompt; a line is like {\"prompt\": \"...\"}".to_owned(),
        });
    }
    Ok(prompts)
}

/// One line as a prompt; an error says what a line should be like.
pub(crate) fn parse(line: &str, max_tokens: u32) -> Result<Prompt, String> {
    let line: Line = serde_json::from_str(line)
        .map_err(|error| format!("{error}; a line is like {{\"prompt\": \"...\"}}"))?;
    let ask = if let Some(messages) = line.messages {
        if messages.as_array().is_none_or(Vec::is_empty) {
            return Err("`messages` must be a list with at least one message".to_owned());
        }
        Ask::Messages(messages)
    } else if let Some(question) = line.user_question.or(line.question) {
        Ask::Question { question, context: line.code_context }
    } else if let Some(prefix) = line.prefix {
        Ask::Middle { prefix, suffix: line.suffix.unwrap_or_default() }
    } else if let Some(prompt) = line.prompt {
        Ask::Text(prompt)
    } else {
        return Err("none of `prompt`, `user_question`, `prefix`, `messages` is there".to_owned());
    };
    let mut prompt = Prompt::new(ask, line.max_tokens.unwrap_or(max_tokens));
    prompt.temperature = line.temperature.unwrap_or(0.0);
    prompt.seed = line.seed;
    prompt.stop = line.stop;
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_line() {
        let ask = |line| parse(line, 7).unwrap().ask;
        assert_eq!(ask(r#"{"prompt": "a"}"#), Ask::Text("a".into()));
        let question = Ask::Question { question: "q".into(), context: Some("c".into()) };
        assert_eq!(ask(r#"{"user_question": "q", "code_context": "c"}"#), question);
        let middle = Ask::Middle { prefix: "p".into(), suffix: "s".into() };
        assert_eq!(ask(r#"{"prefix": "p", "suffix": "s"}"#), middle);
        assert!(matches!(ask(r#"{"messages": [{"role": "user"}]}"#), Ask::Messages(_)));
        let prompt = parse(r#"{"prompt": "a", "max_tokens": 3, "seed": 5}"#, 7).unwrap();
        assert_eq!((prompt.max_tokens, prompt.seed), (3, Some(5)));
    }

    #[test]
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        for (text, expected) in [
            ("{\"prompt\": \"a\"}\n\nnot json", "line 3"),
            ("{\"text\": \"a\"}", "none of `prompt`"),
            ("\n", "no prompt"),
            ("{\"messages\": []}", "at least one message"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path, 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = read(&folder.path().join("absent"), 1).unwrap_err().to_string();
        assert!(error.contains("could not read"), "{error}");
    }
}
