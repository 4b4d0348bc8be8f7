//! Keeps a completion from repeating the text after the cursor.
//!
//! Fill-in-the-middle models sometimes run on into the suffix. What an editor inserts must not double it, so
//! the tail of the completion that repeats the head of the suffix is cut, while streaming too: text that
//! may turn out to be such a repeat is held back until it differs or the completion ends.
//!
//! A repeat is, at the earliest place where one begins:
//! - two whole lines of the suffix (or all of it, when it is one line with a word): the rest is cut and the
//!   generation can stop;
//! - at the end of the completion, the first line of the suffix or at least [`MIN_OVERLAP`] of its visible
//!   characters;
//! - at the end, closing brackets and the like, as far as the completion has more of them than it opened.
//!
//! When the suffix begins on a new line, a repeat must too, with the same indent.

/// Visible characters that make an overlap at the end of a completion more than chance.
const MIN_OVERLAP: usize = 4;
/// As much of the suffix as is compared, in bytes.
const WINDOW_BYTES: usize = 512;
/// As much of prefix and suffix as is searched for open brackets, in bytes.
const BALANCE_BYTES: usize = 8 << 10;

/// The incremental filter. What it lets through does not depend on how the text was cut into pieces.
#[derive(Debug)]
pub struct SuffixGuard {
    /// Head of the suffix, from its first line with something on it.
    head: String,
    /// Bytes of `head` that are a certain repeat.
    certain: usize,
    /// Bytes of the first line of `head`, without its line end.
    first_line: usize,
    /// The suffix begins on a line of its own.
    new_line: bool,
    /// Text that is not decided.
    held: String,
    /// `held` begins at the start of a line.
    at_line_start: bool,
    /// Last character that was let through.
    last: Option<char>,
    /// Brackets that the completion may still close.
    balance: Balance,
    cut: bool,
}

/// Open brackets by kind: round, square, curly. Strings and comments are not told apart; the figure only
/// guards against cutting a bracket that the code needs.
#[derive(Debug, Default, Clone, Copy)]
struct Balance {
    open: [usize; 3],
    /// Closers that nothing in the text had opened.
    excess: [usize; 3],
}

impl SuffixGuard {
    /// A guard for a completion between `prefix` and `suffix`.
    pub fn new(prefix: &str, suffix: &str) -> Self {
        let lead = &suffix[..suffix.len() - suffix.trim_start().len()];
        let at_line_start = prefix.is_empty() || prefix.ends_with('\n');
        let new_line = at_line_start || lead.contains('\n');
        // On a new line the indent counts, so the head begins after the last line end of the lead.
        let start = match lead.rfind('\n') {
            Some(end) => end + 1,
            None if at_line_start => 0,
            None => lead.len(),
        };
        let end = floor_boundary(suffix, start + WINDOW_BYTES);
        let mut head = suffix[start..end].to_owned();
        if end == suffix.len() {
            head.truncate(head.trim_end().len());
            if !head.is_empty() {
                head.push('\n');
            }
        }
        let first_line = head.find('\n').map_or(head.len(), |at| head[..at].trim_end().len());
        let certain = certain_bytes(&head, end == suffix.len());
        Self {
            head,
            certain,
            first_line,
            new_line,
            held: String::new(),
            at_line_start,
            last: None,
            balance: Balance::between(prefix, suffix),
            cut: false,
        }
    }

    /// Adds text; returns what may be shown.
    pub fn push(&mut self, text: &str) -> String {
        if self.cut {
            return String::new();
        }
        if self.head.is_empty() {
            return text.to_owned();
        }
        self.held.push_str(text);
        self.advance(false)
    }

    /// Ends the completion; returns what was held back and is not a repeat.
    pub fn finish(&mut self) -> String {
        if self.cut {
            return String::new();
        }
        let rest = self.advance(true);
        self.cut = true;
        rest
    }

