//! From tokens' bytes to text that can be shown: whole characters only, and nothing of a stop string; and how alike
//! two names are.

use crate::error::{ModelError, Result};

/// Most stop strings of one request, and the longest one.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4_096;

/// What one push made final.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextStep {
    /// Text to show; may be empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// A stop string was completed; it is not part of the text and nothing follows.
    pub stopped: bool,
}

/// Turns bytes into text incrementally.
///
/// Bytes of an incomplete character wait for the rest; bytes that cannot become UTF-8 turn into U+FFFD. Text
/// that could be the start of a stop string waits until that is decided. The first stop string to be
/// completed ends the text, the longest of several that are completed by the same byte; how the bytes are cut into pushes makes no
/// difference. Takes time linear in the bytes (times the number of stop strings) by Knuth, Morris and Pratt's automaton.
#[derive(Debug, Clone)]
pub struct TextStream {
    stops: Vec<Stop>,
    /// Bytes of an incomplete character, at most three.
    partial: Vec<u8>,
    /// Text that is decoded but could belong to a stop string.
    held: String,
    stopped: bool,
    /// Which of the stop strings was completed.
    completed: Option<usize>,
}

#[derive(Debug, Clone)]
struct Stop {
    pattern: String,
    /// For each length of a matched prefix: the longest shorter prefix that is also its suffix.
    fallback: Vec<usize>,
    /// Length of the prefix that the text now ends with.
    matched: usize,
}

impl Stop {
    fn new(pattern: String) -> Self {
        let bytes = pattern.as_bytes();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut matched = 0;
        for at in 1..bytes.len() {
            while matched > 0 && bytes[at] != bytes[matched] {
                matched = fallback[matched];
            }
            matched += usize::from(bytes[at] == bytes[matched]);
            fallback[at + 1] = matched;
        }
        Self { pattern, fallback, matched: 0 }
    }

    /// Takes one more byte; whether it completes the stop string.
    fn advance(&mut self, byte: u8) -> bool {
        let pattern = self.pattern.as_bytes();
        while self.matched > 0 && pattern[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(pattern[self.matched] == byte);
        self.matched == pattern.len()
    }
}

impl TextStream {
    /// A stream that ends at any of the given texts.
    ///
    /// # Errors
    /// [`ModelError::InvalidOption`] for an empty stop string, one of more than 4,096 bytes, or more than 64.
    pub fn new(stop: Vec<String>) -> Result<Self> {
        let invalid =
            |value: String, expected| ModelError::InvalidOption { option: "stop", value, expected };
        if stop.len() > MAX_STOPS {
            return Err(invalid(format!("{} strings", stop.len()), "at most 64 strings"));
        }
        let stops = stop
            .into_iter()
            .map(|text| match text.len() {
                0 => {
                    Err(invalid("an empty string".to_owned(), "strings of at least one character"))
                }
                1..=MAX_STOP_BYTES => Ok(Stop::new(text)),
                len => Err(invalid(
                    format!("a string of {len} bytes"),
                    "strings of at most 4096 bytes",
                )),
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            stops,
            partial: Vec::new(),
            held: String::new(),
            stopped: false,
            completed: None,
        })
    }

    /// The stop string that ended the text, if one did.
    pub fn stop_string(&self) -> Option<&str> {
        Some(&self.stops.get(self.completed?)?.pattern)
    }

    /// Takes the bytes of one or more tokens.
    pub fn push(&mut self, bytes: &[u8]) -> TextStep {
        if self.stopped {
            return TextStep { text: String::new(), stopped: true };
        }
        let text = self.decode(bytes);
        self.take(&text)
    }

    /// Ends the stream: what was held back is text after all, and an incomplete character is U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let mut text = String::new();
        if !self.partial.is_empty() {
            self.partial.clear();
            text = self.take("\u{FFFD}").text;
        }
        if !self.stopped {
            text.push_str(&std::mem::take(&mut self.held));
        }
        self.stopped = true;
        text
    }

    /// Decodes what is complete and keeps the rest.
    fn decode(&mut self, bytes: &[u8]) -> String {
        let joined;
        let mut rest = if self.partial.is_empty() {
            bytes
        } else {
            self.partial.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.partial);
            &joined
        };
        let mut text = String::with_capacity(rest.len());
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(bad) = error.error_len() else {
                        self.partial = after.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
    }

