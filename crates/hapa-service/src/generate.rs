//! One generation: model, prompt, engine, post-processing, store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hapa_cache::{
    AnswerFacts, CacheKey, Digest, EntryOptions, KeyDigest, Lead, LeadGuard, Producer, may_store,
};
use hapa_model::{
    Finish, FinishReason, GenerateEvent, GenerateRequest, Generation, Grammar, ModelError,
    ModelLease, TextDelta, TokenLogprobs, Tokenizer,
};

use crate::admission::Place;
use crate::answer::{Answer, CacheOutcome, CacheReport, LikelyToken, Timings, TokenScore};
use crate::error::ServiceError;
use crate::inner::{Inner, Spot};
use crate::key::engine_namespace;
use crate::post::{CompletionGuard, SyntaxReport, extract, validate_python};
use crate::prompt;
use crate::request::{OutputFormat, Request, Task};
use crate::served::Served;
use crate::timeline::Timeline;

pub(crate) type FlightProducer = Producer<CacheKey, Piece, Arc<Answer>, ServiceError>;

/// What callers of a shared generation get while it runs.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Text(Arc<str>),
    Scores(Arc<[TokenScore]>),
}

/// Everything that a generation needs; kept by each waiter in case it must lead.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) inner: Arc<Inner>,
    /// The model that answers.
    pub(crate) served: Arc<Served>,
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

/// What a generation begins with.
pub(crate) struct Entered {
    /// Its place among those who wait and run.
    pub(crate) place: Place,
    /// The model, where it had to be loaded to know what is asked.
    pub(crate) held: Option<Held>,
}

impl Held {
    pub(crate) async fn wait(
        (inner, served): (&Inner, &Served),
        deadline: Option<Instant>,
    ) -> Result<Self, ServiceError> {
        let began = Instant::now();
        let lease = inner.lease(served, deadline).await?;
        Ok(Self { lease, began, waited: began.elapsed() })
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("key", &self.digest.key).finish_non_exhaustive()
    }
}

impl Job {
    /// Leads a flight that was begun without a place: its task went away without an answer and gave its place back, or it stands
    /// for one that was followed and wrote something else. It needs a place, as a new request does; if there is none, nobody makes
    /// the answer, and all who wait for it are refused. The deadline of the one that leads does not decide that: it is not the
    /// others', and ends its own wait anyway.
    pub(crate) fn take_over(self, producer: FlightProducer) {
        match self.served.enter(&self.request, None) {
            Ok(place) => self.start_with(producer, Entered { place, held: None }),
            Err(error) => producer.fail(error),
        }
    }

