//! Sampling profilers: where the processor time of the whole process goes, and where its heap comes from, without any
//! scope.
//!
//! Each tick of a timer of processor time (`SIGPROF`) notes the stack of the thread that runs. The
//! profile gives a flame graph, and the functions and source lines that were met most. It needs
//! debug information for lines and inlined functions: `debug = "line-tables-only"` in the profile.
//!
//! ```no_run
//! use std::time::Duration;
//! use hapa_profiler::CpuSampler;
//!
//! let sampler = CpuSampler::start(Duration::from_secs(10))?;
//! // ... the work ...
//! let profile = sampler.stop();
//! eprintln!("{}", profile.to_table());
//! std::fs::write("flame.svg", profile.to_svg())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod heap;
mod profile;
mod signal;
mod stacks;
mod symbols;

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

pub use heap::{CallSite, HeapMeasure, HeapProfile, HeapSampler};
pub use profile::{CpuProfile, HotFunction, HotLine};

use crate::ProfilerError;

/// Ticks in a second of processor time, unless the profile would not fit. A prime, so that it does
/// not keep step with what the program does in a rhythm of its own.
const RATE_HZ: u32 = 499;

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Samples until it is stopped or dropped; one at a time in a process.
#[derive(Debug)]
#[must_use = "sampling ends when it is dropped"]
pub struct CpuSampler {
    began: Instant,
    interval: Duration,
}

impl CpuSampler {
    /// Starts to sample, about 499 times for each second of processor time; less often when a
    /// profile of `expected` length on all cores would exceed 32,768 samples (16 MiB).
    ///
    /// # Errors
    /// [`ProfilerError::SamplerBusy`] while another one runs, [`ProfilerError::Sampler`] when the
    /// system refuses the signal handler or the timer.
    pub fn start(expected: Duration) -> Result<Self, ProfilerError> {
        if RUNNING.swap(true, SeqCst) {
            return Err(ProfilerError::SamplerBusy);
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let fits = signal::CAPACITY as f64 / (expected.as_secs_f64().max(1.0) * cores as f64);
        let rate = f64::from(RATE_HZ).min(fits).max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 ms to 1 s")]
        let interval_us = (1e6 / rate) as u32;
        if let Err(source) = signal::start(interval_us) {
            RUNNING.store(false, SeqCst);
            return Err(ProfilerError::Sampler { source });
        }
        Ok(Self { began: Instant::now(), interval: Duration::from_micros(interval_us.into()) })
    }

    /// Ends sampling and names what was found, which may take some seconds: it reads the program's
    /// debug information.
    pub fn stop(self) -> CpuProfile {
        let wall = self.began.elapsed();
        let samples = signal::stop();
        CpuProfile::new(&samples, self.interval, wall)
    }
}

impl Drop for CpuSampler {
    fn drop(&mut self) {
        // Twice after `stop`, which does no harm.
        let _ = signal::stop();
        RUNNING.store(false, SeqCst);
    }
}
