//! Byte-pair encoding: merges within a word, best rank first.
//!
//! Why not the `tokenizers` crate: it wants each token as an owned `String` in two hash maps and each
//! merge as a pair of `String`s, which takes hundreds of milliseconds for a vocabulary of 150,000 tokens, and it answers
//! with owned strings and offsets for every word. Here a merge is a pair of ids, building takes a fraction of that, and
//! encoding allocates nothing for each word. `crates/hapa-model/tests/tokenizer.rs` holds the result to recordings of llama.cpp.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::bytes::byte_to_char;
use super::vocabulary::{TokenKind, Vocabulary};
use crate::gguf::StringArray;

/// Words up to this many symbols are merged by scanning, longer ones through a heap: scanning is faster for
/// the short words of real text, and quadratic in long ones.
const SCANNED_SYMBOLS: usize = 48;

const NO_TOKEN: u32 = u32::MAX;
const NO_RANK: u32 = u32::MAX;

/// Merges of one model.
pub(super) struct Bpe {
    /// The token of each byte; `NO_TOKEN` where the vocabulary has none.
    bytes: [u32; 256],
    /// Rank and result of merging two ids.
    merges: hashbrown::HashMap<u64, Merge>,
    /// Pieces of merges that are no tokens: ids from the vocabulary's length upward.
    strangers: Vec<Box<[u8]>>,
    vocab_size: u32,
    ignore_merges: bool,
}

#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

/// Buffers of an encoding, reused from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    ids: Vec<u32>,
    ranks: Vec<Merge>,
    text: String,
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Resolves texts of merges to ids while a [`Bpe`] is built.
struct Resolver<'a> {
    vocabulary: &'a Vocabulary,
    strangers: Vec<Box<[u8]>>,
    stranger_ids: HashMap<Box<[u8]>, u32>,
}

impl Resolver<'_> {
    fn id(&mut self, text: &[u8]) -> u32 {
        if let Some(id) = self.vocabulary.id(text) {
            return id;
        }
        if let Some(&id) = self.stranger_ids.get(text) {
            return id;
        }
        let id = (self.vocabulary.len() + self.strangers.len()) as u32;
        self.strangers.push(text.into());
        self.stranger_ids.insert(text.into(), id);
        id
    }
}

