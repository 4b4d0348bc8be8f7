//! Every metric of HAPA by name, and its Prometheus exposition.
//!
//! The crate has three parts, and nothing else in HAPA needs to know how any of them works:
//!
//! - **the table** ([`names`]): each metric exists once, as a typed constant that holds its name,
//!   kind, unit, help text, labels and buckets. [`ALL`] lists them; `docs/metrics.md` is generated
//!   from it. Labels are enums or bounded newtypes ([`labels`]), so that a caller can not make a
//!   new time series out of a path or a user's text.
//! - **the recorder** ([`Exporter`]): implements [`metrics::Recorder`], so that anything that
//!   emits through the `metrics` facade is collected. Counters, gauges and histogram buckets are
//!   plain atomics; there is no background thread, no buffer that grows between scrapes and no
//!   async runtime. The number of series is bounded whatever the callers do.
//! - **the exposition**: Prometheus text 0.0.4, or OpenMetrics 1.0 with exemplars that carry a
//!   request id ([`with_request_id`]), in a stable order.
//!
//! ```
//! use hapa_metrics::{Exporter, labels::Tier, names};
//!
//! let exporter = Exporter::local();
//! exporter.run(|| {
//!     names::CACHE_HITS_TOTAL.with(Tier::L1).increment(3);
//!     names::CACHE_MISSES_TOTAL.with(Tier::L1).increment(1);
//! });
//! let text = exporter.render();
//! assert!(text.contains("hapa_cache_hits_total{tier=\"l1\"} 3"));
//! assert!(text.contains("cache_hit_rate 75"));
//! ```
//!
//! A program calls [`Exporter::install`] once and keeps the value for its `/metrics` route; tests
//! use [`Exporter::local`] and [`Exporter::run`], which touch no global state.

pub mod alerts;
pub mod buckets;
mod cells;
mod derived;
pub mod docs;
mod error;
mod exemplar;
mod exporter;
pub mod labels;
pub mod names;
mod process;
mod registry;
mod render;
mod spec;

pub use error::MetricsError;
pub use exemplar::with_request_id;
pub use exporter::{Exporter, ExporterOptions, Format};
pub use names::{ALL, describe_all};
pub use process::ProcessSample;
pub use registry::{Samples, Series, SeriesValue};
pub use spec::{Counter, Gauge, Histogram, Kind, LabelSpec, MetricSpec, Unit, Values};
