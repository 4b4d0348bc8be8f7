//! How scopes record: names, one call tree a thread, guards and futures.

mod future;
mod guard;
mod names;
mod profiler;
mod tree;

pub use future::{ProfileFuture, Profiled};
pub use guard::{ScopeGuard, Site, time};
pub use names::MAX_NAMES;
pub use profiler::Profiler;
#[cfg(feature = "tracing-layer")]
pub(crate) use profiler::with_local;
pub use tree::MAX_NODES_PER_THREAD;
#[cfg(feature = "tracing-layer")]
pub(crate) use tree::{Ended, Frame};
pub(crate) use tree::{NodeData, ROOT, Shard};
