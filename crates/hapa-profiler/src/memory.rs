//! Memory of the process: resident, largest so far, and its part of the system's.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// One look at the memory.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct MemorySample {
    /// Resident memory of this process.
    pub resident_bytes: u64,
    /// Largest resident memory so far: as the system keeps it where it does (Linux), else of the
    /// samples that this tracker took.
    pub peak_resident_bytes: u64,
    /// Memory of the machine, or of its container where that is limited.
    pub system_total_bytes: u64,
    /// Memory that could still be had.
    pub system_available_bytes: u64,
    /// Resident memory as a part of the system's, 0 to 100.
    pub percent_of_system: f64,
}

#[derive(Debug)]
struct State {
    system: System,
    peak_resident_bytes: u64,
}

/// Looks at the memory of this process. Cheap to clone; clones share the peak.
///
/// One sample takes tens of microseconds (the kernel is asked).
#[derive(Debug, Clone)]
pub struct MemoryTracker {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTracker {
    /// A tracker.
    pub fn new() -> Self {
        let state = State { system: System::new(), peak_resident_bytes: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Looks now.
    pub fn sample(&self) -> MemorySample {
        let mut state = self.state.lock();
        let resident_bytes = resident_bytes(&mut state.system);
        let peak = peak_resident_bytes().unwrap_or(0).max(resident_bytes);
        state.peak_resident_bytes = state.peak_resident_bytes.max(peak);
        state.system.refresh_memory();
        let (total, available) = match state.system.cgroup_limits() {
            Some(limits) => (limits.total_memory, limits.free_memory),
            None => (state.system.total_memory(), state.system.available_memory()),
        };
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let percent = if total == 0 { 0.0 } else { 100.0 * resident_bytes as f64 / total as f64 };
        MemorySample {
            resident_bytes,
            peak_resident_bytes: state.peak_resident_bytes,
            system_total_bytes: total,
            system_available_bytes: available,
            percent_of_system: percent,
        }
    }

    /// Resident bytes now, without the rest of a sample.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(&mut self.state.lock().system)
    }
}

fn resident_bytes(system: &mut System) -> u64 {
    if let Some(bytes) = proc_status("VmRSS:") {
        return bytes;
    }
    let pid = Pid::from_u32(std::process::id());
    let kind = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    system.process(pid).map_or(0, sysinfo::Process::memory)
}

/// Resident bytes now, for scopes that ask; 0 where the system has no `/proc`.
pub(crate) fn resident_bytes_now() -> u64 {
    proc_status("VmRSS:").unwrap_or(0)
}

fn peak_resident_bytes() -> Option<u64> {
    proc_status("VmHWM:")
}

/// A line of `/proc/self/status` that is in kB. `None` on other systems.
fn proc_status(name: &str) -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// `12.3 MB`: bytes for people, in powers of 1024.
pub(crate) fn human_bytes(bytes: f64) -> String {
    let mut value = bytes.abs();
    let sign = if bytes < 0.0 { "-" } else { "" };
    for unit in ["B", "KB", "MB", "GB"] {
        if value < 1024.0 {
            let digits = if unit == "B" { 0 } else { 1 };
            return format!("{sign}{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{sign}{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_seen() {
        let tracker = MemoryTracker::new();
        let before = tracker.sample();
        let buffer = vec![1_u8; 64 << 20];
        let during = tracker.sample();
        assert!(
            during.resident_bytes >= before.resident_bytes + (48 << 20),
            "{before:?} {during:?}"
        );
        assert!(during.peak_resident_bytes >= during.resident_bytes);
        drop(std::hint::black_box(buffer));
        let after = tracker.sample();
        assert!(after.resident_bytes + (48 << 20) <= during.resident_bytes);
        assert!(after.peak_resident_bytes >= during.resident_bytes);
        assert!(after.percent_of_system > 0.0 && after.percent_of_system < 100.0);
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(human_bytes(0.0), "0 B");
        assert_eq!(human_bytes(1536.0), "1.5 KB");
        assert_eq!(human_bytes(-3.0 * 1024.0 * 1024.0), "-3.0 MB");
        assert_eq!(human_bytes(5e15), "4547.5 TB");
    }
}
