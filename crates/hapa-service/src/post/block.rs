//! Ends a completion where the block that the cursor is in ends.
//!
//! Left alone, a model goes on after the function that was wanted: with the next one, with a test, with a main program. Python's
//! blocks are lexical: a block ends at the first *logical* line (Python reference, 2.1) that is indented less. So a scanner
//! that knows strings, brackets, comments and joined lines finds the same ends as a parser, a character at a time while the answer
//! streams, and also in text that does not parse yet, which is what stands at a cursor.
//!
//! A completion ends before the first logical line that
//! - is indented less than the statement at the cursor (or not more than the header, when the cursor stands right after `:`);
//! - follows a whole function or class that the completion wrote in a module or class body.
//!
//! Prose has no blocks: in a string of several lines, such as a docstring, a completion ends with its paragraph, before an
//! empty line.
//!
//! Empty lines and indents are held back until what follows them is known, so the end leaves none behind.

/// The incremental filter. What it lets through does not depend on how the text was cut into pieces.
#[derive(Debug)]
pub struct BlockGuard {
    scanner: Scanner,
    /// The text before the cursor and what was let through.
    text: String,
    /// Logical lines of `text`: those that have begun.
    lines: Vec<Line>,
    /// The logical line at the cursor, once it has begun.
    first: Option<usize>,
    /// A logical line with a smaller indent ends the completion.
    least_column: usize,
    /// Where the cursor stands in `text`.
    cursor: usize,
    /// The cursor is in a string of several lines, and all that was let through is, too.
    is_prose: bool,
    /// Line ends and blanks that are shown only if more follows in the block.
    held: String,
    cut: bool,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    start: usize,
    column: usize,
}

impl BlockGuard {
    /// A guard for a completion after `prefix`, which is Python.
    pub fn new(prefix: &str) -> Self {
        let mut guard = Self {
            scanner: Scanner::default(),
            text: String::with_capacity(prefix.len() + 512),
            lines: Vec::new(),
            first: None,
            least_column: 0,
            cursor: prefix.len(),
            is_prose: true,
            held: String::new(),
            cut: false,
        };
        let mut line_is_blank = true;
        for c in prefix.chars() {
            // Code that is being edited may have a bracket open far above; no expression has these words.
            if line_is_blank && !c.is_whitespace() && guard.scanner.is_in_brackets() {
                let rest = &prefix[guard.text.len()..];
                if ["def ", "class ", "async def ", "@"].iter().any(|word| rest.starts_with(word)) {
                    guard.scanner.recover();
                }
            }
            line_is_blank = c == '\n' || (line_is_blank && c.is_whitespace());
            guard.take(c);
        }
        guard.is_prose = guard.scanner.is_in_long_string();
        if guard.scanner.in_line {
            guard.first = guard.lines.len().checked_sub(1);
            let column = guard.lines.last().map_or(0, |line| line.column);
            let opens = guard.scanner.is_plain() && prefix.trim_end().ends_with(':');
            guard.least_column = column + usize::from(opens);
        }
        guard
    }

