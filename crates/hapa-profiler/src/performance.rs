//! One operation's time and memory, by name: what the review measured with cProfile and psutil.

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    MAX_NAMES, MemoryTracker, ProfileFuture, Profiler, Report,
    memory::human_bytes,
    report::{human_seconds, table},
};

/// What an operation took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationStats {
    /// Its name.
    pub name: String,
    /// Times it ran.
    pub calls: u64,
    /// Time in all.
    pub total_seconds: f64,
    /// Mean time.
    pub mean_seconds: f64,
    /// Median time; this and the next are within 3.2%.
    pub p50_seconds: f64,
    /// 99% are no slower.
    pub p99_seconds: f64,
    /// Longest time.
    pub max_seconds: f64,
    /// Change of the process's resident memory over all calls together. Other threads change it
    /// too, and the allocator keeps what was freed.
    pub resident_delta_bytes: i64,
    /// Largest resident memory of the process at the end of a call.
    pub resident_bytes: u64,
    /// Bytes allocated; 0 without [`crate::ProfiledAlloc`].
    pub allocated_bytes: u64,
    /// Most bytes that lived above those at the beginning, of any call.
    pub peak_live_bytes: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Resident {
    delta: i64,
    most: u64,
}

/// Profiles operations by name; [`fmt::Display`] prints them as a table.
///
/// It reads the resident memory before and after each operation (tens of microseconds): for whole
/// operations such as loading a model or one generation. Scopes opened inside an operation with
/// [`Profiler::scope`] of [`PerformanceProfiler::profiler`] appear in its report.
///
/// ```
/// use hapa_profiler::PerformanceProfiler;
///
/// let profiler = PerformanceProfiler::new();
/// let words = profiler.profile("split", || "a b c".split(' ').count());
/// assert_eq!(words, 3);
/// eprintln!("{profiler}");
/// # #[cfg(feature = "profiling")]
/// assert_eq!(profiler.operations()[0].calls, 1);
/// ```
#[derive(Debug, Clone)]
pub struct PerformanceProfiler {
    profiler: Profiler,
    memory: MemoryTracker,
    resident: Arc<Mutex<BTreeMap<String, Resident>>>,
}

impl Default for PerformanceProfiler {
    fn default() -> Self {
        Self::new()
    }
}

impl PerformanceProfiler {
    /// A profiler of its own, apart from the global one.
    pub fn new() -> Self {
        Self::on(Profiler::new())
    }

    /// Over the given profiler.
    pub fn on(profiler: Profiler) -> Self {
        Self { profiler, memory: MemoryTracker::new(), resident: Arc::default() }
    }

    /// The profiler underneath.
    pub fn profiler(&self) -> &Profiler {
        &self.profiler
    }

    /// Runs `work` as one call of the operation `name`.
    pub fn profile<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let before = self.memory.resident_bytes();
        let result = self.profiler.time(name, work);
        self.note(name, before);
        result
    }

    /// Runs `future` as one call of the operation `name`.
    pub async fn profile_async<F: Future>(&self, name: &str, future: F) -> F::Output {
        let before = self.memory.resident_bytes();
        let result = future.profiled_by(&self.profiler, name).await;
        self.note(name, before);
        result
    }

    fn note(&self, name: &str, before: u64) {
        let after = self.memory.resident_bytes();
        let size = i64::try_from(after.abs_diff(before)).unwrap_or(i64::MAX);
        let delta = if after >= before { size } else { -size };
        let mut resident = self.resident.lock();
        let name = if resident.len() < MAX_NAMES || resident.contains_key(name) {
            name
        } else {
            "(other)"
        };
        let entry = resident.entry(name.to_owned()).or_default();
        entry.delta += delta;
        entry.most = entry.most.max(after);
    }

    /// Every operation and every scope inside one, the most time in all first.
    pub fn operations(&self) -> Vec<OperationStats> {
        let resident = self.resident.lock().clone();
        let mut all: Vec<_> = self
            .profiler
            .report()
            .scopes
            .into_iter()
            .map(|scope| {
                let memory = resident.get(&scope.name).copied().unwrap_or_default();
                OperationStats {
                    calls: scope.calls,
                    total_seconds: scope.wall_seconds,
                    mean_seconds: scope.mean_seconds,
                    p50_seconds: scope.p50_seconds,
                    p99_seconds: scope.p99_seconds,
                    max_seconds: scope.max_seconds,
                    resident_delta_bytes: memory.delta,
                    resident_bytes: memory.most,
                    allocated_bytes: scope.allocated_bytes,
                    peak_live_bytes: scope.peak_live_bytes,
                    name: scope.name,
                }
            })
            .collect();
        all.sort_by(|a, b| b.total_seconds.total_cmp(&a.total_seconds));
        all
    }

    /// The full report, with the call tree.
    pub fn report(&self) -> Report {
        self.profiler.report()
    }
}

impl fmt::Display for PerformanceProfiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let row = |operation: &OperationStats| {
            vec![
                operation.name.clone(),
                operation.calls.to_string(),
                human_seconds(operation.mean_seconds),
                human_seconds(operation.p99_seconds),
                human_seconds(operation.total_seconds),
                human_bytes(operation.resident_delta_bytes as f64),
                human_bytes(operation.resident_bytes as f64),
            ]
        };
        let rows: Vec<_> = self.operations().iter().map(row).collect();
        let mut out = String::new();
        let heads = ["operation", "calls", "mean", "p99", "time", "memory", "resident"];
        table(&mut out, &heads, &rows);
        f.write_str(&out)
    }
}
