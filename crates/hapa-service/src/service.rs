//! The service: the way of a request from validation to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hapa_cache::{
    Digest, FlightStats, KeyDigest, MemoryStats, QueueStats, TierStats, TieredOptions, TypedStats,
    TypedThrough, may_read,
};
use hapa_model::{
    EngineStats, LazyModel, LoadState, ModelInfo, ModelLease, ModelPool, ModelRef, PoolOptions,
    PoolStats, Unloads,
};
use hapa_profiler::{ProfileFuture as _, TraceCollector};

use crate::admission::{Admission, AdmissionStats, Asked, Place};
use crate::answer::{Answer, CacheOutcome, CacheReport};
use crate::cutoff::Cutoff;
use crate::documents::Ticket;
use crate::error::ServiceError;
use crate::generate::{Entered, Held, Job};
use crate::inner::{Inner, Parts, Spot};
use crate::key;
use crate::limits::Limits;
use crate::observe::RequestCounts;
use crate::options::ServiceOptions;
use crate::request::{Request, Task};
use crate::served::Served;
use crate::stream::AnswerStream;
use crate::timeline::Timeline;
use crate::underway::Followed;

/// How long the place of a request that was superseded is waited for.
const GIVEN_BACK_WITHIN: Duration = Duration::from_millis(250);

/// The pipeline around a model: cache, shared generations, engine, post-processing. Clones share it, and so do the handles
/// of its other models ([`Service::for_model`]).
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
    /// The model that this handle asks.
    pub(crate) served: Arc<Served>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("model", &self.served.name)
            .field("state", &self.served.model.state())
            .finish_non_exhaustive()
    }
}

/// What a service has done and holds. Where it has several models, `admission`, `engine`, `model_state` and `model` are of the one
/// whose handle was asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Since the service was made.
    pub uptime: Duration,
    /// Requests by what became of them.
    pub requests: RequestCounts,
    /// The response cache in memory; `None` when it is off.
    pub cache: Option<MemoryStats>,
    /// The tiers of the response cache below memory, from the top.
    pub tiers: Vec<TierStats>,
    /// What waits to be written to each of them.
    pub queues: Vec<QueueStats>,
    /// Completions that are answered while they are typed; `None` when that is off.
    pub typed: Option<TypedStats>,
    /// Requests that were let in, and those that were not.
    pub admission: AdmissionStats,
    /// Generations and who shared them.
    pub flights: FlightStats,
    /// The engine; `None` while no model is loaded.
    pub engine: Option<EngineStats>,
    /// Where the model is in its life.
    pub model_state: LoadState,
    /// The loaded model; `None` while none is.
    pub model: Option<ModelInfo>,
    /// All models, the default one first.
    pub models: Vec<ModelStats>,
    /// The memory that they share.
    pub memory: PoolStats,
}

/// What one of a service's models does and holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelStats {
    /// The name that requests have for it.
    pub name: Arc<str>,
    /// Where it is in its life.
    pub state: LoadState,
    /// Bytes that it holds at most; 0 while it is not loaded.
    pub bytes: u64,
    /// Since when nobody has begun or ended work with it; `None` when nobody ever did.
    pub last_used: Option<Duration>,
    /// Uses of it at this moment: answers that are computed, above all.
    pub leases: usize,
    /// How often it was unloaded, and why.
    pub unloads: Unloads,
    /// Requests that were let in, and those that were not.
    pub admission: AdmissionStats,
    /// Its engine; `None` while it is not loaded.
    pub engine: Option<EngineStats>,
    /// Facts about it; `None` while it is not loaded.
    pub info: Option<ModelInfo>,
}

