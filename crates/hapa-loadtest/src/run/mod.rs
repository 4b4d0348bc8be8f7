//! Running loads: workers, phases, and the ways to put phases together.

mod answers;
mod control;
mod cpu;
mod fleet;
mod pacer;
mod phase;
mod plan;
mod slots;
mod sweep;
mod versus;

pub use answers::{Answer, answers};
pub use control::{Control, Ended, Snapshot};
pub use plan::{Plan, Settings, run};
pub use sweep::{SweepKind, SweepPlan, sweep};
pub use versus::{VersusPlan, versus};
