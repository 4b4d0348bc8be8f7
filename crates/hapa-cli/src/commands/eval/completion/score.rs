//! How good a completion is, by what was held out.

use hapa_service::validate_python;
use serde::{Deserialize, Serialize};

use super::holes::Hole;

/// The measures of one completion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Score {
    /// It says what was held out, to the letter.
    pub(super) exact: bool,
    /// 1 less the share of characters that would have to change.
    pub(super) similarity: f64,
    /// The file with the completion in place of the hole is valid Python.
    pub(super) valid: bool,
}

impl Score {
    /// Judges a completion. Models go on as long as they like, so its text is compared over as many lines as were held out; the file is
    /// checked with all of it, as an editor would insert it. White space at the ends of lines does not count.
    pub(super) fn of(hole: &Hole, completion: &str) -> Self {
        let held = tidy(&hole.middle);
        let said = tidy(completion);
        let said: Vec<&str> = said.lines().take(held.lines().count()).collect();
        let said = said.join("\n").trim_end().to_owned();
        let whole = format!("{}{completion}{}", hole.prefix, hole.suffix);
        Self {
            exact: said == held,
            similarity: similarity(&said, &held),
            valid: validate_python(&whole).valid,
        }
    }
}

fn tidy(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// 1 less Levenshtein's distance by the length of the longer text.
fn similarity(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 1.0;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    1.0 - row[b.len()] as f64 / longer as f64
}

#[cfg(test)]
mod tests {
    use super::super::holes::Kind;
    use super::*;

    fn hole(prefix: &str, middle: &str, suffix: &str) -> Hole {
        Hole {
            kind: Kind::Line,
            path: "a.py".into(),
            line: 1,
            prefix: prefix.into(),
            middle: middle.into(),
            suffix: suffix.into(),
        }
    }

    #[test]
    fn distances_by_hand() {
        assert_eq!(similarity("", ""), 1.0);
        assert_eq!(similarity("kitten", "sitting"), 1.0 - 3.0 / 7.0);
        assert_eq!(similarity("é", "e"), 0.0);
        assert_eq!(similarity("abc", ""), 0.0);
    }

    #[test]
    fn what_goes_on_behind_the_hole_is_not_compared_but_must_be_valid() {
        let hole = hole("def f(a):\n    return ", "a + 1", "\n\n\nprint(f(1))\n");
        let score = |text: &str| Score::of(&hole, text);
        assert_eq!(score("a + 1"), Score { exact: true, similarity: 1.0, valid: true });
        assert_eq!(
            score("a + 1  \n    # done"),
            Score { exact: true, similarity: 1.0, valid: true }
        );
        assert_eq!(score("a + 1\n  )"), Score { exact: true, similarity: 1.0, valid: false });
        assert_eq!(score("a - 1"), Score { exact: false, similarity: 0.8, valid: true });
        assert_eq!(score(""), Score { exact: false, similarity: 0.0, valid: true });
        assert!(!score("(a + 1").valid);
    }
}
