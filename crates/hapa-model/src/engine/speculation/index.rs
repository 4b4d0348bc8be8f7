//! Finds where the end of a text has occurred before.

/// Longest match that is told from a longer one.
pub(super) const LONGEST_MATCH: usize = 64;

/// Divides texts that have nothing to do with one another. No vocabulary is so large.
pub(super) const SEPARATOR: u32 = u32::MAX;

/// Occurrences of an n-gram that a search looks at, the latest first.
const CHAIN: usize = 32;

/// How far around the place where the last draft went wrong a text may go on.
const BEFORE: usize = 4;
const AFTER: usize = 24;

/// A place whose preceding tokens are those at the end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// Position of the token that followed there.
    pub(super) at: usize,
    /// How many tokens before it are the same, up to [`LONGEST_MATCH`].
    pub(super) length: usize,
}

/// A growing text, indexed by its n-grams as LZ77 compressors do (hash chains): each n-gram's hash leads to
/// its latest occurrence, and each occurrence to the one before.
///
/// Adding a token takes constant time, a search looks at [`CHAIN`] places of each chain. Pairs find a text again soon after it
/// changed; five tokens lead past the many places where a common pair occurs.
#[derive(Debug, Default)]
pub(super) struct TokenIndex {
    tokens: Vec<u32>,
    pairs: Chains<2>,
    fives: Chains<5>,
}

impl TokenIndex {
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        size_of::<u32>() * self.tokens.capacity() + self.pairs.bytes() + self.fives.bytes()
    }

    pub(super) fn extend(&mut self, tokens: &[u32]) {
        self.tokens.reserve(tokens.len());
        for &token in tokens {
            self.tokens.push(token);
            self.pairs.push(&self.tokens);
            self.fives.push(&self.tokens);
        }
    }

    /// The place whose preceding tokens agree with the end of `text` for longest; the latest of several. `text` may be this
    /// text itself: its own end, which nothing follows yet, is no match.
    pub(super) fn longest(&self, text: &[u32]) -> Option<Match> {
        self.best(text, &self.fives).or_else(|| self.best(text, &self.pairs))
    }

    /// The longest match around `place`; the nearest to it of several. A text that was changed here goes on there. Where
    /// nothing agrees, one token is taken to be replaced by another, which leads to `place` itself.
    pub(super) fn near(&self, text: &[u32], place: usize) -> Option<Match> {
        let places = place.saturating_sub(BEFORE)..(place + AFTER).min(self.len());
        let found = places
            .map(|at| Match { at, length: self.agreement(text, at) })
            .max_by_key(|m| (m.length, std::cmp::Reverse(m.at.abs_diff(place))));
        found.filter(|m| m.length > 0 || m.at == place)
    }

    fn best<const N: usize>(&self, text: &[u32], chains: &Chains<N>) -> Option<Match> {
        let mut best: Option<Match> = None;
        let places = chains.occurrences(text).filter(|&at| at < self.len());
        for at in places.take(CHAIN) {
            let length = self.agreement(text, at);
            // An unequal n-gram may have the same hash; what it agrees in by chance, shorter n-grams find better.
            if length >= N && best.is_none_or(|best| length > best.length) {
                best = Some(Match { at, length });
                if length == LONGEST_MATCH {
                    break;
                }
            }
        }
        best
    }

    /// How many tokens before `at` are those at the end of `text`.
    fn agreement(&self, text: &[u32], at: usize) -> usize {
        let before = self.tokens[..at].iter().rev();
        before.zip(text.iter().rev()).take(LONGEST_MATCH).take_while(|(a, b)| a == b).count()
    }

    /// What followed `at`, up to `most` tokens and to the end of that text, into `draft`. When the whole index is one text and
    /// `at` is near its end, it goes on as if it repeated itself: after "abab", "ab" again.
    pub(super) fn continuation(&self, at: usize, most: usize, draft: &mut Vec<u32>) {
        let start = draft.len();
        for i in 0..most {
            let token = match self.tokens.get(at + i) {
                Some(&token) => token,
                None => draft[start + at + i - self.len()],
            };
            if token == SEPARATOR {
                break;
            }
            draft.push(token);
        }
    }
}

/// The occurrences of each n-gram of `N` tokens, as positions of the tokens after them.
#[derive(Debug, Default)]
struct Chains<const N: usize> {
    /// Latest occurrence of each hash; 0 is none.
    heads: Vec<u32>,
    /// For each token: the occurrence before of the n-gram that ends with it.
    earlier: Vec<u32>,
}

impl<const N: usize> Chains<N> {
    fn bytes(&self) -> usize {
        size_of::<u32>() * (self.heads.capacity() + self.earlier.capacity())
    }

