//! The code blocks of an answer, as it streams.
//!
//! Rules, in the order in which they decide:
//! 1. A fenced block (CommonMark: three or more backticks or tildes) tagged as Python is code. Several are
//!    joined by an empty line, so that a function and the example of its use make one program.
//! 2. A block without a tag is code if nothing was code before it; later ones are mostly program output.
//!    Blocks with another tag (`bash`, `text`, ...) belong to the explanation.
//! 3. A fence that is never closed lasts to the end of the answer.
//! 4. An answer whose first line is a Python statement (`def f(`, `import x`, ...) is code up to its first fence.
//! 5. An answer without any of these that parses as Python, and is more than a bare word or sentence, is code.

use super::syntax::{is_statement_line, looks_like_program};

/// What an answer is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extracted {
    /// The code, without surrounding empty lines; `None` when the answer has none.
    pub code: Option<String>,
    /// The text around the code; `None` when there is none.
    pub explanation: Option<String>,
}

/// Takes a whole answer apart.
pub fn extract(answer: &str) -> Extracted {
    let mut stream = CodeStream::new();
    let mut code = stream.push(answer);
    let (rest, explanation) = stream.finish_parts();
    code.push_str(&rest);
    Extracted { code: (!code.is_empty()).then_some(code), explanation }
}

/// The code of an answer while the answer is still being written.
///
/// Push text as it comes; what is returned is code that is certain. Line ends at the end of a block and
/// anything that may become a fence are held back until what follows decides.
///
/// ```
/// let mut stream = hapa_service::CodeStream::new();
/// let mut code = stream.push("Here you are:\n```py");
/// code += &stream.push("thon\nprint(1)\n``");
/// assert_eq!(code, "print(1)");
/// code += &stream.push("`\nDone.");
/// code += &stream.finish();
/// assert_eq!(code, "print(1)");
/// ```
#[derive(Debug, Default)]
pub struct CodeStream {
    /// The current line, as far as it has not been dealt with.
    line: String,
    /// Part of the current line was emitted already (it cannot be a fence any more).
    line_open: bool,
    state: State,
    /// Everything that is not code, for the explanation and for rule 5.
    prose: String,
    /// Line ends (and the blanks of empty lines) that are emitted only if more code follows in the block.
    held: String,
    wrote_code: bool,
    saw_fence: bool,
    saw_line: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Prose,
    /// Unfenced code (rule 4).
    Bare,
    /// In a block that is code.
    Code(Fence),
    /// In a block that is not.
    Other(Fence),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fence {
    mark: char,
    length: usize,
    indent: usize,
}

impl CodeStream {
    /// A stream with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds text; returns the code that it made certain.
    pub fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if piece.ends_with('\n') {
                self.end_line(&mut out);
            }
        }
        self.part_of_line(&mut out);
        out
    }

    /// Ends the answer; returns the code that was still held back.
    pub fn finish(self) -> String {
        self.finish_parts().0
    }

    fn finish_parts(mut self) -> (String, Option<String>) {
        let mut out = String::new();
        if !self.line.is_empty() || self.line_open {
            self.end_line(&mut out);
        }
        if !self.wrote_code && !self.saw_fence && looks_like_program(&self.prose) {
            let code = self.prose.trim_end().trim_start_matches(['\n', '\r']).to_owned();
            return (code, None);
        }
        let explanation = self.prose.trim();
        (out, (!explanation.is_empty()).then(|| explanation.to_owned()))
    }

    /// A line is complete, or the answer ended in it.
    fn end_line(&mut self, out: &mut String) {
        let line = std::mem::take(&mut self.line);
        let open = std::mem::take(&mut self.line_open);
        if open {
            self.emit(&line, out);
            return;
        }
        match self.state {
            State::Prose => self.prose_line(&line, out),
            State::Bare => match opening_fence(&line) {
                // Models that forget the opening fence still write the closing one.
                Some((_, tag)) if tag.is_empty() => {
                    self.saw_fence = true;
                    self.leave();
                }
                Some((fence, tag)) => self.enter(fence, &tag, &line),
                None => self.code_line(&line, 0, out),
            },
            State::Code(fence) if fence.closed_by(&line) => self.leave(),
            State::Code(fence) => self.code_line(&line, fence.indent, out),
            State::Other(fence) => {
                self.prose.push_str(&line);
                if fence.closed_by(&line) {
                    self.state = State::Prose;
                }
            }
        }
    }

    fn prose_line(&mut self, line: &str, out: &mut String) {
        if let Some((fence, tag)) = opening_fence(line) {
            self.enter(fence, &tag, line);
        } else if !self.saw_line && is_statement_line(line) {
            self.saw_line = true;
            self.state = State::Bare;
            self.code_line(line, 0, out);
        } else {
            self.saw_line |= !line.trim().is_empty();
            self.prose.push_str(line);
        }
    }

    fn enter(&mut self, fence: Fence, tag: &str, line: &str) {
        self.held.clear();
        self.saw_fence = true;
        self.saw_line = true;
        let is_code = match tag {
            "python" | "py" | "python3" | "py3" | "python2" => true,
            "" => !self.wrote_code,
            _ => false,
        };
        if is_code {
            self.state = State::Code(fence);
            if self.wrote_code {
                self.held.push_str("\n\n");
            }
        } else {
            self.prose.push_str(line);
            self.state = State::Other(fence);
        }
    }

    fn leave(&mut self) {
        self.held.clear();
        self.state = State::Prose;
    }

    /// A whole line of code, with or without its line end.
    fn code_line(&mut self, line: &str, indent: usize, out: &mut String) {
        self.emit(strip_indent(line, indent), out);
    }

    /// Sends code on, but holds back what ends it: line ends and blanks.
    fn emit(&mut self, text: &str, out: &mut String) {
        let solid = text.trim_end_matches(['\n', '\r', ' ', '\t']);
        if solid.is_empty() {
            self.held.push_str(text);
        } else {
            if self.wrote_code {
                out.push_str(&self.held);
            } else {
                // Empty lines before the first code are dropped; the indent of its line is kept.
                out.push_str(self.held.rsplit('\n').next().unwrap_or_default());
            }
            self.held.clear();
            self.wrote_code = true;
            out.push_str(solid);
            self.held.push_str(&text[solid.len()..]);
        }
    }

    /// Sends on the part of an unfinished line that cannot be a fence.
    fn part_of_line(&mut self, out: &mut String) {
        let indent = match self.state {
            State::Code(fence) => fence.indent,
            State::Bare => 0,
            State::Prose | State::Other(_) => return,
        };
        if self.line.is_empty() {
            return;
        }
        if !self.line_open {
            let may_be_fence = match self.line.trim_start_matches([' ', '\t']).chars().next() {
                None => true,
                Some(mark) => mark == '`' || mark == '~',
            };
            if may_be_fence {
                return;
            }
            let line = std::mem::take(&mut self.line);
            self.line_open = true;
            self.code_line(&line, indent, out);
        } else {
            let line = std::mem::take(&mut self.line);
            self.emit(&line, out);
        }
    }
}

