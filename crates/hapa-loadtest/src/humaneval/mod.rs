//! HumanEval (Chen et al., 2021): its problems, the program in what a model wrote, and whether that program passes.
//!
//! Programs run in a process of their own, with limits on processor time, memory, files and wall-clock time, without
//! network where Linux lets it be taken away, and under hooks that refuse other processes, sockets and writing outside of
//! a folder that vanishes. That keeps mistakes from doing harm; whoever evaluates a model that may be malicious puts the
//! whole into a virtual machine or container.

mod dataset;
mod extract;
mod judge;
mod problems;
mod score;

pub use dataset::fetch_problems;
pub use extract::{STOPS, answered, continued, test_program};
pub use judge::{Judge, JudgeLimits, Verdict};
pub use problems::{Problem, read_problems};
pub use score::pass_at_k;
