//! One generation: model, prompt, engine, post-processing, store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hapa_cache::{
    AnswerFacts, CacheKey, Digest, EntryOptions, KeyDigest, Lead, LeadGuard, Producer, may_store,
};
use hapa_model::{Finish, FinishReason, GenerateEvent, GenerateRequest, Generation, ModelLease};

use crate::answer::{Answer, CacheOutcome, CacheReport, Timings};
use crate::error::ServiceError;
use crate::inner::{Inner, Place};
use crate::key::engine_namespace;
use crate::post::{SuffixGuard, SyntaxReport, extract, validate_python};
use crate::prompt;
use crate::request::{Request, Task};
use crate::timeline::Timeline;

pub(crate) type FlightProducer = Producer<CacheKey, Arc<str>, Arc<Answer>, ServiceError>;

/// Everything that a generation needs; kept by each waiter in case it must lead.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) inner: Arc<Inner>,
    pub(crate) request: Arc<Request>,
    pub(crate) digest: KeyDigest,
    /// What does not change while a completion is typed; of completions alone.
    pub(crate) group: Option<Digest>,
    /// Names the model that the key was made for.
    pub(crate) model: Arc<str>,
    /// The cache may be asked and the generation shared.
    pub(crate) shared: bool,
    pub(crate) timeline: Timeline,
}

/// A model in use, and how long it was waited for.
pub(crate) struct Held {
    pub(crate) lease: ModelLease,
    pub(crate) began: Instant,
    pub(crate) waited: Duration,
}

impl Held {
    pub(crate) async fn wait(inner: &Inner) -> Result<Self, ServiceError> {
        let began = Instant::now();
        let lease = inner.lease().await?;
        Ok(Self { lease, began, waited: began.elapsed() })
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("key", &self.digest.key).finish_non_exhaustive()
    }
}

impl Job {
    /// Runs the generation on a task of its own, so that no caller's leaving ends it for the others.
    pub(crate) fn start(self, producer: FlightProducer) {
        self.start_with(producer, None);
    }

    /// As [`Self::start`], with a model that is held already.
    pub(crate) fn start_with(self, producer: FlightProducer, held: Option<Held>) {
        tokio::spawn(async move {
            // An identical flight may have ended between this caller's look into the cache and its take-off.
            if let Some(answer) = self.shared.then(|| self.inner.peek(&self.digest.key)).flatten() {
                finish_with(producer, answer);
                return;
            }
            let made = async {
                let lead = match self.shared {
                    true => self.inner.lead(&self.digest.key).await,
                    false => Lead::Compute(LeadGuard::default()),
                };
                match lead {
                    Lead::Compute(lead) => self.run(&producer, held, lead).await,
                    Lead::Found(found) => {
                        push_whole(&producer, &found.value.0);
                        Ok(found.value.0)
                    }
                }
            };
            let outcome = tokio::select! {
                biased;
                () = producer.cancelled() => Err(ServiceError::Cancelled),
                outcome = made => outcome,
            };
            match outcome {
                Ok(answer) => producer.finish(answer),
                Err(error) => {
                    tracing::debug!(key = %self.digest.key, %error, "generation ended without an answer");
                    producer.fail(error);
                }
            }
        });
    }

    async fn run(
        &self,
        producer: &FlightProducer,
        held: Option<Held>,
        lead: LeadGuard,
    ) -> Result<Arc<Answer>, ServiceError> {
        let mut timings = Timings::default();
        let Held { lease, waited, .. } = match held {
            Some(held) => held,
            None => {
                let held = Held::wait(&self.inner).await?;
                self.timeline.loaded(&held);
                held
            }
        };
        timings.model_loading = waited;

        let began = Instant::now();
        let request = Arc::clone(&self.request);
        let (lease, tokens) = off_runtime(move || {
            let tokens = prompt::tokens(&lease, &request.task);
            (lease, tokens)
        })
        .await?;
        let prompt = tokens?;
        timings.prompt = began.elapsed();
        self.timeline.prompt(began, prompt.len());

        let began = Instant::now();
        let prompt_tokens = prompt.len();
        let generation = self.submit(&lease, prompt)?;
        let written =
            self.inner.observe.prediction(read(generation, producer, self.guard())).await?;
        let written = Written { finish: with_prompt(written.finish, prompt_tokens), ..written };
        self.inner.observe.inference(&self.request.task, began.elapsed());
        self.inner.note_generation(began.elapsed());
        self.timeline.generated(began, &written.finish);
        let post_processing = Instant::now();

        let answer = Arc::new(self.answer(written, timings, &lease));
        let facts = AnswerFacts {
            deterministic: self.request.is_deterministic(),
            complete: matches!(answer.finish, FinishReason::Stop | FinishReason::StopString),
            truncated: matches!(answer.finish, FinishReason::Length | FinishReason::ContextFull),
            cancelled: false,
            failed: false,
        };
        let same_model = lease.info().answer_identity() == *self.model;
        if same_model && may_store(&self.request.cache, &facts).is_ok() {
            let entry = EntryOptions { cost: began.elapsed(), ttl: self.request.cache.ttl };
            self.inner.store(self.digest.key, &answer, entry, lead);
            if let Some(place) = self.place() {
                self.inner.offer(&place, &answer);
            }
        }
        self.timeline.post_processed(post_processing);
        Ok(answer)
    }

