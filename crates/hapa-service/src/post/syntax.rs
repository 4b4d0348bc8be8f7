//! Python syntax, checked by a real parser.

use ruff_python_ast::token::TokenKind;
use ruff_python_ast::{Expr, ModModule, Stmt};
use ruff_python_parser::{Mode, ParseOptions, Parsed, parse_unchecked};
use ruff_text_size::{Ranged, TextSize};
use serde::{Deserialize, Serialize};

/// Whether code is valid Python, and where it is not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyntaxReport {
    /// The code was checked: it is Python, and not longer than can be checked.
    pub checked: bool,
    /// No error was found. Also true for what was not checked.
    pub valid: bool,
    /// What was found, in the order of the code.
    pub issues: Vec<SyntaxIssue>,
}

impl SyntaxReport {
    /// The report on something that is not Python or has no code.
    pub fn unchecked() -> Self {
        Self { checked: false, valid: true, issues: Vec::new() }
    }
}

/// One fault in code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyntaxIssue {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad an issue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Python would refuse the code.
    Error,
    /// Some supported Python version would refuse it.
    Warning,
}

/// Longest code that is parsed, in bytes.
const MAX_CHECKED_BYTES: usize = 1 << 20;
/// Deepest nesting that is parsed: each level takes a frame of the stack, in the parser and when the tree is dropped. CPython gives
/// up sooner.
const MAX_NESTING: usize = 5_000;
/// Deepest nesting of brackets that CPython takes.
const MAX_BRACKETS: usize = 200;
/// Most issues in one report: the first ones matter, the rest is mostly their echo.
const MAX_ISSUES: usize = 50;

/// Checks whether `code` is valid Python. Costs about 10 ns a byte.
pub fn validate_python(code: &str) -> SyntaxReport {
    if code.len() > MAX_CHECKED_BYTES {
        let bytes = code.len();
        return unparsed(
            (1, 1),
            format!("the code has {bytes} bytes; at most {MAX_CHECKED_BYTES} are checked"),
        );
    }
    if let Some(offset) = too_deep(code) {
        let message =
            format!("the code nests more than {MAX_NESTING} deep; so much is not checked");
        return unparsed(position(code, offset), message);
    }
    with_parsed(code, |parsed| {
        let mut found: Vec<(TextSize, String, Severity)> = Vec::new();
        if let Some(at) = one_bracket_too_many(parsed) {
            found.push((at, "too many nested parentheses".to_owned(), Severity::Error));
        }
        for error in parsed.errors() {
            found.push((error.location.start(), error.error.to_string(), Severity::Error));
        }
        for error in parsed.unsupported_syntax_errors() {
            found.push((error.range.start(), error.to_string(), Severity::Warning));
        }
        found.sort_by_key(|(at, _, _)| *at);
        let valid = !found.iter().any(|(_, _, severity)| *severity == Severity::Error);
        found.truncate(MAX_ISSUES);
        let issues = found
            .into_iter()
            .map(|(at, message, severity)| {
                let (line, column) = position(code, at.to_usize());
                SyntaxIssue { line, column, message, severity }
            })
            .collect();
        SyntaxReport { checked: true, valid, issues }
    })
}

/// The report on code that is not parsed.
fn unparsed((line, column): (usize, usize), message: String) -> SyntaxReport {
    let issue = SyntaxIssue { line, column, message, severity: Severity::Error };
    SyntaxReport { checked: false, valid: false, issues: vec![issue] }
}

/// Where code nests deeper than is parsed, by its brackets and by signs in a row. Those in texts and comments count, too: what is
/// no code must not be parsed to be known as such.
fn too_deep(code: &str) -> Option<usize> {
    let (mut brackets, mut signs) = (0_usize, 0_usize);
    code.bytes().position(|byte| {
        match byte {
            b'(' | b'[' | b'{' => brackets += 1,
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            b'-' | b'+' | b'~' => signs += 1,
            b' ' | b'\t' | b'\\' => {}
            _ => signs = 0,
        }
        brackets > MAX_NESTING || signs > MAX_NESTING
    })
}