impl Fence {
    fn closed_by(self, line: &str) -> bool {
        let (indent, rest) = split_indent(line);
        // Deeper marks belong to the code: a docstring with a fence in it.
        if indent > self.indent + 3 {
            return false;
        }
        let rest = rest.trim_end();
        rest.chars().all(|c| c == self.mark) && rest.chars().count() >= self.length
    }
}

/// The fence that a line opens and its tag in lower case.
fn opening_fence(line: &str) -> Option<(Fence, String)> {
    let (indent, rest) = split_indent(line);
    let mark = rest.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = rest.chars().take_while(|&c| c == mark).count();
    let info = rest[length..].trim();
    if length < 3 || (mark == '`' && info.contains('`')) {
        return None;
    }
    let tag = info
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | ':'))
        .find(|word| !word.is_empty())
        .unwrap_or_default()
        .trim_matches(['.', '}'])
        .to_lowercase();
    Some((Fence { mark, length, indent }, tag))
}

fn split_indent(line: &str) -> (usize, &str) {
    let rest = line.trim_start_matches([' ', '\t']);
    (line.len() - rest.len(), rest)
}

/// Removes up to `indent` blanks: a block inside a list item is indented as a whole.
fn strip_indent(line: &str, indent: usize) -> &str {
    let blanks = line.bytes().take(indent).take_while(|b| matches!(b, b' ' | b'\t')).count();
    &line[blanks..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(answer: &str) -> Option<String> {
        extract(answer).code
    }

    #[test]
    fn a_block_and_the_text_around_it() {
        let found =
            extract("Here is it:\n\n```python\ndef f():\n    return 1\n```\n\nIt returns one.\n");
        assert_eq!(found.code.as_deref(), Some("def f():\n    return 1"));
        assert_eq!(found.explanation.as_deref(), Some("Here is it:\n\n\nIt returns one."));
    }

    #[test]
    fn tags_decide() {
        assert_eq!(code("```\nx = 1\n```").as_deref(), Some("x = 1"));
        assert_eq!(code("```Python\nx = 1\n```").as_deref(), Some("x = 1"));
        assert_eq!(code("```{.python}\nx = 1\n```").as_deref(), Some("x = 1"));
        assert_eq!(code("```python title=\"a\"\nx = 1\n```").as_deref(), Some("x = 1"));
        assert_eq!(code("~~~py\nx = 1\n~~~").as_deref(), Some("x = 1"));
        assert_eq!(code("```bash\npip install x\n```"), None);
        let both =
            extract("```bash\npip install x\n```\n```python\nimport x\n```\n```text\nout\n```");
        assert_eq!(both.code.as_deref(), Some("import x"));
        assert_eq!(
            both.explanation.as_deref(),
            Some("```bash\npip install x\n```\n```text\nout\n```")
        );
    }

    #[test]
    fn several_blocks_join_but_output_does_not() {
        let answer = "```python\ndef f(): return 1\n```\nUse:\n```python\nprint(f())\n```\nprints\n```\n1\n```\n";
        let found = extract(answer);
        assert_eq!(found.code.as_deref(), Some("def f(): return 1\n\nprint(f())"));
        assert_eq!(found.explanation.as_deref(), Some("Use:\nprints\n```\n1\n```"));
    }

    #[test]
    fn open_fences_and_odd_ends() {
        assert_eq!(code("```python\nx = 1\ny = 2").as_deref(), Some("x = 1\ny = 2"));
        assert_eq!(code("```python\nx = 1\n``").as_deref(), Some("x = 1\n``"));
        assert_eq!(code("```python\n\n\n  x = 1\n\n\n```").as_deref(), Some("  x = 1"));
        assert_eq!(code("```python"), None);
        assert_eq!(code("```python\n```"), None);
        assert_eq!(code(""), None);
    }

    #[test]
    fn a_docstring_with_a_fence_stays_whole() {
        let body = "def f():\n    \"\"\"Use:\n\n    ```python\n    f()\n    ```\n    \"\"\"";
        assert_eq!(code(&format!("````python\n{body}\n````")).as_deref(), Some(body));
        assert_eq!(code(&format!("```python\n{body}\n```")).as_deref(), Some(body));
    }

    #[test]
    fn a_block_in_a_list_loses_the_lists_indent() {
        assert_eq!(
            code("1. So:\n   ```python\n   if x:\n       y()\n   ```\n").as_deref(),
            Some("if x:\n    y()")
        );
    }

    #[test]
    fn code_without_a_fence() {
        assert_eq!(code("def f(x):\n    return x\n").as_deref(), Some("def f(x):\n    return x"));
        assert_eq!(code("x = [1, 2]\nprint(x)\n").as_deref(), Some("x = [1, 2]\nprint(x)"));
        assert_eq!(
            code("import os\n\nprint(os.name)").as_deref(),
            Some("import os\n\nprint(os.name)")
        );
        for prose in [
            "Sorry",
            "Hello world.",
            "import the module and call it",
            "def is a keyword",
            "1",
            "yes, no",
        ] {
            assert_eq!(code(prose), None, "{prose}");
        }
        let cut = extract("def f(x):\n    return x\n```\nThat is all.");
        assert_eq!(cut.code.as_deref(), Some("def f(x):\n    return x"));
        assert_eq!(cut.explanation.as_deref(), Some("That is all."));
    }

    #[test]
    fn code_streams_before_its_line_ends() {
        let mut stream = CodeStream::new();
        assert_eq!(stream.push("```python\nprint("), "print(");
        assert_eq!(stream.push("1, "), "1,");
        assert_eq!(stream.push("2)\n"), " 2)");
        assert_eq!(stream.push("`"), "");
        assert_eq!(stream.push("``\n"), "");
        assert_eq!(stream.finish(), "");
    }

    fn answers() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("```"),
            Just("```python\n"),
            Just("``"),
            Just("`"),
            Just("~~~\n"),
            Just("\n"),
            Just("\n\n"),
            Just("  "),
            Just("\t"),
            Just("def f():\n"),
            Just("    return 1\n"),
            Just("x = 1"),
            Just("정답"),
            Just("```bash\n"),
            Just("\r\n"),
            Just("import os\n"),
            Just("Text."),
            Just("   ```\n"),
            Just("````py\n"),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn streaming_equals_batch(answer in answers(), cuts in proptest::collection::vec(0usize..200, 0..40)) {
            let mut bounds: Vec<usize> = cuts.into_iter().filter(|&at| at <= answer.len() && answer.is_char_boundary(at)).collect();
            bounds.extend([0, answer.len()]);
            bounds.sort_unstable();
            let mut stream = CodeStream::new();
            let mut streamed = String::new();
            for pair in bounds.windows(2) {
                streamed.push_str(&stream.push(&answer[pair[0]..pair[1]]));
            }
            let (rest, explanation) = stream.finish_parts();
            streamed.push_str(&rest);
            let batch = extract(&answer);
            prop_assert_eq!(batch.code.unwrap_or_default(), streamed.clone());
            prop_assert_eq!(batch.explanation, explanation);
            prop_assert_eq!(streamed.trim_end(), streamed.as_str());
        }
    }
}
