//! The lazy model: a name, and on first use a running engine.

use std::time::Instant;

use crate::lazy::{KeepAlive, Lazy, Lease};
use crate::model::{LoadOptions, Model};
use crate::store::{ModelRef, ProgressSink, Store, StoreOptions};

/// A model that its first user resolves (and fetches, if need be) and loads.
///
/// Making one takes microseconds and touches neither disk nor network:
///
/// ```
/// use hapa_model::{LazyModel, LazyOptions, LoadState, ModelRef};
///
/// let model = LazyModel::new(ModelRef::default(), LazyOptions::default());
/// assert_eq!(model.state(), LoadState::Unloaded);
/// ```
pub type LazyModel = Lazy<Model>;

/// A loaded model in use. Keep it for as long as a generation runs: while one lives, the model is not unloaded.
pub type ModelLease = Lease<Model>;

/// How a [`LazyModel`] comes to its model and how long it keeps it.
#[derive(Debug, Clone, Default)]
pub struct LazyOptions {
    /// Where models are kept and fetched from.
    pub store: StoreOptions,
    /// How the model is loaded.
    pub load: LoadOptions,
    /// How long an idle model stays in memory.
    pub keep_alive: KeepAlive,
}

impl LazyModel {
    /// Notes which model is meant. Its first user loads it.
    pub fn new(model: ModelRef, options: LazyOptions) -> Self {
        let LazyOptions { store, load, keep_alive } = options;
        let loader = move |progress: &dyn ProgressSink| {
            let resolved = Store::open(store.clone())?.resolve(&model, progress)?;
            let begun = Instant::now();
            let loaded = Model::load(&resolved, &load, progress)?;
            metrics::histogram!("hapa_model_load_seconds").record(begun.elapsed());
            Ok(loaded)
        };
        // Without it the memory of an unloaded model would stay with the process's allocator.
        Self::with_cleanup(loader, keep_alive, hapa_kernels::release_freed_memory)
    }
}