    /// Adds text; returns what may be shown.
    pub fn push(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            if self.cut {
                break;
            }
            let blank = c.is_whitespace() && (c == '\n' || !self.held.is_empty());
            if blank {
                self.held.push(c);
                continue;
            }
            if self.ends_paragraph() {
                self.cut = true;
                break;
            }
            let before = self.text.len();
            let held = std::mem::take(&mut self.held);
            held.chars().for_each(|c| self.take(c));
            let begins = !c.is_whitespace() && !self.scanner.in_line && self.scanner.is_plain();
            if begins && self.leaves_block() {
                self.text.truncate(before);
                self.cut = true;
                break;
            }
            shown.push_str(&held);
            self.take(c);
            shown.push(c);
        }
        shown
    }

    /// Ends the completion; returns what was held back.
    pub fn finish(&mut self) -> String {
        if self.cut {
            return String::new();
        }
        self.cut = true;
        std::mem::take(&mut self.held)
    }

    /// The block is at its end: nothing more will be let through, and the generation can stop.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Takes a character that belongs to the text.
    fn take(&mut self, c: char) {
        let was_in_line = self.scanner.in_line;
        self.scanner.see(c);
        if self.scanner.in_line && !was_in_line {
            self.lines.push(Line { start: self.text.len(), column: self.column() });
        }
        self.text.push(c);
        self.is_prose &= self.scanner.is_in_long_string();
    }

    /// Prose of the completion is followed by an empty line, and that by more.
    fn ends_paragraph(&self) -> bool {
        self.is_prose
            && self.held.bytes().filter(|&byte| byte == b'\n').count() > 1
            && !self.text[self.cursor..].trim().is_empty()
    }

    /// The indent of the line that the text ends in, as Python counts it: a tab goes to the next multiple of eight.
    fn column(&self) -> usize {
        let line = self.text.rsplit('\n').next().unwrap_or_default();
        line.chars().fold(0, |column, c| if c == '\t' { column / 8 * 8 + 8 } else { column + 1 })
    }

    /// A logical line (or a comment on a line of its own) is about to begin. Is it outside?
    fn leaves_block(&mut self) -> bool {
        let column = self.column();
        let Some(first) = self.first else {
            // The cursor stood on an empty line: what the completion begins with is its block.
            self.first = Some(self.lines.len());
            self.least_column = column;
            return false;
        };
        if column < self.least_column {
            return true;
        }
        let Some(&Line { column: base, .. }) = self.lines.get(first) else { return false };
        column <= base
            && self.is_module_or_class_body(first, base)
            && self.lines[first..]
                .iter()
                .any(|line| line.column == base && self.is_definition(line))
    }

    fn is_definition(&self, line: &Line) -> bool {
        let text = &self.text[line.start..];
        ["def ", "async def ", "class "].iter().any(|word| text.starts_with(word))
    }

    fn is_module_or_class_body(&self, first: usize, base: usize) -> bool {
        let header = self.lines[..first].iter().rev().find(|line| line.column < base);
        header.is_none_or(|line| self.text[line.start..].starts_with("class "))
    }
}

/// Where in Python's lexical structure a text ends.
#[derive(Debug, Default)]
struct Scanner {
    inside: Inside,
    /// Open brackets.
    depth: usize,
    /// A logical line has begun.
    in_line: bool,
    /// The last character was a backslash that takes the next one's meaning.
    escaped: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Inside {
    #[default]
    Code,
    Comment,
    /// One or two quotes have come; three open a long string.
    Opening {
        quote: char,
        count: u8,
    },
    /// A string of one line.
    Short {
        quote: char,
    },
    /// A string of several lines, which `count` of its quotes in a row have begun to close.
    Long {
        quote: char,
        count: u8,
    },
}

impl Scanner {
    /// Neither in a string, nor in brackets, nor in a joined line.
    fn is_plain(&self) -> bool {
        matches!(self.inside, Inside::Code) && self.depth == 0 && !self.escaped
    }

    fn is_in_long_string(&self) -> bool {
        matches!(self.inside, Inside::Long { .. })
    }

    fn is_in_brackets(&self) -> bool {
        matches!(self.inside, Inside::Code) && self.depth > 0
    }

    /// Forgets open brackets: a new statement begins here, whatever stands before it.
    fn recover(&mut self) {
        *self = Self::default();
    }

    fn see(&mut self, c: char) {
        if std::mem::take(&mut self.escaped) {
            return;
        }
        match self.inside {
            Inside::Code => self.code(c),
            Inside::Comment if c == '\n' => {
                self.inside = Inside::Code;
                self.code(c);
            }
            Inside::Comment => {}
            Inside::Opening { quote, count } => match (c == quote, count) {
                (true, 1) => self.inside = Inside::Opening { quote, count: 2 },
                (true, _) => self.inside = Inside::Long { quote, count: 0 },
                (false, 1) => {
                    self.inside = Inside::Short { quote };
                    self.see(c);
                }
                // Two quotes: an empty string, which is over.
                (false, _) => {
                    self.inside = Inside::Code;
                    self.code(c);
                }
            },
            Inside::Short { quote } => match c {
                '\\' => self.escaped = true,
                // Never closed: as Python has it, the line's end ends it.
                '\n' => {
                    self.inside = Inside::Code;
                    self.code(c);
                }
                c if c == quote => self.inside = Inside::Code,
                _ => {}
            },
            Inside::Long { quote, count } => match c {
                '\\' => {
                    self.escaped = true;
                    self.inside = Inside::Long { quote, count: 0 };
                }
                c if c == quote && count == 2 => self.inside = Inside::Code,
                c if c == quote => self.inside = Inside::Long { quote, count: count + 1 },
                _ => self.inside = Inside::Long { quote, count: 0 },
            },
        }
    }

