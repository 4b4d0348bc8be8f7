//! Answers of the recent past, for requests that are asked again or slightly changed.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::index::{Match, SEPARATOR, TokenIndex};

/// Tokens of the prompt's end that are kept with an answer: they lead to its beginning.
const CONTEXT: usize = 32;

/// Shorter answers are not worth a place.
const SHORTEST: usize = 8;

/// Of longer answers only the beginning is kept.
const LONGEST: usize = 16_384;

/// Recent answers of each namespace, within a number of bytes.
///
/// Namespaces never see each other's answers. When memory runs out, the namespace that was used least recently goes; the
/// last one that is left loses the older half of its answers.
#[derive(Debug)]
pub(super) struct RecentAnswers {
    budget_bytes: usize,
    namespaces: HashMap<u64, Corpus>,
    /// Of all namespaces together.
    bytes: usize,
    clock: u64,
}

#[derive(Debug, Default)]
struct Corpus {
    index: TokenIndex,
    /// Where each answer begins, and its hash; the oldest first.
    answers: VecDeque<(usize, u64)>,
    /// Rises when positions lose their meaning.
    epoch: u64,
    last_used: u64,
}

/// A place in the answers of a namespace; useless once these were moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    epoch: u64,
    at: usize,
}

impl Place {
    /// The place so many tokens later.
    pub(super) fn after(self, tokens: usize) -> Self {
        Self { at: self.at + tokens, ..self }
    }
}

impl RecentAnswers {
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, namespaces: HashMap::new(), bytes: 0, clock: 0 }
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps the answer `tokens[prompt_tokens..]`, unless it is there.
    pub(super) fn add(&mut self, namespace: u64, tokens: &[u32], prompt_tokens: usize) {
        let answer_tokens = tokens.len() - prompt_tokens;
        if answer_tokens < SHORTEST {
            return;
        }
        let end = prompt_tokens + answer_tokens.min(LONGEST);
        let kept = &tokens[prompt_tokens.saturating_sub(CONTEXT)..end];
        let mut hasher = DefaultHasher::new();
        kept.hash(&mut hasher);
        let hash = hasher.finish();

        self.clock += 1;
        let corpus = self.namespaces.entry(namespace).or_insert_with(|| {
            self.bytes += Corpus::default().bytes();
            Corpus::default()
        });
        corpus.last_used = self.clock;
        // One of the older half will go soon, and is kept again.
        let older = corpus.answers.len() / 2;
        if corpus.answers.iter().skip(older).any(|&(_, known)| known == hash) {
            return;
        }
        self.bytes -= corpus.bytes();
        corpus.answers.push_back((corpus.index.len(), hash));
        corpus.index.extend(kept);
        corpus.index.extend(&[SEPARATOR]);
        self.bytes += corpus.bytes();
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.budget_bytes {
            let last = self.namespaces.len() == 1;
            let oldest = self.namespaces.iter_mut().min_by_key(|(_, corpus)| corpus.last_used);
            let Some((&oldest, corpus)) = oldest else { return };
            self.bytes -= corpus.bytes();
            if last && corpus.drop_older_half() {
                self.bytes += corpus.bytes();
            } else {
                self.namespaces.remove(&oldest);
            }
        }
    }

    /// The longest match of the end of `text`: anywhere, and around `place`.
    pub(super) fn find(
        &mut self,
        namespace: u64,
        text: &[u32],
        place: Option<Place>,
    ) -> [Option<Match>; 2] {
        let Some(corpus) = self.namespaces.get_mut(&namespace) else { return [None; 2] };
        self.clock += 1;
        corpus.last_used = self.clock;
        let place = place.filter(|place| place.epoch == corpus.epoch);
        [corpus.index.longest(text), place.and_then(|place| corpus.index.near(text, place.at))]
    }

    /// What followed the place `at`, up to `most` tokens, into `draft`; and the place's name.
    pub(super) fn continuation(
        &self,
        namespace: u64,
        at: usize,
        most: usize,
        draft: &mut Vec<u32>,
    ) -> Option<Place> {
        let corpus = self.namespaces.get(&namespace)?;
        corpus.index.continuation(at, most, draft);
        Some(Place { epoch: corpus.epoch, at })
    }
}

