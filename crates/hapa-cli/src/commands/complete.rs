//! `hapa complete`: the text at a cursor.

use std::path::{Path, PathBuf};

use clap::Args;
use hapa_server::wire::hapa::{CompleteResponse, language_of};
use hapa_service::{DEFAULT_COMPLETION_TOKENS, MAX_CANDIDATES, Request, Task};

use crate::answering::{AnswerArgs, answer};
use crate::console::{print, print_json, stdout_is_terminal};
use crate::error::{CliError, Result};
use crate::progress::Progress;
use crate::session::Session;
use crate::settings::Flags;
use crate::{input, receipt};

/// Characters of a file before and after the cursor that are read: about what a second of reading is on a small machine.
const FILE_PREFIX_CHARS: usize = 8_000;
const FILE_SUFFIX_CHARS: usize = 2_000;

/// Fill in the code at a cursor
///
/// Prints the text to insert, and nothing else, to standard output. The model must have fill-in-the-middle tokens.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa complete --file app.py --line 12 --column 5
  hapa complete --prefix 'def add(a, b):' --suffix ''
  hapa complete --file app.py --line 12 --n 3 --json | jq -r '.completions[0]'

Lines and columns are counted from 1; without --column the cursor is at the line's end. Of a long file,
the 8,000 characters before the cursor and the 2,000 after it are read.
--json prints {completions, finish_reason, usage, cache, timings}. With --n, plain output has a line
`---` between candidates.")]
pub(crate) struct Complete {
    /// The file that is edited; `-` is standard input
    #[arg(long, short, value_name = "FILE", requires = "line", conflicts_with_all = ["prefix", "suffix"])]
    file: Option<PathBuf>,
    /// The cursor's line, from 1
    #[arg(long, short, value_name = "L", requires = "file")]
    line: Option<usize>,
    /// The cursor's column in characters, from 1: 1 is before the line's first character
    #[arg(long, short, value_name = "C", requires = "line")]
    column: Option<usize>,
    /// The text before the cursor
    #[arg(long, value_name = "TEXT", required_unless_present = "file")]
    prefix: Option<String>,
    /// The text after the cursor
    #[arg(long, value_name = "TEXT", requires = "prefix")]
    suffix: Option<String>,
    /// How many different completions, 1 to 5
    #[arg(long, value_name = "K", default_value_t = 1)]
    n: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl Complete {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.answer.flags(flags);
    }

    /// # Errors
    /// For input that cannot be used and a model that cannot be had or has no fill-in-the-middle tokens.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        if !(1..=MAX_CANDIDATES).contains(&self.n) {
            return Err(CliError::usage(format!(
                "--n is {}; 1 to {MAX_CANDIDATES} is allowed",
                self.n
            )));
        }
        let service = session.service()?;
        let request = self.request(session)?;
        service.limits().check(&request)?;
        let streamed = !self.json && self.n == 1;
        let completed = async {
            let answers = if self.n == 1 {
                let each = |text: &str| if streamed { print(text) } else { Ok(()) };
                vec![answer(&session.console, &service, request, each).await?]
            } else {
                let _progress = Progress::of_service(&session.console, &service);
                service.candidates(request, self.n).await?
            };
            let Some((first, others)) = answers.split_first() else {
                return Err(CliError::Failed("the answer had no end".to_owned()));
            };
            let response = CompleteResponse::new(first, others);
            if self.json {
                print_json(&response)?;
            } else if self.n > 1 {
                print(&(response.completions.join("\n---\n") + "\n"))?;
            } else if stdout_is_terminal() && !first.text.ends_with('\n') {
                // In a file or pipe the text is what belongs at the cursor, to the byte.
                print("\n")?;
            }
            receipt::show(&session.console, first);
            Ok(())
        };
        session.run_and_keep(&service, completed)
    }

    fn request(&self, session: &Session) -> Result<Request> {
        let (prefix, suffix) = match &self.file {
            Some(path) => at_cursor(path, self.line.unwrap_or(1), self.column)?,
            None => {
                (self.prefix.clone().unwrap_or_default(), self.suffix.clone().unwrap_or_default())
            }
        };
        let mut request = match &self.file {
            Some(path) => in_file(path, prefix, suffix),
            None => Request::complete(prefix, suffix),
        };
        self.answer.apply(&session.settings, &mut request);
        if self.answer.max_tokens().is_none() {
            request.max_tokens = request.max_tokens.min(DEFAULT_COMPLETION_TOKENS);
        }
        Ok(request)
    }
}

