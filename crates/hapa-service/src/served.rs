//! One of the models that a service answers with: what is per engine.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hapa_model::{LazyModel, LoadEvent, LoadState, ModelLease, ModelRef};

use crate::admission::{Admission, Asked, Place};
use crate::error::ServiceError;
use crate::generate::task_failed;
use crate::key::engine_namespace;
use crate::request::Request;

pub(crate) struct Served {
    /// The name that requests have for it.
    pub(crate) name: Arc<str>,
    /// The model as it was asked for.
    pub(crate) reference: ModelRef,
    pub(crate) model: LazyModel,
    pub(crate) admission: Arc<Admission>,
    /// Answers that are computed at once.
    pub(crate) slots: usize,
    known: RwLock<Option<Known>>,
}

/// What stays known of a model that was loaded, also while it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    identity: Arc<str>,
    context_tokens: usize,
}

impl Served {
    pub(crate) fn new(
        reference: ModelRef,
        model: LazyModel,
        admission: Arc<Admission>,
        slots: usize,
    ) -> Self {
        let name = reference.short_name().into();
        Self { name, reference, model, admission, slots, known: RwLock::new(None) }
    }

    /// Takes a place for a request that must be generated, and must be answered until `deadline`.
    pub(crate) fn enter(
        &self,
        request: &Request,
        deadline: Option<Instant>,
    ) -> Result<Place, ServiceError> {
        let asked = Asked::by(request, deadline);
        self.admission.enter(asked, || {
            let flow = (engine_namespace(asked.namespace), request.priority());
            self.model.loaded()?.first_token_in(flow, asked.tokens)
        })
    }

    /// [`hapa_model::ModelInfo::answer_identity`] of the model, if it was loaded so far.
    pub(crate) fn identity(&self) -> Option<Arc<str>> {
        self.known().map(|known| known.identity)
    }

    /// Tokens that the model's context holds, if it was loaded so far.
    pub(crate) fn context_tokens(&self) -> Option<usize> {
        self.known().map(|known| known.context_tokens)
    }

    fn known(&self) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model, loaded if need be; waits for the load as long as `limit` says. A caller that goes away gives the load up,
    /// unless others wait for it, too. One whose time is up, or who has a deadline, does not: it goes on for the next try, which
    /// else would begin anew.
    pub(crate) async fn lease(
        &self,
        limit: Option<Duration>,
        deadline: Option<Instant>,
    ) -> Result<ModelLease, ServiceError> {
        let lease = self.wait(limit, deadline).await?;
        let known = Known {
            identity: Arc::from(lease.info().answer_identity()),
            context_tokens: lease.context_tokens(),
        };
        if self.known().as_ref() != Some(&known) {
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
        }
        Ok(lease)
    }

    async fn wait(
        &self,
        limit: Option<Duration>,
        deadline: Option<Instant>,
    ) -> Result<ModelLease, ServiceError> {
        if limit.is_none() && deadline.is_none() {
            return Ok(self.model.get().await?);
        }
        let model = self.model.clone();
        let mut waiting = tokio::spawn(async move { model.get().await });
        let mut abandon = AbortOnDrop(deadline.is_none().then(|| waiting.abort_handle()));
        let loaded = match limit {
            None => Some(waiting.await),
            // A timer of zero would still wait for its first tick, in which a small model is loaded.
            Some(Duration::ZERO) => (&mut waiting).now_or_never(),
            Some(limit) => tokio::time::timeout(limit, &mut waiting).await.ok(),
        };
        match loaded {
            Some(Ok(lease)) => Ok(lease?),
            Some(Err(error)) => Err(task_failed(&error)),
            None => {
                abandon.0 = None;
                Err(ServiceError::ModelLoading {
                    stage: stage_of(&self.model.state()).to_owned(),
                    retry_after: Duration::from_secs(5),
                })
            }
        }
    }
}

/// The stage of a load that somebody waits for, in a word.
fn stage_of(state: &LoadState) -> &'static str {
    match state {
        LoadState::Loading { event } => stage(event),
        // It is to leave, and will come back.
        LoadState::Ready => "making_room",
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
        LoadEvent::MakingRoom { .. } => "making_room",
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
