//! The lazy model: a name, and on first use a running engine.

use std::sync::Arc;
use std::time::Instant;

use crate::lazy::pool::{Pool, PoolOptions, Seat};
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

/// Models that share a budget of memory: what is needed is loaded, and what was used least recently leaves for it.
///
/// ```
/// use hapa_model::{LazyOptions, ModelPool, ModelRef, PoolOptions};
///
/// let pool = ModelPool::new(PoolOptions { budget_bytes: Some(4 << 30), ..PoolOptions::default() });
/// let large = pool.add(ModelRef::default(), LazyOptions::default());
/// let small = pool.add("smollm2-135m".parse()?, LazyOptions::default());
/// assert_eq!((pool.stats().held_bytes, large.held_bytes(), small.held_bytes()), (0, 0, 0));
/// # Ok::<(), hapa_model::ModelError>(())
/// ```
pub type ModelPool = Pool<Model>;

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
        ModelPool::new(PoolOptions::default()).add(model, options)
    }
}

impl ModelPool {
    /// Notes a further model, which is loaded by its first user, when there is room. What it holds
    /// ([`ModelInfo::memory_bytes`](crate::ModelInfo::memory_bytes)) is computed from the head of its file before the
    /// first load, and known from then on. Fetching and verifying need no room.
    pub fn add(&self, model: ModelRef, options: LazyOptions) -> LazyModel {
        let LazyOptions { store, load, keep_alive } = options;
        let name: Arc<str> = model.short_name().into();
        let loader = move |seat: &Seat<Model>, progress: &dyn ProgressSink| {
            let resolved = Store::open(store.clone())?.resolve(&model, progress)?;
            let room = seat.take(|| load.memory_bytes_of(&resolved.path), progress)?;
            let begun = Instant::now();
            let loaded = Model::load(&resolved, &load, progress)?;
            metrics::histogram!("hapa_model_load_seconds").record(begun.elapsed());
            room.keep(loaded.info().memory_bytes);
            Ok(loaded)
        };
        // Without it the memory of an unloaded model would stay with the process's allocator.
        self.add_with(&name, keep_alive, hapa_kernels::release_freed_memory, loader)
    }
}
