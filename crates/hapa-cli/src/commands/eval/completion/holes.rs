//! Middles that are held out of Python files: the rest of a line, and the rest of a block.

use std::path::{Path, PathBuf};

use hapa_service::validate_python;
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Result};

/// Smaller files say too little, larger ones are generated or data.
const FILE_BYTES: std::ops::Range<usize> = 500..200_000;
/// Most lines of the rest of a block.
const MOST_LINES: usize = 8;
/// Fewest characters that are worth completing.
const FEWEST_CHARS: usize = 6;

/// What was held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// From somewhere within a line to its end.
    Line,
    /// From the beginning of a line to the end of its block.
    Block,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Line, Self::Block];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Line => "rest of a line",
            Self::Block => "rest of a block",
        }
    }
}

/// A file with a hole.
#[derive(Debug, Clone)]
pub(super) struct Hole {
    pub(super) kind: Kind,
    pub(super) path: PathBuf,
    /// Its line in the file, from 1.
    pub(super) line: usize,
    pub(super) prefix: String,
    pub(super) middle: String,
    pub(super) suffix: String,
}

impl Hole {
    fn cut(kind: Kind, path: &Path, text: &str, range: std::ops::Range<usize>) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            line: text[..range.start].matches('\n').count() + 1,
            prefix: text[..range.start].to_owned(),
            middle: text[range.clone()].to_owned(),
            suffix: text[range.end..].to_owned(),
        }
    }

    /// A name that stays as long as the text around the hole does.
    pub(super) fn id(&self) -> String {
        let whole = format!("{}\0{}\0{}", self.prefix, self.middle, self.suffix);
        format!("{:016x}", twox_hash::XxHash3_64::oneshot(whole.as_bytes()))
    }

    /// The text around the hole that a request carries: whole lines, about so many characters, three quarters of them before.
    pub(super) fn window(&self, chars: usize) -> (String, String) {
        let before = chars / 4 * 3;
        let mut from = floor(&self.prefix, self.prefix.len().saturating_sub(before));
        if from > 0 {
            from = self.prefix[from..].find('\n').map_or(from, |at| from + at + 1);
        }
        let mut to = floor(&self.suffix, (chars - before).min(self.suffix.len()));
        if to < self.suffix.len() {
            to = self.suffix[..to].rfind('\n').map_or(to, |at| at + 1);
        }
        (self.prefix[from..].to_owned(), self.suffix[..to].to_owned())
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Random numbers that are the same everywhere (splitmix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Python files below the paths, in the order of their names.
///
/// # Errors
/// For a path that cannot be read.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = paths.to_vec();
    while let Some(path) = waiting.pop() {
        let failed = |source| CliError::Io { action: "read", path: path.clone(), source };
        if !std::fs::metadata(&path).map_err(failed)?.is_dir() {
            found.push(path);
            continue;
        }
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            let is_others =
                name.starts_with('.') || name == "site-packages" || name == "__pycache__";
            if (is_folder && !is_others) || (!is_folder && name.ends_with(".py")) {
                waiting.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// So many holes, at most one of each kind a file, over files that are drawn without repetition. Files that are no valid
/// Python, too small or too large are passed over.
pub(super) fn holes(files: Vec<PathBuf>, count: usize, mut dice: Dice) -> Vec<Hole> {
    let mut files = files;
    let mut holes = Vec::new();
    while holes.len() < count && !files.is_empty() {
        let path = files.swap_remove(dice.below(files.len()));
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if !FILE_BYTES.contains(&text.len()) || !validate_python(&text).valid {
            continue;
        }
        for kind in Kind::ALL {
            if holes.len() < count {
                holes.extend(hole(kind, &path, &text, &mut dice));
            }
        }
    }
    holes
}

fn hole(kind: Kind, path: &Path, text: &str, dice: &mut Dice) -> Option<Hole> {
    let lines = lines(text);
    let code: Vec<usize> = (1..lines.len()).filter(|at| lines[*at].is_code).collect();
    // A place may have no hole of the kind: another is tried, a bounded number of times.
    (0..20).find_map(|_| {
        let at = *code.get(dice.below(code.len()))?;
        let range = match kind {
            Kind::Line => rest_of_line(&lines[at], dice)?,
            Kind::Block => rest_of_block(&lines, at)?,
        };
        Some(Hole::cut(kind, path, text, range))
    })
}

/// One line of a file.
struct Line<'a> {
    start: usize,
    text: &'a str,
    indent: usize,
    /// Not blank, not a comment, not within a text of several lines.
    is_code: bool,
}

impl Line<'_> {
    fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let (mut start, mut within) = (0, false);
    text.split_inclusive('\n')
        .map(|whole| {
            let line = whole.trim_end_matches(['\n', '\r']);
            let quotes = line.matches("\"\"\"").count() + line.matches("'''").count();
            let trimmed = line.trim_start();
            let is_code =
                !within && quotes == 0 && !trimmed.is_empty() && !trimmed.starts_with('#');
            within ^= quotes % 2 == 1;
            let found = Line { start, text: line, indent: line.len() - trimmed.len(), is_code };
            start += whole.len();
            found
        })
        .collect()
}

/// From the beginning of a word that is not the line's first, to the line's end.
fn rest_of_line(line: &Line<'_>, dice: &mut Dice) -> Option<std::ops::Range<usize>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut before = ' ';
    let mut places = Vec::new();
    for (at, now) in line.text.char_indices() {
        if at > line.indent && is_word(now) != is_word(before) && !now.is_whitespace() {
            places.push(at);
        }
        before = now;
    }
    places.retain(|at| line.text[*at..].trim().chars().count() >= FEWEST_CHARS);
    let at = *places.get(dice.below(places.len()))?;
    Some(line.start + at..line.start + line.text.trim_end().len())
}

/// From the first character of a line within a block to the end of the block's last line.
fn rest_of_block(lines: &[Line<'_>], first: usize) -> Option<std::ops::Range<usize>> {
    let line = &lines[first];
    if line.indent == 0 {
        return None;
    }
    let inside =
        lines[first..].iter().take_while(|l| l.is_blank() || l.indent >= line.indent).count();
    let mut last = first + inside - 1;
    while lines[last].is_blank() {
        last -= 1;
    }
    let range = line.start + line.indent..lines[last].start + lines[last].text.trim_end().len();
    let is_code = lines[first..=last].iter().all(|line| line.is_code || line.is_blank());
    (is_code && last - first < MOST_LINES && range.len() >= FEWEST_CHARS).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "import os\n\n\ndef first(values):\n    \"\"\"Sums.\n\n    All of them.\n    \"\"\"\n    # from here\n    total = 0\n    \
                        for value in values:\n        total += value\n\n    return total\n\n\ndef second(name):\n    return os.path.join(name, 'x')\n";

    #[test]
    fn the_rest_of_a_block_ends_with_it() {
        let lines = lines(TEXT);
        let at = |needle: &str| lines.iter().position(|line| line.text.contains(needle)).unwrap();
        let held = |needle: &str| rest_of_block(&lines, at(needle)).map(|range| &TEXT[range]);
        assert_eq!(held("total += value"), Some("total += value"));
        assert_eq!(
            held("for value"),
            Some("for value in values:\n        total += value\n\n    return total")
        );
        assert_eq!(held("import os"), None, "nothing around it ends");
        assert!(!lines[at("All of them")].is_code && !lines[at("# from here")].is_code);
    }

    #[test]
    fn holes_are_the_same_each_time_and_put_together_give_the_file() {
        for seed in 0..50 {
            for kind in Kind::ALL {
                let make = || hole(kind, Path::new("a.py"), TEXT, &mut Dice(seed));
                let Some(hole) = make() else { continue };
                assert_eq!(format!("{}{}{}", hole.prefix, hole.middle, hole.suffix), TEXT);
                assert!(
                    hole.middle.trim().len() >= FEWEST_CHARS && hole.middle.trim() == hole.middle
                );
                assert_eq!(make().map(|again| again.id()), Some(hole.id()));
                let line = TEXT.lines().nth(hole.line - 1).unwrap();
                assert!(line.contains(hole.middle.lines().next().unwrap()), "{line}");
            }
        }
    }

    #[test]
    fn a_window_is_whole_lines() {
        let text = "é = 1\n".repeat(100);
        let hole = Hole::cut(Kind::Line, Path::new("a.py"), &text, 352..353);
        let (before, after) = hole.window(100);
        assert!(
            before.starts_with("é = 1\n") && before.len() <= 75 && hole.prefix.ends_with(&before)
        );
        assert!(after.ends_with('\n') && after.len() <= 25 && hole.suffix.starts_with(&after));
        let (before, after) = hole.window(100_000);
        assert_eq!((before, after), (hole.prefix, hole.suffix));
    }
}
