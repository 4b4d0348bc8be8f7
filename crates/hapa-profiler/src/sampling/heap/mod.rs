//! A heap profile by call site: what `tracemalloc` is to Python.
//!
//! The counting allocator tells of each allocation. Of the bytes that go by, one in so many (at random, so that no rhythm
//! of the program hides from it) picks the allocation that it belongs to: its stack is noted, and its release when that
//! comes. An allocation of `size` bytes is picked with the probability `1 - exp(-size / every)`; each that was picked
//! stands for as many as that says, so the sums are right on average whatever the sizes
//! (Poisson sampling, as in tcmalloc and Go).
//!
//! ```no_run
//! use hapa_profiler::{HeapMeasure, HeapSampler, ProfiledAlloc};
//!
//! #[global_allocator]
//! static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();
//!
//! let sampler = HeapSampler::start(HeapSampler::EVERY_BYTES)?;
//! // ... the work ...
//! let profile = sampler.stop();
//! eprintln!("{}", profile.to_table());
//! std::fs::write("heap.svg", profile.to_svg(HeapMeasure::Peak))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod hook;
mod profile;
mod table;

use std::time::Instant;

pub use profile::{CallSite, HeapMeasure, HeapProfile};

use super::symbols::Symbols;
use crate::{ProfilerError, alloc::is_installed};

/// Notes where allocations come from until it is stopped or dropped; one at a time in a process.
#[derive(Debug)]
#[must_use = "sampling ends when it is dropped"]
pub struct HeapSampler {
    started: Started,
}

#[derive(Debug, Clone, Copy)]
struct Started {
    at: Instant,
    every_bytes: u64,
}

impl HeapSampler {
    /// One sample for so many bytes, unless there is a reason for another figure: costs nothing that could be measured.
    pub const EVERY_BYTES: u64 = 64 << 10;

    /// Starts to note one allocation for each `every_bytes` bytes; 1 notes every allocation. What was allocated before
    /// is not seen.
    ///
    /// # Errors
    /// [`ProfilerError::SamplerBusy`] while another one runs, [`ProfilerError::NoAllocator`] in a program without
    /// [`crate::ProfiledAlloc`].
    pub fn start(every_bytes: u64) -> Result<Self, ProfilerError> {
        if !is_installed() {
            return Err(ProfilerError::NoAllocator);
        }
        let started = Started { at: Instant::now(), every_bytes: every_bytes.max(1) };
        if hook::start(started) { Ok(Self { started }) } else { Err(ProfilerError::SamplerBusy) }
    }

    /// What was found so far. Sampling goes on.
    pub fn profile(&self) -> HeapProfile {
        named(self.started)
    }

    /// What the sampler of this process found so far, if one runs. Sampling goes on.
    pub fn running() -> Option<HeapProfile> {
        hook::started().map(named)
    }

    /// Ends sampling and names what was found, which may take some seconds: it reads the program's debug information.
    pub fn stop(self) -> HeapProfile {
        named(self.started)
    }
}

impl Drop for HeapSampler {
    fn drop(&mut self) {
        hook::stop();
    }
}

/// The call sites by name, without what naming them allocates.
fn named(started: Started) -> HeapProfile {
    hook::unseen(|| {
        let found = hook::found();
        HeapProfile::new(found, (started.at.elapsed(), started.every_bytes), &mut Symbols::new())
    })
}