    /// Where the completion belongs, if it is one.
    pub(crate) fn place(&self) -> Option<Place<'_>> {
        match (&self.request.task, self.group) {
            (Task::Complete { prefix, .. }, Some(group)) => Some(Place { group, before: prefix }),
            _ => None,
        }
    }

    fn submit(&self, lease: &ModelLease, prompt: Vec<u32>) -> Result<Generation, ServiceError> {
        let request = GenerateRequest {
            prompt,
            sampling: self.request.sampling.clone(),
            max_tokens: self.request.max_tokens,
            stop: self.request.stop.clone(),
            namespace: engine_namespace(&self.request.cache.namespace),
            logprobs: None,
            ignore_eos: false,
        };
        lease.generate(request).map_err(|error| match error {
            hapa_model::ModelError::QueueFull { limit } => {
                self.inner.overloaded(format!("{limit} requests are waiting already"))
            }
            other => other.into(),
        })
    }

    fn guard(&self) -> Option<SuffixGuard> {
        match &self.request.task {
            Task::Complete { prefix, suffix, .. } => Some(SuffixGuard::new(prefix, suffix)),
            _ => None,
        }
    }

    fn answer(&self, written: Written, mut timings: Timings, lease: &ModelLease) -> Answer {
        let began = Instant::now();
        let Written { text, finish } = written;
        let parts = take_apart(&self.request.task, &text);
        timings.queue = finish.timings.queue;
        timings.prefill = finish.timings.prefill;
        timings.decode = finish.timings.decode;
        timings.time_to_first_token = finish.timings.time_to_first_token;
        timings.post_processing = began.elapsed();
        Answer {
            text,
            code: parts.code,
            explanation: parts.explanation,
            syntax: parts.syntax,
            finish: finish.reason,
            usage: finish.usage,
            model: Arc::from(lease.info().name.as_str()),
            cache: CacheReport::new(CacheOutcome::Miss, &self.digest),
            timings,
        }
    }
}

/// Ends a flight with an answer that was there already. Its text goes before it: what is streamed, joined, is the
/// answer's text.
fn finish_with(producer: FlightProducer, answer: Arc<Answer>) {
    push_whole(&producer, &answer);
    producer.finish(answer);
}

fn push_whole(producer: &FlightProducer, answer: &Answer) {
    if !answer.text.is_empty() {
        producer.push(Arc::from(answer.text.as_str()));
    }
}

struct Written {
    text: String,
    finish: Finish,
}

/// Reads a generation to its end and passes its text on as it comes.
async fn read(
    mut generation: Generation,
    producer: &FlightProducer,
    mut guard: Option<SuffixGuard>,
) -> Result<Written, ServiceError> {
    let mut text = String::new();
    let mut show = |piece: String| {
        if !piece.is_empty() {
            text.push_str(&piece);
            producer.push(Arc::from(piece));
        }
    };
    let began = Instant::now();
    let mut first_token = None;
    let mut tokens = 0;
    while let Some(event) = generation.next().await {
        match event? {
            GenerateEvent::Text(delta) => {
                first_token.get_or_insert_with(|| began.elapsed());
                tokens += delta.tokens.len();
                show(match &mut guard {
                    Some(guard) => guard.push(&delta.text),
                    None => delta.text,
                });
                if guard.as_ref().is_some_and(SuffixGuard::is_cut) {
                    // The rest repeats what stands after the cursor: dropping the generation ends it.
                    let finish =
                        cut_short(tokens, first_token.unwrap_or_default(), began.elapsed());
                    return Ok(Written { text, finish });
                }
            }
            GenerateEvent::Finished(finish) => {
                if let Some(guard) = &mut guard {
                    show(guard.finish());
                }
                return Ok(Written { text, finish });
            }
        }
    }
    Err(ServiceError::internal("the engine ended the answer without saying why"))
}

/// The receipt of a completion that was ended here and not by the engine.
fn cut_short(generated_tokens: usize, first_token: Duration, total: Duration) -> Finish {
    Finish {
        reason: FinishReason::Stop,
        usage: hapa_model::Usage { generated_tokens, ..Default::default() },
        timings: hapa_model::Timings {
            prefill: first_token,
            decode: total.saturating_sub(first_token),
            time_to_first_token: first_token,
            ..Default::default()
        },
        prefill_chunks: Vec::new(),
    }
}

fn with_prompt(mut finish: Finish, prompt_tokens: usize) -> Finish {
    finish.usage.prompt_tokens = prompt_tokens;
    finish
}

struct Parts {
    code: Option<String>,
    explanation: Option<String>,
    syntax: SyntaxReport,
}

fn take_apart(task: &Task, text: &str) -> Parts {
    let (code, explanation, language) = match task {
        // A completion or continuation is a piece of code, not a program: there is nothing to check.
        Task::Complete { .. } => {
            return Parts {
                code: Some(text.to_owned()),
                explanation: None,
                syntax: SyntaxReport::unchecked(),
            };
        }
        Task::Raw { .. } => {
            return Parts { code: None, explanation: None, syntax: SyntaxReport::unchecked() };
        }
        Task::Generate { language, .. } => {
            let found = extract(text);
            (found.code, found.explanation, language.as_str())
        }
        Task::Chat { .. } => {
            let found = extract(text);
            (found.code, found.explanation, "python")
        }
    };
    let syntax = match &code {
        Some(code) if prompt::is_python(language) => validate_python(code),
        _ => SyntaxReport::unchecked(),
    };
    Parts { code, explanation, syntax }
}

/// Runs work that takes milliseconds on a thread that may block.
pub(crate) async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ServiceError::internal(format!("a background task failed: {error}")))
}
