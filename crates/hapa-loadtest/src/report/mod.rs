//! What a run found: figures, files, and the ways to show them.

mod chart;
mod compare;
mod html;
mod objectives;
mod single;
mod sweep;
mod table;
mod versus;

pub use compare::{Comparison, Interval, Ratio, compare, quantile};
pub use objectives::{Objectives, parse_duration};
pub use single::{
    Cold, Curves, Generator, Goodput, Group, LatencySet, Offered, Report, Requests, Review, SCHEMA,
    Server, Throughput, TimelinePoint, TroubleCount,
};
pub use sweep::{Knee, SWEEP_SCHEMA, SweepPoint, SweepReport};
pub use versus::{Round, VERSUS_SCHEMA, VersusReport};
