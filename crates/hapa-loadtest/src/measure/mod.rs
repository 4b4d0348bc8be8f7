//! What is kept of the requests of a run while it goes on.

mod histogram;
mod recorder;
mod reservoir;

pub use histogram::Distribution;
pub(crate) use histogram::Figures;
pub(crate) use recorder::{Latencies, Recorder};
pub(crate) use reservoir::Reservoir;
pub use reservoir::Sample;
