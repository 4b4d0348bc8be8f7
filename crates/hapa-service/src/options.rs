//! What a service is made from.

use std::sync::Arc;
use std::time::Duration;

use hapa_cache::{MemoryOptions, Tier, TypedOptions};
use hapa_model::{LazyOptions, ModelRef};

use crate::admission::AdmissionOptions;
use crate::limits::Limits;

/// Options of a [`crate::Service`].
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The model that answers.
    pub model: ModelRef,
    /// Further models that may answer ([`crate::Service::for_model`]). They share cache and limits with the first; each has
    /// an engine of its own. None by default.
    pub models: Vec<ModelRef>,
    /// Most bytes of memory that loaded models hold together. Where another one is needed, those leave that were used least
    /// recently; nobody in use is interrupted. `None` for no bound.
    pub memory_budget: Option<u64>,
    /// How they are loaded, and how long they stay.
    pub lazy: LazyOptions,
    /// Bounds of the response cache in memory; `None` turns it off.
    pub cache: Option<MemoryOptions>,
    /// Tiers of the response cache below memory, from the top: disk, Redis. Not touched before the first request; none
    /// by default, and none without `cache`.
    pub tiers: Vec<Arc<dyn Tier>>,
    /// Bounds of the index that answers completions from earlier ones while they are typed; `None` turns it off.
    pub typed: Option<TypedOptions>,
    /// How long a request waits for another server that computes the same answer, where servers share a tier.
    pub lead_patience: Duration,
    /// Limits of requests.
    pub limits: Limits,
    /// Limits of what waits.
    pub admission: AdmissionOptions,
    /// How long a request waits for the model to be loaded before it is told to come back; `None` means until the
    /// load ends. The load goes on either way.
    pub load_wait: Option<Duration>,
}

impl ServiceOptions {
    /// The default options for a model: a response cache of 64 MiB, waiting for loads without end.
    pub fn new(model: ModelRef) -> Self {
        Self {
            model,
            models: Vec::new(),
            memory_budget: None,
            lazy: LazyOptions::default(),
            cache: Some(MemoryOptions::new()),
            tiers: Vec::new(),
            typed: Some(TypedOptions::default()),
            lead_patience: Duration::from_secs(30),
            limits: Limits::default(),
            admission: AdmissionOptions::default(),
            load_wait: None,
        }
    }
}
