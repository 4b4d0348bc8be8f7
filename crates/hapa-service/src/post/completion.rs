//! What a completion goes through on its way to the editor.

use super::block::BlockGuard;
use super::suffix::SuffixGuard;

/// Ends a completion with its block, and keeps it from repeating the text after the cursor.
#[derive(Debug)]
pub(crate) struct CompletionGuard {
    /// Of Python alone.
    block: Option<BlockGuard>,
    suffix: SuffixGuard,
}

impl CompletionGuard {
    pub(crate) fn new(prefix: &str, suffix: &str, is_python: bool) -> Self {
        Self {
            block: is_python.then(|| BlockGuard::new(prefix)),
            suffix: SuffixGuard::new(prefix, suffix),
        }
    }

    /// Adds text; returns what may be shown.
    pub(crate) fn push(&mut self, text: &str) -> String {
        let Some(block) = &mut self.block else { return self.suffix.push(text) };
        let inside = block.push(text);
        let mut shown = self.suffix.push(&inside);
        if block.is_cut() {
            shown.push_str(&self.suffix.finish());
        }
        shown
    }

    /// Ends the completion; returns what was held back and belongs to it.
    pub(crate) fn finish(&mut self) -> String {
        let rest = self.block.as_mut().map(BlockGuard::finish).unwrap_or_default();
        let shown = self.suffix.push(&rest);
        shown + &self.suffix.finish()
    }

    /// Nothing more will be let through, and the generation can stop.
    pub(crate) fn is_cut(&self) -> bool {
        self.suffix.is_cut()
    }
}