    /// A repeat was found: nothing more will be let through, and the generation can stop.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    fn advance(&mut self, ended: bool) -> String {
        let held = std::mem::take(&mut self.held);
        let mut shown = String::new();
        for (at, c) in held.char_indices() {
            let rest = &held[at..];
            if self.may_begin_here() {
                let same = common_prefix(rest, &self.head);
                if same >= self.certain {
                    self.cut = true;
                    return shown;
                }
                if same == rest.len() {
                    // All that is left is a part of the suffix.
                    if !ended {
                        self.held = rest.to_owned();
                        return shown;
                    }
                    if self.is_overlap(rest) {
                        self.cut = true;
                        return shown;
                    }
                }
            }
            if ended && self.is_excess_closer(c, rest) {
                self.cut = true;
                return shown;
            }
            self.let_through(c);
            shown.push(c);
        }
        shown
    }

    fn may_begin_here(&self) -> bool {
        !self.new_line || self.at_line_start
    }

    /// The completion ends in `rest`, which is a prefix of the suffix: is that more than chance?
    fn is_overlap(&self, rest: &str) -> bool {
        let visible = rest.chars().filter(|c| !c.is_whitespace()).count();
        let worded = rest.chars().any(char::is_alphanumeric);
        if !worded {
            return false;
        }
        let whole_line = rest.trim_end().len() >= self.first_line.max(1);
        let in_word = is_word(self.last) && is_word(rest.chars().next());
        visible >= MIN_OVERLAP || (whole_line && !in_word)
    }

    /// `rest`, the end of the completion, repeats closers of the suffix that the completion never opened.
    fn is_excess_closer(&self, c: char, rest: &str) -> bool {
        let tail = rest.trim_end();
        if tail.is_empty() || tail.chars().any(|c| !matches!(c, ')' | ']' | '}' | ',' | ':' | ';'))
        {
            return false;
        }
        let trimmed = self.head.trim_start();
        trimmed.starts_with(tail)
            && !self.new_line
            && Balance::index(c).is_some_and(|kind| self.balance.open[kind] == 0)
    }

    fn let_through(&mut self, c: char) {
        self.last = Some(c);
        self.at_line_start = c == '\n';
        self.balance.see(c);
    }
}

impl Balance {
    /// What the prefix leaves open and the suffix does not close.
    fn between(prefix: &str, suffix: &str) -> Self {
        let from = ceil_boundary(prefix, prefix.len().saturating_sub(BALANCE_BYTES));
        let until = floor_boundary(suffix, BALANCE_BYTES);
        let (before, after) = (Self::of(&prefix[from..]), Self::of(&suffix[..until]));
        let mut open = before.open;
        for (open, closed) in open.iter_mut().zip(after.excess) {
            *open = open.saturating_sub(closed);
        }
        Self { open, excess: [0; 3] }
    }

    fn of(text: &str) -> Self {
        let mut balance = Self::default();
        text.chars().for_each(|c| balance.see(c));
        balance
    }

    fn index(closer: char) -> Option<usize> {
        match closer {
            ')' => Some(0),
            ']' => Some(1),
            '}' => Some(2),
            _ => None,
        }
    }

    fn see(&mut self, c: char) {
        match c {
            '(' => self.open[0] += 1,
            '[' => self.open[1] += 1,
            '{' => self.open[2] += 1,
            _ => {
                if let Some(kind) = Self::index(c) {
                    match self.open[kind].checked_sub(1) {
                        Some(left) => self.open[kind] = left,
                        None => self.excess[kind] += 1,
                    }
                }
            }
        }
    }
}

