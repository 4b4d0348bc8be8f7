//! What the operating system says about this process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::{
    labels::{Arch, Os, Profile, Version},
    names,
    registry::Samples,
};

/// One look at this process. Fields that the platform does not tell are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct ProcessSample {
    /// User and system time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Largest resident memory, where the system keeps it.
    pub peak_resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// Limit of open file descriptors.
    pub max_open_files: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Reads samples and keeps what lasts between them.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    made: Instant,
    start_unix_seconds: f64,
    /// What the process may use: the container's limit, else the machine's memory.
    memory_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    system: System,
    peak_resident_bytes: u64,
}

impl ProcessCollector {
    pub(crate) fn new() -> Self {
        let mut system = System::new();
        system.refresh_memory();
        let memory_bytes =
            system.cgroup_limits().map_or_else(|| system.total_memory(), |l| l.total_memory);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self {
            made: Instant::now(),
            start_unix_seconds: now,
            memory_bytes,
            state: Mutex::new(State { system, peak_resident_bytes: 0 }),
        }
    }

    pub(crate) fn sample(&self) -> ProcessSample {
        let mut state = self.state.lock();
        let mut sample = read(&mut state.system);
        let seen = sample.peak_resident_bytes.max(sample.resident_bytes).unwrap_or(0);
        state.peak_resident_bytes = state.peak_resident_bytes.max(seen);
        sample.peak_resident_bytes = Some(state.peak_resident_bytes);
        sample
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are f64 in the format itself")]
    pub(crate) fn collect(&self, samples: &mut Samples) {
        let sample = self.sample();
        if let Some(seconds) = sample.cpu_seconds {
            samples.counter(&names::PROCESS_CPU_SECONDS_TOTAL, (), seconds);
        }
        let gauges = [
            (&names::PROCESS_RESIDENT_BYTES, sample.resident_bytes),
            (&names::PROCESS_PEAK_RESIDENT_BYTES, sample.peak_resident_bytes),
            (&names::PROCESS_OPEN_FILES, sample.open_files),
            (&names::PROCESS_MAX_OPEN_FILES, sample.max_open_files),
            (&names::PROCESS_THREADS, sample.threads),
        ];
        for (gauge, value) in gauges {
            if let Some(value) = value {
                samples.gauge(gauge, (), value as f64);
            }
        }
        if let Some(resident) = sample.resident_bytes
            && self.memory_bytes > 0
        {
            let ratio = resident as f64 / self.memory_bytes as f64;
            samples.gauge(&names::PROCESS_MEMORY_RATIO, (), ratio);
        }
        samples.gauge(&names::PROCESS_START_TIME_SECONDS, (), self.start_unix_seconds);
        samples.gauge(&names::PROCESS_UPTIME_SECONDS, (), self.made.elapsed().as_secs_f64());
        let build = (
            Version(env!("CARGO_PKG_VERSION")),
            Arch(std::env::consts::ARCH),
            Os(std::env::consts::OS),
            Profile(if cfg!(debug_assertions) { "debug" } else { "release" }),
        );
        samples.gauge(&names::BUILD_INFO, build, 1.0);
    }
}

fn read(system: &mut System) -> ProcessSample {
    #[cfg(target_os = "linux")]
    if let Some(sample) = linux::read(system) {
        return sample;
    }
    by_sysinfo(system)
}

fn by_sysinfo(system: &mut System) -> ProcessSample {
    let pid = Pid::from_u32(std::process::id());
    let kind = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    let Some(process) = system.process(pid) else { return ProcessSample::default() };
    #[expect(clippy::cast_precision_loss, reason = "milliseconds stay far below 2^53")]
    let cpu_seconds = process.accumulated_cpu_time() as f64 / 1000.0;
    ProcessSample {
        cpu_seconds: Some(cpu_seconds),
        resident_bytes: Some(process.memory()),
        peak_resident_bytes: None,
        open_files: process.open_files().map(|files| files as u64),
        max_open_files: process.open_files_limit().map(|files| files as u64),
        threads: process.tasks().map(|tasks| tasks.len() as u64),
    }
}

/// `/proc` read by hand: three small files, where a general library walks every thread.
#[cfg(target_os = "linux")]
mod linux {
    use std::fs;

    use super::ProcessSample;

    /// The kernel reports times in `USER_HZ`, which is 100 on every architecture that Rust's
    /// standard library supports.
    const TICKS_PER_SECOND: f64 = 100.0;

    pub(super) fn read(_: &mut sysinfo::System) -> Option<ProcessSample> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").ok();
        Some(ProcessSample {
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            peak_resident_bytes: field(&status, "VmHWM:").map(|kib| kib * 1024),
            threads: field(&status, "Threads:"),
            // The directory handle that counts them is one of them.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| (files.count() as u64).saturating_sub(1)),
            max_open_files: limits.as_deref().and_then(|text| field(text, "Max open files")),
        })
    }

    fn field(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Fields 14 and 15, counted after the command name, which may hold spaces and brackets.
    fn cpu_seconds(stat: &str) -> Option<f64> {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let user: f64 = fields.next()?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        Some((user + system) / TICKS_PER_SECOND)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_command_name_may_hold_anything() {
            let stat = "7 (a) b ( c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 4 0";
            assert_eq!(cpu_seconds(stat), Some(2.0));
            assert_eq!(cpu_seconds("nonsense"), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let collector = ProcessCollector::new();
        let sample = collector.sample();
        let resident = sample.resident_bytes.unwrap();
        assert!((100_000..1_000_000_000_000).contains(&resident), "{resident}");
        assert!(sample.peak_resident_bytes.unwrap() >= resident);
        assert!(collector.memory_bytes >= resident);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_and_threads_are_counted() {
        let collector = ProcessCollector::new();
        let before = collector.sample();
        let files: Vec<_> =
            (0..50).map(|_| std::fs::File::open("/proc/self/status").unwrap()).collect();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let after = collector.sample();
        // Other tests of this process open files and start threads too: a lower bound only.
        assert!(after.open_files.unwrap() + 20 >= before.open_files.unwrap() + files.len() as u64);
        assert!(after.threads.unwrap() >= 2);
        assert!(after.max_open_files.unwrap() >= after.open_files.unwrap());
        drop(go);
        assert!(thread.join().unwrap().is_err());
    }

    #[test]
    fn sysinfo_agrees_about_memory() {
        let mut system = System::new();
        let own = read(&mut system).resident_bytes.unwrap();
        let other = by_sysinfo(&mut system).resident_bytes.unwrap();
        assert!(own.abs_diff(other) < 32 * 1024 * 1024, "{own} and {other}");
    }
}
