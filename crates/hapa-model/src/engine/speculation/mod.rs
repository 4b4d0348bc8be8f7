//! Speculative decoding without a second model.
//!
//! Text that a coding assistant writes has often been there before: in the prompt (a file that is to be changed), in the
//! answer itself, in the answer to the same question a minute ago. So each sequence that decodes looks for an earlier
//! occurrence of its last tokens, drafts what followed there, and the step verifies the whole draft in one batch: reading the weights is
//! what a step mostly costs, and they are read once for all rows (Leviathan et al. 2023, arXiv:2211.17192; drafts from the
//! prompt: Saxena 2023, "prompt lookup decoding"; from recent answers: Oliaro et al. 2024, "SuffixDecoding", arXiv:2411.04975).
//!
//! - **Exact.** Each row of a draft is given to the sampler exactly as if the step had computed it alone, in order, until it
//!   chooses another token than the draft has. A draft is one token of probability one, so this *is* speculative
//!   sampling: the drafted token is accepted with the probability that the model gives it, and otherwise the
//!   choice is distributed as the rest is. Since the sampler draws once a token either way, a seed gives the same answer with and
//!   without drafts; penalties, stop texts, log-probabilities and limits see one token after the other. All of this holds where a
//!   row's logits don't depend on the other rows, which an executor promises with [`Executor::rows_are_independent`];
//!   others get no drafts.
//! - **Worth it.** A draft of tokens that are right with chances `p1 >= p2 >= ...` is as long as makes expected tokens per second
//!   largest, `(n + sum p) / cost(n + drafted)`, over all sequences of the step together ([`plan`]). Chances are learned from what was verified
//!   ([`acceptance`]), costs from the clock ([`cost`]). Rows are nearly free while one sequence runs and dear when
//!   thirty do; a sequence whose drafts fail gets shorter ones, then none. What was switched off is tried again now and then.
//!
//! [`Executor::rows_are_independent`]: crate::backend::Executor::rows_are_independent

mod acceptance;
mod cost;
mod drafter;
mod index;
mod plan;
mod recent;

pub(super) use drafter::Drafter;
pub(crate) use plan::Speculate;
pub(super) use plan::{MOST_DRAFTED, Speculation};

#[cfg(test)]
mod tests;
