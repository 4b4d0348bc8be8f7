//! What `observed` measures, without any of it: the system's allocator, scopes switched off, no metrics, no timeline.

#[path = "../hapa/fixtures.rs"]
#[allow(dead_code, reason = "the suite's own inputs, of which this needs some")]
mod fixtures;
mod work;

use criterion::Criterion;
use hapa_profiler::Profiler;

fn main() {
    Profiler::global().set_enabled(false);
    let mut criterion = Criterion::default().configure_from_args();
    work::bench(&mut criterion, "plain", None);
    criterion.final_summary();
}
