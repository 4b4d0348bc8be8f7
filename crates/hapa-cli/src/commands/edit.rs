//! `hapa edit`: a file changed by an instruction.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use hapa_server::wire::hapa::{CacheBody, TimingsBody, UsageBody};
use hapa_service::{Answer, ChatMessage, FinishReason, Request, Role, validate_python};
use serde_json::json;
use similar::TextDiff;

use crate::answering::{AnswerArgs, answer};
use crate::console::{print, print_json, stdout_is_coloured};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::settings::Flags;
use crate::{input, receipt};

const SYSTEM: &str = "You edit source code. You are given code and an instruction. Answer with the whole code after the \
                      edit, in one code block, and change nothing that the instruction does not ask for.";

/// Characters of source code that one token stands for, at least.
const CHARS_PER_TOKEN: usize = 2;
/// Tokens that an edit may add.
const ROOM: usize = 256;

/// Change a file as an instruction says; the change is shown and asked about first
///
/// The model writes the file anew, and what stays the same is drafted out of the file itself, several tokens a step. The
/// diff goes to standard output. A file that was valid Python is not replaced by one that is not, unless forced.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa edit app.py \"add type hints\"
  hapa edit app.py \"rename the variable x to total\" --lines 10:42
  hapa edit app.py \"use pathlib\" --diff-only > change.patch
  hapa edit app.py \"add a docstring to each function\" --yes

--json prints {file, changed, applied, diff, valid_python, usage, cache, timings}.
Exit code 1 when the change was refused, by you or because it cannot be used.")]
pub(crate) struct Edit {
    /// The file
    file: PathBuf,
    /// What is to be changed, in quotes
    instruction: String,
    /// Change these lines only, counted from 1; the model sees no others
    #[arg(long, value_name = "FROM:TO", value_parser = lines)]
    lines: Option<(usize, usize)>,
    /// Apply without asking
    #[arg(long, short, conflicts_with = "diff_only")]
    yes: bool,
    /// Show the change and leave the file as it is
    #[arg(long)]
    diff_only: bool,
    /// Apply even if what was valid Python no longer is
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// A file in three parts.
#[derive(Debug, PartialEq)]
struct Parts<'a> {
    before: &'a str,
    edited: &'a str,
    after: &'a str,
}

impl Edit {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.answer.flags(flags);
    }

    /// # Errors
    /// For a file or an instruction that cannot be used, an answer that is no edit, and a change that was refused.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        if self.file.as_os_str() == "-" {
            return Err(CliError::usage("a file is needed; standard input cannot be changed"));
        }
        let asks = !(self.yes || self.diff_only);
        if asks && (self.json || !std::io::stdin().is_terminal()) {
            return Err(CliError::usage(
                "nobody can be asked here; --yes applies the change, --diff-only only shows it",
            ));
        }
        let old = input::file(&self.file)?;
        let parts = parts(&old, self.lines)
            .map_err(|problem| CliError::usage(format!("{}: {problem}", self.file.display())))?;
        let service = session.service()?;
        let request = self.request(session, parts.edited);
        service.limits().check(&request)?;
        let edited = session.run_and_keep(&service, async {
            answer(&session.console, &service, request, |_| Ok(())).await
        })?;
        receipt::aside(&session.console, &edited);
        let code = usable(&edited)?;
        let new = [parts.before, &like(parts.edited, code), parts.after].concat();
        let changed = new != old;
        let diff = diff(&self.file, &old, &new);
        let is_python = self.file.extension().is_some_and(|e| e == "py" || e == "pyi");
        let breaks = is_python && validate_python(&old).valid && !validate_python(&new).valid;
        if !self.json {
            if changed {
                print(&shown(&diff, stdout_is_coloured()))?;
            } else {
                session.console.note("no change");
            }
        }
        let refused = breaks && !self.force && !self.diff_only;
        let wanted = changed && !self.diff_only && !refused;
        let applied = wanted && (self.yes || self.confirm()?);
        if applied {
            replace(&self.file, &old, &new)?;
        }
        if self.json {
            print_json(&json!({
                "file": self.file,
                "changed": changed,
                "applied": applied,
                "diff": diff,
                "valid_python": is_python.then(|| validate_python(&new).valid),
                "usage": UsageBody::from(&edited.usage),
                "cache": CacheBody::from(&edited.cache),
                "timings": TimingsBody::from(&edited.timings),
            }))?;
        } else if applied {
            session.console.note(&format!("{} is changed", self.file.display()));
        }
        if refused {
            return Err(CliError::Failed(format!(
                "{} is valid Python and would no longer be; --force applies the change all the same",
                self.file.display()
            )));
        }
        if wanted && !applied {
            return Err(CliError::Failed("the change was not applied".to_owned()));
        }
        Ok(())
    }

    fn request(&self, session: &Session, code: &str) -> Request {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let asked =
            format!("{}\n\n`{name}`:\n```\n{}\n```", self.instruction, code.trim_end_matches('\n'));
        let mut request = Request::chat(vec![
            ChatMessage::new(Role::System, SYSTEM),
            ChatMessage::new(Role::User, asked),
        ]);
        self.answer.apply(&session.settings, &mut request);
        if self.answer.max_tokens().is_none() {
            let whole = code.chars().count() / CHARS_PER_TOKEN + ROOM;
            request.max_tokens = request.max_tokens.max(whole).min(32_768);
        }
        request
    }

    #[expect(clippy::unused_self, reason = "a question of this command")]
    fn confirm(&self) -> Result<bool> {
        let failed =
            |source| CliError::Io { action: "read", path: "standard input".into(), source };
        let _ = write!(std::io::stderr(), "apply? [y/N] ");
        let _ = std::io::stderr().flush();
        let mut said = String::new();
        std::io::stdin().lock().read_line(&mut said).map_err(failed)?;
        Ok(matches!(said.trim().to_lowercase().as_str(), "y" | "yes"))
    }
}

