//! The engine: one thread that turns many requests into batches.
//!
//! ```text
//! submit ─► queue (bounded, fair) ─► admit ─► [ plan ─► Executor::step ─► sample, stream ] ─► finish
//!             full: refused      ▲                    │ out of pages
//!             at once            └── preempted ◄──────┘ (recomputed later)
//! ```
//!
//! - **Continuous batching.** Each step takes one token of every sequence that decodes and, under a
//!   token budget, chunks of prompts that are still being read. So decoding never waits for more than
//!   one chunk, and a short prompt never waits for the whole of a long one (chunks go round in turn).
//! - **Shared prompts.** What two prompts begin with is computed once, also when they arrive at the same moment
//!   ([`sharing`]).
//! - **Back-pressure.** A request whose receiver is slow is left out of the batch until there is room
//!   in its channel. It holds its place, and nobody else waits for it.
//! - **Fairness.** Who is taken up next is decided by the tokens that each namespace was served ([`fair_queue`]); requests of
//!   editors go first, in the queue and in reading prompts, and leave the others a share.
//! - **Outlook.** How long a request would wait is computed from what waits, what runs and the measured speed ([`outlook`]).
//! - **Cancelling.** Dropping a [`Generation`] takes the request out of the queue, or out of the
//!   batch at the next step; its KV pages are free at once.
//! - **Speculation.** Tokens that have been written before are drafted and verified several a step ([`speculation`]).
//! - **Memory.** When KV pages run out, the sequence that came last is put aside and recomputed
//!   when there is room again.
//! - **Faults.** A step that panics or fails is run again with each of its requests alone; the one
//!   that fails by itself gets the error, the others go on.
//!
//! The loop sleeps while it has nothing to do. See [`crate::backend`] for the arithmetic below it.

mod driver;
mod fair_queue;
mod generation;
mod outlook;
mod queue;
mod request;
mod scheduler;
mod sequence;
mod sharing;
mod speculation;
mod stats;
mod step_loop;

pub(crate) use driver::{Engine, EngineOptions};
pub use generation::{Answer, Generation};
pub use request::{
    Finish, FinishReason, GenerateEvent, GenerateRequest, PrefillChunk, Priority, TextDelta,
    Timings, TokenLogprobs, TracedStep, Usage,
};
pub(crate) use sequence::Vocabulary;
pub(crate) use speculation::Speculate;
pub use stats::EngineStats;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
