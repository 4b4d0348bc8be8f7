//! What is read at each scrape: scopes of the profiler, figures of the async runtime.

use hapa_metrics::labels::Scope;
use hapa_metrics::{Exporter, Samples, names};
use hapa_profiler::Profiler;
use tokio::runtime::Handle;

/// Scopes in the exposition, the largest self time first: enough for any dashboard.
const MOST_SCOPES: usize = 100;

pub(crate) fn register(exporter: &Exporter) {
    exporter.add_collector(scopes);
    exporter.add_collector(runtime);
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn scopes(samples: &mut Samples) {
    for scope in Profiler::global().report().scopes.iter().take(MOST_SCOPES) {
        let label = || Scope::new(scope.name.clone());
        samples.counter(&names::SCOPE_CALLS_TOTAL, label(), scope.calls as f64);
        samples.counter(&names::SCOPE_SELF_SECONDS_TOTAL, label(), scope.self_seconds);
    }
}

/// Of the runtime that the scrape is answered on.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn runtime(samples: &mut Samples) {
    let Ok(handle) = Handle::try_current() else { return };
    let metrics = handle.metrics();
    samples.gauge(&names::RUNTIME_WORKERS, (), metrics.num_workers() as f64);
    samples.gauge(&names::RUNTIME_ALIVE_TASKS, (), metrics.num_alive_tasks() as f64);
    samples.gauge(&names::RUNTIME_QUEUE_DEPTH, (), metrics.global_queue_depth() as f64);
}
