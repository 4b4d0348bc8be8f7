//! The criterion suite: what lazy loading, the kernels, batching and caching are worth on this machine.
//!
//! `cargo xtask bench [FILTER]` runs it and writes a record. Models and other inputs are made when the first
//! benchmark that passes the filter needs them.

mod cache;
mod engine;
mod fixtures;
mod flight;
mod load;
mod prompt;
mod service;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(20_000)
        .configure_from_args();
    let models = fixtures::models();
    for model in &models {
        load::bench(&mut criterion, model);
        prompt::bench(&mut criterion, model);
        engine::bench(&mut criterion, model);
    }
    cache::bench(&mut criterion);
    flight::bench(&mut criterion);
    service::bench(&mut criterion);
    criterion.final_summary();
}
