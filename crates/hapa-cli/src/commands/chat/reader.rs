//! Where messages come from: an edited line of a terminal, or a pipe.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};

use crate::error::{CliError, Result};

/// Lines that are remembered.
const REMEMBERED: usize = 1_000;
/// What stands around a message of several lines.
const FENCE: &str = "\"\"\"";

/// What somebody said.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Message(String),
    /// A blank line, or one that was given up.
    Nothing,
    End,
}

/// Reads messages.
pub(super) enum Reader {
    Terminal { editor: Box<Editor<Lines, FileHistory>>, history: Option<PathBuf> },
    Pipe,
}

impl Reader {
    /// A line editor where a person types, else the pipe.
    pub(super) fn new(history: Option<PathBuf>) -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let failed =
            |e: ReadlineError| CliError::Failed(format!("could not use the terminal: {e}"));
        let config = Config::builder()
            .max_history_size(REMEMBERED)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(failed)?
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Lines));
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    pub(super) fn next(&mut self) -> Result<Said> {
        let text = match self {
            Self::Terminal { editor, .. } => match editor.readline("> ") {
                Ok(text) => text,
                Err(ReadlineError::Interrupted) => return Ok(Said::Nothing),
                Err(ReadlineError::Eof) => return Ok(Said::End),
                Err(error) => {
                    return Err(CliError::Failed(format!(
                        "could not read from the terminal: {error}"
                    )));
                }
            },
            Self::Pipe => match piped(&mut std::io::stdin().lock())? {
                Some(text) => text,
                None => return Ok(Said::End),
            },
        };
        let text = unwrapped(&text);
        Ok(if text.trim().is_empty() { Said::Nothing } else { Said::Message(text) })
    }

    /// Remembers what was typed. A folder that cannot be written is no reason to fail.
    pub(super) fn save(&mut self) {
        if let Self::Terminal { editor, history: Some(path) } = self {
            if let Some(folder) = path.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            let _ = editor.save_history(path);
        }
    }
}

/// Whether a message goes on after what is there.
fn goes_on(text: &str) -> bool {
    text.ends_with('\\') || text.matches(FENCE).count() % 2 == 1
}

/// One message out of a pipe; `None` at its end.
fn piped(from: &mut impl BufRead) -> Result<Option<String>> {
    let failed = |source| CliError::Io { action: "read", path: "standard input".into(), source };
    let mut text = String::new();
    loop {
        let read = from.read_line(&mut text).map_err(failed)?;
        let whole = text.trim_end_matches(['\n', '\r']);
        if read == 0 {
            return Ok((!whole.is_empty()).then(|| whole.to_owned()));
        }
        if !goes_on(whole) {
            return Ok(Some(whole.to_owned()));
        }
    }
}

/// A message without what made it one of several lines.
fn unwrapped(text: &str) -> String {
    let text = text.replace("\\\r\n", "\n").replace("\\\n", "\n");
    let inner = text.trim().strip_prefix(FENCE).and_then(|rest| rest.strip_suffix(FENCE));
    inner.map_or_else(
        || text.trim_end_matches('\\').to_owned(),
        |inner| inner.trim_matches('\n').to_owned(),
    )
}

/// Tells the line editor when a message is whole.
pub(super) struct Lines;

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match goes_on(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Lines {
    type Candidate = String;
}

impl Hinter for Lines {
    type Hint = String;
}

impl Highlighter for Lines {}

impl Helper for Lines {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_one_line_and_of_several() {
        let mut pipe = &b"one\ntwo \\\nlines\n\"\"\"\ndef f():\n    pass\n\"\"\"\n\nlast"[..];
        let mut next = || piped(&mut pipe).unwrap().map(|text| unwrapped(&text));
        assert_eq!(next().as_deref(), Some("one"));
        assert_eq!(next().as_deref(), Some("two \nlines"));
        assert_eq!(next().as_deref(), Some("def f():\n    pass"));
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().as_deref(), Some("last"));
        assert_eq!(next(), None);
        assert!(goes_on("\"\"\"x") && !goes_on("\"\"\"x\"\"\"") && goes_on("x\\"));
    }

    #[test]
    fn a_block_that_never_ends_is_what_there_is() {
        let mut pipe = &b"\"\"\"\nx"[..];
        assert_eq!(piped(&mut pipe).unwrap().as_deref(), Some("\"\"\"\nx"));
    }
}
