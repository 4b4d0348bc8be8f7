//! One request inside the engine.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::fair_queue::Flow;
use super::request::{
    Finish, FinishReason, GenerateEvent, PrefillChunk, TextDelta, Timings, TokenLogprobs,
    TracedStep, Usage,
};
use super::scheduler::Planned;
use super::speculation::Drafter;
use crate::backend::SequenceId;
use crate::error::{ModelError, Result, SharedError};
use crate::grammar::Grammar;
use crate::sampling::{Sampler, log_softmax_at, log_softmax_top};
use crate::text::TextStream;

/// What the engine needs to know about tokens.
pub(crate) trait Vocabulary: Send + Sync {
    /// The bytes that a token stands for; may be part of a character.
    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]>;
    /// The token ends an answer.
    fn ends_generation(&self, token: u32) -> bool;
}

/// A request in the queue.
pub(super) struct Job {
    /// Its number, in the order of submission, set by the queue; once it was taken up, in the order of that.
    pub(super) id: u64,
    pub(super) prompt: Vec<u32>,
    pub(super) flow: Flow,
    pub(super) submitted: Instant,
    pub(super) kind: Kind,
}

/// What a sequence is for.
pub(super) enum Kind {
    Generate(Box<Generating>),
    Score(Scoring),
}

/// State of an answer.
pub(super) struct Generating {
    pub(super) sampler: Sampler,
    pub(super) grammar: Option<Grammar>,
    pub(super) text: TextStream,
    pub(super) max_tokens: usize,
    pub(super) logprobs: Option<usize>,
    pub(super) ignore_eos: bool,
    pub(super) events: mpsc::Sender<GenerateEvent>,
    pub(super) failure: Arc<OnceLock<SharedError>>,
    /// Tokens of the prompt that were not computed, for readers that leave before the end.
    pub(super) cached: Arc<AtomicUsize>,
    /// What the next event will carry.
    pub(super) delta: TextDelta,
    /// Made when the first token is out, unless speculation is off.
    pub(super) drafter: Option<Box<Drafter>>,
    /// The steps that read the prompt.
    pub(super) prefill_chunks: Vec<PrefillChunk>,
    /// The steps with their kernels, where they were asked for.
    pub(super) steps: Option<Vec<TracedStep>>,
}

/// State of a request for log-probabilities.
pub(super) struct Scoring {
    /// The position of the first token whose log-probability is wanted; at least 1.
    pub(super) first: usize,
    pub(super) values: Vec<f32>,
    pub(super) reply: Option<oneshot::Sender<Result<Vec<f32>, SharedError>>>,
}

impl Job {
    /// Most tokens that it will write.
    pub(super) fn most_tokens(&self) -> usize {
        match &self.kind {
            Kind::Generate(generating) => generating.max_tokens,
            Kind::Score(_) => 0,
        }
    }

    /// Tells the reader that the request failed.
    pub(super) fn fail(self, error: &SharedError) {
        self.kind.fail(error);
    }
}

impl Kind {
    fn fail(self, error: &SharedError) {
        match self {
            // The channel may be full, so the error goes beside it; it is read when the channel ends.
            Self::Generate(generating) => {
                let _ = generating.failure.set(Arc::clone(error));
            }
            Self::Score(mut scoring) => {
                if let Some(reply) = scoring.reply.take() {
                    let _ = reply.send(Err(Arc::clone(error)));
                }
            }
        }
    }
}

/// Kernels that are kept for a request that traces them; steps after those are not noted.
const MOST_KERNELS: usize = 50_000;

/// Room in the channel that one step may need: text, and the end.
pub(super) const EVENTS_PER_STEP: usize = 2;

/// A sequence that reads what another one needs, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leader {
    pub(super) id: u64,
    /// Tokens that both begin with, in whole pages.
    pub(super) common: usize,
}

/// A request that was taken up.
pub(super) struct Sequence {
    pub(super) id: u64,
    /// Its name in the executor; `None` while it is put aside.
    pub(super) open: Option<SequenceId>,
    /// The prompt and what was generated so far.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_tokens: usize,
    /// Leading tokens whose keys and values the executor holds.
    pub(super) computed: usize,
    pub(super) cached_tokens: Option<usize>,
    /// Whose prompt it waits for, since both begin alike.
    pub(super) leader: Option<Leader>,
    /// It was in a batch that failed: it runs alone until it is past the token where that happened (tokens computed).
    pub(super) suspect_until: Option<usize>,
    /// The pending token and the drafted ones after it, while a step verifies them.
    draft: Vec<u32>,
    pub(super) drafted_tokens: usize,
    pub(super) accepted_tokens: usize,
    pub(super) flow: Flow,
    submitted: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pub(super) kind: Kind,
}

/// What came of a token.
pub(super) enum Advanced {
    /// The answer goes on.
    Token,
    /// The answer is at its end.
    End(FinishReason),
}

impl Advanced {
    /// Why the answer is at its end, if it is.
    pub(super) fn end(self) -> Option<FinishReason> {
        match self {
            Self::Token => None,
            Self::End(reason) => Some(reason),
        }
    }
}