    /// Runs the generation on a task of its own, so that no caller's leaving ends it for the others.
    pub(crate) fn start_with(self, producer: FlightProducer, entered: Entered) {
        let entry = self
            .may_be_followed()
            .then_some(self.group)
            .flatten()
            .map(|place| self.inner.under_way.enter(place, &self.request, self.digest.key));
        tokio::spawn(async move {
            let _under_way = entry;
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
                    Lead::Compute(lead) => self.run(&producer, entered, lead).await,
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
        Entered { mut place, held }: Entered,
        lead: LeadGuard,
    ) -> Result<Arc<Answer>, ServiceError> {
        let mut timings = Timings::default();
        let Held { lease, waited, .. } = match held {
            Some(held) => held,
            None => {
                let wanted = (&*self.inner, &*self.served);
                let held = Held::wait(wanted, self.request.deadline).await?;
                self.timeline.loaded(&held);
                held
            }
        };
        timings.model_loading = waited;

        let began = Instant::now();
        let request = Arc::clone(&self.request);
        let window = self.inner.limits.completion_window;
        let (lease, tokens, grammar, guard) = off_runtime(move || {
            hapa_profiler::scope!("prompt");
            let tokens = prompt::tokens(&lease, &request, window);
            let grammar = grammar(&lease, &request);
            let guard = guard(&request);
            (lease, tokens, grammar, guard)
        })
        .await?;
        let (prompt, grammar) = (tokens?, grammar?);
        timings.prompt = began.elapsed();
        self.timeline.prompt(began, prompt.len());

        let prompt_tokens = prompt.len();
        place.counted(prompt_tokens);
        let generation = self.submit(&lease, prompt, grammar)?;
        let began = generation.submitted();
        let writer = Writer { guard, ..Writer::new(&lease, &self.request) };
        let reading = read(generation, producer, writer, &mut place);
        let written = self.inner.observe.prediction(reading).await?;
        drop(place);
        let written = Written { finish: with_prompt(written.finish, prompt_tokens), ..written };
        self.inner.observe.inference(&self.request.task, began.elapsed());
        self.timeline.generated(began, &written.finish);
        let post_processing = Instant::now();

        let answer = Arc::new(self.answer(written, timings, &lease));
        let facts = AnswerFacts {
            deterministic: self.request.is_deterministic(),
            complete: matches!(answer.finish, FinishReason::Stop | FinishReason::StopString),
            truncated: answer.finish.is_cut(),
            cancelled: false,
            failed: false,
        };
        let same_model = lease.info().answer_identity() == *self.model;
        if same_model && may_store(&self.request.cache, &facts).is_ok() {
            let entry = EntryOptions { cost: began.elapsed(), ttl: self.request.cache.ttl };
            self.inner.store(self.digest.key, &answer, entry, lead);
            if let Some(spot) = self.spot() {
                self.inner.offer(&spot, &answer);
            }
        }
        self.timeline.post_processed(post_processing);
        Ok(answer)
    }

    /// Who types into it may have what it writes: nothing that counts from the text's beginning, as scores do.
    fn may_be_followed(&self) -> bool {
        self.shared && self.request.logprobs.is_none() && !self.request.prompt_only
    }

    /// Where the completion belongs, if it is one.
    pub(crate) fn spot(&self) -> Option<Spot<'_>> {
        match (&self.request.task, self.group) {
            (Task::Complete { prefix, .. }, Some(group)) => Some(Spot { group, before: prefix }),
            _ => None,
        }
    }

    fn submit(
        &self,
        lease: &ModelLease,
        prompt: Vec<u32>,
        grammar: Option<Grammar>,
    ) -> Result<Generation, ServiceError> {
        let request = GenerateRequest {
            prompt,
            sampling: self.request.sampling.clone(),
            // One token and nothing less has the prompt read to its end.
            max_tokens: if self.request.prompt_only { 1 } else { self.request.max_tokens },
            stop: match self.request.format {
                // They would cut arguments in their midst.
                OutputFormat::ToolCall(_) => Vec::new(),
                _ => self.request.stop.clone(),
            },
            namespace: engine_namespace(&self.request.cache.namespace),
            priority: self.request.priority(),
            grammar,
            logprobs: self.request.logprobs,
            ignore_eos: false,
            trace_kernels: self.request.trace_kernels,
        };
        lease.generate(request).map_err(|error| match error {
            ModelError::QueueFull { limit } => {
                self.served.admission.full(format!("{limit} requests are waiting already"))
            }
            other => other.into(),
        })
    }

    fn answer(&self, written: Written, mut timings: Timings, lease: &ModelLease) -> Answer {
        hapa_profiler::scope!("post_processing");
        let began = Instant::now();
        let Written { text, scores, finish } = written;
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
            stop_string: finish.stop_string,
            usage: finish.usage,
            model: Arc::from(lease.info().name.as_str()),
            logprobs: self.request.logprobs.is_some().then_some(scores),
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
    if let Some(scores) = answer.logprobs.as_ref().filter(|scores| !scores.is_empty()) {
        producer.push(Piece::Scores(scores.as_slice().into()));
    }
    if !answer.text.is_empty() {
        producer.push(Piece::Text(Arc::from(answer.text.as_str())));
    }
}

fn grammar(lease: &ModelLease, request: &Request) -> Result<Option<Grammar>, ServiceError> {
    let grammar = match (&request.format, &request.task) {
        (OutputFormat::Text, _) => return Ok(None),
        (OutputFormat::JsonObject, _) => lease.json_grammar(None)?,
        (OutputFormat::JsonSchema(schema), _) => lease.json_grammar(Some(schema))?,
        (OutputFormat::ToolCall(callable), Task::Chat { tools, .. }) => {
            lease.tool_call_grammar(tools, callable).map_err(|error| match error {
                ModelError::ToolParameters { tool, problem } => {
                    ServiceError::invalid(format!("tools[{tool}]"), problem)
                }
                ModelError::Grammar { problem } => ServiceError::invalid("tools", problem),
                other => other.into(),
            })?
        }
        (OutputFormat::ToolCall(_), _) => {
            return Err(ServiceError::invalid("tool_choice", "needs a conversation with tools"));
        }
    };
    Ok(Some(grammar))
}

fn guard(request: &Request) -> Option<CompletionGuard> {
    let guard = match &request.task {
        Task::Complete { prefix, suffix, language, .. } => {
            CompletionGuard::new(prefix, suffix, prompt::is_python(language))
        }
        _ if request.min_indent > 0 => CompletionGuard::default(),
        _ => return None,
    };
    Some(guard.indented(request.min_indent))
}

struct Written {
    text: String,
    scores: Vec<TokenScore>,
    finish: Finish,
}

/// What has been written of an answer.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    guard: Option<CompletionGuard>,
    text: String,
    scores: Vec<TokenScore>,
    /// Tokens that begin behind the text so far, and where the next one begins.
    waiting: VecDeque<TokenScore>,
    next_begins: usize,
    /// [`Request::prompt_only`].
    prompt_only: bool,
    /// [`Request::writing_time`].
    time: Option<Duration>,
    out_of_time: bool,
}

impl<'a> Writer<'a> {
    fn new(lease: &'a ModelLease, request: &Request) -> Self {
        Self {
            tokenizer: lease.tokenizer(),
            guard: None,
            text: String::new(),
            scores: Vec::new(),
            waiting: VecDeque::new(),
            next_begins: 0,
            prompt_only: request.prompt_only,
            time: request.writing_time,
            out_of_time: false,
        }
    }

