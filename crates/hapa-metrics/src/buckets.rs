//! Histogram buckets for serving a language model.
//!
//! Bounds are upper limits in seconds, inclusive (`le`). They are dense where an objective is
//! likely to sit, because a quantile is interpolated inside one bucket, and few elsewhere, because
//! each bound is a time series.

/// A whole HTTP request: from a cache hit (tenths of a millisecond) to a long generation.
pub const REQUEST: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 20.0, 40.0, 80.0,
];

/// One generation by the engine, without the HTTP around it.
pub const INFERENCE: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];

/// Time to the first token: what an editor's user waits for.
pub const FIRST_TOKEN: &[f64] = &[
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 5.0,
    10.0, 20.0, 40.0,
];

/// Time between two tokens of one answer.
pub const INTER_TOKEN: &[f64] = &[
    0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1.0, 2.5,
];

/// Stages of a request: queue, prefill and decode.
pub const STAGE: &[f64] = &[
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
    40.0, 80.0,
];

/// Loading a model: from a mapped file (milliseconds) to a download.
pub const LOAD: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];

/// For histograms that the table does not know.
pub const DEFAULT: &[f64] = REQUEST;