impl Sequence {
    pub(super) fn new(job: Job, now: Instant) -> Self {
        Self {
            id: job.id,
            open: None,
            prompt_tokens: job.prompt.len(),
            tokens: job.prompt,
            computed: 0,
            cached_tokens: None,
            leader: None,
            suspect_until: None,
            draft: Vec::new(),
            drafted_tokens: 0,
            accepted_tokens: 0,
            flow: job.flow,
            submitted: job.submitted,
            admitted: now,
            first_token: None,
            last_token: None,
            kind: job.kind,
        }
    }

    /// Tokens that the executor has not seen.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Each step gives it a token; otherwise it is reading its prompt (or reading it again after it was put aside).
    pub(super) fn decoding(&self) -> bool {
        self.first_token.is_some() && self.pending() == 1
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Tokens that it may get at most.
    pub(super) fn room(&self, context_tokens: usize) -> usize {
        let wanted = match &self.kind {
            Kind::Generate(generating) => generating.max_tokens.saturating_sub(self.generated()),
            Kind::Score(_) => 0,
        };
        wanted.min(context_tokens.saturating_sub(self.tokens.len()))
    }

    /// Takes the first tokens of its draft for the coming step.
    pub(super) fn take_draft(&mut self, drafted: usize) {
        self.draft.clear();
        self.draft.extend(self.tokens.last());
        if let Kind::Generate(generating) = &self.kind
            && let Some(drafter) = &generating.drafter
        {
            self.draft.extend(&drafter.draft()[..drafted]);
        }
    }

    /// The tokens of a planned chunk.
    pub(super) fn chunk(&self, planned: Planned) -> &[u32] {
        if planned.drafted > 0 {
            return &self.draft[..planned.tokens];
        }
        &self.tokens[self.computed..self.computed + planned.tokens]
    }

    /// The drafted tokens of a planned chunk that came true are now the newest tokens; how many did.
    fn accepted(&self, first: usize) -> usize {
        let new = &self.tokens[first..];
        self.draft[1..].iter().zip(new).take_while(|(drafted, token)| drafted == token).count()
    }

    /// Takes the rows of a pending token and of the drafted ones after it: each as if it had come alone, until one chooses another
    /// token than was drafted. Also returns how many of the draft were right.
    pub(super) fn verify(
        &mut self,
        rows: std::slice::ChunksExactMut<'_, f32>,
        vocabulary: &dyn Vocabulary,
        context_tokens: usize,
    ) -> Result<(Advanced, usize)> {
        let first = self.tokens.len();
        for row in rows {
            self.computed += 1;
            let advanced = self.advance(row, vocabulary, context_tokens)?;
            let generated = self.tokens.len() - first;
            let right = self.accepted(first);
            if matches!(advanced, Advanced::End(_)) || right < generated {
                return Ok((advanced, right));
            }
        }
        Ok((Advanced::Token, self.accepted(first)))
    }

    /// The reader has room for what the next step may bring.
    pub(super) fn reader_ready(&self) -> bool {
        match &self.kind {
            Kind::Generate(generating) => generating.events.capacity() >= EVENTS_PER_STEP,
            Kind::Score(_) => true,
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn cancelled(&self) -> bool {
        match &self.kind {
            Kind::Generate(generating) => generating.events.is_closed(),
            Kind::Score(scoring) => scoring.reply.as_ref().is_none_or(oneshot::Sender::is_closed),
        }
    }

    /// How long it was in the queue.
    pub(super) fn queue_time(&self) -> Duration {
        self.admitted - self.submitted
    }

    /// Chooses the next token from a row of logits (which it may scribble on) and takes its text in.
    pub(super) fn advance(
        &mut self,
        row: &mut [f32],
        vocabulary: &dyn Vocabulary,
        context_tokens: usize,
    ) -> Result<Advanced> {
        let Kind::Generate(generating) = &mut self.kind else {
            return Err(ModelError::Engine {
                problem: "a request for log-probabilities was asked for a token".into(),
            });
        };
        // The sampler scribbles on the row, so what is reported comes first.
        let likely = generating.logprobs.map(|k| (row.to_vec(), log_softmax_top(row, k)));
        if let Some(grammar) = &mut generating.grammar {
            grammar.restrict(row)?;
        }
        let token = generating.sampler.sample(row, &self.tokens);
        if row.get(token as usize).is_none_or(|logit| logit.is_nan()) {
            return Err(ModelError::Engine {
                problem: format!(
                    "the model gave no usable logits after {} tokens",
                    self.tokens.len()
                ),
            });
        }
        if !generating.ignore_eos && vocabulary.ends_generation(token) {
            return Ok(Advanced::End(FinishReason::Stop));
        }
        if let Some(grammar) = &mut generating.grammar {
            grammar.take(token)?;
        }
        self.tokens.push(token);
        generating.delta.tokens.push(token);
        if let Some((raw, top)) = likely {
            let logprob = log_softmax_at(&raw, token);
            generating.delta.logprobs.push(TokenLogprobs { token, logprob, top });
        }
        let step = generating.text.push(&vocabulary.token_bytes(token));
        generating.delta.text.push_str(&step.text);
        let generated = self.tokens.len() - self.prompt_tokens;
        Ok(if step.stopped {
            Advanced::End(FinishReason::StopString)
        } else if generating.grammar.as_ref().is_some_and(Grammar::is_whole) {
            Advanced::End(FinishReason::Stop)
        } else if generated >= generating.max_tokens {
            Advanced::End(FinishReason::Length)
        } else if self.tokens.len() >= context_tokens {
            Advanced::End(FinishReason::ContextFull)
        } else {
            Advanced::Token
        })
    }

    /// Notes the time of a step that gave tokens; returns the time since the last such step, if there was one.
    pub(super) fn token_time(&mut self, now: Instant) -> Option<Duration> {
        let since = self.last_token.map(|last| now - last);
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        since
    }

    /// Notes a step that began at `began` and is about to be handed out, if it read the prompt.
    pub(super) fn note_prefill(&mut self, tokens: usize, began: Instant, now: Instant) {
        let decoding = self.decoding();
        if let Kind::Generate(generating) = &mut self.kind
            && !decoding
        {
            generating.prefill_chunks.push(PrefillChunk { began, took: now - began, tokens });
        }
    }

    /// Whether the kernels of its next step are to be timed.
    pub(super) fn traces_kernels(&self) -> bool {
        let kept =
            |steps: &Vec<TracedStep>| steps.iter().map(|step| step.kernels.len()).sum::<usize>();
        match &self.kind {
            Kind::Generate(generating) => {
                generating.steps.as_ref().is_some_and(|steps| kept(steps) < MOST_KERNELS)
            }
            Kind::Score(_) => false,
        }
    }

    /// Notes a step whose kernels were timed.
    pub(super) fn note_kernels(&mut self, step: &TracedStep) {
        if self.traces_kernels()
            && let Kind::Generate(generating) = &mut self.kind
            && let Some(steps) = &mut generating.steps
        {
            steps.push(step.clone());
        }
    }

    /// From submission to the first token, once there is one.
    pub(super) fn time_to_first_token(&self) -> Option<Duration> {
        self.first_token.map(|first| first - self.submitted)
    }

    /// Sends the text of this step. [`Self::reader_ready`] was checked before the step, so there is room.
    pub(super) fn flush(&mut self) {
        if let Kind::Generate(generating) = &mut self.kind
            && !generating.delta.text.is_empty()
        {
            let delta = std::mem::take(&mut generating.delta);
            generating.cached.store(self.cached_tokens.unwrap_or(0), Ordering::Relaxed);
            let _ = generating.events.try_send(GenerateEvent::Text(delta));
        }
    }

    /// Keeps the log-probability of the tokens that the rows predict; the first row follows token `position`.
    pub(super) fn keep_scores(
        &mut self,
        rows: &[f32],
        vocab_size: usize,
        position: usize,
    ) -> Result<()> {
        let Kind::Score(scoring) = &mut self.kind else {
            return Err(ModelError::Engine {
                problem: "a request for text was asked for log-probabilities".into(),
            });
        };
        for (row, at) in rows.chunks_exact(vocab_size).zip(position + 1..) {
            if at < scoring.first {
                continue;
            }
            let Some(&target) = self.tokens.get(at) else { break };
            scoring.values.push(log_softmax_at(row, target));
        }
        Ok(())
    }

    /// Sends the end; the sequence lay in so many pages, of so many bytes together.
    pub(super) fn finish(
        self,
        reason: FinishReason,
        now: Instant,
        (kv_pages, kv_bytes): (usize, usize),
    ) -> Timings {
        let first = self.first_token.unwrap_or(now);
        let timings = Timings {
            queue: self.queue_time(),
            prefill: first - self.admitted,
            decode: now - first,
            time_to_first_token: first - self.submitted,
        };
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            generated_tokens: self.generated(),
            drafted_tokens: self.drafted_tokens,
            accepted_tokens: self.accepted_tokens,
            kv_pages,
            kv_bytes,
        };
        match self.kind {
            Kind::Generate(mut generating) => {
                let rest = generating.text.finish();
                generating.delta.text.push_str(&rest);
                if !generating.delta.text.is_empty() || !generating.delta.tokens.is_empty() {
                    let _ = generating.events.try_send(GenerateEvent::Text(generating.delta));
                }
                let prefill_chunks = std::mem::take(&mut generating.prefill_chunks);
                let steps = generating.steps.take().unwrap_or_default();
                // A stop text may also be completed by the last, broken character of an answer that ended for another reason.
                let stop_string = (reason == FinishReason::StopString)
                    .then(|| generating.text.stop_string().map(str::to_owned))
                    .flatten();
                let finish = Finish { reason, stop_string, usage, timings, prefill_chunks, steps };
                let _ = generating.events.try_send(GenerateEvent::Finished(finish));
            }
            Kind::Score(mut scoring) => {
                if let Some(reply) = scoring.reply.take() {
                    let _ = reply.send(Ok(scoring.values));
                }
            }
        }
        timings
    }

    /// Tells the reader that the request failed.
    pub(super) fn fail(self, error: &SharedError) {
        self.kind.fail(error);
    }
}
