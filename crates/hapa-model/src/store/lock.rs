//! One fetch for many processes: an advisory lock on a file that stays.
//!
//! The operating system drops the lock when its holder dies, however it dies, so a killed download never blocks the
//! next one. Lock files are empty and never removed: removing one while another process waits on it would let two
//! processes hold "the" lock.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::error::{ModelError, Result};
use crate::store::progress::ProgressSink;

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct StoreLock {
    /// `None` on file systems that know no locks.
    file: Option<File>,
}

impl StoreLock {
    const POLL: Duration = Duration::from_millis(100);

    /// Waits for the lock, calling `waiting` ten times a second meanwhile.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`] when the sink says so, [`ModelError::Io`] when the file cannot be made.
    pub(crate) fn acquire(
        path: &Path,
        sink: &dyn ProgressSink,
        mut waiting: impl FnMut(),
    ) -> Result<Self> {
        let io = |action| {
            let path = path.to_owned();
            move |source| ModelError::Io { action, path, source }
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io("create the folder of"))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(io("open the lock file"))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file: Some(file) }),
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    if sink.is_cancelled() {
                        return Err(ModelError::Cancelled);
                    }
                    std::thread::sleep(Self::POLL);
                }
                Err(TryLockError::Error(error))
                    if error.kind() == std::io::ErrorKind::Unsupported =>
                {
                    tracing::warn!(path = %path.display(), "this file system has no locks; \
                        do not fetch the same model from two processes at once");
                    return Ok(Self { file: None });
                }
                Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
            }
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_acquire(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path.parent()?).ok()?;
        let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        match file.try_lock() {
            Ok(()) => Some(Self { file: Some(file) }),
            Err(_) => None,
        }
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Closing the file would unlock it too; a failure here changes nothing.
            let _ = file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::progress::NoProgress;
    use crate::store::progress::recording::Recording;

    #[test]
    fn only_one_holds_it() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("locks/a.lock");
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _lock = StoreLock::acquire(&path, &NoProgress, || ()).expect("lock");
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_waiter_can_be_cancelled() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.lock");
        let held = StoreLock::acquire(&path, &NoProgress, || ()).expect("free");
        let sink = Recording::default();
        let mut waits = 0;
        let result = StoreLock::acquire(&path, &sink, || {
            waits += 1;
            sink.cancelled.store(true, Ordering::Relaxed);
        });
        assert!(matches!(result, Err(ModelError::Cancelled)));
        assert_eq!(waits, 1);
        assert!(StoreLock::try_acquire(&path).is_none());
        drop(held);
        assert!(StoreLock::try_acquire(&path).is_some());
    }
}
