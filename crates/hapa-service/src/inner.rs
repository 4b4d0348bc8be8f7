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

use crate::admission::{Admission, Asked, Place};
use crate::answer::Answer;
use crate::documents::Documents;
use crate::error::ServiceError;
use crate::generate::Piece;
use crate::kept::CachedAnswer;
use crate::key::engine_namespace;
use crate::observe::Observe;
use crate::request::{Limits, Request};

pub(crate) struct Inner {
    pub(crate) model: Arc<LazyModel>,
    pub(crate) cache: Option<TieredCache<CachedAnswer>>,
    pub(crate) typed: Option<TypedThrough<CachedAnswer>>,
    pub(crate) lead_patience: Duration,
    pub(crate) flights: Flights<CacheKey, Piece, Arc<Answer>, ServiceError>,
    pub(crate) documents: Arc<Documents>,
    pub(crate) limits: Limits,
    pub(crate) admission: Arc<Admission>,
    pub(crate) load_wait: Option<Duration>,
    pub(crate) observe: Observe,
    pub(crate) started: Instant,
    pub(crate) traces: TraceCollector,
    /// What names the model that was loaded last.
    model_identity: RwLock<Option<Arc<str>>>,
    unshared: AtomicU64,
}

/// Where a completion belongs: what does not change while it is typed, and the text before the cursor.
pub(crate) struct Spot<'a> {
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
    pub(crate) admission: Arc<Admission>,
    pub(crate) load_wait: Option<Duration>,
}

impl Inner {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { model, cache, typed, lead_patience, limits, admission, load_wait } = parts;
        Self {
            model: Arc::new(model),
            cache,
            typed,
            lead_patience,
            flights: Flights::default(),
            documents: Arc::default(),
            limits,
            admission,
            load_wait,
            observe: Observe::default(),
            started: Instant::now(),
            traces: TraceCollector::new(Profiler::global()),
            model_identity: RwLock::new(None),
            unshared: AtomicU64::new(0),
        }
    }

    /// Takes a place for a request that must be generated, and must be answered until `deadline`.
    pub(crate) fn enter(
        &self,
        request: &Request,
        deadline: Option<Instant>,
    ) -> Result<Place, ServiceError> {
        let namespace = &request.cache.namespace;
        let tokens = request.guessed_prompt_tokens();
        let asked = Asked { namespace, tokens, deadline };
        self.admission.enter(asked, || {
            let flow = (engine_namespace(namespace), request.priority());
            self.model.loaded()?.first_token_in(flow, tokens)
        })
    }

    /// The model, loaded if need be.
    pub(crate) async fn lease(
        &self,
        deadline: Option<Instant>,
    ) -> Result<ModelLease, ServiceError> {
        let lease = self.observe.loading(self.wait_for_model(deadline)).await?;
        let identity = lease.info().answer_identity();
        if self.model_identity().as_deref() != Some(identity.as_str()) {
            *self.model_identity.write().unwrap_or_else(PoisonError::into_inner) =
                Some(Arc::from(identity));
        }
        Ok(lease)
    }

    /// Waits for the load as long as the options allow. A caller that goes away gives the load up, unless others wait for it, too. One
    /// whose time is up, or who has a deadline, does not: it goes on for the next try, which else would begin anew.
    async fn wait_for_model(&self, deadline: Option<Instant>) -> Result<ModelLease, ServiceError> {
        if self.load_wait.is_none() && deadline.is_none() {
            return Ok(self.model.get().await?);
        }
        let model = Arc::clone(&self.model);
        let mut waiting = tokio::spawn(async move { model.get().await });
        let mut abandon = AbortOnDrop(deadline.is_none().then(|| waiting.abort_handle()));
        let loaded = match self.load_wait {
            None => Some(waiting.await),
            // A timer of zero would still wait for its first tick, in which a small model is loaded.
            Some(Duration::ZERO) => (&mut waiting).now_or_never(),
            Some(limit) => tokio::time::timeout(limit, &mut waiting).await.ok(),
        };
        match loaded {
            Some(Ok(lease)) => Ok(lease?),
            Some(Err(error)) => {
                Err(ServiceError::internal(format!("the load's task failed: {error}")))
            }
            None => {
                abandon.0 = None;
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
    pub(crate) fn typed_through(&self, place: &Spot<'_>) -> Option<Arc<Answer>> {
        let found = self.typed.as_ref()?.find(&place.group, place.before)?;
        found.value.tail(found.typed_bytes)
    }

    /// Remembers a completion for while it is typed.
    pub(crate) fn offer(&self, place: &Spot<'_>, answer: &Arc<Answer>) {
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
struct AbortOnDrop(Option<tokio::task::AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}
