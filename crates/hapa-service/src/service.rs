//! The service: the way of a request from validation to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hapa_cache::{FlightStats, MemoryStats, may_read};
use hapa_model::{
    EncodeOptions, EngineStats, LazyModel, LoadState, ModelInfo, ModelLease, ModelRef,
};

use crate::answer::{Answer, CacheOutcome, CacheReport};
use crate::error::ServiceError;
use crate::generate::{Held, Job, off_runtime};
use crate::inner::Inner;
use crate::key;
use crate::observe::RequestCounts;
use crate::options::ServiceOptions;
use crate::request::{Limits, Request};
use crate::stream::AnswerStream;

/// The pipeline around one model: cache, shared generations, engine, post-processing. Clones share it.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
    reference: Arc<ModelRef>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("state", &self.inner.model.state()).finish_non_exhaustive()
    }
}

/// What a service has done and holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Since the service was made.
    pub uptime: Duration,
    /// Requests by what became of them.
    pub requests: RequestCounts,
    /// The response cache in memory; `None` when it is off.
    pub cache: Option<MemoryStats>,
    /// Generations and who shared them.
    pub flights: FlightStats,
    /// The engine; `None` while no model is loaded.
    pub engine: Option<EngineStats>,
    /// Where the model is in its life.
    pub model_state: LoadState,
    /// The loaded model; `None` while none is.
    pub model: Option<ModelInfo>,
}

impl Service {
    /// Makes a service. Nothing is read, fetched or loaded before the first request.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for cache options that bound nothing or contradict each other.
    pub fn new(options: ServiceOptions) -> Result<Self, ServiceError> {
        let ServiceOptions { model, lazy, cache, limits, load_wait } = options;
        let cache = cache
            .map(hapa_cache::MemoryOptions::build)
            .transpose()
            .map_err(|error| ServiceError::invalid("cache", error.to_string()))?;
        let lazy = LazyModel::new(model.clone(), lazy);
        Ok(Self {
            inner: Arc::new(Inner::new(lazy, cache, limits, load_wait)),
            reference: Arc::new(model),
        })
    }

    /// The whole answer to a request.
    ///
    /// Dropping the future leaves the generation; the last caller that leaves cancels it.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn predict(&self, request: Request) -> Result<Answer, ServiceError> {
        let outcome = self.begin(request).await?.answer().await;
        self.note_failure(outcome.as_ref().err());
        outcome
    }

    /// The answer to a request as it is written. Resolves with the first event, so that what fails before any text
    /// is an error here.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn predict_stream(&self, request: Request) -> Result<AnswerStream, ServiceError> {
        let mut stream = self.begin(request).await?;
        let first = stream.peek().await;
        self.note_failure(first.as_ref().err());
        first?;
        Ok(stream)
    }

    async fn begin(&self, request: Request) -> Result<AnswerStream, ServiceError> {
        let started = Instant::now();
        let inner = &self.inner;
        if let Err(error) = inner.limits.check(&request) {
            self.note_failure(Some(&error));
            return Err(error);
        }
        // The key names the weights exactly, so they must be known: by the first load, which the first request
        // needs anyway. Later requests find hits without a load.
        let (model_digest, held) = match inner.model_digest() {
            Some(digest) => (digest, None),
            None => {
                let held = Held::wait(inner).await;
                let held = held.inspect_err(|error| self.note_failure(Some(error)))?;
                (Arc::from(held.lease.info().digest.as_str()), Some(held))
            }
        };
        let digest = key::digest(&request, &model_digest)?;
        let shared = may_read(&request.cache, request.is_deterministic()).is_ok();
        if let Some(answer) = shared.then(|| inner.look_up(&digest.key)).flatten() {
            let report = CacheReport::new(CacheOutcome::HitL1, &digest);
            inner.observe.outcome(CacheOutcome::HitL1);
            return Ok(AnswerStream::whole(answer, report, started));
        }
        let flight = if shared { digest.key } else { key::unshared(inner.next_unshared()) };
        let join = inner.flights.join(flight);
        let outcome = match (&join.producer, shared) {
            (_, false) => CacheOutcome::Bypass,
            (Some(_), true) => CacheOutcome::Miss,
            (None, true) => CacheOutcome::Shared,
        };
        inner.observe.outcome(outcome);
        let job = Job {
            inner: Arc::clone(inner),
            request: Arc::new(request),
            digest,
            model_digest,
            shared,
        };
        if let Some(producer) = join.producer {
            job.clone().start_with(producer, held);
        }
        let report = CacheReport::new(outcome, &digest);
        Ok(AnswerStream::flight(join.waiter, job, report, started))
    }

    fn note_failure(&self, error: Option<&ServiceError>) {
        if let Some(error) = error {
            self.inner.observe.failure(error);
        }
    }

    /// The model behind the service: to watch its load, to load it early, to unload it.
    pub fn model(&self) -> &LazyModel {
        &self.inner.model
    }

    /// The model as it was asked for.
    pub fn reference(&self) -> &ModelRef {
        &self.reference
    }

    /// Loads the model and holds it while the lease lives.
    ///
    /// # Errors
    /// [`ServiceError::Model`] when the load fails, [`ServiceError::ModelLoading`] when it takes longer than the
    /// options allow.
    pub async fn load(&self) -> Result<ModelLease, ServiceError> {
        self.inner.lease().await
    }

    /// The limits that requests are held to.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The tokens of a text, loading the model if need be.
    ///
    /// # Errors
    /// When the model cannot be loaded, or the text cannot be tokenised or is longer than a prompt may be.
    pub async fn tokenize(&self, text: String, add_bos: bool) -> Result<Vec<u32>, ServiceError> {
        let limit = self.inner.limits.prompt_chars;
        if text.len() > limit.saturating_mul(4) || text.chars().count() > limit {
            return Err(ServiceError::invalid(
                "content",
                format!("has more than {limit} characters"),
            ));
        }
        let lease = self.inner.lease().await?;
        off_runtime(move || {
            let options = EncodeOptions { add_bos, parse_special: true };
            lease.tokenizer().encode(&text, options).map_err(ServiceError::from)
        })
        .await?
    }

    /// The text of tokens, loading the model if need be.
    ///
    /// # Errors
    /// When the model cannot be loaded, or a token is not in its vocabulary.
    pub async fn detokenize(&self, tokens: Vec<u32>) -> Result<String, ServiceError> {
        let lease = self.inner.lease().await?;
        let size = lease.tokenizer().vocab_size();
        if let Some(bad) = tokens.iter().find(|&&token| token as usize >= size) {
            return Err(ServiceError::invalid(
                "tokens",
                format!("{bad} is not a token; the vocabulary has {size}"),
            ));
        }
        off_runtime(move || lease.tokenizer().decode(&tokens)).await
    }

    /// Forgets all cached answers; returns how many there were.
    pub fn clear_cache(&self) -> usize {
        self.inner.cache.as_ref().map_or(0, hapa_cache::MemoryCache::clear)
    }

    /// What the service has done and holds. Loads nothing.
    pub fn stats(&self) -> ServiceStats {
        let inner = &self.inner;
        let lease = inner.model.loaded();
        ServiceStats {
            uptime: inner.started.elapsed(),
            requests: inner.observe.counts(),
            cache: inner.cache.as_ref().map(hapa_cache::MemoryCache::stats),
            flights: inner.flights.stats(),
            engine: lease.as_ref().map(|lease| lease.engine_stats()),
            model_state: inner.model.state(),
            model: lease.as_ref().map(|lease| lease.info().clone()),
        }
    }
}
