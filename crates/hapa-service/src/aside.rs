//! Work beside generations: tokens that are counted, texts that are tokenised, code that is checked.
//!
//! No engine's queue bounds it, and it takes threads and, of code that nests, stack by the length of its text. So it has
//! bounds of its own: how much text is worked on at once, and how many pieces wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ServiceError;
use crate::generate::off_runtime;

/// Text that is worked on at once. A byte of code takes up to 2 KiB of stack where it nests.
const ROOM_BYTES: usize = 512 << 10;
/// Most pieces at once.
const MOST_AT_ONCE: usize = 16;
/// Most pieces that wait.
const MOST_WAITING: usize = 64;

/// Lets work in.
#[derive(Debug)]
pub(crate) struct Aside {
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for Aside {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(ROOM_BYTES)), waiting: AtomicUsize::new(0) }
    }
}

impl Aside {
    /// Does the work on so many bytes of text, on a thread that may block. What has begun goes on when its caller leaves, and
    /// keeps its room until it is done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let room = self.room_for(bytes).await?;
        off_runtime(move || {
            let _room = room;
            work()
        })
        .await
    }

    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ServiceError> {
        let share = bytes.clamp(ROOM_BYTES / MOST_AT_ONCE, ROOM_BYTES) as u32;
        let room = || Arc::clone(&self.room);
        if let Ok(permit) = room().try_acquire_many_owned(share) {
            return Ok(permit);
        }
        let _waits = Waits::enter(&self.waiting)?;
        let permit = room().acquire_many_owned(share).await;
        permit.map_err(|_| ServiceError::internal("the room for work beside generations is closed"))
    }
}

/// One of those who wait.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Result<Self, ServiceError> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let entered = Self(waiting);
        if before < MOST_WAITING {
            return Ok(entered);
        }
        Err(ServiceError::Overloaded {
            problem: format!("{MOST_WAITING} texts wait to be checked or counted already"),
            retry_after: Duration::from_secs(1),
        })
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What there is until a deadline.
pub(crate) async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), work)
            .await
            .unwrap_or(Err(ServiceError::DeadlinePassed)),
        None => work.await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_over_the_bounds_waits_or_is_refused() {
        let aside = Arc::new(Aside::default());
        let (open, gate) = mpsc::channel::<()>();
        let first = {
            let aside = Arc::clone(&aside);
            tokio::spawn(async move { aside.run(usize::MAX, move || gate.recv().is_err()).await })
        };
        while aside.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let deadline = Some(Instant::now() + Duration::from_millis(20));
        let late = within(deadline, aside.run(1, || ())).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlinePassed);
        assert_eq!(aside.waiting.load(Ordering::Relaxed), 0, "who left waits no more");
        let pieces = (0..MOST_WAITING + 5).map(|_| aside.run(1, || ()));
        let all = tokio::join!(join_all(pieces), async {
            while aside.waiting.load(Ordering::Relaxed) < MOST_WAITING {
                tokio::task::yield_now().await;
            }
            drop(open);
        });
        let refused: Vec<_> = all.0.into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), 5);
        assert!(refused.iter().all(|error| error.kind() == ErrorKind::Overloaded));
        assert!(first.await.unwrap().unwrap());
        assert_eq!(aside.room.available_permits(), ROOM_BYTES);
    }

    #[tokio::test]
    async fn a_panic_gives_the_room_back_and_keeps_its_words() {
        let aside = Aside::default();
        let error = aside.run(1, || panic!("a secret")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(aside.room.available_permits(), ROOM_BYTES);
    }
}