/// `FROM:TO`; either may be left out.
fn lines(text: &str) -> Result<(usize, usize), String> {
    let wrong = || format!("`{text}` is no range of lines; expected one such as 10:42, 10: or :42");
    let (from, to) = text.split_once([':', '-']).ok_or_else(wrong)?;
    let number = |text: &str, else_: usize| match text.trim() {
        "" => Ok(else_),
        text => text.parse().map_err(|_| wrong()),
    };
    let (from, to) = (number(from, 1)?, number(to, usize::MAX)?);
    if from == 0 || from > to { Err(wrong()) } else { Ok((from, to)) }
}

fn parts(text: &str, range: Option<(usize, usize)>) -> Result<Parts<'_>, String> {
    let Some((from, to)) = range else { return Ok(Parts { before: "", edited: text, after: "" }) };
    let count = text.split_inclusive('\n').count();
    if from > count {
        return Err(format!("there is no line {from}; the file has lines 1 to {count}"));
    }
    let at = |lines: usize| text.split_inclusive('\n').take(lines).map(str::len).sum::<usize>();
    let (start, end) = (at(from - 1), at(to.min(count)));
    Ok(Parts { before: &text[..start], edited: &text[start..end], after: &text[end..] })
}

/// The code of an answer that is whole.
fn usable(answer: &Answer) -> Result<&str> {
    let cut =
        |what: &str| Err(CliError::Failed(format!("the answer {what}; the file is as it was")));
    match answer.finish {
        FinishReason::Length => cut(
            "was cut at the most tokens it may have: --max-tokens allows more, --lines asks for less",
        ),
        FinishReason::ContextFull => {
            cut("was cut, since file and answer fill the model's context: --lines asks for less")
        }
        _ => match &answer.code {
            Some(code) if !code.trim().is_empty() => Ok(code),
            _ => cut("has no code"),
        },
    }
}

/// The new text with the line ends that the old one has, and at least as far indented as that.
fn like(old: &str, new: &str) -> String {
    let mut text = new.replace("\r\n", "\n");
    // Models like to answer a part of a class as if it stood at the margin.
    if let (Some(wanted), Some(has)) = (indent(old), indent(&text))
        && let Some(missing) = wanted.strip_prefix(has).filter(|missing| !missing.is_empty())
    {
        let deeper = |line: &str| match line.trim() {
            "" => line.to_owned(),
            _ => format!("{missing}{line}"),
        };
        text = text.split_inclusive('\n').map(deeper).collect();
    }
    // Blank lines at the ends are lost on the way into a code block and out of it.
    let plain = old.replace("\r\n", "\n");
    let body = plain.trim_matches('\n');
    let (head, tail) = match plain.find(body) {
        Some(start) if !body.is_empty() => (&plain[..start], &plain[start + body.len()..]),
        _ => ("", ""),
    };
    text = [head, text.trim_matches('\n'), tail].concat();
    let windows = old.contains("\r\n") && !old.replace("\r\n", "").contains('\n');
    if windows { text.replace('\n', "\r\n") } else { text }
}

