//! Ends a completion before the first line that is indented less than was asked for: llama-server's `n_indent`.
//!
//! Blanks and tabs count one each. The line that the completion begins in has begun before it, and an empty line has no indent:
//! neither ends anything. Empty lines and indents are held back until what follows them is known, so the end leaves none behind.

/// The incremental filter. What it lets through does not depend on how the text was cut into pieces.
#[derive(Debug)]
pub(crate) struct IndentGuard {
    /// The smallest indent of a line.
    least: usize,
    /// Line ends and blanks that are shown only if a line follows that is indented enough.
    held: String,
    /// Blanks at the beginning of the line that is held.
    indent: usize,
    cut: bool,
}

impl IndentGuard {
    pub(crate) fn new(least: usize) -> Self {
        Self { least, held: String::new(), indent: 0, cut: false }
    }

    /// Adds text; returns what may be shown.
    pub(crate) fn push(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            if self.cut {
                break;
            }
            match c {
                '\n' => {
                    self.indent = 0;
                    self.held.push(c);
                }
                ' ' | '\t' | '\r' if !self.held.is_empty() => {
                    self.indent += usize::from(c != '\r');
                    self.held.push(c);
                }
                _ if !self.held.is_empty() && self.indent < self.least => self.cut = true,
                _ => {
                    shown.push_str(&self.held);
                    self.held.clear();
                    shown.push(c);
                }
            }
        }
        shown
    }

    /// Ends the completion; returns what was held back.
    pub(crate) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        if std::mem::replace(&mut self.cut, true) { String::new() } else { rest }
    }

    /// A line was indented less: nothing more will be let through, and the generation can stop.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is let through of a text, and whether it was cut; in pieces of one character and in one piece.
    fn through(least: usize, text: &str) -> (String, bool) {
        let run = |pieces: &[String]| {
            let mut guard = IndentGuard::new(least);
            let mut shown: String = pieces.iter().map(|piece| guard.push(piece)).collect();
            let cut = guard.is_cut();
            shown.push_str(&guard.finish());
            (shown, cut)
        };
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let found = run(&[text.to_owned()]);
        assert_eq!(run(&characters), found, "{text:?}");
        found
    }

    #[test]
    fn a_smaller_indent_ends_it() {
        for (least, text, shown) in [
            (4, "a\n    b\nc", "a\n    b"),
            (4, "a\n   b", "a"),
            (2, "a\n\t\tb\n\tc", "a\n\t\tb"),
            (1, "\nb", ""),
            (4, "a\r\n    b\r\nc", "a\r\n    b\r"),
            (4, "a\n    b\n\n  \n  # c", "a\n    b"),
        ] {
            assert_eq!(through(least, text), (shown.to_owned(), true), "{text:?}");
        }
    }

    #[test]
    fn the_first_line_and_empty_ones_have_no_indent() {
        for text in ["a", "a\n\n    b", "a\n  \n\r\n    b\n", "  \n    b", "a\n", "a\n  ", ""] {
            assert_eq!(through(4, text), (text.to_owned(), false), "{text:?}");
        }
        assert_eq!(through(0, "a\nb"), ("a\nb".to_owned(), false));
    }
}
