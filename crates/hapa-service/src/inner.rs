//! What all callers of a service share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hapa_cache::{
    CacheKey, Digest, EntryOptions, Flights, Lead, LeadGuard, TieredCache, TypedThrough,
};
use hapa_metrics::labels::Tier;
use hapa_model::{ModelLease, ModelPool};
use hapa_profiler::{Profiler, TraceCollector};

use crate::answer::Answer;
use crate::aside::Aside;
use crate::documents::Documents;
use crate::error::ServiceError;
use crate::generate::Piece;
use crate::kept::CachedAnswer;
use crate::limits::Limits;
use crate::observe::Observe;
use crate::served::Served;
use crate::underway::UnderWay;

pub(crate) struct Inner {
    /// The models that answer, the default one first.
    pub(crate) served: Vec<Arc<Served>>,
    /// The memory that they share.
    pub(crate) pool: ModelPool,
    pub(crate) cache: Option<TieredCache<CachedAnswer>>,
    pub(crate) typed: Option<TypedThrough<CachedAnswer>>,
    pub(crate) lead_patience: Duration,
    pub(crate) flights: Flights<CacheKey, Piece, Arc<Answer>, ServiceError>,
    pub(crate) documents: Arc<Documents>,
    pub(crate) aside: Aside,
    pub(crate) under_way: Arc<UnderWay>,
    pub(crate) limits: Limits,
    pub(crate) load_wait: Option<Duration>,
    pub(crate) observe: Observe,
    pub(crate) started: Instant,
    pub(crate) traces: TraceCollector,
    unshared: AtomicU64,
}

/// Where a completion belongs: what does not change while it is typed, and the text before the cursor.
pub(crate) struct Spot<'a> {
    pub(crate) group: Digest,
    pub(crate) before: &'a str,
}

/// What [`Inner::new`] is made from.
pub(crate) struct Parts {
    pub(crate) served: Vec<Arc<Served>>,
    pub(crate) pool: ModelPool,
    pub(crate) cache: Option<TieredCache<CachedAnswer>>,
    pub(crate) typed: Option<TypedThrough<CachedAnswer>>,
    pub(crate) lead_patience: Duration,
    pub(crate) limits: Limits,
    pub(crate) load_wait: Option<Duration>,
}

impl Inner {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { served, pool, cache, typed, lead_patience, limits, load_wait } = parts;
        Self {
            served,
            pool,
            cache,
            typed,
            lead_patience,
            flights: Flights::default(),
            documents: Arc::default(),
            aside: Aside::default(),
            under_way: Arc::default(),
            limits,
            load_wait,
            observe: Observe::default(),
            started: Instant::now(),
            traces: TraceCollector::new(Profiler::global()),
            unshared: AtomicU64::new(0),
        }
    }

    /// A model, loaded if need be.
    pub(crate) async fn lease(
        &self,
        served: &Served,
        deadline: Option<Instant>,
    ) -> Result<ModelLease, ServiceError> {
        self.observe.loading(served.lease(self.load_wait, deadline)).await
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
