//! A load generator for servers that write text: HAPA, OpenAI-compatible ones and llama-server.
//!
//! ```no_run
//! use hapa_loadtest::{
//!     Api, Ask, Control, Limit, Load, Mix, Plan, Prompt, Settings, Target, TargetOptions, Workload,
//!     WorkloadSource, run,
//! };
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), hapa_loadtest::LoadError> {
//! let target = Target::new(TargetOptions {
//!     url: "http://127.0.0.1:8000".to_owned(),
//!     api: Api::Hapa,
//!     ..TargetOptions::default()
//! })?;
//! let question = Prompt::new(Ask::Text("reverse a linked list".to_owned()), 128);
//! let plan = Plan {
//!     target,
//!     workload: Workload::new(WorkloadSource::One(question), Mix::default(), 128)?,
//!     load: Load::closed(8),
//!     limit: Limit::duration(Duration::from_secs(30)),
//!     warmup: Limit::requests(8),
//!     cold: true,
//!     settings: Settings::default(),
//! };
//! let report = run(&plan, &Control::new())?;
//! eprintln!("{}", report.table());
//! # Ok(())
//! # }
//! ```
//!
//! # What is measured
//!
//! All times are of one monotonic clock and in seconds. In a closed loop a client sends its next request when the last
//! one is answered, and latency counts from sending. In an open loop requests are due at times that the server has no
//! say in, and latency counts from when a request was due, so that a stalled server can't hide the requests that it held up
//! (coordinated omission: Tene, "How NOT to Measure Latency", 2013). Pieces of text are timed when their bytes arrive.
//! A time per output token is from the first piece to the last, by the server's count of tokens less one, as vLLM's
//! benchmark has it; inter-token latency is between one piece and the next. Only whole answers are in latencies and
//! throughput; refusals (429, 503), incomplete answers and errors are counted apart, with their reasons.
//!
//! Requests are sent by threads of their own with a runtime each. [`run`], [`sweep`] and [`versus`] block until the end;
//! [`Control`] tells how far they are from any other thread, and breaks them off.

mod client;
mod error;
pub mod humaneval;
mod load;
mod measure;
mod prompt;
mod report;
mod run;
mod target;

pub use client::{CacheOutcome, Class};
pub use error::LoadError;
pub use load::{Arrivals, Limit, Load, Trace, TraceEntry};
pub use measure::{Distribution, Sample};
pub use prompt::{Ask, Mix, Prompt, Synthetic, Workload, WorkloadSource};
pub use report::{
    Cold, Comparison, Curves, Generator, Goodput, Group, Interval, Knee, LatencySet, Objectives,
    Offered, Ratio, Report, Requests, Review, Round, SCHEMA, SWEEP_SCHEMA, Server, SweepPoint,
    SweepReport, Throughput, TimelinePoint, TroubleCount, VERSUS_SCHEMA, VersusReport, compare,
    parse_duration, quantile,
};
pub use run::{
    Answer, Control, Ended, Plan, Settings, Snapshot, SweepKind, SweepPlan, VersusPlan, answers,
    run, sweep, versus,
};
pub use target::{Api, Target, TargetOptions};
