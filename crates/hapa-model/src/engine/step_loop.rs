//! The engine's thread: admit, plan, compute, hand out, again.
//!
//! Long because all of it is one loop over the state that its thread owns.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::driver::EngineOptions;
use super::outlook::StepWork;
use super::queue::Shared;
use super::request::{FinishReason, Priority, TracedStep};
use super::scheduler::{Planned, StepLimits, Turns, plan};
use super::sequence::{Kind, Sequence, Vocabulary};
use super::sharing;
use super::speculation::{Speculate, Speculation};
use super::stats::{Instruments, record};
use crate::backend::{Backend, Chunk, Executor, KernelSpan, LogitsFor, StepOutcome};
use crate::error::{ModelError, Result, SharedError};

/// Rows of logits that one step may hold for requests that score every token.
const SCORE_ROWS: usize = 64;

/// The target of the spans `step`, and in it `compute` and `sample`: to be selected apart from logs.
const SPANS: &str = "engine";

/// Everything the engine's thread owns.
pub(super) struct StepLoop {
    backend: Arc<dyn Backend>,
    executor: Box<dyn Executor>,
    vocabulary: Arc<dyn Vocabulary>,
    vocab_size: usize,
    options: EngineOptions,
    shared: Arc<Shared>,
    /// In the order of their arrival; the executor holds all of them.
    running: Vec<Sequence>,
    /// Put aside, to be read again from the start; in the order of their arrival, before anybody in the queue.
    parked: VecDeque<Sequence>,
    turns: Turns,
    /// How many were taken up so far.
    taken: u64,
    plan: Vec<Planned>,
    logits: Vec<f32>,
    /// The kernels of the step at hand, where somebody traces them.
    kernels: Vec<KernelSpan>,
    /// The last step found no pages.
    crowded: bool,
    /// `None` when it is switched off, or would change answers.
    speculation: Option<Speculation>,
}

