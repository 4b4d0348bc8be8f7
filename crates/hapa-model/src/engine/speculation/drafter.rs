//! Drafts for one sequence.

use super::acceptance::{Acceptance, Source};
use super::index::{LONGEST_MATCH, Match, TokenIndex};
use super::recent::{Place, RecentAnswers};

/// Longest draft of one sequence in one step.
pub(super) const LONGEST_DRAFT: usize = 32;

/// A draft with a smaller chance than this goes no further.
const LEAST_CHANCE: f32 = 0.05;

/// What a sequence knows of its own text and of the luck it had.
#[derive(Debug, Default)]
pub(crate) struct Drafter {
    index: TokenIndex,
    acceptance: Acceptance,
    /// The draft in question.
    draft: Vec<u32>,
    /// For each of its tokens: the chance that it and all before it are accepted.
    chances: Vec<f32>,
    origin: Option<Origin>,
    /// Where the source of the last draft goes on, had its text only been changed at one place; and how long the sequence was then.
    resume: Option<(Resume, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Origin {
    source: Source,
    /// Tokens before the draft that agree.
    length: usize,
    resume: Resume,
}

#[derive(Debug, Clone, Copy)]
enum Resume {
    Own(usize),
    Recent(Place),
}

impl Resume {
    fn after(self, tokens: usize) -> Self {
        match self {
            Self::Own(at) => Self::Own(at + tokens),
            Self::Recent(place) => Self::Recent(place.after(tokens)),
        }
    }
}

impl Drafter {
    /// Looks for what `tokens` may go on with; at most `most` tokens. `stop` says of a token that nothing is worth drafting from
    /// it on.
    pub(super) fn propose(
        &mut self,
        (tokens, namespace): (&[u32], u64),
        most: usize,
        (recent, all): (&mut RecentAnswers, &Acceptance),
        stop: impl Fn(u32) -> bool,
    ) {
        self.index.extend(&tokens[self.index.len()..]);
        self.draft.clear();
        self.chances.clear();
        self.origin = None;
        let most = most.min(LONGEST_DRAFT);
        if most == 0 {
            return;
        }

        let mut fresh = false;
        let (place, own_near) = match self.resume {
            Some((resume, length)) => {
                fresh = length == tokens.len();
                match resume.after(tokens.len() - length) {
                    Resume::Recent(place) => (Some(place), None),
                    Resume::Own(at) => (None, self.index.near(tokens, at)),
                }
            }
            None => (None, None),
        };
        let [far, near] = recent.find(namespace, tokens, place);
        let candidates = [
            (Source::Own, true, self.index.longest(tokens)),
            (Source::Recent, false, far),
            (Source::Aligned, true, own_near),
            (Source::Aligned, false, near),
        ];
        let mut best: Option<(f32, Source, bool, Match)> = None;
        for (source, own, found) in candidates {
            // That one token was replaced by another is a guess for the step right after.
            let Some(found) = found.filter(|found| found.length > 0 || fresh) else { continue };
            let chance = self.acceptance.estimate(all, source, found.length);
            if best.is_none_or(|(most, ..)| chance > most) {
                best = Some((chance, source, own, found));
            }
        }
        let Some((_, source, own, Match { at, length })) = best else { return };
        let place = if own {
            self.index.continuation(at, most, &mut self.draft);
            Some(Resume::Own(at))
        } else {
            recent.continuation(namespace, at, most, &mut self.draft).map(Resume::Recent)
        };
        self.origin = place.map(|resume| Origin { source, length, resume });

        if let Some(end) = self.draft.iter().position(|&token| stop(token)) {
            self.draft.truncate(end);
        }
        let mut chance = 1.0;
        for drafted in 0..self.draft.len() {
            let agreeing = (length + drafted).min(LONGEST_MATCH);
            chance *= self.acceptance.estimate(all, source, agreeing);
            if chance < LEAST_CHANCE {
                break;
            }
            self.chances.push(chance);
        }
        self.draft.truncate(self.chances.len());
    }

    /// The draft that was found last.
    pub(crate) fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// For each token of the draft: the chance that it and all before it are accepted.
    pub(super) fn chances(&self) -> &[f32] {
        &self.chances
    }

    /// Learns what became of the first `drafted` tokens: `accepted` of them were right, and the next one, if any, was not.
    pub(super) fn verified(&mut self, drafted: usize, accepted: usize, all: &mut Acceptance) {
        let Some(origin) = self.origin.take() else { return };
        for token in 0..drafted.min(accepted + 1) {
            let length = (origin.length + token).min(LONGEST_MATCH);
            self.acceptance.observe(origin.source, length, token < accepted);
            all.observe(origin.source, length, token < accepted);
        }
        // One token came after those accepted: in place of the wrong one, or as the next.
        self.resume = Some((origin.resume.after(accepted + 1), self.index.len() + accepted + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Text {
        drafter: Drafter,
        recent: RecentAnswers,
        all: Acceptance,
        tokens: Vec<u32>,
    }

    impl Text {
        fn new(tokens: &[u32]) -> Self {
            Self {
                drafter: Drafter::default(),
                recent: RecentAnswers::new(1 << 20),
                all: Acceptance::default(),
                tokens: tokens.to_vec(),
            }
        }

        fn propose(&mut self, most: usize) -> Vec<u32> {
            let text = (&self.tokens[..], 0);
            let known = (&mut self.recent, &self.all);
            self.drafter.propose(text, most, known, |token| token == 0);
            assert_eq!(self.drafter.draft().len(), self.drafter.chances().len());
            self.drafter.draft().to_vec()
        }

        /// The text goes on with `next`; how many of the draft were right.
        fn go_on(&mut self, drafted: usize, next: &[u32]) -> usize {
            let draft = &self.drafter.draft()[..drafted];
            let right = draft.iter().zip(next).take_while(|(a, b)| a == b).count();
            self.tokens.extend(&next[..next.len().min(right + 1)]);
            self.drafter.verified(drafted, right, &mut self.all);
            right
        }
    }

    #[test]
    fn a_text_is_drafted_from_itself_up_to_the_end_of_an_answer() {
        let mut text = Text::new(&[1, 2, 3, 4, 5, 0, 7, 8, 1, 2, 3]);
        assert_eq!(text.propose(1), [4]);
        assert_eq!(text.propose(9), [4, 5]);
        assert!(text.propose(0).is_empty());
        let chances = text.drafter.chances();
        assert!(chances.is_empty());
        text.propose(9);
        let chances = text.drafter.chances();
        assert!(chances[1] < chances[0] && chances[0] < 1.0);
        assert!(Text::new(&[1, 2, 3]).propose(5).is_empty());
    }

    #[test]
    fn a_changed_copy_is_drafted_again_right_after_the_change() {
        let original: Vec<u32> = (0..60).map(|i| 100 + i).collect();
        let mut changed = original.clone();
        changed[30] = 999;
        let mut text = Text::new(&original);
        text.tokens.extend(&changed[..20]);
        let (mut at, mut steps) = (20, 0);
        while at < 60 {
            let drafted = text.propose((60 - at).min(8)).len();
            at += (text.go_on(drafted, &changed[at..]) + 1).min(60 - at);
            steps += 1;
        }
        assert_eq!(&text.tokens[60..], changed);
        assert!(steps <= 7, "{steps} steps for 40 tokens in drafts of 8");
    }

    #[test]
    fn an_answer_of_the_namespace_is_drafted_and_followed_through_a_change() {
        let answer: Vec<u32> = (0..40).map(|i| 200 + i).collect();
        let mut old = vec![1, 2, 3];
        old.extend(&answer);
        let mut text = Text::new(&[9, 9, 2, 3]);
        text.recent.add(0, &old, 3);
        assert_eq!(text.propose(4), answer[..4]);
        text.go_on(4, &[200, 201, 77]);
        let draft = text.propose(4);
        assert!(!draft.is_empty() && answer[3..].starts_with(&draft), "one token was replaced");
    }

    #[test]
    fn drafts_that_fail_get_shorter() {
        let mut text = Text::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        text.tokens.extend([1, 2]);
        let hopeful = text.propose(32).len();
        for i in 0..40 {
            text.tokens.extend([1, 2]);
            let drafted = text.propose(32).len();
            text.go_on(drafted, &[1_000 + i]);
        }
        text.tokens.extend([1, 2]);
        assert!(text.propose(32).len() < hopeful / 2);
    }
}
