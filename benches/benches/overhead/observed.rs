//! Decoding and answering with everything on that `hapa serve` has on: allocations counted, scopes, metrics, a timeline of each request.
//! `plain` measures the same without; a program has one global allocator, so these are two.

#[path = "../hapa/fixtures.rs"]
#[allow(dead_code, reason = "the suite's own inputs, of which this needs some")]
mod fixtures;
mod work;

use criterion::Criterion;
use hapa_metrics::Exporter;
use hapa_profiler::ProfiledAlloc;

#[global_allocator]
static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();

fn main() {
    let _metrics = fixtures::need("metrics", Exporter::install());
    let mut criterion = Criterion::default().configure_from_args();
    work::bench(&mut criterion, "observed", Some("bench"));
    criterion.final_summary();
}
