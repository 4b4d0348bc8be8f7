//! The circuit breaker: after failures the tier is left out, and tried again apart from any request.

use super::Inner;
use super::connection::Connection;
use parking_lot::Mutex;
use redis::{RedisError, ServerErrorKind};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Failures in a row that open the breaker. A connection that is gone opens it at once.
const THRESHOLD: u32 = 3;

#[derive(Default)]
struct State {
    failures: u32,
    is_open: bool,
    /// A task tries to connect again.
    is_recovering: bool,
}

#[derive(Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    opened: AtomicU64,
}

/// How bad a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server answered, and refused this one command: nothing is wrong with the connection.
    Refused,
    /// It took too long, or the server is busy with itself.
    Slow,
    /// The connection is gone, or was never let in.
    Gone,
}

impl Fault {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            // It wants a password that it was not given.
            _ if error.code() == Some("NOAUTH") => Self::Gone,
            redis::ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain,
            ) => Self::Slow,
            // Out of memory with no policy to evict, a replica that is read-only, a command that the user may not run.
            redis::ErrorKind::Server(_) | redis::ErrorKind::UnexpectedReturnType => Self::Refused,
            redis::ErrorKind::Extension => Self::Refused,
            _ if error.is_timeout() => Self::Slow,
            _ => Self::Gone,
        }
    }
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().is_open
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn succeeded(&self) {
        self.state.lock().failures = 0;
    }

    /// Counts a failure; true when it opened the breaker.
    fn failed(&self, fault: Fault) -> bool {
        let mut state = self.state.lock();
        if fault == Fault::Refused || state.is_open {
            return false;
        }
        state.failures += 1;
        if fault == Fault::Slow && state.failures < THRESHOLD {
            return false;
        }
        state.is_open = true;
        self.opened.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Inner {
    /// Counts a failed operation. If that was one too many, the tier is left out from now on, and a task tries to
    /// bring it back.
    pub(super) fn note_failure(self: &Arc<Self>, fault: Fault, reason: &str) {
        if self.breaker.failed(fault) {
            *self.connection.lock() = None;
            tracing::warn!(reason, "Redis is left out of the cache until it answers again");
        }
        self.ensure_recovery();
    }

    /// Starts the task that brings the tier back, where it is needed and not at work (its runtime may have ended).
    pub(super) fn ensure_recovery(self: &Arc<Self>) {
        let mut state = self.breaker.state.lock();
        if !state.is_open || state.is_recovering {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            state.is_recovering = true;
            drop(state);
            runtime.spawn(recover(Recovery(Arc::downgrade(self))));
        }
    }

    async fn knock(&self) -> Result<Connection, RedisError> {
        let timeout = self.options.connect_timeout;
        let work = async {
            let mut connection = self.target.connect(timeout).await?;
            connection.command::<()>(&redis::cmd("PING")).await?;
            Ok(connection)
        };
        let late = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        tokio::time::timeout(timeout, work).await.map_err(late)?
    }
}

/// The task's mark; when the task ends, by whatever way, another may begin.
struct Recovery(Weak<Inner>);

impl Drop for Recovery {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.breaker.state.lock().is_recovering = false;
        }
    }
}

async fn recover(recovery: Recovery) {
    let mut attempt = 0;
    loop {
        let Some(inner) = recovery.0.upgrade() else { return };
        let wait = backoff(inner.options.min_backoff, inner.options.max_backoff, attempt);
        drop(inner);
        tokio::time::sleep(wait).await;
        attempt += 1;
        let Some(inner) = recovery.0.upgrade() else { return };
        match inner.knock().await {
            Ok(connection) => {
                *inner.connection.lock() = Some(connection);
                let mut state = inner.breaker.state.lock();
                state.failures = 0;
                state.is_open = false;
                state.is_recovering = false;
                drop(state);
                tracing::info!(attempt, "Redis answers again and is back in the cache");
                return;
            }
            Err(error) => tracing::debug!(attempt, %error, "Redis does not answer yet"),
        }
    }
}

/// `min * 2^attempt`, at most `max`, and half of that more or less by chance, so that servers that lost the same Redis
/// do not all come back at one moment.
pub(super) fn backoff(min: Duration, max: Duration, attempt: u32) -> Duration {
    let wait = min.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(max);
    wait.mul_f64(0.5 + chance())
}

/// A number from 0 to 1 that differs between processes and calls; std's hash seeds are random.
pub(super) fn chance() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_slow_answers_in_a_row_open_it_and_one_lost_connection() {
        let breaker = Breaker::default();
        assert!(!breaker.failed(Fault::Slow) && !breaker.failed(Fault::Slow));
        breaker.succeeded();
        assert!(!breaker.failed(Fault::Slow) && !breaker.failed(Fault::Slow));
        assert!(!breaker.failed(Fault::Refused), "a refusal is no fault of the connection");
        assert!(breaker.failed(Fault::Slow) && breaker.is_open());
        assert!(!breaker.failed(Fault::Gone), "open already");
        assert!(Breaker::default().failed(Fault::Gone));
    }

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let wait = |attempt| backoff(Duration::from_millis(100), Duration::from_secs(5), attempt);
        for attempt in 0..40 {
            let middle = Duration::from_millis(100 << attempt.min(6)).min(Duration::from_secs(5));
            let waited = wait(attempt);
            assert!(waited >= middle / 2 && waited <= middle * 3 / 2, "{attempt}: {waited:?}");
        }
        let waits: std::collections::HashSet<_> = (0..20).map(|_| wait(3)).collect();
        assert!(waits.len() > 10);
    }
}
