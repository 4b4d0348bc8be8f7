//! Chooses what one step computes.

use super::request::Priority;
use super::sequence::{Kind, Sequence};
use crate::backend::LogitsFor;

/// Limits of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepLimits {
    /// Most tokens of prompts.
    pub(super) prefill_tokens: usize,
    /// Most rows of logits for requests that score every token; bounds memory (a row of 151,936 floats is 0.6 MB).
    pub(super) score_rows: usize,
}

/// A chunk of one sequence: its next pending tokens, and drafted ones after the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// Which sequence.
    pub(super) index: usize,
    /// How many tokens.
    pub(super) tokens: usize,
    /// Which of them need logits.
    pub(super) logits: LogitsFor,
    /// How many of them, the last ones, are drafted.
    pub(super) drafted: usize,
}

/// The number of the sequence whose prompt was read last, of each priority; the next one after it comes first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    interactive: u64,
    normal: u64,
}

/// Fills `plan` with one token of every sequence that decodes, then with chunks of prompts within the budget.
///
/// Prompts take turns, those of editors first; when others are being read, too, they are left a quarter.
/// A sequence under suspicion of having broken a step runs alone.
pub(super) fn plan(
    sequences: &[Sequence],
    turns: &mut Turns,
    limits: StepLimits,
    plan: &mut Vec<Planned>,
) {
    plan.clear();
    let runnable = |s: &Sequence| {
        s.open.is_some() && s.leader.is_none() && s.pending() > 0 && s.reader_ready()
    };
    let indexed = || sequences.iter().enumerate().filter(|(_, s)| runnable(s));

    if let Some((index, suspect)) = indexed().find(|(_, s)| s.suspect_until.is_some()) {
        let tokens = suspect.pending().min(limits.prefill_tokens);
        plan.push(chunk(index, suspect, tokens, limits.score_rows));
        return;
    }

    plan.extend(indexed().filter(|(_, s)| s.decoding()).map(|(index, _)| Planned {
        index,
        tokens: 1,
        logits: LogitsFor::Last,
        drafted: 0,
    }));

    let reading =
        |priority| indexed().filter(move |(_, s)| !s.decoding() && s.flow.priority == priority);
    let budget = limits.prefill_tokens;
    let unread: usize = reading(Priority::Normal).map(|(_, s)| s.pending()).sum();
    let kept = unread.min(budget / 4);
    let read = read_in_turn(
        reading(Priority::Interactive),
        &mut turns.interactive,
        StepLimits { prefill_tokens: budget - kept, ..limits },
        plan,
    );
    let limits = StepLimits { prefill_tokens: budget - read, ..limits };
    read_in_turn(reading(Priority::Normal), &mut turns.normal, limits, plan);
}

/// Plans chunks of the prompts of these sequences; how many tokens.
fn read_in_turn<'a>(
    reading: impl Iterator<Item = (usize, &'a Sequence)> + Clone,
    turn: &mut u64,
    limits: StepLimits,
    plan: &mut Vec<Planned>,
) -> usize {
    let StepLimits { prefill_tokens: mut tokens_left, score_rows: mut rows_left } = limits;
    let last = *turn;
    let behind = reading.clone().filter(move |(_, s)| s.id <= last);
    for (index, sequence) in reading.filter(|(_, s)| s.id > last).chain(behind) {
        if tokens_left == 0 {
            break;
        }
        let planned = chunk(index, sequence, sequence.pending().min(tokens_left), rows_left);
        if planned.tokens == 0 {
            continue;
        }
        if planned.logits == LogitsFor::All {
            rows_left -= planned.tokens;
        }
        tokens_left -= planned.tokens;
        *turn = sequence.id;
        plan.push(planned);
    }
    limits.prefill_tokens - tokens_left
}

impl Planned {
    /// Takes the draft out again.
    pub(super) fn drop_draft(&mut self) {
        if self.drafted > 0 {
            self.tokens -= std::mem::take(&mut self.drafted);
            self.logits = LogitsFor::Last;
        }
    }
}

/// A chunk of at most `tokens` tokens, cut where the wanted logits begin and to the rows that are left.
fn chunk(index: usize, sequence: &Sequence, tokens: usize, rows_left: usize) -> Planned {
    let (tokens, logits) = match &sequence.kind {
        Kind::Generate(_) if tokens == sequence.pending() => (tokens, LogitsFor::Last),
        Kind::Generate(_) => (tokens, LogitsFor::Nothing),
        Kind::Score(scoring) => {
            // The row of token `first - 1` predicts token `first`.
            let without = (scoring.first - 1).saturating_sub(sequence.computed);
            if without > 0 {
                (tokens.min(without), LogitsFor::Nothing)
            } else {
                (tokens.min(rows_left), LogitsFor::All)
            }
        }
    };
    Planned { index, tokens, logits, drafted: 0 }
}
