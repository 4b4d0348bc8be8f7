//! Splits text into the words that BPE merges within.
//!
//! Each model family has regular expressions for this, named by `tokenizer.ggml.pre`; the list follows
//! `llama-vocab.cpp` of llama.cpp. The two families that nearly all current models use, GPT-2's and
//! Llama 3's expressions, are scanned by hand at hundreds of megabytes a second; the others run as regular
//! expressions, which are also the oracle that the hand-written scanners are tested against.

use fancy_regex::Regex;

use super::unicode::{Classes, LETTER, MARK, NUMBER, SPACE};

/// A way to split text into words.
#[derive(Debug)]
pub(super) enum PreTokenizer {
    /// GPT-2's expression; `isolate_digits` first makes each digit a piece of its own.
    Gpt2 {
        /// Whether each `\p{N}` stands alone.
        isolate_digits: bool,
    },
    /// Llama 3's expression and its relatives.
    Llama3(Llama3),
    /// Regular expressions applied one after the other to the pieces of the one before.
    Regexes(Vec<Regex>),
}

/// In what the relatives of Llama 3's expression differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Llama3 {
    /// Most digits in one word: 3 for Llama 3, 1 for Qwen.
    pub(super) digits: usize,
    /// Combining marks count as letters (Qwen 3.5).
    pub(super) marks: bool,
}

/// What a name of `tokenizer.ggml.pre` stands for.
pub(super) struct PreTokenizerSpec {
    pub(super) split: PreTokenizer,
    /// A word that is a token as a whole becomes that token without merging.
    pub(super) ignore_merges: bool,
    /// Whether a begin-of-sequence token is added when the metadata does not say.
    pub(super) add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// The names that are understood, for messages.
pub(super) const KNOWN: &str = "default, gpt-2, starcoder, refact, smollm, codeshell, command-r, mpt, olmo, phi-2, \
     llama-bpe, qwen2, qwen35, stablelm2, dbrx, smaug-bpe, glm4, seed-coder, hunyuan, falcon, deepseek-coder, deepseek-v3, tekken, gpt-4o";

/// Looks a name of `tokenizer.ggml.pre` up; `None` for an unknown one.
pub(super) fn by_name(name: &str) -> Option<PreTokenizerSpec> {
    let gpt2 = |isolate_digits| PreTokenizer::Gpt2 { isolate_digits };
    let llama3 = |digits, marks| PreTokenizer::Llama3(Llama3 { digits, marks });
    let (split, ignore_merges, add_bos) = match name {
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "gigachat"
        | "a.x-4.0" | "mellum" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling"
        | "exaone4" => (gpt2(false), false, false),
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => (gpt2(true), false, false),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" => (llama3(3, false), true, true),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => (llama3(3, false), false, false),
        "glm4" | "glm5" => (llama3(3, false), true, false),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "stablelm2" | "hunyuan" | "megrez"
        | "grok-2" | "solar-open" => (llama3(1, false), false, false),
        "qwen35" => (llama3(1, true), false, false),
        _ => {
            let (regexes, ignore_merges, add_bos) = regexes(name)?;
            let split = PreTokenizer::Regexes(
                regexes.iter().map(|regex| Regex::new(regex).ok()).collect::<Option<_>>()?,
            );
            (split, ignore_merges, add_bos)
        }
    };
    Some(PreTokenizerSpec { split, ignore_merges, add_bos })
}

/// The expressions of the families that are not scanned by hand.
fn regexes(name: &str) -> Option<(&'static [&'static str], bool, bool)> {
    const WORDS_BY_CASE: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    Some(match name {
        "default" => (&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], false, false),
        "falcon" => (&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], false, false),
        "deepseek-coder" => (
            &[
                "[\r\n]",
                r"\s?\p{L}+",
                r"\s?\p{P}+",
                "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+",
                r"\p{N}",
            ],
            false,
            false,
        ),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => (
            &[
                r"\p{N}{1,3}",
                "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ],
            false,
            false,
        ),
        "seed-coder" => (
            &[
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
            false,
            false,
        ),
        "tekken" => (&[WORDS_BY_CASE], true, true),
        "gpt-4o" | "llama4" | "kanana2" => (&[GPT_4O], false, false),
        _ => return None,
    })
}

impl PreTokenizer {
    /// Calls `word` with each word of `text`, in order; together they are the text.
    ///
    /// # Errors
    /// When a regular expression gives up (its backtracking limit).
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        word: &mut impl FnMut(&'t str),
    ) -> Result<(), fancy_regex::Error> {
        match self {
            Self::Gpt2 { isolate_digits: false } => gpt2(text, word),
            Self::Gpt2 { isolate_digits: true } => gpt2_with_lone_digits(text, word),
            Self::Llama3(style) => llama3(text, *style, word),
            Self::Regexes(regexes) => return by_regexes(text, regexes, word),
        }
        Ok(())
    }
}

