//! Unicode classes that pre-tokenizers ask for.

use std::sync::OnceLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 2;
/// `\p{M}`.
pub(super) const MARK: u8 = 4;
/// `\s`.
pub(super) const SPACE: u8 = 8;

/// Classes of characters, from the Unicode tables of `regex-syntax`.
pub(super) struct Classes {
    ascii: [u8; 128],
    /// Sorted, disjoint ranges outside ASCII; characters in none have no class.
    ranges: Vec<(u32, u32, u8)>,
}

impl Classes {
    /// The table, built on first use (well under a millisecond).
    pub(super) fn get() -> &'static Self {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(Self::build)
    }

    fn build() -> Self {
        let mut ascii = [0; 128];
        let mut ranges = Vec::new();
        for (pattern, class) in
            [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\p{M}", MARK), (r"\s", SPACE)]
        {
            for (start, end) in unicode_ranges(pattern) {
                for code in start..=end.min(127) {
                    ascii[code as usize] = class;
                }
                if end > 127 {
                    ranges.push((start.max(128), end, class));
                }
            }
        }
        ranges.sort_unstable();
        Self { ascii, ranges }
    }

    /// The class of a character: one of the constants, or 0 for all else (punctuation, symbols, controls,
    /// unassigned).
    #[inline]
    pub(super) fn of(&self, c: char) -> u8 {
        let code = u32::from(c);
        if code < 128 {
            return self.ascii[code as usize];
        }
        let after = self.ranges.partition_point(|&(start, ..)| start <= code);
        match after.checked_sub(1).map(|i| self.ranges[i]) {
            Some((_, end, class)) if code <= end => class,
            _ => 0,
        }
    }
}

fn unicode_ranges(pattern: &str) -> Vec<(u32, u32)> {
    let Ok(hir) = regex_syntax::parse(pattern) else {
        // The patterns are constants that parse; a test holds them to it.
        return Vec::new();
    };
    match hir.kind() {
        HirKind::Class(HirClass::Unicode(class)) => {
            class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_known_characters() {
        let classes = Classes::get();
        for (c, class) in [
            ('a', LETTER),
            ('한', LETTER),
            ('ñ', LETTER),
            ('7', NUMBER),
            ('²', NUMBER),
            ('Ⅷ', NUMBER),
            ('\u{301}', MARK),
            (' ', SPACE),
            ('\u{85}', SPACE),
            ('\u{3000}', SPACE),
            ('_', 0),
            ('👩', 0),
            ('\u{200d}', 0),
            ('\u{10FFFF}', 0),
        ] {
            assert_eq!(classes.of(c), class, "{c:?}");
        }
    }

    #[test]
    fn ranges_are_disjoint() {
        let ranges = &Classes::get().ranges;
        assert!(ranges.len() > 500);
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }
}
