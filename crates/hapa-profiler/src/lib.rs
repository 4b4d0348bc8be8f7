//! Timing and memory scopes, reports, traces and response-time logs.
//!
//! A scope costs tens of nanoseconds while it records, one load when it is switched off
//! ([`Profiler::set_enabled`]), and nothing when the feature `profiling` is left out. Recording
//! takes no lock: each thread writes its own call tree, and a report reads all of them while they
//! are written. Memory is bounded by the number of threads that run at once, whatever the number
//! of names ([`MAX_NAMES`], then `(other)`).
//!
//! ```
//! use hapa_profiler::{ProfileFuture as _, Profiler, scope};
//!
//! fn tokenize() {
//!     scope!("tokenize"); // until the end of the block
//! }
//!
//! tokenize();
//! let sum = hapa_profiler::time("add", || 1 + 1);
//! let future = async { 2 + 2 }.profiled("answer"); // right across awaits and threads
//! # let _ = futures_util::FutureExt::now_or_never(future);
//!
//! let report = Profiler::global().report();
//! eprintln!("{}", report.to_table());
//! # assert_eq!(sum, 2);
//! # #[cfg(feature = "profiling")]
//! assert!(report.scopes.iter().any(|scope| scope.name == "tokenize" && scope.calls == 1));
//! ```
//!
//! | part | what it answers |
//! | --- | --- |
//! | [`scope!`], [`time`], [`ProfileFuture`], [`Profiler`] | where the time goes: calls, self and total time, percentiles, as a call tree |
//! | [`ProfiledAlloc`] | where memory is allocated: bytes, allocations and peak for each scope |
//! | [`PerformanceProfiler`] | what one operation costs in time and memory |
//! | [`MemoryTracker`] | what the process holds now, at most, and of the machine |
//! | [`ResponseTimeLogger`] | how long each endpoint takes, in the log and as percentiles |
//! | [`Report`], [`Diff`] | tables, JSON, Markdown, HTML; two reports compared with significance |
//! | `CpuSampler` (feature `sampling`) | where the processor time goes without any scope: flame graph, hot functions and lines |
//! | `HeapSampler` (feature `sampling`) | which lines hold and allocate how much of the heap |
//! | [`TraceCollector`] | one request as a timeline (Chrome trace JSON, opens in Perfetto) |

pub mod alloc;
mod clock;
mod error;
mod histogram;
mod memory;
mod performance;
mod recording;
mod report;
mod response;
#[cfg(all(feature = "sampling", unix))]
mod sampling;
pub mod trace;

#[cfg(feature = "tracing-layer")]
mod layer;

pub use alloc::{AllocationStats, ProfiledAlloc};
pub use clock::{Clock, MockClock};
pub use error::ProfilerError;
/// Puts a function into a scope of its own name (feature `macros`): `#[profile]`,
/// `#[profile("name")]`, `#[profile(memory)]` or `#[profile("name", memory)]`.
///
/// ```
/// use hapa_profiler::profile;
///
/// #[profile]
/// fn tokenize(text: &str) -> usize {
///     text.len()
/// }
///
/// #[profile("answer")]
/// async fn generate() {} // right across awaits and threads
/// # tokenize("x");
/// ```
///
/// What cannot work does not compile:
///
/// ```compile_fail
/// #[hapa_profiler::profile]
/// const fn at_compile_time() {}
/// ```
#[cfg(feature = "macros")]
pub use hapa_profiler_macros::profile;
#[cfg(feature = "tracing-layer")]
pub use layer::ProfilerLayer;
pub use memory::{MemorySample, MemoryTracker};
pub use performance::{OperationStats, PerformanceProfiler};
pub use recording::{
    MAX_NAMES, MAX_NODES_PER_THREAD, ProfileFuture, Profiled, Profiler, ScopeGuard, Site, time,
};
pub use report::{Diff, DiffRow, Report, ScopeStats, TreeNode, Verdict};
pub use response::{EndpointStats, ResponseTimeLogger};
#[cfg(all(feature = "sampling", unix))]
pub use sampling::{
    CallSite, CpuProfile, CpuSampler, HeapMeasure, HeapProfile, HeapSampler, HotFunction, HotLine,
};
pub use trace::{Lane, Stage, Trace, TraceCollector};

/// Opens a scope until the end of the enclosing block: `scope!("name");`.
///
/// `scope!("name", memory)` also reads the resident memory before and after, which takes tens of
/// microseconds: for coarse scopes.
///
/// The scope belongs to the thread: in `async` code use [`ProfileFuture::profiled`] around
/// anything that awaits. The guard is not `Send`, so a `Send` future that holds one over an await
/// does not compile.
#[macro_export]
macro_rules! scope {
    ($name:expr) => {
        let _hapa_scope = $crate::guard!($name);
    };
    ($name:expr, memory) => {
        let _hapa_scope = $crate::guard!($name).with_memory();
    };
}

/// The guard of a scope as an expression, to end it before its block: `drop(guard)`.
#[macro_export]
macro_rules! guard {
    ($name:expr) => {{
        static SITE: $crate::Site = $crate::Site::new($name);
        SITE.enter()
    }};
}