/// The bracket that CPython's tokenizer refuses, which knows no more levels.
fn one_bracket_too_many(parsed: &Parsed<ModModule>) -> Option<TextSize> {
    let mut depth = 0_usize;
    let token = parsed.tokens().iter().find(|token| {
        match token.kind() {
            TokenKind::Lpar | TokenKind::Lsqb | TokenKind::Lbrace => depth += 1,
            TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace => {
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        depth > MAX_BRACKETS
    })?;
    Some(token.start())
}

/// Whether text without any fence is a program: valid, and with a statement that prose does not form.
pub(super) fn looks_like_program(text: &str) -> bool {
    if text.trim().is_empty() || text.len() > MAX_CHECKED_BYTES || too_deep(text).is_some() {
        return false;
    }
    with_parsed(text, |parsed| {
        parsed.errors().is_empty() && parsed.syntax().body.iter().any(is_telling)
    })
}

/// Whether a single line opens a Python program, as opposed to a sentence that begins with the same word.
pub(super) fn is_statement_line(line: &str) -> bool {
    let line = line.trim_end();
    const OPENERS: [&str; 6] = ["def ", "class ", "async def ", "import ", "from ", "@"];
    if line.len() > 1_000 || !OPENERS.iter().any(|opener| line.starts_with(opener)) {
        return false;
    }
    let whole = match line.as_bytes() {
        [b'@', ..] => format!("{line}\ndef f(): pass"),
        // A signature that goes on below is told by its open bracket.
        [.., b':'] => format!("{line} pass"),
        [.., b'(' | b','] => {
            return line.starts_with("def ")
                || line.starts_with("async def ")
                || line.ends_with("import (");
        }
        _ => line.to_owned(),
    };
    with_parsed(&whole, |parsed| parsed.errors().is_empty())
}

fn is_telling(statement: &Stmt) -> bool {
    match statement {
        Stmt::Expr(expression) => {
            matches!(&*expression.value, Expr::Call(_) | Expr::Await(_) | Expr::Yield(_))
        }
        Stmt::Pass(_) | Stmt::Break(_) | Stmt::Continue(_) => false,
        // `note: this` reads as an annotation without a value.
        Stmt::AnnAssign(annotated) => annotated.value.is_some(),
        _ => true,
    }
}

/// Parses, and hands the tree to `f`, on a stack that no nesting can exhaust.
///
/// The parser grows its stack by itself, but dropping a tree recurses once a level, and hostile (or
/// generated) code such as `1+1+1+...` has a level every two bytes.
fn with_parsed<T>(code: &str, f: impl FnOnce(&Parsed<ModModule>) -> T) -> T {
    const BYTES_A_LEVEL: usize = 1024;
    let needed = code.len() * BYTES_A_LEVEL + (64 << 10);
    stacker::maybe_grow(needed, needed + (256 << 10), || {
        let Some(parsed) =
            parse_unchecked(code, ParseOptions::from(Mode::Module)).try_into_module()
        else {
            unreachable!("module mode gives a module")
        };
        f(&parsed)
    })
}

/// Line and column, both from 1, of a byte offset.
fn position(code: &str, offset: usize) -> (usize, usize) {
    let mut at = offset.min(code.len());
    while !code.is_char_boundary(at) {
        at -= 1;
    }
    let before = &code[..at];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_code_has_no_issues() {
        let report = validate_python("def f(x: int) -> int:\n    return x + 1\n");
        assert_eq!(report, SyntaxReport { checked: true, valid: true, issues: vec![] });
        assert!(validate_python("").valid);
    }

    #[test]
    fn an_error_has_its_place() {
        let report = validate_python("x = 1\nprint('정', )(\n");
        assert!(!report.valid);
        let first = &report.issues[0];
        assert_eq!(first.severity, Severity::Error);
        assert!(first.line >= 2, "{first:?}");
        let report = validate_python("정 = 1 2\n");
        assert_eq!((report.issues[0].line, report.issues[0].column), (1, 7), "{report:?}");
    }

    #[test]
    fn statement_lines() {
        for line in [
            "def f(x):",
            "def f(",
            "class A:",
            "import os",
            "from os import path",
            "from os import (",
            "@cache",
            "async def f():",
            "def f(): return 1",
        ] {
            assert!(is_statement_line(line), "{line}");
        }
        for line in [
            "import the module",
            "from here on, it works",
            "def is a keyword",
            "class of its own",
            "@everyone look",
            "Define f:",
            "",
        ] {
            assert!(!is_statement_line(line), "{line}");
        }
    }

    #[test]
    fn deep_code_does_not_exhaust_the_stack() {
        let deep = 100_000;
        let cases = [
            "(".repeat(deep),
            "[".repeat(deep) + &"]".repeat(deep),
            "1+".repeat(deep) + "1",
            "-".repeat(deep) + "1",
            "not ".repeat(deep) + "x",
            "a.".repeat(deep) + "a",
            "f(".repeat(deep) + &")".repeat(deep),
            "lambda:".repeat(deep) + "1",
            "x if y else ".repeat(deep / 2) + "z",
            "{".repeat(deep),
            "f'{".repeat(1_000),
            "if x:\n".repeat(1_000),
            "\"\"\"".to_owned(),
            "\u{0}\u{feff}\\".to_owned(),
        ];
        // A small stack, as worker threads of a runtime have.
        let run = move || {
            for code in cases {
                std::hint::black_box(validate_python(&code));
            }
        };
        std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
    }

    #[test]
    fn what_nests_too_deep_is_not_parsed() {
        let report = validate_python(&("x = 1\ny = ".to_owned() + &"(".repeat(6_000)));
        assert!(!report.valid && !report.checked);
        assert_eq!((report.issues[0].line, report.issues[0].column), (2, 4 + MAX_NESTING + 1));
        assert!(!validate_python(&("-".repeat(6_000) + "1")).checked);
        assert!(validate_python(&("x = '".to_owned() + &"-= ".repeat(6_000) + "'")).valid);
    }

    #[test]
    fn brackets_nest_as_deep_as_cpythons() {
        let nested = |depth: usize| "(".repeat(depth) + "1" + &")".repeat(depth);
        assert!(validate_python(&nested(200)).valid);
        let report = validate_python(&nested(201));
        assert!(report.checked && !report.valid);
        assert_eq!(report.issues[0].message, "too many nested parentheses");
        assert_eq!(report.issues[0].column, 201);
        assert!(validate_python(&("x = '".to_owned() + &"(".repeat(300) + "'")).valid);
    }

    #[test]
    fn too_long_is_said() {
        let report = validate_python(&"#".repeat(MAX_CHECKED_BYTES + 1));
        assert!(!report.valid && !report.checked);
    }
}