impl Corpus {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.index.bytes() + self.answers.capacity() * size_of::<(usize, u64)>()
    }

    /// Keeps the newer half of the tokens. False when that leaves nothing.
    fn drop_older_half(&mut self) -> bool {
        let half = self.index.len() / 2;
        let gone = self.answers.partition_point(|&(start, _)| start < half);
        let Some(&(start, _)) = self.answers.get(gone) else { return false };
        let mut index = TokenIndex::default();
        index.extend(&self.index.tokens()[start..]);
        self.index = index;
        self.answers = self.answers.iter().skip(gone).map(|&(s, hash)| (s - start, hash)).collect();
        self.epoch += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(seed: u32, length: u32) -> Vec<u32> {
        (0..length).map(|i| seed * 1_000 + i).collect()
    }

    fn found(recent: &mut RecentAnswers, namespace: u64, text: &[u32]) -> Vec<u32> {
        let mut draft = Vec::new();
        if let [Some(found), _] = recent.find(namespace, text, None) {
            recent.continuation(namespace, found.at, 4, &mut draft);
        }
        draft
    }

    #[test]
    fn an_answer_is_found_by_its_prompt_and_by_itself_within_its_namespace() {
        let mut recent = RecentAnswers::new(1 << 20);
        let mut tokens = vec![1, 2, 3, 4];
        tokens.extend(answer(5, 20));
        recent.add(7, &tokens, 4);
        assert_eq!(found(&mut recent, 7, &[9, 3, 4]), [5000, 5001, 5002, 5003]);
        assert_eq!(found(&mut recent, 7, &[9, 5017, 5018]), [5019]);
        assert!(found(&mut recent, 8, &[9, 3, 4]).is_empty(), "namespaces are apart");
        let bytes = recent.bytes();
        recent.add(7, &tokens, 4);
        assert_eq!(recent.bytes(), bytes, "the same answer again");
        recent.add(7, &tokens[..8], 4);
        assert_eq!(recent.bytes(), bytes, "four tokens are not worth it");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let budget = 64 << 10;
        let mut recent = RecentAnswers::new(budget);
        for seed in 0..200 {
            recent.add(1, &answer(seed, 100), 0);
            assert!(recent.bytes() <= budget);
        }
        assert!(found(&mut recent, 1, &[3_050, 3_051]).is_empty());
        assert_eq!(found(&mut recent, 1, &[199_050, 199_051])[0], 199_052);
        // Another namespace takes the place of the one that was used least recently.
        for seed in 0..200 {
            recent.add(2, &answer(seed, 100), 0);
            assert!(recent.bytes() <= budget);
        }
        assert!(found(&mut recent, 1, &[199_050, 199_051]).is_empty());
        assert_eq!(found(&mut recent, 2, &[199_050, 199_051])[0], 199_052);
        // One that is larger than everything is not kept.
        let mut tiny = RecentAnswers::new(100);
        tiny.add(1, &answer(1, 100), 0);
        assert_eq!(tiny.bytes(), 0);
    }

    #[test]
    fn a_place_is_forgotten_when_answers_move() {
        let mut recent = RecentAnswers::new(64 << 10);
        recent.add(1, &answer(1, 100), 0);
        let place = recent.continuation(1, 50, 4, &mut Vec::new());
        assert_eq!(recent.find(1, &[9], place)[1], Some(Match { at: 50, length: 0 }));
        for seed in 2..200 {
            recent.add(1, &answer(seed, 100), 0);
        }
        assert_eq!(recent.find(1, &[9], place)[1], None);
    }
}
