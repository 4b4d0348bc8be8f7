//! SentencePiece vocabularies (`tokenizer.ggml.model` = `llama`): merges by score over characters, bytes for
//! what no token covers. Follows `llm_tokenizer_spm` of llama.cpp.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::vocabulary::Vocabulary;

/// Scores and options of a SentencePiece model.
pub(super) struct SentencePiece {
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    /// A space goes before text at the start and after special tokens.
    pub(super) add_space_prefix: bool,
}

/// A stretch of text; empty once merged into its left neighbour.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// A possible merge: higher score first, then further left.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    bytes: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl SentencePiece {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        scores: Vec<f32>,
        unknown: Option<u32>,
        add_space_prefix: bool,
    ) -> Self {
        let mut bytes = [None; 256];
        for (byte, id) in bytes.iter_mut().enumerate() {
            *id = vocabulary
                .id(format!("<0x{byte:02X}>").as_bytes())
                .or_else(|| vocabulary.id(&[byte as u8]));
        }
        Self { scores, bytes, unknown, add_space_prefix }
    }

    /// Appends the tokens of a text without special tokens. `after_special`: it stands at the start or
    /// right after a special token.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        after_special: bool,
        out: &mut Vec<u32>,
    ) {
        let mut escaped = String::with_capacity(text.len() + 3);
        if self.add_space_prefix && after_special {
            escaped.push('\u{2581}');
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { '\u{2581}' } else { c }));
        Session {
            model: self,
            vocabulary,
            text: escaped.as_bytes(),
            symbols: Vec::new(),
            candidates: BinaryHeap::new(),
        }
        .run(&escaped, out);
    }
}

struct Session<'a> {
    model: &'a SentencePiece,
    vocabulary: &'a Vocabulary,
    text: &'a [u8],
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
}

impl Session<'_> {
    fn run(mut self, text: &str, out: &mut Vec<u32>) {
        let count = text.chars().count();
        self.symbols.reserve_exact(count);
        for (index, (start, c)) in text.char_indices().enumerate() {
            self.symbols.push(Symbol {
                start,
                end: start + c.len_utf8(),
                previous: index.wrapping_sub(1),
                next: if index + 1 < count { index + 1 } else { NONE },
            });
        }
        for right in 1..count {
            self.consider(right - 1, right);
        }
        while let Some(candidate) = self.candidates.pop() {
            let (left, right) = (self.symbols[candidate.left], self.symbols[candidate.right]);
            let is_stale = left.start == left.end
                || right.start == right.end
                || left.end != right.start
                || right.end - left.start != candidate.bytes;
            if is_stale {
                continue;
            }
            self.symbols[candidate.left].end = right.end;
            self.symbols[candidate.left].next = right.next;
            self.symbols[candidate.right].start = right.end;
            if right.next != NONE {
                self.symbols[right.next].previous = candidate.left;
            }
            self.consider(left.previous, candidate.left);
            self.consider(candidate.left, right.next);
        }
        let mut at = if count > 0 { 0 } else { NONE };
        while at != NONE {
            let Symbol { start, end, next, .. } = self.symbols[at];
            self.emit(start, end, out);
            at = next;
        }
    }

    fn consider(&mut self, left: usize, right: usize) {
        if left == NONE || right == NONE {
            return;
        }
        let (start, end) = (self.symbols[left].start, self.symbols[right].end);
        let Some(id) = self.vocabulary.id(&self.text[start..end]) else {
            return;
        };
        let score = self.model.scores.get(id as usize).copied().unwrap_or(0.0);
        self.candidates.push(Candidate { score, left, right, bytes: end - start });
    }

    fn emit(&self, start: usize, end: usize, out: &mut Vec<u32>) {
        let piece = &self.text[start..end];
        if let Some(id) = self.vocabulary.id(piece) {
            out.push(id);
            return;
        }
        out.extend(
            piece
                .iter()
                .filter_map(|&byte| self.model.bytes[usize::from(byte)].or(self.model.unknown)),
        );
    }
}