impl ModelStats {
    fn of(served: &Served) -> Self {
        let model = &served.model;
        // Before there is one more, to look.
        let leases = model.leases();
        let lease = model.loaded();
        Self {
            name: Arc::clone(&served.name),
            state: model.state(),
            bytes: model.held_bytes(),
            last_used: model.last_used().map(|at| at.elapsed()),
            leases,
            unloads: model.unloads(),
            admission: served.admission.stats(),
            engine: lease.as_ref().map(|lease| lease.engine_stats()),
            info: lease.as_ref().map(|lease| lease.info().clone()),
        }
    }
}

impl Service {
    /// Makes a service. Nothing is read, fetched or loaded before the first request.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for cache options that bound nothing or contradict each other, and for two models of one name.
    pub fn new(options: ServiceOptions) -> Result<Self, ServiceError> {
        let ServiceOptions {
            model,
            models,
            memory_budget,
            lazy,
            cache,
            tiers,
            typed,
            lead_patience,
            limits,
            admission,
            load_wait,
        } = options;
        let slots = lazy.load.max_sequences;
        // As many as the engine takes without refusing one.
        let places = lazy.load.max_sequences.saturating_add(lazy.load.queue_limit);
        let invalid =
            |error: hapa_cache::CacheError| ServiceError::invalid("cache", error.to_string());
        // Without a cache nothing is remembered, completions neither.
        let typed = typed.filter(|_| cache.is_some()).map(TypedThrough::new);
        let cache = cache.map(|memory| TieredOptions::new(memory).tiers(tiers).build());
        let pool_options = PoolOptions { budget_bytes: memory_budget, ..PoolOptions::default() };
        let pool = ModelPool::new(pool_options);
        let served = |reference: ModelRef| {
            let model = pool.add(reference.clone(), lazy.clone());
            Arc::new(Served::new(
                reference,
                model,
                Admission::new(admission.clone(), places),
                slots,
            ))
        };
        let served: Vec<_> = std::iter::once(model).chain(models).map(served).collect();
        names_differ(&served)?;
        let default = Arc::clone(&served[0]);
        let parts = Parts {
            served,
            pool,
            cache: cache.transpose().map_err(invalid)?,
            typed: typed.transpose().map_err(invalid)?,
            lead_patience,
            limits,
            load_wait,
        };
        Ok(Self { inner: Arc::new(Inner::new(parts)), served: default })
    }

    /// The same service, asking another one of its models, by [`name`](Self::name); `None` when it has none of that name.
    pub fn for_model(&self, name: &str) -> Option<Self> {
        let served = self.inner.served.iter().find(|served| *served.name == *name)?;
        Some(Self { inner: Arc::clone(&self.inner), served: Arc::clone(served) })
    }

    /// The name of the model that this handle asks: as it is written in the options, of a path only the name of the file or
    /// folder without its ending.
    pub fn name(&self) -> &str {
        &self.served.name
    }