fn by_regexes<'t>(
    text: &'t str,
    regexes: &[Regex],
    word: &mut impl FnMut(&'t str),
) -> Result<(), fancy_regex::Error> {
    let Some((regex, rest)) = regexes.split_first() else {
        word(text);
        return Ok(());
    };
    let mut done = 0;
    for found in regex.find_iter(text) {
        let found = found?;
        if found.range().is_empty() {
            continue;
        }
        if found.start() > done {
            by_regexes(&text[done..found.start()], rest, word)?;
        }
        by_regexes(&text[found.range()], rest, word)?;
        done = found.end();
    }
    if done < text.len() {
        by_regexes(&text[done..], rest, word)?;
    }
    Ok(())
}

/// A place in a text with the class of the character there.
struct Scanner<'t> {
    text: &'t str,
    classes: &'static Classes,
    start: usize,
    at: usize,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, classes: Classes::get(), start: 0, at: 0 }
    }

    /// The character at byte `at`, its class and its length.
    #[inline]
    fn peek(&self, at: usize) -> Option<(char, u8, usize)> {
        let &byte = self.text.as_bytes().get(at)?;
        if byte < 128 {
            let c = char::from(byte);
            return Some((c, self.classes.of(c), 1));
        }
        let c = self.text[at..].chars().next()?;
        Some((c, self.classes.of(c), c.len_utf8()))
    }

    /// Moves over characters while `accept` holds for their class.
    #[inline]
    fn skip_while(&mut self, accept: impl Fn(u8) -> bool) {
        while let Some((_, class, len)) = self.peek(self.at) {
            if !accept(class) {
                break;
            }
            self.at += len;
        }
    }

    /// Moves over up to `most` characters of a class.
    #[inline]
    fn skip_up_to(&mut self, most: usize, class: u8) {
        for _ in 0..most {
            match self.peek(self.at) {
                Some((_, found, len)) if found == class => self.at += len,
                _ => break,
            }
        }
    }

    /// The word from its start to here; the next one starts here.
    #[inline]
    fn take(&mut self) -> &'t str {
        let word = &self.text[self.start..self.at];
        self.start = self.at;
        word
    }

    /// Length of an English contraction at this place ('s, 't, 're, ...), or 0.
    fn contraction(&self, ignore_case: bool) -> usize {
        let fold = |b: u8| if ignore_case { b.to_ascii_lowercase() } else { b };
        match self.text.as_bytes()[self.at..] {
            [b'\'', a, ..] if matches!(fold(a), b's' | b't' | b'm' | b'd') => 2,
            [b'\'', a, b, ..]
                if matches!((fold(a), fold(b)), (b'r', b'e') | (b'v', b'e') | (b'l', b'l')) =>
            {
                3
            }
            _ => 0,
        }
    }

    /// A run of white space from here: its end, where its last character starts, and where it ends after its
    /// last line break (0 without one).
    fn white_space(&self) -> WhiteSpace {
        let mut run = WhiteSpace { end: self.at, last: self.at, after_break: 0 };
        while let Some((c, SPACE, len)) = self.peek(run.end) {
            run.last = run.end;
            run.end += len;
            if matches!(c, '\r' | '\n') {
                run.after_break = run.end;
            }
        }
        run
    }

    /// Moves over a run of white space but for the last character before a word, which goes with that
    /// (`\s+(?!\S)|\s+`).
    fn skip_white_space(&mut self, run: &WhiteSpace) {
        let last_belongs_to_next = run.end < self.text.len() && run.last > self.at;
        self.at = if last_belongs_to_next { run.last } else { run.end };
    }
}

struct WhiteSpace {
    end: usize,
    last: usize,
    after_break: usize,
}

fn gpt2<'t>(text: &'t str, word: &mut impl FnMut(&'t str)) {
    let mut scan = Scanner::new(text);
    while let Some((c, class, len)) = scan.peek(scan.at) {
        let contraction = scan.contraction(false);
        if contraction > 0 {
            scan.at += contraction;
            word(scan.take());
            continue;
        }
        // A space goes with what follows it.
        let lead = if c == ' ' { len } else { 0 };
        let next = if lead > 0 {
            scan.peek(scan.at + lead).map(|(_, class, _)| class)
        } else {
            Some(class)
        };
        match next {
            Some(SPACE) | None => {
                let run = scan.white_space();
                scan.skip_white_space(&run);
            }
            Some(kind @ (LETTER | NUMBER)) => {
                scan.at += lead;
                scan.skip_while(|class| class == kind);
            }
            Some(_) => {
                scan.at += lead;
                scan.skip_while(|class| !matches!(class, SPACE | LETTER | NUMBER));
            }
        }
        word(scan.take());
    }
}