impl Bpe {
    /// Reads merges, best first, as pairs of texts with a space between. The error says which is wrong.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        merges: StringArray<'_>,
        ignore_merges: bool,
    ) -> Result<Self, String> {
        let mut resolver =
            Resolver { vocabulary, strangers: Vec::new(), stranger_ids: HashMap::new() };
        let mut table = hashbrown::HashMap::with_capacity(merges.len());
        let mut merged = Vec::with_capacity(64);
        // Converters number the results of merges in their order, so the result of one is mostly the token after that
        // of the one before: a guess that saves a look-up into a table that no cache holds.
        let mut guess = 0;
        for (rank, merge) in merges.iter_bytes().enumerate() {
            // The first character may itself be a space in vocabularies that are not byte-level.
            let space = merge.iter().skip(1).position(|&b| b == b' ').ok_or_else(|| {
                format!(
                    "merge {rank} is \"{}\", expected two pieces with a space between",
                    merge.escape_ascii()
                )
            })? + 1;
            let (left, right) = (&merge[..space], &merge[space + 1..]);
            merged.clear();
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
            let id = if vocabulary.text(guess) == merged { guess } else { resolver.id(&merged) };
            guess = id.wrapping_add(1);
            let pair = key(resolver.id(left), resolver.id(right));
            // The first of two equal merges counts.
            table.entry(pair).or_insert(Merge { rank: rank as u32, id });
        }
        let mut bytes = [NO_TOKEN; 256];
        for byte in 0..=255u8 {
            let text = byte_to_char(byte);
            bytes[usize::from(byte)] = resolver.id(text.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(Self {
            bytes,
            merges: table,
            strangers: resolver.strangers,
            vocab_size: vocabulary.len() as u32,
            ignore_merges,
        })
    }

    /// Appends the tokens of one word.
    pub(super) fn encode_word(
        &self,
        vocabulary: &Vocabulary,
        word: &str,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        if self.ignore_merges {
            scratch.text.clear();
            scratch.text.extend(word.bytes().map(byte_to_char));
            let whole = vocabulary.id(scratch.text.as_bytes());
            if let Some(id) = whole.filter(|&id| vocabulary.kind(id) != TokenKind::Unused) {
                out.push(id);
                return;
            }
        }
        scratch.ids.clear();
        scratch.ids.extend(word.bytes().map(|b| self.bytes[usize::from(b)]));
        if scratch.ids.len() <= SCANNED_SYMBOLS {
            self.merge_by_scan(scratch);
        } else {
            self.merge_by_heap(&mut scratch.ids);
        }
        if self.strangers.is_empty() {
            out.extend_from_slice(&scratch.ids);
        } else {
            for &id in &scratch.ids {
                self.emit(vocabulary, id, out);
            }
        }
    }

    fn find(&self, left: u32, right: u32) -> Merge {
        self.merges.get(&key(left, right)).copied().unwrap_or(Merge { rank: NO_RANK, id: NO_TOKEN })
    }

    /// Merges the best pair again and again, the leftmost of equals.
    fn merge_by_scan(&self, scratch: &mut Scratch) {
        let Scratch { ids, ranks, .. } = scratch;
        ranks.clear();
        ranks.extend(ids.windows(2).map(|pair| self.find(pair[0], pair[1])));
        loop {
            let mut best = NO_RANK;
            let mut at = 0;
            for (index, merge) in ranks.iter().enumerate() {
                if merge.rank < best {
                    best = merge.rank;
                    at = index;
                }
            }
            if best == NO_RANK {
                return;
            }
            ids[at] = ranks[at].id;
            ids.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = self.find(ids[at - 1], ids[at]);
            }
            if at < ranks.len() {
                ranks[at] = self.find(ids[at], ids[at + 1]);
            }
        }
    }

    /// The same in O(n log n): a linked list of symbols and a heap of candidate merges, stale ones
    /// skipped when they surface.
    fn merge_by_heap(&self, ids: &mut Vec<u32>) {
        let len = ids.len();
        let mut next: Vec<usize> = (1..=len).collect();
        let mut previous: Vec<usize> = (0..len).map(|i| i.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::with_capacity(len);
        let candidate = |ids: &[u32], left: usize, right: usize| {
            let merge = self.find(ids[left], ids[right]);
            (merge.rank != NO_RANK).then(|| Reverse((merge.rank, left, key(ids[left], ids[right]))))
        };
        heap.extend((1..len).filter_map(|right| candidate(ids, right - 1, right)));
        while let Some(Reverse((_, left, pair))) = heap.pop() {
            let right = next[left];
            if right >= len || ids[left] == NO_TOKEN || key(ids[left], ids[right]) != pair {
                continue;
            }
            ids[left] = self.find(ids[left], ids[right]).id;
            ids[right] = NO_TOKEN;
            let after = next[right];
            next[left] = after;
            next[right] = len;
            if after < len {
                previous[after] = left;
                heap.extend(candidate(ids, left, after));
            }
            if previous[left] < len {
                heap.extend(candidate(ids, previous[left], left));
            }
        }
        ids.retain(|&id| id != NO_TOKEN);
    }

    /// Appends a token, or the tokens of the characters of a piece that is none. Characters without a token
    /// vanish, as they do in llama.cpp; real vocabularies hold every byte that UTF-8 text can contain.
    fn emit(&self, vocabulary: &Vocabulary, id: u32, out: &mut Vec<u32>) {
        let Some(stranger) = id.checked_sub(self.vocab_size) else {
            out.push(id);
            return;
        };
        let Some(text) = self.strangers.get(stranger as usize) else {
            return;
        };
        for chunk in text.utf8_chunks() {
            out.extend(
                chunk
                    .valid()
                    .chars()
                    .filter_map(|c| vocabulary.id(c.encode_utf8(&mut [0; 4]).as_bytes())),
            );
        }
    }
}
