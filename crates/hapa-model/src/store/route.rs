//! What is common to the routes by which bytes come: limits, failures, and waiting that can be cancelled.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::error::ModelError;
use crate::store::progress::ProgressSink;

/// How patient the store is with the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Longest time to resolve a host name, and again to connect to it.
    pub connect: Duration,
    /// Longest silence in the middle of an answer.
    pub stall: Duration,
    /// How many times in a row a transfer may fail without a single new byte.
    pub retries: u32,
    /// Pause before the first retry; doubles with each, up to 8 seconds.
    pub backoff: Duration,
}

impl Default for NetworkOptions {
    /// 5 s to connect, 30 s of silence, 5 retries beginning after half a second.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(30),
            retries: 5,
            backoff: Duration::from_millis(500),
        }
    }
}

impl NetworkOptions {
    /// The pause before retry number `attempt`, counted from 0.
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        self.backoff.saturating_mul(1 << attempt.min(16)).min(Duration::from_secs(8))
    }
}

/// Why a route did not deliver.
#[derive(Debug)]
pub(crate) enum RouteError {
    /// No other route would do better: cancelled, no room, or the disk refuses.
    Stop(ModelError),
    /// Another route may.
    Failed(String),
    /// The route delivered bytes, but not these.
    WrongBytes(ModelError),
    /// The route works and says that there is no such thing.
    Absent(String),
}

impl From<ModelError> for RouteError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::DigestMismatch { .. } => Self::WrongBytes(error),
            error => Self::Stop(error),
        }
    }
}

impl RouteError {
    /// The line for [`ModelError::Fetch`].
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Stop(error) | Self::WrongBytes(error) => error.to_string(),
            Self::Failed(why) | Self::Absent(why) => why.clone(),
        }
    }
}

/// How often a wait looks whether it was cancelled.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Fails when the sink says that nobody wants the work any more.
pub(crate) fn check(sink: &dyn ProgressSink) -> Result<(), ModelError> {
    if sink.is_cancelled() { Err(ModelError::Cancelled) } else { Ok(()) }
}

/// Sleeps, unless cancelled.
pub(crate) fn sleep(time: Duration, sink: &dyn ProgressSink) -> Result<(), ModelError> {
    let end = Instant::now() + time;
    loop {
        check(sink)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// Runs a blocking call on a thread of its own, so that neither a name server nor a proxy that never answers can hold up
/// a cancelled load or exceed `limit`. The thread of an abandoned call ends with the call's own timeouts.
pub(crate) fn call<T: Send + 'static>(
    limit: Duration,
    sink: &dyn ProgressSink,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, RouteError> {
    let (sender, receiver) = sync_channel(1);
    let spawned = std::thread::Builder::new().name("hapa-fetch".to_owned()).spawn(move || {
        // Nobody listens when the call was abandoned.
        let _ = sender.send(work());
    });
    spawned.map_err(|error| RouteError::Failed(format!("no thread for the request: {error}")))?;
    let begun = Instant::now();
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(answer) => return answer.map_err(RouteError::Failed),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() < limit => check(sink)?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(RouteError::Failed(format!("no answer within {} s", limit.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(RouteError::Failed("the request ended without an answer".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::progress::NoProgress;
    use crate::store::progress::recording::Recording;

    #[test]
    fn pauses_double_and_are_bounded() {
        let network = NetworkOptions::default();
        assert_eq!(network.pause(0), Duration::from_millis(500));
        assert_eq!(network.pause(2), Duration::from_secs(2));
        assert_eq!(network.pause(u32::MAX), Duration::from_secs(8));
    }

    #[test]
    fn a_call_that_hangs_is_left_behind() {
        let hang = || {
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        };
        let limit = Duration::from_millis(80);
        let late = call(limit, &NoProgress, hang).expect_err("late");
        assert!(late.why().contains("no answer within"), "{}", late.why());
        let sink = Recording::default();
        sink.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        let begun = Instant::now();
        let cancelled = call(Duration::from_secs(60), &sink, hang).expect_err("cancelled");
        assert!(matches!(cancelled, RouteError::Stop(ModelError::Cancelled)));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