fn gpt2_with_lone_digits<'t>(text: &'t str, word: &mut impl FnMut(&'t str)) {
    let classes = Classes::get();
    let mut start = 0;
    for (at, c) in text.char_indices() {
        if classes.of(c) == NUMBER {
            if at > start {
                gpt2(&text[start..at], word);
            }
            let end = at + c.len_utf8();
            word(&text[at..end]);
            start = end;
        }
    }
    gpt2(&text[start..], word);
}

fn llama3<'t>(text: &'t str, style: Llama3, word: &mut impl FnMut(&'t str)) {
    let is_letter = |class: u8| class == LETTER || (style.marks && class == MARK);
    let is_other = |class: u8| !matches!(class, SPACE | NUMBER) && !is_letter(class);
    let mut scan = Scanner::new(text);
    while let Some((c, class, len)) = scan.peek(scan.at) {
        let contraction = scan.contraction(true);
        if contraction > 0 {
            scan.at += contraction;
            word(scan.take());
            continue;
        }
        let next = scan.peek(scan.at + len).map(|(_, class, _)| class);
        let any_but_number_or_break = class != NUMBER && !matches!(c, '\r' | '\n');
        if any_but_number_or_break && (is_letter(class) || next.is_some_and(is_letter)) {
            // [^\r\n\p{L}\p{N}]?\p{L}+
            scan.at += len;
            scan.skip_while(is_letter);
        } else if class == NUMBER {
            scan.skip_up_to(style.digits, NUMBER);
        } else if is_other(class) || (c == ' ' && next.is_some_and(is_other)) {
            //  ?[^\s\p{L}\p{N}]+[\r\n]*
            scan.at += len;
            scan.skip_while(is_other);
            while matches!(scan.text.as_bytes().get(scan.at), Some(b'\r' | b'\n')) {
                scan.at += 1;
            }
        } else {
            let run = scan.white_space();
            if run.after_break > 0 {
                // \s*[\r\n]+
                scan.at = run.after_break;
            } else {
                scan.skip_white_space(&run);
            }
        }
        word(scan.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use proptest::prelude::*;

    fn words<'t>(split: &PreTokenizer, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        split.split(text, &mut |word| words.push(word)).unwrap();
        words
    }

    fn named(name: &str) -> PreTokenizer {
        by_name(name).unwrap().split
    }

    fn regex(patterns: &[&str]) -> PreTokenizer {
        PreTokenizer::Regexes(patterns.iter().map(|p| Regex::new(p).unwrap()).collect())
    }

    /// Text that visits the corners: blanks of all kinds, quotes, digits, marks, scripts.
    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "\u{a0}",
            "\u{3000}",
            "'",
            "'s",
            "'RE",
            "'ll",
            "''d",
            "a",
            "Zz",
            "한글",
            "é",
            "e\u{301}",
            "\u{301}",
            "1",
            "23",
            "4567",
            "Ⅷ",
            "²",
            "_",
            ".",
            "!?",
            "👩\u{200d}👧",
            "/",
            "\u{0}",
            "\u{85}",
            "\u{e000}",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// Hand-written scanners beside their expressions. Built once: compiling these takes a while.
    static PAIRS: LazyLock<Vec<(&str, PreTokenizer, PreTokenizer)>> = LazyLock::new(|| {
        let llama3 = |letters: &str, digits: &str| {
            format!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?[{letters}]+|\p{{N}}{digits}| ?[^\s\p{{N}}{letters}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        [
            ("gpt-2", regex(&[GPT2])),
            ("smollm", regex(&[r"\p{N}", GPT2])),
            ("qwen2", regex(&[&llama3(r"\p{L}", "")])),
            ("llama-bpe", regex(&[&llama3(r"\p{L}", "{1,3}")])),
            ("qwen35", regex(&[&llama3(r"\p{L}\p{M}", "")])),
        ]
        .into_iter()
        .map(|(name, regex)| (name, named(name), regex))
        .collect()
    });

    static ALL: LazyLock<Vec<(&str, PreTokenizer)>> =
        LazyLock::new(|| KNOWN.split(',').map(str::trim).map(|name| (name, named(name))).collect());

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn scanners_equal_their_regexes(text in tricky()) {
            for (name, scanner, regex) in &*PAIRS {
                prop_assert_eq!(words(scanner, &text), words(regex, &text), "{}", name);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_split_loses_text(text in prop_oneof![any::<String>(), tricky()]) {
            for (name, split) in &*ALL {
                prop_assert_eq!(words(split, &text).concat(), text.clone(), "{}", name);
            }
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(by_name("no-such-family").is_none());
        assert!(by_name("").is_none());
    }
}