    /// Takes what came so long after the first token.
    fn push(&mut self, delta: TextDelta, written_for: Duration, producer: &FlightProducer) {
        if self.prompt_only {
            return;
        }
        self.waiting.extend(delta.logprobs.iter().map(|token| score(self.tokenizer, token)));
        let mut shown = match &mut self.guard {
            Some(guard) => guard.push(&delta.text),
            None => delta.text,
        };
        if self.cut().is_none()
            && self.time.is_some_and(|time| written_for > time)
            && let Some(line_end) = shown.rfind('\n')
        {
            // Half a line is no offer.
            shown.truncate(line_end);
            self.out_of_time = true;
        }
        self.show(shown, producer);
    }

    fn show(&mut self, piece: String, producer: &FlightProducer) {
        if piece.is_empty() {
            return;
        }
        self.text.push_str(&piece);
        let known = self.scores.len();
        while self.next_begins < self.text.len()
            && let Some(score) = self.waiting.pop_front()
        {
            self.next_begins += score.bytes.len();
            self.scores.push(score);
        }
        if self.scores.len() > known {
            producer.push(Piece::Scores(self.scores[known..].into()));
        }
        producer.push(Piece::Text(Arc::from(piece)));
    }

    /// Why the answer ends here, before the engine ends it.
    fn cut(&self) -> Option<FinishReason> {
        if self.out_of_time {
            return Some(FinishReason::Length);
        }
        // The block is at its end, a line is indented less, or the rest repeats what stands after the cursor.
        self.guard.as_ref().is_some_and(CompletionGuard::is_cut).then_some(FinishReason::Stop)
    }

    fn finish(mut self, mut finish: Finish, producer: &FlightProducer) -> Written {
        if let Some(guard) = self.guard.as_mut().filter(|_| !self.out_of_time) {
            let rest = guard.finish();
            self.show(rest, producer);
        }
        if self.prompt_only {
            (finish.reason, finish.stop_string) = (FinishReason::Length, None);
            finish.usage.generated_tokens = 0;
        }
        Written { text: self.text, scores: self.scores, finish }
    }
}

fn score(tokenizer: &Tokenizer, token: &TokenLogprobs) -> TokenScore {
    let bytes = |id| tokenizer.token_bytes(id).into_owned();
    TokenScore {
        bytes: bytes(token.token),
        logprob: token.logprob,
        top: token
            .top
            .iter()
            .map(|likely| LikelyToken { bytes: bytes(likely.id), logprob: likely.logprob })
            .collect(),
    }
}

/// Reads a generation to its end and passes its text on as it comes.
async fn read(
    mut generation: Generation,
    producer: &FlightProducer,
    mut writer: Writer<'_>,
    place: &mut Place,
) -> Result<Written, ServiceError> {
    let began = Instant::now();
    let mut first_token = None;
    let mut tokens = 0;
    while let Some(event) = generation.next().await {
        match event? {
            GenerateEvent::Text(delta) => {
                let first_token = *first_token.get_or_insert_with(|| {
                    place.read();
                    began.elapsed()
                });
                tokens += delta.tokens.len();
                writer.push(delta, began.elapsed().saturating_sub(first_token), producer);
                if let Some(reason) = writer.cut() {
                    // Dropping the generation ends it.
                    let mut finish = cut_short(reason, tokens, (first_token, began.elapsed()));
                    finish.usage.cached_tokens = generation.cached_tokens();
                    return Ok(writer.finish(finish, producer));
                }
            }
            GenerateEvent::Finished(finish) => return Ok(writer.finish(finish, producer)),
        }
    }
    Err(ServiceError::internal("the engine ended the answer without saying why"))
}

/// The receipt of a completion that was ended here and not by the engine.
fn cut_short(
    reason: FinishReason,
    generated_tokens: usize,
    (first_token, total): (Duration, Duration),
) -> Finish {
    Finish {
        reason,
        stop_string: None,
        usage: hapa_model::Usage { generated_tokens, ..Default::default() },
        timings: hapa_model::Timings {
            prefill: first_token,
            decode: total.saturating_sub(first_token),
            time_to_first_token: first_token,
            ..Default::default()
        },
        prefill_chunks: Vec::new(),
        steps: Vec::new(),
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
    tokio::task::spawn_blocking(work).await.map_err(|error| task_failed(&error))
}

/// The error of a task that panicked. What a panic says may quote what was asked: it stays in the log.
pub(crate) fn task_failed(error: &tokio::task::JoinError) -> ServiceError {
    tracing::error!(%error, "a background task failed");
    ServiceError::internal("a background task failed; the log says how")
}
