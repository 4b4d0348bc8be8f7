//! What all callers of a service share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hapa_cache::{
    CacheKey, Digest, EntryOptions, Flights, Lead, LeadGuard, TieredCache, TypedThrough,
};
use hapa_metrics::labels::Tier;
use hapa_model::{LazyModel, LoadEvent, LoadState, ModelLease};
use hapa_profiler::{Profiler, TraceCollector};

use crate::answer::Answer;
use crate::documents::Documents;
use crate::error::ServiceError;
use crate::generate::Piece;
use crate::kept::CachedAnswer;
use crate::observe::Observe;
use crate::request::Limits;

pub(crate) struct Inner {
    pub(crate) model: Arc<LazyModel>,
    pub(crate) cache: Option<TieredCache<CachedAnswer>>,
    pub(crate) typed: Option<TypedThrough<CachedAnswer>>,
    pub(crate) lead_patience: Duration,
    pub(crate) flights: Flights<CacheKey, Piece, Arc<Answer>, ServiceError>,
    pub(crate) documents: Arc<Documents>,
    pub(crate) limits: Limits,
    pub(crate) load_wait: Option<Duration>,
    pub(crate) observe: Observe,
    pub(crate) started: Instant,
    pub(crate) traces: TraceCollector,
    /// What names the model that was loaded last.
    model_identity: RwLock<Option<Arc<str>>>,
    unshared: AtomicU64,
    /// Mean time of a generation in microseconds, newer ones counting more.
    mean_generation_us: AtomicU64,
}

/// Where a completion belongs: what does not change while it is typed, and the text before the cursor.
pub(crate) struct Place<'a> {
    pub(crate) group: Digest,
    pub(crate) before: &'a str,
}

/// What [`Inner::new`] is made from.
pub(crate) struct Parts {
    pub(crate) model: LazyModel,
    pub(crate) cache: Option<TieredCache<CachedAnswer>>,
    pub(crate) typed: Option<TypedThrough<CachedAnswer>>,
    pub(crate) lead_patience: Duration,
    pub(crate) limits: Limits,
    pub(crate) load_wait: Option<Duration>,
}