    fn slot(&self, gram: &[u32]) -> usize {
        let hash = gram.iter().fold(0u64, |hash, &token| {
            (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
        });
        // The heads' number is a power of two.
        (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.heads.len() - 1)
    }

    /// Takes the last of `tokens` in.
    fn push(&mut self, tokens: &[u32]) {
        if tokens.len() > self.heads.len() {
            self.heads = vec![0; (2 * tokens.len()).next_power_of_two().max(256)];
            self.earlier.clear();
            for end in 1..tokens.len() {
                self.link(&tokens[..end]);
            }
        }
        self.link(tokens);
    }

    fn link(&mut self, tokens: &[u32]) {
        let mut before = 0;
        if let Some(gram) = tokens.last_chunk::<N>() {
            let slot = self.slot(gram);
            before = std::mem::replace(&mut self.heads[slot], tokens.len() as u32);
        }
        self.earlier.push(before);
    }

    /// Where the n-gram at the end of `text` has occurred, the latest first.
    fn occurrences(&self, text: &[u32]) -> impl Iterator<Item = usize> {
        let latest = match text.last_chunk::<N>() {
            Some(gram) if !self.heads.is_empty() => self.heads[self.slot(gram)],
            _ => 0,
        };
        std::iter::successors((latest > 0).then_some(latest), |&at| {
            Some(self.earlier[at as usize - 1]).filter(|&at| at > 0)
        })
        .map(|at| at as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(tokens: &[u32]) -> TokenIndex {
        let mut index = TokenIndex::default();
        index.extend(tokens);
        index
    }

    fn draft(index: &TokenIndex, at: usize, most: usize) -> Vec<u32> {
        let mut draft = Vec::new();
        index.continuation(at, most, &mut draft);
        draft
    }

    #[test]
    fn the_longest_match_wins_over_the_latest() {
        let index = index(&[1, 2, 3, 4, 50, 9, 3, 4, 60, 8]);
        let found = index.longest(&[7, 1, 2, 3, 4]).expect("a match");
        assert_eq!(found, Match { at: 4, length: 4 });
        assert_eq!(draft(&index, found.at, 3), [50, 9, 3]);
        assert_eq!(index.longest(&[7, 3, 4]), Some(Match { at: 8, length: 2 }));
        assert_eq!(index.longest(&[7, 7, 4]), None);
        assert_eq!(index.longest(&[4]), None);
    }

    #[test]
    fn an_unequal_n_gram_of_the_same_hash_hides_nothing() {
        // Five tokens of the text have the hash of five others here, which agree in the last two.
        let index = index(&[1, 1, 0, 1, 0, 0]);
        assert_eq!(index.longest(&[2, 2, 1, 1, 0]), Some(Match { at: 3, length: 3 }));
    }

    #[test]
    fn a_text_finds_itself_but_not_its_own_end() {
        let index = index(&[1, 2, 3, 9, 1, 2, 3]);
        assert_eq!(index.longest(index.tokens()), Some(Match { at: 3, length: 3 }));
        assert_eq!(index.longest(&[9, 1, 2, 3]), Some(Match { at: 3, length: 3 }));
        assert_eq!(super::tests::index(&[1, 2, 3]).longest(&[1, 2, 3]), None);
    }

    #[test]
    fn a_loop_is_continued_beyond_what_there_is() {
        let index = index(&[9, 1, 2, 3, 1, 2, 3]);
        let found = index.longest(index.tokens()).expect("a match");
        assert_eq!(draft(&index, found.at, 8), [1, 2, 3, 1, 2, 3, 1, 2]);
    }

    #[test]
    fn texts_do_not_run_into_one_another() {
        let index = index(&[1, 2, 3, SEPARATOR, 2, 3, 4, 5]);
        assert_eq!(index.longest(&[1, 2]), Some(Match { at: 2, length: 2 }));
        assert_eq!(draft(&index, 2, 9), [3]);
        assert_eq!(index.longest(&[1, 2, 3]), Some(Match { at: 3, length: 3 }));
        assert!(draft(&index, 3, 9).is_empty());
    }

    #[test]
    fn a_changed_text_goes_on_nearby() {
        let text: Vec<u32> = (0..100).map(|i| 10 + i % 7 * 5 + i / 7).collect();
        let index = index(&text);
        // Replaced: nothing agrees with the new token.
        assert_eq!(index.near(&[999], 50), Some(Match { at: 50, length: 0 }));
        // Left out: the text goes on some tokens later.
        assert_eq!(index.near(&text[..54], 50), Some(Match { at: 54, length: 54 }));
        // Put in: it goes on where it was.
        assert_eq!(index.near(&text[..50], 51), Some(Match { at: 50, length: 50 }));
        assert_eq!(index.near(&[1], 200), None);
    }

    proptest! {
        #[test]
        fn no_match_is_longer(tokens in prop::collection::vec(0u32..4, 0..60), text in prop::collection::vec(0u32..4, 0..12)) {
            let index = index(&tokens);
            let longest = (0..tokens.len()).map(|at| index.agreement(&text, at)).max().unwrap_or(0);
            let found = index.longest(&text).map_or(0, |m| {
                assert_eq!(index.agreement(&text, m.at), m.length);
                m.length
            });
            // Chains are as long as the text here, so nothing is missed but single tokens.
            prop_assert!(found == longest || longest < 2 || tokens.len() > CHAIN, "{found} of {longest}");
        }

        #[test]
        fn growing_changes_nothing(tokens in prop::collection::vec(0u32..9, 1..700), cut in 0usize..700) {
            let whole = index(&tokens);
            let (first, rest) = tokens.split_at(cut.min(tokens.len()));
            let mut parts = index(first);
            for &token in rest {
                parts.extend(&[token]);
            }
            prop_assert_eq!(whole.longest(&tokens), parts.longest(&tokens));
        }
    }
}
