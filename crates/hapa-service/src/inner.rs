//! What all callers of a service share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hapa_cache::{CacheKey, EntryOptions, Flights, MemoryCache, Weigh};
use hapa_model::{LazyModel, LoadEvent, LoadState, ModelLease};

use crate::answer::Answer;
use crate::error::ServiceError;
use crate::observe::Observe;
use crate::request::Limits;

pub(crate) struct Inner {
    pub(crate) model: Arc<LazyModel>,
    pub(crate) cache: Option<MemoryCache<CacheKey, CachedAnswer>>,
    pub(crate) flights: Flights<CacheKey, Arc<str>, Arc<Answer>, ServiceError>,
    pub(crate) limits: Limits,
    pub(crate) load_wait: Option<Duration>,
    pub(crate) observe: Observe,
    pub(crate) started: Instant,
    /// Digest of the weights that were loaded last.
    model_digest: RwLock<Option<Arc<str>>>,
    unshared: AtomicU64,
    /// Mean time of a generation in microseconds, newer ones counting more.
    mean_generation_us: AtomicU64,
}

/// An answer in the cache.
#[derive(Debug, Clone)]
pub(crate) struct CachedAnswer(pub(crate) Arc<Answer>);

impl Weigh for CachedAnswer {
    fn heap_bytes(&self) -> usize {
        self.0.weight_bytes()
    }
}

impl Inner {
    pub(crate) fn new(
        model: LazyModel,
        cache: Option<MemoryCache<CacheKey, CachedAnswer>>,
        limits: Limits,
        load_wait: Option<Duration>,
    ) -> Self {
        Self {
            model: Arc::new(model),
            cache,
            flights: Flights::default(),
            limits,
            load_wait,
            observe: Observe::default(),
            started: Instant::now(),
            model_digest: RwLock::new(None),
            unshared: AtomicU64::new(0),
            mean_generation_us: AtomicU64::new(0),
        }
    }

    /// The model, loaded if need be.
    pub(crate) async fn lease(&self) -> Result<ModelLease, ServiceError> {
        let lease = self.observe.loading(self.wait_for_model()).await?;
        let digest = &lease.info().digest;
        if self.model_digest().as_deref() != Some(digest.as_str()) {
            *self.model_digest.write().unwrap_or_else(PoisonError::into_inner) =
                Some(Arc::from(digest.as_str()));
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
        match tokio::time::timeout(limit, task).await {
            Ok(Ok(lease)) => Ok(lease?),
            Ok(Err(error)) => {
                Err(ServiceError::internal(format!("the load's task failed: {error}")))
            }
            Err(_) => {
                // Somebody must go on waiting, or the load would be abandoned and start anew at every try.
                waiting.0 = None;
                Err(ServiceError::ModelLoading {
                    stage: stage_of(&self.model.state()).to_owned(),
                    retry_after: Duration::from_secs(5),
                })
            }
        }
    }

    /// Digest of the weights, if any were loaded so far.
    pub(crate) fn model_digest(&self) -> Option<Arc<str>> {
        self.model_digest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn peek(&self, key: &CacheKey) -> Option<Arc<Answer>> {
        self.cache.as_ref()?.peek(key).map(|hit| Arc::clone(&hit.0))
    }

    /// Looks into the cache, and counts that.
    pub(crate) fn look_up(&self, key: &CacheKey) -> Option<Arc<Answer>> {
        let cache = self.cache.as_ref()?;
        let found = cache.get(key).map(|hit| Arc::clone(&hit.0));
        self.observe.lookup(found.is_some());
        found
    }

    pub(crate) fn store(&self, key: CacheKey, answer: &Arc<Answer>, entry: EntryOptions) {
        if let Some(cache) = &self.cache {
            cache.insert_with(key, CachedAnswer(Arc::clone(answer)), entry);
            self.observe.cache_size(&cache.stats());
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
