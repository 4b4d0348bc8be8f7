//! Taking the content of a tiered cache out into a snapshot and in again.

use super::super::snapshot::{SnapshotReader, SnapshotWriter};
use super::TieredCache;
use crate::{EntryOptions, Persist, Record, Weigh};
use std::io::{self, Read, Write};

/// Records that are put into the tiers together.
const BATCH: usize = 256;

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Values that were taken in.
    pub taken: u64,
    /// Values that were damaged, of another version, or past their time.
    pub passed_over: u64,
}

impl<V: Persist + Weigh + Clone + Send + Sync + 'static> TieredCache<V> {
    /// Writes what memory holds to a snapshot; how many values. A disk tier exports itself: [`DiskTier::walk`].
    ///
    /// [`DiskTier::walk`]: crate::DiskTier::walk
    ///
    /// # Errors
    /// What writing gives.
    pub fn export(&self, to: impl Write) -> io::Result<u64> {
        let mut writer = SnapshotWriter::new(to)?;
        let now = self.shared.clock.unix();
        for (key, hit) in self.shared.memory.entries() {
            let ttl = self.shared.memory.remaining_ttl(&hit);
            writer.write(&key, &Record::of::<V>(&hit, now, hit.cost(), ttl))?;
        }
        writer.finish()
    }

    /// Takes a snapshot into memory and into every tier, and waits for the tiers.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for what is no snapshot or ends too early; what was read before that is taken
    /// in. [`io::ErrorKind::Other`] when a tier does not take it.
    pub async fn import(&self, from: impl Read) -> io::Result<Imported> {
        let mut reader = SnapshotReader::new(from)?;
        let now = self.shared.clock.unix();
        let mut imported = Imported::default();
        let mut batch = Vec::with_capacity(BATCH);
        let mut outcome = Ok(());
        loop {
            let next = reader.next();
            let is_end = !matches!(next, Some(Ok(_)));
            match next {
                Some(Ok((key, record))) => match (record.remaining(now), record.decode::<V>()) {
                    (Some(left), Some(value)) => {
                        let entry = EntryOptions { cost: record.cost, ttl: left };
                        self.shared.memory.insert_with(key, value, entry);
                        batch.push((key, record));
                        imported.taken += 1;
                    }
                    _ => imported.passed_over += 1,
                },
                Some(Err(error)) => outcome = Err(error),
                None => {}
            }
            if batch.len() == BATCH || is_end && !batch.is_empty() {
                for below in &self.shared.below {
                    below.tier.put(&batch).await.map_err(io::Error::other)?;
                }
                batch.clear();
            }
            if is_end {
                break;
            }
        }
        imported.passed_over += reader.passed_over();
        outcome.map(|()| imported)
    }
}