impl Inner {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { model, cache, typed, lead_patience, limits, load_wait } = parts;
        Self {
            model: Arc::new(model),
            cache,
            typed,
            lead_patience,
            flights: Flights::default(),
            documents: Arc::default(),
            limits,
            load_wait,
            observe: Observe::default(),
            started: Instant::now(),
            traces: TraceCollector::new(Profiler::global()),
            model_identity: RwLock::new(None),
            unshared: AtomicU64::new(0),
            mean_generation_us: AtomicU64::new(0),
        }
    }

    /// The model, loaded if need be.
    pub(crate) async fn lease(&self) -> Result<ModelLease, ServiceError> {
        let lease = self.observe.loading(self.wait_for_model()).await?;
        let identity = lease.info().answer_identity();
        if self.model_identity().as_deref() != Some(identity.as_str()) {
            *self.model_identity.write().unwrap_or_else(PoisonError::into_inner) =
                Some(Arc::from(identity));
        }
        Ok(lease)
    }

    async fn wait_for_model(&self) -> Result<ModelLease, ServiceError> {
        let Some(limit) = self.load_wait else {
            return Ok(self.model.get().await?);
        };
        let model = Arc::clone(&self.model);
        let mut waiting = AbortOnDrop(Some(tokio::spawn(async move { model.get().await })));
        let Some(task) = &mut waiting.0 else {
            return Err(ServiceError::internal("the load has no task"));
        };
        // A timer of zero would still wait for its first tick, in which a small model is loaded.
        let loaded = match limit.is_zero() {
            true => task.now_or_never(),
            false => tokio::time::timeout(limit, task).await.ok(),
        };
        match loaded {
            Some(Ok(lease)) => Ok(lease?),
            Some(Err(error)) => {
                Err(ServiceError::internal(format!("the load's task failed: {error}")))
            }
            None => {
                // Somebody must go on waiting, or the load would be abandoned and start anew at every try.
                waiting.0 = None;
                Err(ServiceError::ModelLoading {
                    stage: stage_of(&self.model.state()).to_owned(),
                    retry_after: Duration::from_secs(5),
                })
            }
        }
    }

    /// [`hapa_model::ModelInfo::answer_identity`] of the model, if it was loaded so far.
    pub(crate) fn model_identity(&self) -> Option<Arc<str>> {
        self.model_identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks into memory without counting it.
    pub(crate) fn peek(&self, key: &CacheKey) -> Option<Arc<Answer>> {
        self.cache.as_ref()?.memory().peek(key).map(|hit| Arc::clone(&hit.0))
    }

    /// Looks into memory, and counts that.
    pub(crate) fn look_up(&self, key: &CacheKey) -> Option<Arc<Answer>> {
        let cache = self.cache.as_ref()?;
        let found = cache.get_memory(key).map(|found| found.value.0);
        self.observe.lookup(Tier::L1, found.is_some());
        found
    }

    /// Looks into the tiers below memory, unless the answer is being made anyway.
    pub(crate) async fn look_below(&self, key: &CacheKey) -> Option<Arc<Answer>> {
        let cache = self.cache.as_ref().filter(|cache| cache.has_tiers())?;
        if self.flights.is_running(key) {
            return None;
        }
        let found = cache.get_below(key).await.map(|found| found.value.0);
        self.observe.lookup(Tier::L2, found.is_some());
        self.observe.cache(&cache.stats());
        found
    }

    /// The rest of a completion that was offered before and that the user is typing.
    pub(crate) fn typed_through(&self, place: &Place<'_>) -> Option<Arc<Answer>> {
        let found = self.typed.as_ref()?.find(&place.group, place.before)?;
        found.value.tail(found.typed_bytes)
    }

    /// Remembers a completion for while it is typed.
    pub(crate) fn offer(&self, place: &Place<'_>, answer: &Arc<Answer>) {
        if let Some(typed) = &self.typed {
            typed.offer(place.group, place.before, &answer.text, CachedAnswer(Arc::clone(answer)));
        }
    }

    /// Becomes the one to make an answer, for all servers that share a tier; or gets the answer of the one that was.
    pub(crate) async fn lead(&self, key: &CacheKey) -> Lead<CachedAnswer> {
        match self.cache.as_ref().filter(|cache| cache.has_tiers()) {
            Some(cache) => cache.lead(key, self.lead_patience).await,
            None => Lead::Compute(LeadGuard::default()),
        }
    }

    pub(crate) fn store(
        &self,
        key: CacheKey,
        answer: &Arc<Answer>,
        entry: EntryOptions,
        lead: LeadGuard,
    ) {
        if let Some(cache) = &self.cache {
            cache.insert_led(key, CachedAnswer(Arc::clone(answer)), entry, lead);
            self.observe.cache(&cache.stats());
        }
    }

    pub(crate) fn next_unshared(&self) -> u64 {
        self.unshared.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn note_generation(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let old = self.mean_generation_us.load(Ordering::Relaxed);
        let new = if old == 0 { took } else { old - old / 8 + took / 8 };
        self.mean_generation_us.store(new, Ordering::Relaxed);
    }

    /// The refusal of a request that finds the queue full. A place becomes free when a generation ends, so the mean
    /// length of one is when to come back.
    pub(crate) fn overloaded(&self, problem: String) -> ServiceError {
        let mean = Duration::from_micros(self.mean_generation_us.load(Ordering::Relaxed));
        ServiceError::Overloaded {
            problem,
            retry_after: mean.clamp(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

/// The stage of a load in a word.
pub(crate) fn stage_of(state: &LoadState) -> &'static str {
    match state {
        LoadState::Loading { event } => stage(event),
        other => other.name(),
    }
}

/// The stage that an event of a load stands for: `resolving`, `fetching`, `verifying`, ...
pub fn stage(event: &LoadEvent) -> &'static str {
    match event {
        LoadEvent::Resolving { .. } => "resolving",
        LoadEvent::Waiting { .. } => "waiting",
        LoadEvent::Fetching { .. } => "fetching",
        LoadEvent::Verifying { .. } => "verifying",
        LoadEvent::Mapping => "mapping",
        LoadEvent::Packing { .. } => "packing",
        LoadEvent::Ready { .. } => "ready",
        LoadEvent::Failed { .. } => "failed",
        _ => "loading",
    }
}

/// Ends a task when its caller goes away; taken out, the task goes on.
struct AbortOnDrop<T>(Option<tokio::task::JoinHandle<T>>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}