    /// Adds decoded text and gives what can no longer belong to a stop string.
    fn take(&mut self, text: &str) -> TextStep {
        if self.stops.is_empty() {
            return TextStep { text: text.to_owned(), stopped: false };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (index, byte) in text.bytes().enumerate() {
            let mut longest = 0;
            for (number, stop) in self.stops.iter_mut().enumerate() {
                if stop.advance(byte) && stop.pattern.len() > longest {
                    longest = stop.pattern.len();
                    self.completed = Some(number);
                }
            }
            if longest > 0 {
                self.held.truncate(before + index + 1 - longest);
                self.stopped = true;
                return TextStep { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        let undecided = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        // A prefix of a stop string starts where a character starts, so this is a boundary.
        let rest = self.held.split_off(self.held.len() - undecided);
        TextStep { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }
}

/// Levenshtein distance in characters: how far a mistyped name is from a real one.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(stops: &[&str]) -> TextStream {
        TextStream::new(stops.iter().map(|&s| s.to_owned()).collect()).unwrap()
    }

    /// Everything a stream gives for these pushes, and whether it stopped.
    fn run(stops: &[&str], pushes: &[&[u8]]) -> (String, bool) {
        let mut stream = stream(stops);
        let mut out = String::new();
        let mut stopped = false;
        for bytes in pushes {
            let step = stream.push(bytes);
            out.push_str(&step.text);
            stopped |= step.stopped;
        }
        out.push_str(&stream.finish());
        (out, stopped)
    }

    #[test]
    fn half_characters_wait() {
        let mut stream = stream(&[]);
        let bytes = "한👩".as_bytes();
        let texts: Vec<String> = bytes.iter().map(|b| stream.push(&[*b]).text).collect();
        assert_eq!(texts, ["", "", "한", "", "", "", "👩"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        assert_eq!(run(&[], &[b"a\xFFb", b"\xE2\x82", b"c\xC3"]).0, "a\u{FFFD}b\u{FFFD}c\u{FFFD}");
        assert_eq!(run(&[], &[b"\xF0\x9F\x91"]).0, "\u{FFFD}");
    }

    #[test]
    fn stops_across_pushes_leave_no_trace() {
        assert_eq!(run(&["\n```"], &[b"code\n", b"``", b"`\nmore"]), ("code".to_owned(), true));
        let mut stream = stream(&["STOP"]);
        assert_eq!(stream.push(b"a ST").text, "a ");
        assert_eq!(stream.push(b"ST").text, "ST");
        assert_eq!(stream.push(b"OP"), TextStep { text: String::new(), stopped: true });
        assert_eq!(stream.push(b"more"), TextStep { text: String::new(), stopped: true });
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn overlapping_candidates() {
        assert_eq!(run(&["aab"], &[b"a", b"a", b"a", b"b"]), ("a".to_owned(), true));
        assert_eq!(run(&["abab!"], &[b"ababab", b"!"]), ("ab".to_owned(), true));
        // The first to be completed wins; of two completed together the longer.
        assert_eq!(run(&["abcd", "bc"], &[b"xabcd"]), ("xa".to_owned(), true));
        assert_eq!(run(&["c", "abc"], &[b"xabc"]), ("x".to_owned(), true));
        let mut both = stream(&["c", "abc", "d"]);
        assert_eq!(both.stop_string(), None);
        both.push(b"xabc");
        assert_eq!(both.stop_string(), Some("abc"));
        assert_eq!(
            run(&["한글"], &["한".as_bytes(), "국 한글".as_bytes()]),
            ("한국 ".to_owned(), true)
        );
    }

    #[test]
    fn a_stop_that_never_comes_is_text() {
        assert_eq!(
            run(&["much longer than all of the text"], &[b"much longer"]),
            ("much longer".to_owned(), false)
        );
    }

    #[test]
    fn invalid_stops_are_refused() {
        let error = |stops: Vec<String>| TextStream::new(stops).unwrap_err().to_string();
        assert!(error(vec![String::new()]).contains("empty"));
        assert!(error(vec!["x".repeat(5_000)]).contains("5000 bytes"));
        assert!(error(vec!["x".into(); 65]).contains("65 strings"));
    }

    #[test]
    fn time_is_linear_in_the_text() {
        // Quadratic work on a million bytes would take minutes.
        let mut stream = stream(&[&format!("{}b", "a".repeat(4_000))]);
        let mut len = 0;
        for _ in 0..1_000_000 {
            len += stream.push(b"a").text.len();
        }
        assert_eq!(len + stream.finish().len(), 1_000_000);
    }

    /// The same by searching the whole text: the first stop to end, the longest of those that end together.
    fn naive(stops: &[String], bytes: &[u8]) -> (String, bool) {
        let text = String::from_utf8_lossy(bytes);
        let mut found: Option<(usize, usize)> = None;
        for stop in stops {
            for start in 0..text.len() {
                if text.as_bytes()[start..].starts_with(stop.as_bytes()) {
                    let candidate = (start + stop.len(), start);
                    found = Some(found.map_or(candidate, |best| best.min(candidate)));
                }
            }
        }
        match found {
            Some((_, start)) => (text[..start].to_owned(), true),
            None => (text.into_owned(), false),
        }
    }

    fn alphabet() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            b"a".to_vec(),
            b"b".to_vec(),
            b"aab".to_vec(),
            "é".into(),
            "한".into(),
            b"\xC3".to_vec(),
            b"\xA9".to_vec(),
            b"\xF0\x9F".to_vec(),
            b"\xFF".to_vec(),
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn equals_the_naive_model(
            bytes in alphabet(),
            stops in prop::collection::vec("[abé한]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pushes: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stop_refs, &pushes), naive(&stops, &bytes));
        }
    }
}