impl StepLoop {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        vocabulary: Arc<dyn Vocabulary>,
        options: EngineOptions,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let executor = backend.executor(&options.executor())?;
        let speculation = (options.speculate != Speculate::Never
            && executor.rows_are_independent())
        .then(|| Speculation::new(options.speculate));
        Ok(Self {
            vocab_size: backend.config().vocab_size,
            backend,
            executor,
            vocabulary,
            options,
            shared,
            running: Vec::new(),
            parked: VecDeque::new(),
            turns: Turns::default(),
            taken: 0,
            plan: Vec::new(),
            logits: Vec::new(),
            kernels: Vec::new(),
            crowded: false,
            speculation,
        })
    }

    /// Runs until the engine is closed.
    pub(super) fn run(mut self) {
        let end = loop {
            if !self.sleep_until_work() {
                break ModelError::EngineClosed;
            }
            self.drop_cancelled();
            self.admit();
            self.take_over();
            if let Err(error) = self.step() {
                tracing::error!(%error, "the engine cannot go on");
                break error;
            }
            self.publish();
            // Readers of this step's text may have been woken on this core. Where compute threads hold all of them, they would
            // wait for the scheduler's next tick, some milliseconds.
            std::thread::yield_now();
        };
        let end = Arc::new(end);
        self.shared.close_and_fail(&end);
        for sequence in self.running.drain(..).chain(self.parked.drain(..)) {
            sequence.fail(&end);
        }
        self.publish();
    }

    /// Whether newcomers are let in: not between a step that found no pages and the next one that was computed. What was
    /// just put aside would come back at once and push itself out again, and nothing would ever be computed.
    fn admits(&self, priority: Priority) -> bool {
        self.running.len() < self.options.slots(priority)
            && (!self.crowded || self.running.is_empty())
    }

    fn used_slots(&self) -> usize {
        self.running.len() + self.parked.len()
    }

    fn sleep_until_work(&self) -> bool {
        let has_room = |priority| self.admits(priority);
        self.shared.sleep_until(has_room, |waiting| {
            let newcomer = match self.parked.front() {
                Some(parked) => has_room(parked.flow.priority).then_some(parked.tokens.len()),
                None => waiting.map(|job| job.prompt.len()),
            };
            newcomer.is_some_and(|tokens| self.fits(tokens))
                || self.running.iter().any(|s| s.reader_ready() || s.cancelled())
                || self.parked.iter().any(Sequence::cancelled)
        })
    }

    fn publish(&self) {
        let kv = self.executor.kv_usage();
        let running = self.used_slots();
        let recent_bytes = self.speculation.as_ref().map_or(0, Speculation::recent_bytes);
        self.shared.instruments.running(running);
        self.shared.instruments.kv(kv);
        self.shared.publish(running, |stats| {
            stats.running = running;
            stats.kv = kv;
            stats.recent_answer_bytes = recent_bytes;
        });
        self.shared.publish_load(self.running.iter().chain(&self.parked));
    }

    /// Closes the sequences whose readers went away.
    fn drop_cancelled(&mut self) {
        let before = self.used_slots();
        let (executor, speculation) = (&mut self.executor, &mut self.speculation);
        let mut keep = |sequence: &Sequence| {
            let keep = !sequence.cancelled();
            if !keep && let Some(id) = sequence.open {
                executor.close(id);
            }
            // An answer that was not waited for is asked for again as often as one that was.
            if !keep && let Some(speculation) = speculation {
                speculation.keep_answer(sequence);
            }
            keep
        };
        self.running.retain(&mut keep);
        self.parked.retain(&mut keep);
        let dropped = (before - self.used_slots()) as u64;
        if dropped > 0 {
            self.shared.publish(self.used_slots(), |stats| {
                stats.cancelled_requests += dropped;
            });
        }
    }

    /// Takes up parked sequences, then those in the queue, while there are places and pages.
    fn admit(&mut self) {
        loop {
            let sequence = match self.parked.front() {
                Some(parked) => {
                    if !self.admits(parked.flow.priority) || !self.fits(parked.tokens.len()) {
                        return;
                    }
                    self.parked.pop_front()
                }
                None => self.take_up(),
            };
            let Some(sequence) = sequence else { return };
            self.open(sequence);
        }
    }

    fn take_up(&mut self) -> Option<Sequence> {
        let has_room = |priority| self.admits(priority);
        let mut job = self.shared.take_if(has_room, |job| self.fits(job.prompt.len()))?;
        job.id = self.taken;
        self.taken += 1;
        Some(Sequence::new(job, Instant::now()))
    }

    /// Whether a sequence of that many tokens finds room without pushing others out soon: one page is kept
    /// for each sequence that runs. Without this a sequence that was just put aside would come back at once, and be put aside again.
    fn fits(&self, tokens: usize) -> bool {
        let usage = self.executor.kv_usage();
        if usage.total_pages == 0 || usage.page_tokens == 0 || self.running.is_empty() {
            return true;
        }
        let needed = (tokens + 1).div_ceil(usage.page_tokens);
        needed + self.running.len() <= usage.total_pages.saturating_sub(usage.held_pages)
    }

    fn open(&mut self, mut sequence: Sequence) {
        // Scores need the logits of the whole text: nothing of it may come out of the prefix cache, and of a
        // single token nothing does.
        let known = match &sequence.kind {
            Kind::Generate(_) => sequence.tokens.len(),
            Kind::Score(_) => 1,
        };
        let (executor, namespace) = (&mut self.executor, sequence.flow.namespace);
        let tokens = &sequence.tokens[..known];
        let opened = catch_unwind(AssertUnwindSafe(|| executor.open(tokens, namespace)));
        let opened = opened.unwrap_or_else(|panic| Err(panicked(&*panic, "opening a sequence")));
        match opened {
            Ok(opened) => {
                sequence.open = Some(opened.id);
                sequence.computed = opened.cached_tokens;
                if sequence.cached_tokens.is_none() {
                    self.count_prompt(&mut sequence, opened.cached_tokens);
                }
                // Parked sequences are older than others: keep the order of arrival.
                let at = self.running.partition_point(|s| s.id < sequence.id);
                sharing::follow(&mut sequence, &self.running[..at], self.shared_page_tokens());
                self.running.insert(at, sequence);
            }
            Err(error) => self.fail(sequence, &Arc::new(error)),
        }
    }

    /// Grain in which sequences share what they compute; 0 when they don't.
    fn shared_page_tokens(&self) -> usize {
        if self.executor.shares_prefixes() { self.executor.kv_usage().page_tokens } else { 0 }
    }

    /// Hands the pages of prompts that were read to those that waited for them.
    fn take_over(&mut self) {
        if self.running.iter().all(|sequence| sequence.leader.is_none()) {
            return;
        }
        let page_tokens = self.shared_page_tokens();
        let mut cached = 0;
        sharing::take_over(
            &mut self.running,
            &mut *self.executor,
            page_tokens,
            |sequence, more| {
                // One that was put aside had its prompt counted before.
                let counted = sequence.cached_tokens.get_or_insert(0);
                let more = more.min(sequence.prompt_tokens - *counted);
                *counted += more;
                cached += more as u64;
            },
        );
        self.shared.instruments.prefix_hit.increment(cached);
        self.shared.publish(self.used_slots(), |stats| {
            stats.cached_tokens += cached;
        });
    }

    fn count_prompt(&self, sequence: &mut Sequence, cached: usize) {
        sequence.cached_tokens = Some(cached);
        let prompt = sequence.prompt_tokens as u64;
        let instruments = &self.shared.instruments;
        record(&instruments.queue_seconds, sequence.queue_time());
        instruments.prompt_tokens.increment(prompt);
        instruments.prefix_queried.increment(prompt);
        instruments.prefix_hit.increment(cached as u64);
        self.shared.publish(self.used_slots() + 1, |stats| {
            stats.prompt_tokens += prompt;
            stats.cached_tokens += cached as u64;
        });
    }

    /// One batch. An error means that the engine itself is beyond repair.
    fn step(&mut self) -> Result<()> {
        let limits = StepLimits {
            prefill_tokens: self.options.prefill_chunk_tokens,
            score_rows: SCORE_ROWS,
        };
        plan(&self.running, &mut self.turns, limits, &mut self.plan);
        if self.plan.is_empty() {
            return Ok(());
        }
        let _step = tracing::debug_span!(target: SPANS, "step").entered();
        if let Some(speculation) = &mut self.speculation {
            let limits = (&*self.vocabulary, self.options.context_tokens);
            speculation.add_drafts(&mut self.running, &mut self.plan, limits);
        }
        let started = Instant::now();
        let mut outcome = self.compute();
        if matches!(outcome, Ok(Ok(StepOutcome::OutOfPages)))
            && self.plan.iter().any(|planned| planned.drafted > 0)
        {
            // Nobody is put aside for the sake of a draft.
            self.plan.iter_mut().for_each(Planned::drop_draft);
            outcome = self.compute();
        }
        let rows: usize = self.plan.iter().map(|p| p.logits.rows(p.tokens)).sum();
        match outcome {
            Ok(Ok(StepOutcome::Done)) if self.logits.len() == rows * self.vocab_size => {
                self.crowded = false;
                self.hand_out(started);
                Ok(())
            }
            Ok(Ok(StepOutcome::Done)) => {
                let problem =
                    format!("{} logits came where {rows} rows were due", self.logits.len());
                self.suspect_all(ModelError::Engine { problem });
                self.rebuild()
            }
            Ok(Ok(StepOutcome::OutOfPages)) => {
                self.make_room();
                Ok(())
            }
            Ok(Err(error)) => {
                self.suspect_all(error);
                Ok(())
            }
            Err(panic) => {
                self.suspect_all(panicked(&*panic, "computing a step"));
                self.rebuild()
            }
        }
    }

    /// Runs the plan; a panic is caught.
    fn compute(&mut self) -> std::thread::Result<Result<StepOutcome>> {
        let _compute = tracing::debug_span!(target: SPANS, "compute").entered();
        let chunks: Vec<Chunk<'_>> = self
            .plan
            .iter()
            .filter_map(|planned| {
                let sequence = self.running.get(planned.index)?;
                let tokens = sequence.chunk(*planned);
                Some(Chunk { sequence: sequence.open?, tokens, logits: planned.logits })
            })
            .collect();
        let traced = self
            .plan
            .iter()
            .filter_map(|planned| self.running.get(planned.index))
            .any(Sequence::traces_kernels);
        let (executor, logits, kernels) = (&mut self.executor, &mut self.logits, &mut self.kernels);
        kernels.clear();
        catch_unwind(AssertUnwindSafe(|| match traced {
            false => executor.step(&chunks, logits),
            true => executor.step_timed(&chunks, logits, kernels),
        }))
    }

    /// Puts the sequence aside that came last, those with a slow reader first, those of editors last. One that is alone and doesn't fit fails.
    fn make_room(&mut self) {
        self.crowded = true;
        let slow = self.running.iter().rposition(|s| !s.reader_ready());
        let normal = || self.running.iter().rposition(|s| s.flow.priority == Priority::Normal);
        let last = || self.running.len().checked_sub(1);
        let Some(victim) = slow.or_else(normal).or_else(last) else {
            return;
        };
        let mut sequence = self.running.remove(victim);
        if let Some(id) = sequence.open.take() {
            self.executor.close(id);
        }
        sequence.computed = 0;
        if self.running.is_empty() {
            let usage = self.executor.kv_usage();
            let error = ModelError::KvCacheTooSmall {
                sequence_tokens: sequence.tokens.len() + 1,
                cache_tokens: usage.total_pages * usage.page_tokens,
            };
            self.fail(sequence, &Arc::new(error));
            return;
        }
        tracing::debug!(
            id = sequence.id,
            tokens = sequence.tokens.len(),
            "put aside for want of KV pages"
        );
        self.park(sequence);
        self.shared.publish(self.used_slots(), |stats| {
            stats.preemptions += 1;
        });
    }

    fn park(&mut self, mut sequence: Sequence) {
        sequence.open = None;
        sequence.computed = 0;
        sequence.leader = None;
        let at = self.parked.partition_point(|s| s.id < sequence.id);
        self.parked.insert(at, sequence);
    }

    /// A step failed: whoever was in it alone is the cause and fails; of several, each has to run alone next.
    fn suspect_all(&mut self, error: ModelError) {
        tracing::warn!(%error, sequences = self.plan.len(), "a step failed");
        if let [only] = self.plan[..] {
            let sequence = self.running.remove(only.index);
            if let Some(id) = sequence.open {
                self.close_quietly(id);
            }
            self.fail(sequence, &Arc::new(error));
            return;
        }
        for planned in &self.plan {
            if let Some(sequence) = self.running.get_mut(planned.index) {
                let tokens = planned.tokens - planned.drafted;
                sequence.suspect_until = Some(sequence.computed + tokens);
            }
        }
    }

    /// Makes a new executor after a panic; all sequences are read again.
    fn rebuild(&mut self) -> Result<()> {
        self.executor = self.backend.executor(&self.options.executor())?;
        for sequence in std::mem::take(&mut self.running) {
            self.park(sequence);
        }
        self.shared.publish(self.used_slots(), |stats| {
            stats.rebuilds += 1;
        });
        Ok(())
    }

    /// Closes a sequence of an executor that may be broken.
    fn close_quietly(&mut self, id: crate::backend::SequenceId) {
        let executor = &mut self.executor;
        let _ = catch_unwind(AssertUnwindSafe(|| executor.close(id)));
    }

    /// Gives each sequence of the plan its rows. The step began at `started`.
    fn hand_out(&mut self, started: Instant) {
        let _sample = tracing::debug_span!(target: SPANS, "sample").entered();
        let now = Instant::now();
        let mut logits = std::mem::take(&mut self.logits);
        let planned = std::mem::take(&mut self.plan);
        let traced = (!self.kernels.is_empty()).then(|| TracedStep {
            began: started,
            took: now - started,
            rows: planned.iter().map(|item| item.tokens).sum(),
            kernels: self.kernels.clone(),
        });
        let mut rest = logits.as_mut_slice();
        let mut ended: Vec<(usize, Result<FinishReason>)> = Vec::new();
        let (mut generated, mut drafted, mut accepted) = (0, 0, 0);
        let mut work = StepWork { took: now - started, ..StepWork::default() };
        let mut given = Vec::with_capacity(planned.len());
        for item in &planned {
            let count = item.logits.rows(item.tokens) * self.vocab_size;
            let (rows, others) = rest.split_at_mut(count);
            rest = others;
            let sequence = &mut self.running[item.index];
            let (before, accepted_before) = (sequence.generated(), sequence.accepted_tokens);
            sequence.note_prefill(item.tokens, started, now);
            traced.iter().for_each(|step| sequence.note_kernels(step));
            let (decoding, flow) = (sequence.decoding(), sequence.flow);
            let samples =
                item.logits != LogitsFor::Nothing && matches!(sequence.kind, Kind::Generate(_));
            let taken = catch_unwind(AssertUnwindSafe(|| {
                take_rows(sequence, *item, rows, &*self.vocabulary, &self.options)
            }));
            let end = taken.unwrap_or_else(|panic| Err(panicked(&*panic, "choosing a token")));
            let sequence = &mut self.running[item.index];
            let tokens = sequence.generated() - before;
            match decoding {
                true => {
                    work.decoding += 1;
                    work.generated += tokens.max(1);
                }
                false => work.prompt_tokens += item.tokens,
            }
            given.push((flow, tokens));
            if item.drafted > 0 {
                let right = sequence.accepted_tokens - accepted_before;
                drafted += item.drafted as u64;
                accepted += right as u64;
                if let Some(id) = sequence.open {
                    self.executor.truncate(id, sequence.computed);
                }
                if let Some(speculation) = &mut self.speculation {
                    speculation.note_draft(sequence, item.drafted, right);
                }
            }
            if samples {
                generated += tokens as u64;
                observe_tokens(&self.shared.instruments, sequence, tokens, now);
            }
            match end {
                Ok(None) => sequence.flush(),
                Ok(Some(reason)) => ended.push((item.index, Ok(reason))),
                Err(error) => ended.push((item.index, Err(error))),
            }
        }
        let instruments = &self.shared.instruments;
        instruments.generated_tokens.increment(generated);
        instruments.drafted.increment(drafted);
        instruments.accepted.increment(accepted);
        if let Some(speculation) = &mut self.speculation {
            speculation.note_step(&planned, started.elapsed());
        }
        self.shared.publish(self.used_slots(), |stats| {
            stats.steps += 1;
            stats.generated_tokens += generated;
            stats.drafted_tokens += drafted;
            stats.accepted_tokens += accepted;
        });
        self.shared.stepped(work, &given);
        self.logits = logits;
        self.plan = planned;
        self.end(ended, now);
    }

    /// Ends sequences. Their pages are freed and their places counted free before their readers hear of it.
    fn end(&mut self, mut ended: Vec<(usize, Result<FinishReason>)>, now: Instant) {
        ended.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, end) in ended {
            let sequence = self.running.remove(index);
            let held = self.pages_of(&sequence);
            if let Some(id) = sequence.open {
                self.executor.close(id);
            }
            match end {
                Ok(reason) => {
                    if let Some(speculation) = &mut self.speculation {
                        speculation.keep_answer(&sequence);
                    }
                    self.shared.publish(self.used_slots(), |stats| {
                        stats.finished_requests += 1;
                    });
                    self.publish();
                    let generating = matches!(sequence.kind, Kind::Generate(_));
                    if generating {
                        self.shared.answered(sequence.flow.priority, sequence.generated());
                    }
                    let timings = sequence.finish(reason, now, held);
                    if generating {
                        record(&self.shared.instruments.prefill_seconds, timings.prefill);
                        record(&self.shared.instruments.decode_seconds, timings.decode);
                    }
                }
                Err(error) => self.fail(sequence, &Arc::new(error)),
            }
        }
    }

    /// The pages that a sequence lies in, and their bytes.
    fn pages_of(&self, sequence: &Sequence) -> (usize, usize) {
        let usage = self.executor.kv_usage();
        let tokens = sequence.open.map_or(0, |id| self.executor.len(id));
        let pages = if usage.page_tokens > 0 { tokens.div_ceil(usage.page_tokens) } else { 0 };
        (pages, pages * usage.page_bytes)
    }

    fn fail(&self, sequence: Sequence, error: &SharedError) {
        self.shared.publish(self.used_slots(), |stats| {
            stats.failed_requests += 1;
        });
        sequence.fail(error);
    }
}