/// Bytes of the head that nobody writes twice by chance: two lines with a word in them, or all of the suffix if it
/// has a word. `usize::MAX` when no such run of lines is in the head.
fn certain_bytes(head: &str, whole: bool) -> usize {
    let mut bytes = 0;
    let mut worded = 0;
    for line in head.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        bytes += line.len();
        worded += usize::from(line.chars().filter(|c| c.is_alphanumeric()).count() >= 2);
        if worded == 2 {
            return bytes;
        }
    }
    if worded == 1 && whole { head.len() } else { usize::MAX }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    floor_boundary(a, same)
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guarded(prefix: &str, text: &str, suffix: &str) -> String {
        let mut guard = SuffixGuard::new(prefix, suffix);
        let mut shown = guard.push(text);
        shown.push_str(&guard.finish());
        shown
    }

    #[test]
    fn a_repeated_line_is_cut() {
        let suffix = "\n    return total\n\nprint(mean([1]))\n";
        let prefix = "def mean(xs):\n    total = ";
        assert_eq!(
            guarded(prefix, "sum(xs) / len(xs)\n    return total", suffix),
            "sum(xs) / len(xs)\n"
        );
        assert_eq!(
            guarded(prefix, "sum(xs)\n    return total\n\nprint(mean([1]))\nmore", suffix),
            "sum(xs)\n"
        );
        assert_eq!(guarded(prefix, "sum(xs)", suffix), "sum(xs)");
    }

    #[test]
    fn what_only_resembles_the_suffix_stays() {
        let suffix = "\n    return total\n";
        assert_eq!(
            guarded("x = ", "1\n    return total + 1\n", suffix),
            "1\n    return total + 1\n"
        );
        // Another indent is another place in the program.
        assert_eq!(
            guarded("x = ", "1\n        return total\n    y = 2", suffix),
            "1\n        return total\n    y = 2"
        );
        assert_eq!(guarded("x = ", "a", "\na = 2\n"), "a");
        assert_eq!(guarded("", "data", "abc"), "data");
    }

    #[test]
    fn the_rest_of_the_line_is_cut() {
        assert_eq!(guarded("c = ", "a + count", "+ count\n"), "a ");
        assert_eq!(guarded("for i in ", "range(10):", "range(10):\n    pass"), "");
        assert_eq!(guarded("self.", "user_name", "_name)"), "user");
    }

    #[test]
    fn closers_are_cut_only_in_excess() {
        assert_eq!(guarded("print(", "a)", ")"), "a");
        assert_eq!(guarded("print(", "f(a))", ")"), "f(a)");
        assert_eq!(guarded("print(", "f(a)", ")"), "f(a)");
        assert_eq!(guarded("print(", "f(g(1))", ")"), "f(g(1))");
        assert_eq!(guarded("print((", "a)", ")"), "a)");
        assert_eq!(guarded("if x in ", "[1, 2]:", ":\n    pass"), "[1, 2]:");
        assert_eq!(guarded("x = {", "'a': 1}", "}\n"), "'a': 1");
    }

    #[test]
    fn a_cut_is_seen_while_streaming() {
        let mut guard = SuffixGuard::new("def f():\n", "    x = compute()\n    return x\n");
        assert_eq!(guard.push("    y = 1\n    x"), "    y = 1\n");
        assert_eq!(guard.push(" = compute()\n    return x"), "");
        assert!(!guard.is_cut());
        assert_eq!(guard.push("\nand more"), "");
        assert!(guard.is_cut());
        assert_eq!(guard.finish(), "");
    }

    #[test]
    fn no_suffix_no_change() {
        assert_eq!(guarded("x", "anything)]}\n", ""), "anything)]}\n");
        assert_eq!(guarded("x", "anything)]}\n", "  \n\n "), "anything)]}\n");
    }

    fn snippet() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("    return x\n"),
            Just("x = 1\n"),
            Just(")"),
            Just("("),
            Just("]"),
            Just("\n"),
            Just("ab"),
            Just(" "),
            Just("정"),
            Just("    "),
            Just(":"),
            Just("print(x)"),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_do_not_matter(prefix in snippet(), text in snippet(), suffix in snippet(), cuts in proptest::collection::vec(0usize..80, 0..20)) {
            let mut bounds: Vec<usize> = cuts.into_iter().filter(|&at| at <= text.len() && text.is_char_boundary(at)).collect();
            bounds.extend([0, text.len()]);
            bounds.sort_unstable();
            let mut guard = SuffixGuard::new(&prefix, &suffix);
            let mut shown = String::new();
            for pair in bounds.windows(2) {
                shown.push_str(&guard.push(&text[pair[0]..pair[1]]));
            }
            shown.push_str(&guard.finish());
            prop_assert!(text.starts_with(&shown), "only the end is ever removed");
            prop_assert_eq!(shown, guarded(&prefix, &text, &suffix));
        }
    }
}
