//! How much of which draft a step verifies.

use std::time::Duration;

use super::acceptance::Acceptance;
use super::cost::StepCosts;
use super::recent::RecentAnswers;
use crate::backend::LogitsFor;
use crate::engine::scheduler::Planned;
use crate::engine::sequence::{Kind, Sequence, Vocabulary};

/// Most drafted tokens of one step. Their logits take memory: 0.6 MB each with a vocabulary of 151,936.
pub(crate) const MOST_DRAFTED: usize = 48;

/// Memory for recent answers.
const RECENT_BYTES: usize = 16 << 20;

/// Drafts must promise so much more than none.
const LEAST_GAIN: f64 = 1.02;

/// Steps without drafts, though there were some, after which one is tried anyway: at first, and at last.
const FIRST_PROBE: u32 = 16;
const LAST_PROBE: u32 = 256;

/// Tokens of such a draft.
const PROBE_TOKENS: usize = 4;

/// Steps with drafts after which one goes without, so that the cost of that stays known.
const PLAIN_EVERY: u32 = 256;

/// Whether to draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speculate {
    Never,
    /// As far as it pays.
    Adaptively,
    /// Every draft in full, whatever it costs: for tests, whose fake models have no costs to speak of.
    #[cfg(test)]
    Always,
}

/// What the engine knows about drafts.
pub(crate) struct Speculation {
    speculate: Speculate,
    recent: RecentAnswers,
    acceptance: Acceptance,
    costs: StepCosts,
    /// Steps in a row that left all drafts out.
    idle: u32,
    probe_after: u32,
    /// Steps in a row with drafts.
    busy: u32,
    /// Chances of all drafted tokens of the step, with their sequences' places in the plan; kept for its memory.
    offers: Vec<(f32, usize)>,
}

impl Speculation {
    pub(crate) fn new(speculate: Speculate) -> Self {
        Self {
            speculate,
            recent: RecentAnswers::new(RECENT_BYTES),
            acceptance: Acceptance::default(),
            costs: StepCosts::default(),
            idle: 0,
            probe_after: FIRST_PROBE,
            busy: 0,
            offers: Vec::new(),
        }
    }

    /// Adds drafts to the sequences of a plan that decode.
    pub(crate) fn add_drafts(
        &mut self,
        sequences: &mut [Sequence],
        plan: &mut [Planned],
        (vocabulary, context_tokens): (&dyn Vocabulary, usize),
    ) {
        self.offers.clear();
        let (mut rows, mut prompt_rows) = (0, 0);
        for (place, planned) in plan.iter().enumerate() {
            let sequence = &mut sequences[planned.index];
            rows += planned.logits.rows(planned.tokens);
            prompt_rows += planned.tokens - planned.logits.rows(planned.tokens);
            if !sequence.decoding() || sequence.suspect_until.is_some() {
                continue;
            }
            let most = sequence.room(context_tokens).saturating_sub(1);
            let Kind::Generate(generating) = &mut sequence.kind else { continue };
            let drafter = generating.drafter.get_or_insert_default();
            let text = (&sequence.tokens[..], sequence.flow.namespace);
            let ends = |token| vocabulary.ends_generation(token);
            drafter.propose(text, most, (&mut self.recent, &self.acceptance), ends);
            self.offers.extend(drafter.chances().iter().map(|&chance| (chance, place)));
        }
        // Stable: of a sequence's tokens, whose chances never rise, earlier ones come first.
        self.offers.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.offers.truncate(MOST_DRAFTED);
        let drafted = self.choose(rows, prompt_rows);
        for &(_, place) in &self.offers[..drafted] {
            plan[place].drafted += 1;
            plan[place].tokens += 1;
            plan[place].logits = LogitsFor::All;
        }
        for planned in plan.iter().filter(|planned| planned.drafted > 0) {
            sequences[planned.index].take_draft(planned.drafted);
        }
    }

    /// How many of the offers to take.
    fn choose(&mut self, rows: usize, prompt_rows: usize) -> usize {
        match self.speculate {
            _ if self.offers.is_empty() => return 0,
            Speculate::Never => return 0,
            Speculate::Adaptively => {}
            #[cfg(test)]
            Speculate::Always => return self.offers.len(),
        }
        let plain = self.costs.decode(rows);
        let prompt_row = self.costs.prompt_row(rows);
        // A step that reads prompts is bound by arithmetic: each row costs the same there, and is weighed against what decoding
        // alone brings.
        let cost = |drafted: usize| match prompt_rows {
            0 => self.costs.decode(rows + drafted),
            _ => plain + prompt_row * drafted as f64,
        };
        let (mut best, mut best_rate) = (0, rows as f64 / plain * LEAST_GAIN);
        let mut expected = rows as f64;
        for (drafted, &(chance, _)) in (1..).zip(&self.offers) {
            expected += f64::from(chance);
            let rate = expected / cost(drafted);
            if rate > best_rate {
                (best, best_rate) = (drafted, rate);
            }
        }
        if best == 0 {
            self.busy = 0;
            self.idle += 1;
            if self.idle < self.probe_after {
                return 0;
            }
            self.idle = 0;
            self.probe_after = (2 * self.probe_after).min(LAST_PROBE);
            return self.offers.len().min(PROBE_TOKENS);
        }
        (self.idle, self.probe_after) = (0, FIRST_PROBE);
        self.busy += 1;
        let plain_unknown = prompt_rows == 0 && !self.costs.measured(rows);
        if plain_unknown || self.busy >= PLAIN_EVERY {
            self.busy = 0;
            return 0;
        }
        best
    }

    /// Learns what a step cost.
    pub(crate) fn note_step(&mut self, plan: &[Planned], took: Duration) {
        let rows = plan.iter().map(|p| p.logits.rows(p.tokens)).sum();
        let tokens: usize = plan.iter().map(|p| p.tokens).sum();
        self.costs.note(rows, tokens - rows, took);
    }

    /// Learns what became of a draft.
    pub(crate) fn note_draft(&mut self, sequence: &mut Sequence, drafted: usize, accepted: usize) {
        if let Kind::Generate(generating) = &mut sequence.kind
            && let Some(drafter) = &mut generating.drafter
        {
            drafter.verified(drafted, accepted, &mut self.acceptance);
        }
    }

    /// Keeps what a sequence has written for those to come.
    pub(crate) fn keep_answer(&mut self, sequence: &Sequence) {
        if matches!(sequence.kind, Kind::Generate(_)) {
            self.recent.add(sequence.flow.namespace, &sequence.tokens, sequence.prompt_tokens);
        }
    }

    /// Memory of recent answers.
    pub(crate) fn recent_bytes(&self) -> usize {
        self.recent.bytes()
    }
}