    fn code(&mut self, c: char) {
        match c {
            '\n' => self.in_line &= self.depth > 0,
            '#' => self.inside = Inside::Comment,
            c if c.is_whitespace() => {}
            _ => {
                self.in_line = true;
                match c {
                    '\\' => self.escaped = true,
                    '\'' | '"' => self.inside = Inside::Opening { quote: c, count: 1 },
                    '(' | '[' | '{' => self.depth += 1,
                    ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ruff_python_ast::token::TokenKind;
    use ruff_python_parser::parse_module;

    fn guarded(prefix: &str, text: &str) -> String {
        let mut guard = BlockGuard::new(prefix);
        let shown = guard.push(text);
        shown + &guard.finish()
    }

    #[test]
    fn a_body_ends_with_its_block() {
        let prefix = "import os\n\ndef add(a, b):\n    ";
        assert_eq!(
            guarded(prefix, "c = a + b\n\n    return c\n\n\ndef sub(a, b):\n    return a - b\n"),
            "c = a + b\n\n    return c"
        );
        assert_eq!(guarded(prefix, "return a + b\n\nprint(add(1, 2))"), "return a + b");
        assert_eq!(guarded(prefix, "return a + b\n# Test\n"), "return a + b");
        assert_eq!(
            guarded(prefix, "return a + b\n"),
            "return a + b\n",
            "a natural end is left alone"
        );
    }

    #[test]
    fn right_after_a_header_only_its_block_follows() {
        assert_eq!(guarded("def f(x):", "\n    return x\n\nf(1)"), "\n    return x");
        let prefix = "def f(x):\n    if x:";
        assert_eq!(
            guarded(prefix, "\n        return 1\n    else:\n        return 2"),
            "\n        return 1"
        );
        // In the middle of a header: its block, then nothing more of a module.
        assert_eq!(guarded("def f(", "x):\n    return x\n\nf(1)"), "x):\n    return x");
        assert_eq!(guarded("x = {'a':", " 1}\ny = 2\n"), " 1}\ny = 2\n", "no header");
    }

    #[test]
    fn clauses_and_siblings_stay() {
        let prefix = "def f(x):\n    ";
        let body = "if x:\n        a = 1\n    else:\n        a = 2\n    return a";
        assert_eq!(guarded(prefix, &format!("{body}\n\nf(1)")), body);
        let nested = "def g():\n        return x\n    return g";
        assert_eq!(guarded(prefix, &format!("{nested}\n\nf(1)")), nested);
    }

    #[test]
    fn one_definition_of_a_module_or_class() {
        assert_eq!(
            guarded("import os\n\n", "@cache\ndef f():\n    return 1\n\ndef g():\n    return 2"),
            "@cache\ndef f():\n    return 1"
        );
        assert_eq!(
            guarded(
                "class A:\n    def f(self):\n        pass\n\n    ",
                "def g(self):\n        return 2\n\n    def h(self): ..."
            ),
            "def g(self):\n        return 2"
        );
        assert_eq!(
            guarded("", "x = 1\ny = 2\n\ndef f(): ...\n\nz = 3"),
            "x = 1\ny = 2\n\ndef f(): ..."
        );
        assert_eq!(
            guarded("def f():\n    return 1\n", "\n\ndef g():\n    return 2\n\nx = 1"),
            "\n\ndef g():\n    return 2"
        );
    }

    #[test]
    fn strings_brackets_and_joined_lines_are_not_blocks() {
        let prefix = "def f(x):\n    ";
        for body in [
            "\"\"\"Doc.\n\nnot code:\ndef g(): pass\n\"\"\"\n    return x",
            "y = (\n1,\n)\n    return y",
            "y = 1 + \\\n2\n    return y",
            "y = '''\na\\''' '''\n    return y",
            "y = f(  # (\n'#', \"'\")\n    return y",
        ] {
            assert_eq!(guarded(prefix, &format!("{body}\nf(1)")), body);
        }
        // The quote is never closed: the line ends it.
        assert_eq!(guarded(prefix, "y = 'a\n    return y\nf(1)"), "y = 'a\n    return y");
    }

    #[test]
    fn a_bracket_left_open_above_does_not_hide_the_block() {
        assert_eq!(
            guarded("x = foo(1,\n\ndef f(x):\n    ", "return x\n\ndef g(): ..."),
            "return x"
        );
    }

    #[test]
    fn prose_ends_with_its_paragraph() {
        let prefix = "def f(x):\n    \"\"\"Doubles";
        assert_eq!(guarded(prefix, " x.\n\n    Args:\n        x: it\n"), " x.");
        assert_eq!(guarded(prefix, " x,\n    once.\n    \n    More."), " x,\n    once.");
        assert_eq!(guarded(prefix, "\n\n    More.\n\n    Most."), "\n\n    More.");
        assert_eq!(
            guarded(prefix, " \n\n    More."),
            " \n\n    More.",
            "nothing was written before"
        );
        // With the string the prose is over.
        let body = " x.\"\"\"\n\n    y = 2 * x\n\n    return y";
        assert_eq!(guarded(prefix, &format!("{body}\n\nf(1)")), body);
        let body = " \\\"\"\"\"\n\n    return x";
        assert_eq!(guarded(prefix, body), body, "the first quote is escaped");
        // A string that the completion opens is a part of its block.
        let body = "\"\"\"Doc.\n\n    More.\n    \"\"\"\n    return x";
        assert_eq!(guarded("def f(x):\n    ", body), body);
        assert_eq!(guarded("s = 'a", "b\n\nt = 1"), "b\n\nt = 1", "a string of one line");
    }

    #[test]
    fn a_cut_is_seen_while_streaming() {
        let mut guard = BlockGuard::new("def f():\n    ");
        assert_eq!(guard.push("return 1"), "return 1");
        assert_eq!(guard.push("\n\n"), "");
        assert!(!guard.is_cut());
        assert_eq!(guard.push("d"), "");
        assert!(guard.is_cut());
        assert_eq!((guard.push("ef"), guard.finish()), (String::new(), String::new()));
    }

    /// Programs that are valid more often than not.
    fn program() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("x = 1\n"),
            Just("def f(a,\n b=')'):\n    return a\n"),
            Just("class A:\n    '''Doc\ndef g():\n'''\n    def f(self): pass\n"),
            Just("if x:\n    y = [1, # ]\n2]\nelse:\n    pass\n"),
            Just("# comment 'quote\n"),
            Just("\n"),
            Just("z = 1 + \\\n  2\n"),
            Just("s = f'{x}' '' \"#\" r'\\'\n"),
            Just("s = '''a'b\\'''c''' + ''\n"),
            Just("t = \"\"\"\n\"quoted\" ''\n\"\"\"\n"),
            Just("if x: pass\n"),
            Just("for i in x:\n\tpass\n\n"),
            Just("d = {'k': \"v\",\n\n'l': (1,\n2)}\n"),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn logical_lines_are_those_of_a_parser(code in program()) {
            let parsed = parse_module(&code);
            prop_assume!(parsed.is_ok());
            let mut expected = Vec::new();
            let mut in_line = false;
            for token in parsed.iter().flat_map(|parsed| parsed.tokens().iter()) {
                match token.kind() {
                    TokenKind::Newline => in_line = false,
                    TokenKind::NonLogicalNewline | TokenKind::Indent | TokenKind::Dedent
                    | TokenKind::Comment | TokenKind::EndOfFile => {}
                    _ => {
                        if !in_line {
                            expected.push(ruff_text_size::Ranged::start(token).to_usize());
                        }
                        in_line = true;
                    }
                }
            }
            let guard = BlockGuard::new(&code);
            let found: Vec<usize> = guard.lines.iter().map(|line| line.start).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn pieces_do_not_matter(prefix in program(), opened in prop_oneof![Just(""), Just("'''Doc")], text in program(), cuts in proptest::collection::vec(0usize..200, 0..20)) {
            let prefix = prefix + opened;
            let mut bounds: Vec<usize> = cuts.into_iter().filter(|&at| at <= text.len()).collect();
            bounds.extend([0, text.len()]);
            bounds.sort_unstable();
            let mut guard = BlockGuard::new(&prefix);
            let mut shown = String::new();
            for pair in bounds.windows(2) {
                shown.push_str(&guard.push(&text[pair[0]..pair[1]]));
            }
            shown.push_str(&guard.finish());
            prop_assert!(text.starts_with(&shown), "only the end is ever removed");
            prop_assert_eq!(shown, guarded(&prefix, &text));
        }
    }
}
