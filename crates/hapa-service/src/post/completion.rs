//! What a completion goes through on its way to the editor.

use super::block::BlockGuard;
use super::indent::IndentGuard;
use super::suffix::SuffixGuard;

/// Ends a completion with its block, or where its lines are indented less than was asked for, and keeps it from repeating the
/// text after the cursor.
#[derive(Debug, Default)]
pub(crate) struct CompletionGuard {
    indent: Option<IndentGuard>,
    /// Of Python alone.
    block: Option<BlockGuard>,
    /// Of what stands at a cursor.
    suffix: Option<SuffixGuard>,
}

impl CompletionGuard {
    /// A guard for what stands between `prefix` and `suffix`.
    pub(crate) fn new(prefix: &str, suffix: &str, is_python: bool) -> Self {
        Self {
            indent: None,
            block: is_python.then(|| BlockGuard::new(prefix)),
            suffix: Some(SuffixGuard::new(prefix, suffix)),
        }
    }

    /// Ends the completion before a line that is indented less, too.
    pub(crate) fn indented(self, least: usize) -> Self {
        Self { indent: (least > 0).then(|| IndentGuard::new(least)), ..self }
    }

    /// Adds text; returns what may be shown.
    pub(crate) fn push(&mut self, text: &str) -> String {
        let mut shown = self.let_through(text);
        if self.is_cut() {
            shown.push_str(&self.finish());
        }
        shown
    }

    fn let_through(&mut self, text: &str) -> String {
        let mut text = match &mut self.indent {
            Some(indent) => indent.push(text),
            None => text.to_owned(),
        };
        if let Some(block) = &mut self.block {
            text = block.push(&text);
        }
        match &mut self.suffix {
            Some(suffix) => suffix.push(&text),
            None => text,
        }
    }

    /// Ends the completion; returns what was held back and belongs to it.
    pub(crate) fn finish(&mut self) -> String {
        let mut rest = self.indent.as_mut().map(IndentGuard::finish).unwrap_or_default();
        if let Some(block) = &mut self.block {
            rest = block.push(&rest) + &block.finish();
        }
        match &mut self.suffix {
            Some(suffix) => suffix.push(&rest) + &suffix.finish(),
            None => rest,
        }
    }

    /// Nothing more will be let through, and the generation can stop.
    pub(crate) fn is_cut(&self) -> bool {
        self.indent.as_ref().is_some_and(IndentGuard::is_cut)
            || self.block.as_ref().is_some_and(BlockGuard::is_cut)
            || self.suffix.as_ref().is_some_and(SuffixGuard::is_cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is let through of a text, character by character.
    fn through(mut guard: CompletionGuard, text: &str) -> String {
        let shown: String = text.chars().map(|c| guard.push(&c.to_string())).collect();
        shown + &guard.finish()
    }

    #[test]
    fn what_ends_first_ends_it() {
        let prefix = "def f():\n    if x:\n        ";
        let text = "a\n        b\n    c\nd\n";
        let python = || CompletionGuard::new(prefix, "\nz = 1\n", true);
        assert_eq!(through(python(), text), "a\n        b");
        let plain = || CompletionGuard::new(prefix, "\nz = 1\n", false);
        assert_eq!(through(plain().indented(4), text), "a\n        b\n    c");
        assert_eq!(through(plain().indented(8), text), "a\n        b");
        assert_eq!(through(python().indented(4), text), "a\n        b");
        assert_eq!(through(plain(), text), text);
        assert_eq!(through(CompletionGuard::default().indented(1), text), "a\n        b\n    c");
        // What the suffix repeats is held back by one guard and let go by the other.
        let repeating = CompletionGuard::new("x = [", "]\n    ok()\n", false).indented(4);
        assert_eq!(through(repeating, "1]\nno"), "1");
    }
}