/// The request for the text between two parts of a file; `-` is one without a name.
pub(crate) fn in_file(path: &Path, prefix: String, suffix: String) -> Request {
    let mut request = Request::complete(prefix, suffix);
    if let Task::Complete { file_path, language, .. } = &mut request.task {
        *language = language_of(path.as_os_str().to_str()).to_owned();
        *file_path = (path.as_os_str() != "-").then(|| path.display().to_string());
    }
    request
}

/// The text before and after a cursor in a file.
fn at_cursor(path: &Path, line: usize, column: Option<usize>) -> Result<(String, String)> {
    let text = input::file(path)?;
    let at = offset(&text, line, column)
        .map_err(|problem| CliError::usage(format!("{}: {problem}", path.display())))?;
    let (before, after) = text.split_at(at);
    let start = before.char_indices().nth_back(FILE_PREFIX_CHARS).map_or(0, |(start, _)| {
        // From a whole line on, unless the line is as long as all that is read.
        before[start..].find('\n').map_or(start, |end| start + end + 1)
    });
    let end = after.char_indices().nth(FILE_SUFFIX_CHARS).map_or(after.len(), |(end, _)| end);
    Ok((before[start..].to_owned(), after[..end].to_owned()))
}

/// Where in a text a line and column are, in bytes.
fn offset(text: &str, line: usize, column: Option<usize>) -> Result<usize, String> {
    let lines = text.split('\n').count();
    if line == 0 || line > lines {
        return Err(format!("there is no line {line}; the file has lines 1 to {lines}"));
    }
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let content = text[start..].split('\n').next().unwrap_or_default();
    let content = content.strip_suffix('\r').unwrap_or(content);
    let Some(column) = column else { return Ok(start + content.len()) };
    let columns = content.chars().count() + 1;
    if column == 0 || column > columns {
        return Err(format!("line {line} has no column {column}; it has columns 1 to {columns}"));
    }
    let within = content.char_indices().nth(column - 1).map_or(content.len(), |(at, _)| at);
    Ok(start + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors() {
        let text = "ab\n한글 x\r\n\nend";
        let rest = |line, column| offset(text, line, column).map(|at| &text[at..]);
        assert_eq!(rest(1, Some(1)), Ok(text));
        assert_eq!(rest(1, Some(3)), Ok("\n한글 x\r\n\nend"));
        assert_eq!(rest(1, None), Ok("\n한글 x\r\n\nend"));
        assert_eq!(rest(2, Some(2)), Ok("글 x\r\n\nend"));
        assert_eq!(rest(2, None), Ok("\r\n\nend"));
        assert_eq!(rest(3, Some(1)), Ok("\nend"));
        assert_eq!(rest(4, Some(4)), Ok(""));
        assert!(rest(0, None).unwrap_err().contains("lines 1 to 4"));
        assert!(rest(5, None).unwrap_err().contains("no line 5"));
        assert!(rest(1, Some(4)).unwrap_err().contains("columns 1 to 3"));
        assert!(rest(1, Some(0)).is_err());
        assert_eq!(offset("", 1, Some(1)), Ok(0));
        assert_eq!(offset("a\n", 2, None), Ok(2));
    }

    #[test]
    fn of_a_long_file_the_neighbourhood_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.py");
        let line = "x = 1  # 한국어\n";
        std::fs::write(&path, line.repeat(2_000)).unwrap();
        let (prefix, suffix) = at_cursor(&path, 1_500, Some(1)).unwrap();
        assert!(prefix.starts_with("x = 1") && prefix.ends_with('\n'), "whole lines");
        assert!((7_900..=8_000).contains(&prefix.chars().count()));
        assert_eq!(suffix.chars().count(), 2_000);
    }
}
