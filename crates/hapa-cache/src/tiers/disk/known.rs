//! Which keys may be in the file, so that most misses need no look into it.

use crate::CacheKey;
use parking_lot::RwLock;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lookups after which it is worth reading the whole index: a program that asks once need not.
const LOOKUPS_TO_LEARN: u64 = 16;
/// Keys of records that are gone are forgotten when there are more of them than of others, and so many beside.
const STALE_KEYS: usize = 1 << 16;

/// First bytes of the keys of all records: some 10 bytes a record. May hold keys of records that are gone; holds those of all that are
/// there, or nothing at all.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    keys: RwLock<Option<HashSet<u64>>>,
    lookups: AtomicU64,
}

impl KnownKeys {
    /// Whether a key is certainly not in the file. Never waits.
    pub(super) fn lacks(&self, key: &CacheKey) -> bool {
        let Some(keys) = self.keys.try_read() else { return false };
        keys.as_ref().is_some_and(|keys| !keys.contains(&short(key)))
    }

    /// Counts a lookup that went into the file. When there were enough of them, one learns all keys, with `read`.
    pub(super) fn looked_up<E>(
        &self,
        read: impl FnOnce() -> Result<HashSet<u64>, E>,
    ) -> Result<(), E> {
        if self.lookups.fetch_add(1, Ordering::Relaxed) < LOOKUPS_TO_LEARN
            || self.keys.try_read().is_none_or(|keys| keys.is_some())
        {
            return Ok(());
        }
        // Held while the index is read, so that whoever stores records meanwhile adds them afterwards.
        let Some(mut keys) = self.keys.try_write() else { return Ok(()) };
        if keys.is_none() {
            *keys = Some(read()?);
        }
        Ok(())
    }

    /// Adds keys of records that are in the file now, `entries` in all.
    pub(super) fn add<'a>(&self, stored: impl Iterator<Item = &'a CacheKey>, entries: u64) {
        let mut keys = self.keys.write();
        let Some(known) = keys.as_mut() else { return };
        known.extend(stored.map(short));
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        if known.len() > entries.saturating_mul(2).saturating_add(STALE_KEYS) {
            *keys = None;
        }
    }

    /// Nothing is known of the file any more.
    pub(super) fn forget(&self) {
        *self.keys.write() = None;
        self.lookups.store(0, Ordering::Relaxed);
    }
}

/// The first bytes of a key, which is a digest: as good as all of it where a mistake costs no more than a look.
pub(super) fn short(key: &CacheKey) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&key.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> CacheKey {
        CacheKey::from_bytes([number; 32])
    }

    fn learned(numbers: &[u8]) -> KnownKeys {
        let known = KnownKeys::default();
        for _ in 0..=LOOKUPS_TO_LEARN {
            let read = || Ok::<_, ()>(numbers.iter().map(|n| short(&key(*n))).collect());
            known.looked_up(read).unwrap();
        }
        known
    }

    #[test]
    fn nothing_is_lacking_before_all_is_known() {
        let known = KnownKeys::default();
        known.add([key(1)].iter(), 1);
        assert!(!known.lacks(&key(2)));
        for _ in 0..LOOKUPS_TO_LEARN {
            known.looked_up(|| Err("read too early")).unwrap();
        }
        known.looked_up(|| Err("unreadable")).unwrap_err();
        assert!(!known.lacks(&key(2)), "what could not be read is not known");
    }

    #[test]
    fn what_was_learned_and_added_is_there() {
        let known = learned(&[1, 2]);
        assert!(!known.lacks(&key(1)) && known.lacks(&key(3)));
        known.add([key(3)].iter(), 3);
        assert!(!known.lacks(&key(3)));
        known.forget();
        assert!(!known.lacks(&key(4)));
    }

    #[test]
    fn keys_of_records_that_are_gone_do_not_pile_up() {
        let known = learned(&[]);
        for number in 0..2 * STALE_KEYS as u64 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            known.add([CacheKey::from_bytes(bytes)].iter(), 10);
            let held = known.keys.read().as_ref().map_or(0, HashSet::len);
            assert!(held <= 2 * 10 + STALE_KEYS);
        }
        assert!(!known.lacks(&key(9)), "forgotten, to be learned anew");
    }
}