/// Notes the time at which a sequence got tokens. A token that ends the answer counts as one.
fn observe_tokens(instruments: &Instruments, sequence: &mut Sequence, tokens: usize, now: Instant) {
    match sequence.token_time(now) {
        Some(gap) => {
            // Tokens of one step arrive together: each is counted with its share of the step.
            let tokens = u32::try_from(tokens.max(1)).unwrap_or(u32::MAX);
            for _ in 0..tokens {
                record(&instruments.inter_token_latency, gap / tokens);
            }
        }
        None => {
            if let Some(time) = sequence.time_to_first_token() {
                record(&instruments.time_to_first_token, time);
            }
        }
    }
}

/// Takes a step's rows into its sequence; the reason when that ends it.
fn take_rows(
    sequence: &mut Sequence,
    item: Planned,
    rows: &mut [f32],
    vocabulary: &dyn Vocabulary,
    options: &EngineOptions,
) -> Result<Option<FinishReason>> {
    let position = sequence.computed;
    if item.drafted > 0 {
        let rows = rows.chunks_exact_mut(rows.len() / item.tokens);
        let (advanced, right) = sequence.verify(rows, vocabulary, options.context_tokens)?;
        sequence.drafted_tokens += item.drafted;
        sequence.accepted_tokens += right;
        return Ok(advanced.end());
    }
    sequence.computed += item.tokens;
    sequence.suspect_until = sequence.suspect_until.filter(|&until| sequence.computed < until);
    if let Kind::Score(scoring) = &sequence.kind {
        let wanted = sequence.tokens.len() - scoring.first;
        if item.logits == LogitsFor::All {
            let vocab_size = rows.len() / item.tokens;
            sequence.keep_scores(rows, vocab_size, position)?;
        }
        let Kind::Score(scoring) = &sequence.kind else { return Ok(None) };
        return Ok((scoring.values.len() == wanted).then_some(FinishReason::Length));
    }
    if item.logits == LogitsFor::Nothing {
        return Ok(None);
    }
    Ok(sequence.advance(rows, vocabulary, options.context_tokens)?.end())
}

/// Turns a panic into an error that says what was being done.
fn panicked(panic: &(dyn Any + Send), doing: &str) -> ModelError {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    ModelError::Engine { problem: format!("panic while {doing}: {message}") }
}