/// The white space that all lines begin with; `None` where there is no line.
fn indent(text: &str) -> Option<&str> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| &line[..line.len() - line.trim_start().len()]).min_by_key(|white| white.len())
}

fn diff(path: &Path, old: &str, new: &str) -> String {
    let name = path.display();
    let diff = TextDiff::from_lines(old, new);
    diff.unified_diff().header(&format!("a/{name}"), &format!("b/{name}")).to_string()
}

/// A diff as people like to see it.
fn shown(diff: &str, coloured: bool) -> String {
    if !coloured {
        return diff.to_owned();
    }
    let paint = |line: &str| {
        let style = match line.as_bytes().first() {
            _ if line.starts_with("+++") || line.starts_with("---") => "1",
            Some(b'+') => "32",
            Some(b'-') => "31",
            Some(b'@') => "36",
            _ => return format!("{line}\n"),
        };
        format!("\x1b[{style}m{line}\x1b[0m\n")
    };
    diff.lines().map(paint).collect()
}

/// Puts the new text in place of the old one, all at once, unless somebody else changed the file meanwhile.
fn replace(path: &Path, old: &str, new: &str) -> Result<()> {
    let failed = |source| CliError::Io { action: "write", path: path.to_owned(), source };
    // A link stays one: what it leads to is changed.
    let real = path.canonicalize().map_err(failed)?;
    if std::fs::read(&real).map_err(failed)? != old.as_bytes() {
        return Err(CliError::Failed(format!(
            "{} was changed by somebody else meanwhile; nothing was written",
            path.display()
        )));
    }
    let folder = real.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(new.as_bytes()).map_err(failed)?;
    let permissions = std::fs::metadata(&real).map_err(failed)?.permissions();
    file.as_file().set_permissions(permissions).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&real).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_lines() {
        assert_eq!(lines("10:42"), Ok((10, 42)));
        assert_eq!(lines("3-3"), Ok((3, 3)));
        assert_eq!(lines(":5"), Ok((1, 5)));
        assert_eq!(lines("7:"), Ok((7, usize::MAX)));
        for wrong in ["", "7", "0:3", "5:4", "a:b"] {
            assert!(lines(wrong).unwrap_err().contains("10:42"), "{wrong}");
        }
        let text = "a\nb\nc\n";
        let found = parts(text, Some((2, 2))).unwrap();
        assert_eq!(found, Parts { before: "a\n", edited: "b\n", after: "c\n" });
        assert_eq!(parts(text, Some((2, 99))).unwrap().edited, "b\nc\n");
        assert_eq!(parts(text, None).unwrap().edited, text);
        assert!(parts(text, Some((4, 4))).unwrap_err().contains("lines 1 to 3"));
    }

    #[test]
    fn line_ends_stay_what_they_are() {
        assert_eq!(like("a\nb\n", "a\nc"), "a\nc\n");
        assert_eq!(like("a\nb", "a\nc\n"), "a\nc");
        assert_eq!(like("\n\na\n\n\n", "b\n"), "\n\nb\n\n\n");
        assert_eq!(like("a\r\nb\r\n", "a\nc\n"), "a\r\nc\r\n");
        assert_eq!(like("a\r\nb\n", "a\nc\n"), "a\nc\n");
        assert_eq!(like("    a\n      b\n", "a\n\n  c\n"), "    a\n\n      c\n");
        assert_eq!(like("a\n", "  a\n"), "  a\n");
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.py");
        std::fs::write(&path, "x = 1\n").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let link = folder.path().join("link.py");
            std::os::unix::fs::symlink("a.py", &link).unwrap();
            replace(&link, "x = 1\n", "x = 2\n").unwrap();
            assert!(link.is_symlink());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "x = 2\n");
            replace(&path, "x = 2\n", "x = 1\n").unwrap();
        }
        let late = replace(&path, "x = 7\n", "x = 2\n").unwrap_err();
        assert!(late.to_string().contains("somebody else"), "{late}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x = 1\n");
    }

    #[test]
    fn diffs_are_unified_and_coloured_on_a_terminal_only() {
        let diff = diff(Path::new("a.py"), "x = 1\ny = 2\n", "x = 1\ny = 3\n");
        assert_eq!(diff, "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n x = 1\n-y = 2\n+y = 3\n");
        assert_eq!(shown(&diff, false), diff);
        assert!(shown(&diff, true).contains("\x1b[32m+y = 3\x1b[0m\n"));
    }
}
