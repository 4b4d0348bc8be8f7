//! The keys that a running server knows.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::caller::Caller;
use super::file::{KeyFile, KeyFileError, KeySet};
use super::key::ApiKey;
use crate::limits::Limits;
use crate::stamp::{LOOK, Stamp};
use crate::state::unix_seconds;

/// Follows a [`KeyFile`].
///
/// Once there were keys, they are demanded until the server ends: a file that is gone or damaged leaves the keys that
/// were read last, and never opens the door.
pub(crate) struct Keyring {
    file: KeyFile,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    keys: Option<KeySet>,
    /// By the keys' ids. They outlive reading the file again: a new key gives nobody a new minute.
    limits: HashMap<String, Arc<Limits>>,
    stamp: Option<Stamp>,
}

/// What became of a key that was presented.
pub(crate) enum Presented {
    /// No keys are demanded.
    NotNeeded,
    /// It is good.
    Good(Arc<Caller>),
    /// There is none like it, or not any more.
    Bad,
}

impl Keyring {
    /// Reads the file; one that is not there is waited for.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn open(file: KeyFile) -> Result<Self, KeyFileError> {
        let ring = Self { file, known: RwLock::default() };
        ring.reload()?;
        Ok(ring)
    }

    /// Reads the file again. The keys that were known stay when that fails.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn reload(&self) -> Result<(), KeyFileError> {
        // Before reading: what is written in between is seen at the next look.
        let stamp = Stamp::of(self.file.path());
        let loaded = self.file.load();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.stamp = stamp;
        match loaded? {
            Some(keys) => {
                let old = std::mem::take(&mut known.limits);
                let limits = keys.records().map(|record| {
                    let kept = old.get(&record.id).filter(|limits| limits.rate() == record.rate);
                    let made = || Arc::new(Limits::new(record.rate));
                    (record.id.clone(), kept.cloned().unwrap_or_else(made))
                });
                known.limits = limits.collect();
                known.keys = Some(keys);
            }
            None if known.keys.is_some() => {
                let path = self.file.path().display();
                tracing::error!("the key file {path} is gone; the keys that it held stay in force");
            }
            None => {}
        }
        Ok(())
    }

    fn has_changed(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).stamp;
        Stamp::of(self.file.path()) != known
    }

    /// Follows the file until it is dropped with the server's task.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let ring = Arc::clone(&self);
            let looked =
                tokio::task::spawn_blocking(move || ring.has_changed().then(|| ring.reload()));
            match looked.await {
                Ok(Some(Ok(()))) => tracing::info!("the key file was read again"),
                Ok(Some(Err(error))) => {
                    tracing::error!(%error, "the keys that were read last stay in force");
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Whether keys are demanded.
    pub(crate) fn is_needed(&self) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys.is_some()
    }

    /// Whether anybody can pass now.
    pub(crate) fn has_active_key(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let now = unix_seconds();
        known.keys.as_ref().is_some_and(|keys| keys.records().any(|key| key.state(now) == "active"))
    }

    /// Whose key that is.
    pub(crate) fn look_up(&self, presented: Option<&str>) -> Presented {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(keys) = &known.keys else { return Presented::NotNeeded };
        let found = presented.and_then(ApiKey::parse).and_then(|key| keys.find(&key).cloned());
        match found.filter(|record| record.state(unix_seconds()) == "active") {
            Some(record) => match known.limits.get(&record.id) {
                Some(limits) => {
                    let limits = Arc::clone(limits);
                    Presented::Good(Arc::new(Caller { record, limits }))
                }
                None => Presented::Bad,
            },
            None => Presented::Bad,
        }
    }
}