    /// The names of all models, the default one first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.served.iter().map(|served| &*served.name)
    }

    /// A handle for each model, the default one first.
    pub fn models(&self) -> impl Iterator<Item = Self> {
        let handle = |served| Self { inner: Arc::clone(&self.inner), served: Arc::clone(served) };
        self.inner.served.iter().map(handle)
    }

    /// The whole answer to a request.
    ///
    /// Dropping the future leaves the generation; the last caller that leaves cancels it.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn predict(&self, request: Request) -> Result<Answer, ServiceError> {
        let mut request = request;
        self.fit(&mut request);
        // Before the document is taken over, which ends what nobody follows.
        let followed = self.follow(&request);
        let ticket = self.enter_document(&mut request);
        self.whole(request, ticket.as_ref(), followed).await
    }

    pub(crate) async fn predict_as(
        &self,
        request: Request,
        ticket: Option<&Ticket>,
    ) -> Result<Answer, ServiceError> {
        self.whole(request, ticket, None).await
    }

    async fn whole(
        &self,
        request: Request,
        ticket: Option<&Ticket>,
        followed: Option<Followed>,
    ) -> Result<Answer, ServiceError> {
        let outcome = self.begin(request, ticket, followed).await?.answer().await;
        self.note_failure(outcome.as_ref().err());
        outcome
    }

    /// Takes the request's document over, if it names one.
    pub(crate) fn enter_document(&self, request: &mut Request) -> Option<Ticket> {
        if self.inner.limits.check(request).is_err() {
            // It will be refused and must not end another one's work.
            return None;
        }
        let document = request.document_id.take()?;
        Some(self.inner.documents.enter(&request.cache.namespace, &document))
    }

    /// The answer to a request as it is written. Resolves with the first event, so that what fails before any text
    /// is an error here.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn predict_stream(&self, request: Request) -> Result<AnswerStream, ServiceError> {
        let mut request = request;
        self.fit(&mut request);
        let followed = self.follow(&request);
        let ticket = self.enter_document(&mut request);
        let mut stream = self.begin(request, ticket.as_ref(), followed).await?;
        let first = stream.peek().await;
        self.note_failure(first.as_ref().err());
        first?;
        Ok(stream.watched(Arc::clone(&self.inner)))
    }

    /// Lowers [`Request::max_tokens`] to what an answer can have: [`Limits::max_tokens`] and, once the model has been loaded, its
    /// context. Requests are held to that anyway; whoever reckons with the tokens of one first does it before.
    pub fn fit(&self, request: &mut Request) {
        let most = self.inner.limits.max_tokens;
        let most = self.served.context_tokens().map_or(most, |context| most.min(context));
        request.max_tokens = request.max_tokens.min(most);
    }

    /// Begins an answer, until its deadline or until a newer request takes the document over.
    async fn begin(
        &self,
        request: Request,
        ticket: Option<&Ticket>,
        followed: Option<Followed>,
    ) -> Result<AnswerStream, ServiceError> {
        let mut cutoff = Cutoff::new(ticket, request.deadline);
        let stream = tokio::select! {
            biased;
            error = &mut cutoff => {
                self.note_failure(Some(&error));
                return Err(error);
            }
            stream = self.begin_any(request, ticket, followed) => stream?,
        };
        Ok(stream.until(cutoff))
    }

    async fn begin_any(
        &self,
        mut request: Request,
        ticket: Option<&Ticket>,
        followed: Option<Followed>,
    ) -> Result<AnswerStream, ServiceError> {
        let started = Instant::now();
        let inner = &self.inner;
        let timeline = Timeline::of(&request, &inner.traces);
        if let Err(error) = inner.limits.check(&request) {
            self.note_failure(Some(&error));
            return Err(error);
        }
        // The key names the weights exactly, so they must be known: by the first load, which the first request
        // needs anyway. Later requests find hits without a load.
        let (model, mut entered) = match self.served.identity() {
            Some(digest) => (digest, None),
            None => {
                // Whoever waits for the load waits, and holds a place.
                let place = self.enter(&request, ticket).await?;
                let held = Held::wait((inner, &self.served), request.deadline).await;
                let held = held.inspect_err(|error| self.note_failure(Some(error)))?;
                timeline.loaded(&held);
                let model = Arc::from(held.lease.info().answer_identity());
                (model, Some(Entered { place, held: Some(held) }))
            }
        };
        self.fit(&mut request);
        let digest = key::digest(&request, &model, inner.limits.completion_window)?;
        let shared = may_read(&request.cache, request.is_deterministic()).is_ok();
        let group = self.group(&request, &model)?;
        let looked = Instant::now();
        let found = match shared {
            true => self.look_up(&request, &digest, group).profiled("cache_lookup").await,
            false => None,
        };
        if shared {
            timeline.looked_up(looked, found.is_some());
        }
        if let Some((answer, report)) = found {
            inner.observe.outcome(report.outcome);
            return Ok(AnswerStream::whole(answer, report, started).with_timeline(timeline));
        }
        let job = |request: Request| Job {
            inner: Arc::clone(inner),
            served: Arc::clone(&self.served),
            request: Arc::new(request),
            digest,
            group,
            model,
            shared,
            timeline: timeline.clone(),
        };
        let flight = if shared { digest.key } else { key::unshared(inner.next_unshared()) };
        let followed = followed.filter(|_| !inner.flights.is_running(&flight));
        if let Some(followed) = followed {
            let job = job(request);
            let report = CacheReport {
                typed_through: true,
                ..CacheReport::new(CacheOutcome::Shared, &digest)
            };
            let stream = AnswerStream::followed(followed, job, report, started);
            return Ok(stream.with_timeline(timeline));
        }
        if entered.is_none() && !inner.flights.is_running(&flight) {
            entered = Some(Entered { place: self.enter(&request, ticket).await?, held: None });
        }
        let join = inner.flights.join(flight);
        if join.producer.is_some() && entered.is_none() {
            // The flight that was running has ended since. If there is no place for this one, another that joined it takes over.
            entered = Some(Entered { place: self.enter(&request, ticket).await?, held: None });
        }
        let outcome = match (&join.producer, shared) {
            (_, false) => CacheOutcome::Bypass,
            (Some(_), true) => CacheOutcome::Miss,
            (None, true) => CacheOutcome::Shared,
        };
        inner.observe.outcome(outcome);
        let job = job(request);
        if let (Some(producer), Some(entered)) = (join.producer, entered) {
            job.clone().start_with(producer, entered);
        }
        let report = CacheReport::new(outcome, &digest);
        Ok(AnswerStream::flight(join.waiter, job, report, started).with_timeline(timeline))
    }

    /// A completion under way that the user types into, held. Only where the cache may be asked: it is the answer of another request.
    fn follow(&self, request: &Request) -> Option<Followed> {
        // Most requests end here: a place is a digest of all that stands after the cursor.
        if self.inner.under_way.is_empty()
            || may_read(&request.cache, request.is_deterministic()).is_err()
        {
            return None;
        }
        let model = self.served.identity()?;
        let place = self.group(request, &model).ok()??;
        let (flight, typed) = self.inner.under_way.find(&place, request)?;
        Some(Followed::new(self.inner.flights.join_running(&flight)?, typed))
    }

    /// What completions at one place have in common.
    fn group(&self, request: &Request, model: &str) -> Result<Option<Digest>, ServiceError> {
        let is_wanted = self.inner.typed.is_some() && matches!(request.task, Task::Complete { .. });
        is_wanted
            .then(|| key::group(request, model, self.inner.limits.completion_window))
            .transpose()
    }

    /// The answer out of memory, out of an earlier completion that is being typed, or out of the tiers below memory.
    async fn look_up(
        &self,
        request: &Request,
        digest: &KeyDigest,
        group: Option<Digest>,
    ) -> Option<(Arc<Answer>, CacheReport)> {
        let inner = &self.inner;
        let report = |outcome| CacheReport::new(outcome, digest);
        if let Some(answer) = inner.look_up(&digest.key) {
            return Some((answer, report(CacheOutcome::HitL1)));
        }
        let place = match (&request.task, group) {
            (Task::Complete { prefix, .. }, Some(group)) => Some(Spot { group, before: prefix }),
            _ => None,
        };
        if let Some(answer) = place.as_ref().and_then(|place| inner.typed_through(place)) {
            let report = CacheReport { typed_through: true, ..report(CacheOutcome::HitL1) };
            return Some((answer, report));
        }
        let answer = inner.look_below(&digest.key).await?;
        if let Some(place) = &place {
            inner.offer(place, &answer);
        }
        Some((answer, report(CacheOutcome::HitL2)))
    }

    /// A place. Whoever took a document over waits a moment for the one of the request that had it, which is being given back: else
    /// both would be lost where all places are taken.
    async fn enter(
        &self,
        request: &Request,
        ticket: Option<&Ticket>,
    ) -> Result<Place, ServiceError> {
        if ticket.is_some_and(Ticket::took_over) {
            let asked = Asked::by(request, request.deadline);
            self.served.admission.room(asked, GIVEN_BACK_WITHIN).await;
        }
        let entered = self.served.enter(request, request.deadline);
        entered.inspect_err(|error| self.note_failure(Some(error)))
    }

    pub(crate) fn note_failure(&self, error: Option<&ServiceError>) {
        if let Some(error) = error {
            self.inner.observe.failure(error);
        }
    }

    /// The model behind this handle: to watch its load, to load it early, to unload it.
    pub fn model(&self) -> &LazyModel {
        &self.served.model
    }

    /// The model as it was asked for.
    pub fn reference(&self) -> &ModelRef {
        &self.served.reference
    }

    /// How many answers the engine computes at once.
    pub fn slots(&self) -> usize {
        self.served.slots
    }

    /// Loads the model and holds it while the lease lives.
    ///
    /// # Errors
    /// [`ServiceError::Model`] when the load fails, [`ServiceError::ModelLoading`] when it takes longer than the
    /// options allow.
    pub async fn load(&self) -> Result<ModelLease, ServiceError> {
        self.inner.lease(&self.served, None).await
    }

    /// Timelines of the last 128 requests that had an id ([`Request::request_id`]).
    pub fn traces(&self) -> &TraceCollector {
        &self.inner.traces
    }

    /// The limits that requests are held to.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Forgets all cached answers, in memory and in the tiers below it; returns how many there were. Shared tiers are
    /// cleared for all who share them.
    pub async fn clear_cache(&self) -> u64 {
        if let Some(typed) = &self.inner.typed {
            typed.clear();
        }
        let Some(cache) = &self.inner.cache else { return 0 };
        let (memory, tiers) = cache.clear().await;
        tiers.into_iter().flatten().fold(memory as u64, u64::max)
    }

    /// Fills memory with up to `limit` of the newest answers of the tiers below it; how many came. For a start that is
    /// warm.
    pub async fn warm_cache(&self, limit: usize) -> usize {
        match &self.inner.cache {
            Some(cache) => cache.warm(limit).await,
            None => 0,
        }
    }

    /// Waits until the answers so far are in the tiers below memory. Before the program ends.
    pub async fn flush_cache(&self) {
        if let Some(cache) = &self.inner.cache {
            cache.flush().await;
        }
    }

    /// What the service has done and holds. Loads nothing.
    pub fn stats(&self) -> ServiceStats {
        let inner = &self.inner;
        // First, so that the look below is no use of one.
        let models = inner.served.iter().map(|served| ModelStats::of(served)).collect();
        let lease = self.served.model.loaded();
        let cache = inner.cache.as_ref().map(hapa_cache::TieredCache::stats);
        let (memory, tiers, queues) = match cache {
            Some(cache) => (Some(cache.memory), cache.tiers, cache.queues),
            None => (None, Vec::new(), Vec::new()),
        };
        ServiceStats {
            uptime: inner.started.elapsed(),
            requests: inner.observe.counts(),
            cache: memory,
            tiers,
            queues,
            typed: inner.typed.as_ref().map(TypedThrough::stats),
            admission: self.served.admission.stats(),
            flights: inner.flights.stats(),
            engine: lease.as_ref().map(|lease| lease.engine_stats()),
            model_state: self.served.model.state(),
            model: lease.as_ref().map(|lease| lease.info().clone()),
            models,
            memory: inner.pool.stats(),
        }
    }
}

/// Requests name a model by its name alone.
fn names_differ(served: &[Arc<Served>]) -> Result<(), ServiceError> {
    for (index, one) in served.iter().enumerate() {
        if let Some(other) = served[..index].iter().find(|other| other.name == one.name) {
            return Err(ServiceError::invalid(
                "models",
                format!(
                    "`{}` and `{}` would both be served as `{}`; leave one out, or rename its file",
                    other.reference, one.reference, one.name
                ),
            ));
        }
    }
    Ok(())
}
