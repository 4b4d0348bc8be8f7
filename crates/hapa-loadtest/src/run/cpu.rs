//! Processor time of the calling thread.

/// Seconds that this thread has computed; `None` where the system does not tell in a file.
pub(super) fn thread_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 * 1e-9)
}
