//! Text of a stated length: common English words of Python's world, about one token each in the vocabularies of today.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Ask, Prompt};

/// Lengths of synthetic prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Synthetic {
    /// Words of a prompt, about as many tokens; drawn evenly from the range.
    pub input_tokens: (u32, u32),
    /// Most tokens of the answer; drawn evenly from the range.
    pub output_tokens: (u32, u32),
}

/// Each is a single token, with its leading space, in the vocabularies of the qwen2, llama 3 and GPT families.
const WORDS: [&str; 64] = [
    "list", "value", "index", "name", "file", "path", "line", "text", "string", "number", "count",
    "total", "key", "item", "data", "node", "tree", "graph", "edge", "state", "time", "date",
    "user", "order", "price", "table", "row", "column", "field", "type", "class", "method",
    "function", "return", "print", "read", "write", "open", "close", "sort", "search", "find",
    "merge", "split", "join", "map", "filter", "reduce", "sum", "min", "max", "mean", "error",
    "check", "test", "parse", "format", "match", "group", "set", "queue", "stack", "cache", "the",
];

/// Appends `count` words.
pub(super) fn words(random: &mut ChaCha8Rng, count: u32, text: &mut String) {
    for _ in 0..count {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS.choose(random).unwrap_or(&""));
    }
}

/// A generator for one purpose and number: the same seed gives the same text, whoever asks in whatever order.
pub(super) fn random(seed: u64, purpose: u64, number: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ purpose.rotate_left(32));
    random.set_stream(number);
    random
}

impl Synthetic {
    /// The prompt of that number. `prefix` is text that it shares with others; it counts as part of the length, and at
    /// least one word in eight stays the prompt's own.
    pub(crate) fn prompt(&self, seed: u64, number: u64, prefix: Option<&str>) -> Prompt {
        let mut random = random(seed, 1, number);
        let (low, high) = self.input_tokens;
        let length = random.random_range(low..=high.max(low));
        let (low, high) = self.output_tokens;
        let max_tokens = random.random_range(low..=high.max(low));
        let mut text = String::new();
        let mut own = length;
        if let Some(prefix) = prefix {
            let shared = (length - length / 8).saturating_sub(1) as usize;
            let mut taken = 0;
            for word in prefix.split(' ').take(shared) {
                if taken > 0 {
                    text.push(' ');
                }
                text.push_str(word);
                taken += 1;
            }
            own -= taken;
        }
        words(&mut random, own, &mut text);
        Prompt::new(Ask::Text(text), max_tokens)
    }
}
