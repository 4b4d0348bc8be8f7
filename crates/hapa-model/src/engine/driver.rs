//! The handle of an engine: starts its thread, takes requests, stops it.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::fair_queue::Flow;
use super::generation::Generation;
use super::queue::Shared;
use super::request::{Finish, FinishReason, GenerateRequest, Priority, TextDelta, Timings, Usage};
use super::sequence::{EVENTS_PER_STEP, Generating, Job, Kind, Scoring, Vocabulary};
use super::speculation::{MOST_DRAFTED, Speculate};
use super::stats::{EngineStats, Instruments};
use super::step_loop::StepLoop;
use crate::backend::{Backend, ExecutorOptions, KvPrecision};
use crate::error::{ModelError, Result, SharedError};
use crate::sampling::Sampler;
use crate::text::TextStream;

/// Limits of an engine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EngineOptions {
    pub(crate) context_tokens: usize,
    pub(crate) max_sequences: usize,
    pub(crate) kv_budget_bytes: usize,
    pub(crate) threads: usize,
    pub(crate) kv_precision: KvPrecision,
    pub(crate) queue_limit: usize,
    pub(crate) prefill_chunk_tokens: usize,
    /// Events that a request's channel holds before the request pauses.
    pub(crate) stream_events: usize,
    /// Draft tokens from earlier text and verify them in one step.
    pub(crate) speculate: Speculate,
}

impl EngineOptions {
    /// Places in the batch for requests of a priority: whoever waits at a cursor need not wait until a long answer is at its
    /// end, so an eighth more are kept for those.
    pub(super) fn slots(&self, priority: Priority) -> usize {
        match priority {
            Priority::Interactive => self.max_sequences + self.max_sequences.div_ceil(8),
            Priority::Normal => self.max_sequences,
        }
    }

    pub(super) fn executor(&self) -> ExecutorOptions {
        ExecutorOptions {
            context_tokens: self.context_tokens,
            max_sequences: self.slots(Priority::Interactive),
            kv_budget_bytes: self.kv_budget_bytes,
            max_batch_tokens: self.prefill_chunk_tokens
                + self.slots(Priority::Interactive)
                + if self.speculate == Speculate::Never { 0 } else { MOST_DRAFTED },
            threads: self.threads,
            kv_precision: self.kv_precision,
        }
    }
}

/// A running engine. Dropping it stops its thread; requests under way fail with [`ModelError::EngineClosed`].
pub(crate) struct Engine {
    shared: Arc<Shared>,
    options: EngineOptions,
    vocab_size: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Makes an executor and starts the thread.
    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        vocabulary: Arc<dyn Vocabulary>,
        options: EngineOptions,
    ) -> Result<Self> {
        let vocab_size = backend.config().vocab_size;
        let shared = Shared::new(options.clone(), Instruments::new());
        let step_loop = StepLoop::new(backend, vocabulary, options.clone(), Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("hapa-engine".into())
            .spawn(move || step_loop.run())
            .map_err(|error| ModelError::Engine {
                problem: format!("could not start the engine's thread: {error}"),
            })?;
        Ok(Self { shared, options, vocab_size, thread: Mutex::new(Some(thread)) })
    }

    /// Tokens that a sequence may have, prompt and answer together.
    pub(crate) fn context_tokens(&self) -> usize {
        self.options.context_tokens
    }

    /// Submits a request; never blocks.
    pub(crate) fn submit(&self, request: GenerateRequest) -> Result<Generation> {
        self.check_prompt(&request.prompt, 1)?;
        let sampler = Sampler::new(request.sampling)?;
        let text = TextStream::new(request.stop)?;
        if request.max_tokens == 0 {
            return Ok(Generation::ready(Finish {
                reason: FinishReason::Length,
                stop_string: None,
                usage: Usage { prompt_tokens: request.prompt.len(), ..Usage::default() },
                timings: Timings::default(),
                prefill_chunks: Vec::new(),
                steps: Vec::new(),
            }));
        }
        let (sender, events) = mpsc::channel(self.options.stream_events.max(EVENTS_PER_STEP));
        let failure: Arc<OnceLock<SharedError>> = Arc::default();
        let cached: Arc<AtomicUsize> = Arc::default();
        let generating = Generating {
            sampler,
            grammar: request.grammar,
            text,
            max_tokens: request.max_tokens,
            logprobs: request.logprobs,
            ignore_eos: request.ignore_eos,
            events: sender,
            failure: Arc::clone(&failure),
            cached: Arc::clone(&cached),
            delta: TextDelta::default(),
            drafter: None,
            prefill_chunks: Vec::new(),
            steps: request.trace_kernels.then(Vec::new),
        };
        let submitted = Instant::now();
        let id = self.shared.submit(Job {
            id: 0,
            prompt: request.prompt,
            flow: Flow { namespace: request.namespace, priority: request.priority },
            submitted,
            kind: Kind::Generate(Box::new(generating)),
        })?;
        Ok(Generation {
            events,
            failure,
            cached,
            origin: Some((Arc::clone(&self.shared), id)),
            submitted,
            done: false,
        })
    }

    /// Log-probabilities of `tokens[first..]`, each given all tokens before it. Blocks.
    pub(crate) fn score(&self, tokens: Vec<u32>, first: usize) -> Result<Vec<f32>, SharedError> {
        // The last token is only predicted, not read, so a full context may be scored.
        self.check_prompt(&tokens, 0)?;
        if first == 0 || first > tokens.len() {
            return Err(Arc::new(ModelError::InvalidOption {
                option: "first",
                value: first.to_string(),
                expected: "a position from 1 to the number of tokens (nothing precedes the token at 0)",
            }));
        }
        if first == tokens.len() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let values = Vec::with_capacity(tokens.len() - first);
        self.shared.submit(Job {
            id: 0,
            prompt: tokens,
            flow: Flow::default(),
            submitted: Instant::now(),
            kind: Kind::Score(Scoring { first, values, reply: Some(reply) }),
        })?;
        answer.blocking_recv().unwrap_or_else(|_| Err(Arc::new(ModelError::EngineClosed)))
    }

    fn check_prompt(&self, prompt: &[u32], room: usize) -> Result<()> {
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if prompt.len() + room > self.options.context_tokens {
            return Err(ModelError::PromptTooLong {
                prompt_tokens: prompt.len(),
                context_tokens: self.options.context_tokens,
            });
        }
        if let Some(token) = prompt.iter().find(|&&t| t as usize >= self.vocab_size) {
            return Err(ModelError::InvalidOption {
                option: "prompt",
                value: format!("token {token}"),
                expected: "token ids of this model's vocabulary",
            });
        }
        Ok(())
    }

    /// How long a request that comes now would wait for its first token; `None` before the engine was measured.
    pub(crate) fn first_token_in(
        &self,
        (namespace, priority): (u64, Priority),
        prompt_tokens: usize,
    ) -> Option<Duration> {
        self.shared.first_token_in(Flow { namespace, priority }, prompt_tokens)
    }

    /// What the engine is doing.
    pub(crate) fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Stops the thread after the step it is in and waits for it. Requests under way fail.
    pub(crate) fn shutdown(&self) {
        self.shared.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // The loop catches panics; one that got out has nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
