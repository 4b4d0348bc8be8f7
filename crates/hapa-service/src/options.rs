//! What a service is made from.

use std::time::Duration;

use hapa_cache::MemoryOptions;
use hapa_model::{LazyOptions, ModelRef};

use crate::request::Limits;

/// Options of a [`crate::Service`].
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The model that answers.
    pub model: ModelRef,
    /// How it is loaded, and how long it stays.
    pub lazy: LazyOptions,
    /// Bounds of the response cache in memory; `None` turns it off.
    pub cache: Option<MemoryOptions>,
    /// Limits of requests.
    pub limits: Limits,
    /// How long a request waits for the model to be loaded before it is told to come back; `None` means until the
    /// load ends. The load goes on either way.
    pub load_wait: Option<Duration>,
}

impl ServiceOptions {
    /// The default options for a model: a response cache of 64 MiB, waiting for loads without end.
    pub fn new(model: ModelRef) -> Self {
        Self {
            model,
            lazy: LazyOptions::default(),
            cache: Some(MemoryOptions::new()),
            limits: Limits::default(),
            load_wait: None,
        }
    }
}
