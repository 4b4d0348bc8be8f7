//! Recorded traffic: when each request came, and what or how long it was.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::error::LoadError;
use crate::prompt::{Ask, Prompt, Synthetic, WorkloadSource};

/// One recorded request.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceEntry {
    /// Since the first one.
    pub at: Duration,
    /// What was asked; made up, with the recorded length, where the trace does not say.
    pub prompt: Prompt,
}

/// Recorded requests in the order of their times.
#[derive(Debug, Clone)]
pub struct Trace {
    entries: Vec<TraceEntry>,
}

#[derive(Deserialize)]
struct Line {
    /// Seconds.
    at_seconds: Option<f64>,
    /// Milliseconds, as in Mooncake's traces.
    timestamp: Option<f64>,
    prompt: Option<String>,
    #[serde(alias = "input_length")]
    input_tokens: Option<u32>,
    #[serde(alias = "output_length")]
    output_tokens: Option<u32>,
}

impl Trace {
    /// Reads JSON lines with `at_seconds`, or `timestamp` in milliseconds, and either `prompt` or `input_tokens`
    /// (`input_length`); `output_tokens` (`output_length`) is the answer's greatest length. The traces published with
    /// Mooncake can be read as they are. `speed` 2 replays twice as fast.
    pub fn read(path: &Path, speed: f64, max_tokens: u32, seed: u64) -> Result<Self, LoadError> {
        if !(speed.is_finite() && speed > 0.0) {
            return Err(LoadError::option("trace-speed", format!("{speed} is not above 0")));
        }
        let text = std::fs::read_to_string(path).map_err(|source| LoadError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let entry = entry(line, max_tokens, seed, index as u64).map_err(|reason| {
                LoadError::BadLine { path: path.to_owned(), line: index + 1, reason }
            })?;
            entries.push(entry);
        }
        entries.sort_by_key(|entry| entry.at);
        let Some(first) = entries.first().map(|entry| entry.at) else {
            let reason = "the trace is empty".to_owned();
            return Err(LoadError::BadLine { path: path.to_owned(), line: 1, reason });
        };
        for entry in &mut entries {
            entry.at = (entry.at - first).div_f64(speed);
        }
        Ok(Self { entries })
    }

    /// The requests.
    pub fn entries(&self) -> &[TraceEntry] {
        &self.entries
    }

    /// The prompts, to be asked in this order.
    pub fn source(&self) -> WorkloadSource {
        WorkloadSource::Prompts(self.entries.iter().map(|entry| entry.prompt.clone()).collect())
    }

    pub(super) fn rate(&self) -> Option<f64> {
        let span = self.entries.last()?.at.as_secs_f64();
        (span > 0.0).then(|| self.entries.len() as f64 / span)
    }
}

fn entry(line: &str, max_tokens: u32, seed: u64, number: u64) -> Result<TraceEntry, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let seconds = match (line.at_seconds, line.timestamp) {
        (Some(seconds), _) => seconds,
        (None, Some(milliseconds)) => milliseconds / 1e3,
        (None, None) => return Err("neither `at_seconds` nor `timestamp` is there".to_owned()),
    };
    let at = Duration::try_from_secs_f64(seconds)
        .map_err(|_| format!("{seconds} is no time of 0 seconds or more"))?;
    let max_tokens = line.output_tokens.unwrap_or(max_tokens).max(1);
    let prompt = match (line.prompt, line.input_tokens) {
        (Some(prompt), _) => Prompt::new(Ask::Text(prompt), max_tokens),
        (None, Some(length)) => {
            let lengths = Synthetic {
                input_tokens: (length.max(1), length.max(1)),
                output_tokens: (max_tokens, max_tokens),
            };
            lengths.prompt(seed, number, None)
        }
        (None, None) => return Err("neither `prompt` nor `input_tokens` is there".to_owned()),
    };
    Ok(TraceEntry { at, prompt })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.jsonl");
        let lines = "{\"timestamp\": 3000, \"input_length\": 6, \"output_length\": 5, \"hash_ids\": [1]}\n\
                     {\"at_seconds\": 1.0, \"prompt\": \"a\"}\n";
        std::fs::write(&path, lines).unwrap();
        let trace = Trace::read(&path, 2.0, 9, 1).unwrap();
        let [first, second] = trace.entries() else { panic!("{trace:?}") };
        assert_eq!((first.at, first.prompt.max_tokens), (Duration::ZERO, 9));
        assert_eq!((second.at, second.prompt.max_tokens), (Duration::from_secs(1), 5));
        assert_eq!(second.prompt.ask.flat().split(' ').count(), 6);
        for (text, expected) in [
            ("{\"prompt\": \"a\"}", "neither `at_seconds`"),
            ("{\"at_seconds\": 1}", "neither `prompt`"),
            ("{\"at_seconds\": -1, \"prompt\": \"a\"}", "no time"),
            ("", "empty"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Trace::read(&path, 1.0, 9, 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
