//! The tables in one redb file, and the rule by which records leave.
//!
//! | table | from | to |
//! | --- | --- | --- |
//! | `records` | key | encoded [`Record`] |
//! | `index` | key | its place in the order, its charge |
//! | `order` | place, rising | key |
//! | `state` | name | format version, sum of charges, number of entries, next place |
//!
//! Everything that one `put` changes is one transaction: after a crash all of it is there, or none.

use super::super::record::{Record, Unreadable};
use crate::CacheKey;
use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, ReadTransaction,
    ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    WriteTransaction,
};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

type Key = [u8; 32];

const RECORDS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("records");
const INDEX: TableDefinition<'_, Key, (u64, u32)> = TableDefinition::new("index");
const ORDER: TableDefinition<'_, u64, Key> = TableDefinition::new("order");
const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");

/// Version of the tables above. A file of another version is set aside.
const DISK_FORMAT: u64 = 1;
/// Pages of a redb file.
const PAGE: usize = 4096;
/// What the two small tables take for an entry, their half-empty pages included.
const TABLES_BYTES: usize = 192;

/// Why a file could not be used.
#[derive(Debug)]
pub(super) enum StoreError {
    /// It is broken, or of another version: set it aside and begin anew.
    Unusable(String),
    /// The disk, its permissions, or another process is in the way: it may be well later.
    Trouble(String),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        let error = error.into();
        match &error {
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. } => Self::Unusable(error.to_string()),
            redb::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
                Self::Unusable(error.to_string())
            }
            redb::Error::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Unusable("the file ends too early".to_owned())
            }
            _ => Self::Trouble(error.to_string()),
        }
    }
}

enum Handle {
    Writer(Database),
    /// Another process writes; this one follows.
    Reader(ReadOnlyDatabase),
    /// While the store is dropped.
    Closed,
}

/// Sums that are kept beside the entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    next: u64,
}

/// What one write did.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) sums: Sums,
    pub(super) stored: u64,
    pub(super) evicted: u64,
    pub(super) removed: u64,
}

/// An open file.
pub(super) struct Store {
    handle: Handle,
}

impl Drop for Store {
    /// Closing a file reads it once more, and damage may come to light then; nobody is left who would want to know.
    fn drop(&mut self) {
        let handle = std::mem::replace(&mut self.handle, Handle::Closed);
        let _ = guarded(|| {
            drop(handle);
            Ok(())
        });
    }
}

/// redb trusts pages that it wrote: one that was altered since may make it panic. That is a broken file, not a bug of
/// the request that met it.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        Err(StoreError::Unusable(format!("reading it failed: {said}")))
    })
}

/// Never seen: nobody has a store that is dropped.
fn closed() -> StoreError {
    StoreError::Trouble("it is closed".to_owned())
}

impl Store {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
        match builder.create(path) {
            Ok(database) => {
                let store = Self { handle: Handle::Writer(database) };
                store.begin_or_check()?;
                Ok(store)
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                let store = Self { handle: Handle::Reader(builder.open_read_only(path)?) };
                store.check(&store.read()?)?;
                Ok(store)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.handle, Handle::Reader(_))
    }

    fn read(&self) -> Result<ReadTransaction, StoreError> {
        Ok(match &self.handle {
            Handle::Writer(database) => database.begin_read()?,
            Handle::Reader(database) => database.begin_read()?,
            Handle::Closed => return Err(closed()),
        })
    }

    fn write(&self) -> Result<WriteTransaction, StoreError> {
        let Handle::Writer(database) = &self.handle else {
            return Err(StoreError::Trouble("another process writes to this file".to_owned()));
        };
        let mut write = database.begin_write()?;
        // So that opening after a crash takes milliseconds, whatever the size.
        write.set_quick_repair(true);
        Ok(write)
    }

    fn begin_or_check(&self) -> Result<(), StoreError> {
        let read = self.read()?;
        if read.list_tables()?.next().is_some() {
            return self.check(&read);
        }
        drop(read);
        let write = self.write()?;
        {
            write.open_table(STATE)?.insert("format", DISK_FORMAT)?;
            write.open_table(RECORDS)?;
            write.open_table(INDEX)?;
            write.open_table(ORDER)?;
        }
        Ok(write.commit()?)
    }

    fn check(&self, read: &ReadTransaction) -> Result<(), StoreError> {
        let format = match read.open_table(STATE) {
            Ok(state) => state.get("format")?.map(|format| format.value()),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        match format {
            Some(DISK_FORMAT) => Ok(()),
            Some(other) => Err(StoreError::Unusable(format!(
                "it has format {other}, this program writes format {DISK_FORMAT}"
            ))),
            None => Err(StoreError::Unusable("it is not a HAPA cache".to_owned())),
        }
    }

    pub(super) fn sums(&self) -> Result<Sums, StoreError> {
        sums(&self.read()?.open_table(STATE)?)
    }

    /// The record of a key, as found.
    pub(super) fn get(
        &self,
        key: &CacheKey,
    ) -> Result<Option<Result<Record, Unreadable>>, StoreError> {
        let records = self.read()?.open_table(RECORDS)?;
        let found = records.get(key.as_bytes())?;
        Ok(found.map(|bytes| Record::parse(key, bytes.value())))
    }

    /// The keys of all records, each as `short` puts it.
    pub(super) fn keys(
        &self,
        short: impl Fn(&CacheKey) -> u64,
    ) -> Result<HashSet<u64>, StoreError> {
        let index = self.read()?.open_table(INDEX)?;
        let mut keys = HashSet::with_capacity(usize::try_from(index.len()?).unwrap_or_default());
        for entry in index.iter()? {
            keys.insert(short(&CacheKey::from_bytes(entry?.0.value())));
        }
        Ok(keys)
    }

    /// Stores records and takes out others, in one transaction. Then the oldest leave until the charges are within
    /// `max_bytes`; one that `was_used` since it came gets another round at the young end.
    pub(super) fn put(
        &self,
        records: &[(CacheKey, Record)],
        remove: &[CacheKey],
        max_bytes: u64,
        mut was_used: impl FnMut(&CacheKey) -> bool,
    ) -> Result<Written, StoreError> {
        let write = self.write()?;
        let mut written = Written::default();
        {
            let mut tables = Tables::open(&write)?;
            for key in remove {
                written.removed += u64::from(tables.take_out(key.as_bytes())?);
            }
            for (key, record) in records {
                let bytes = record.encode(key);
                let charge = charge(bytes.len());
                tables.take_out(key.as_bytes())?;
                if u64::from(charge) > max_bytes / 2 {
                    written.evicted += 1;
                    continue;
                }
                tables.records.insert(key.as_bytes(), bytes.as_slice())?;
                tables.line_up(key.as_bytes(), charge)?;
                written.stored += 1;
            }
            while tables.sums.bytes > max_bytes {
                let Some(key) = tables.leave_line()? else { break };
                let digest = CacheKey::from_bytes(key.0);
                if was_used(&digest) {
                    tables.line_up(&key.0, key.1)?;
                } else {
                    tables.records.remove(&key.0)?;
                    written.evicted += 1;
                }
            }
            written.sums = tables.sums;
            tables.keep_sums()?;
        }
        write.commit()?;
        Ok(written)
    }

    pub(super) fn clear(&self) -> Result<u64, StoreError> {
        let write = self.write()?;
        let entries = {
            let mut state = write.open_table(STATE)?;
            let entries = sums(&state)?.entries;
            state.insert("bytes", 0)?;
            state.insert("entries", 0)?;
            entries
        };
        write.delete_table(RECORDS)?;
        write.delete_table(INDEX)?;
        write.delete_table(ORDER)?;
        write.open_table(RECORDS)?;
        write.open_table(INDEX)?;
        write.open_table(ORDER)?;
        write.commit()?;
        Ok(entries)
    }

    /// Calls `see` with what is stored until it says stop; from the youngest, or from the oldest.
    pub(super) fn walk(
        &self,
        youngest_first: bool,
        mut see: impl FnMut(CacheKey, Result<Record, Unreadable>) -> bool,
    ) -> Result<(), StoreError> {
        let read = self.read()?;
        let (order, records) = (read.open_table(ORDER)?, read.open_table(RECORDS)?);
        let mut places = order.iter()?;
        loop {
            let next = if youngest_first { places.next_back() } else { places.next() };
            let Some(next) = next.transpose()? else { return Ok(()) };
            let key = CacheKey::from_bytes(next.1.value());
            let Some(bytes) = records.get(key.as_bytes())? else { continue };
            if !see(key, Record::parse(&key, bytes.value())) {
                return Ok(());
            }
        }
    }

    /// Gives free pages back to the file system. Nobody may be reading.
    pub(super) fn compact(&mut self) -> Result<bool, StoreError> {
        match &mut self.handle {
            Handle::Writer(database) => Ok(database.compact()?),
            Handle::Reader(_) | Handle::Closed => Ok(false),
        }
    }

    /// Recomputes the sums from the entries. For tests and `hapa cache` after doubts.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        let read = self.read()?;
        let wrong = |what: String| Err(StoreError::Unusable(what));
        let (order, index) = (read.open_table(ORDER)?, read.open_table(INDEX)?);
        let records = read.open_table(RECORDS)?;
        let kept = sums(&read.open_table(STATE)?)?;
        if (order.len()?, index.len()?, records.len()?)
            != (kept.entries, kept.entries, kept.entries)
        {
            return wrong(format!("tables differ in length from {kept:?}"));
        }
        let mut bytes = 0;
        for place in order.iter()? {
            let (place, key) = place?;
            let Some(entry) = index.get(key.value())? else {
                return wrong("a key in the order is not in the index".to_owned());
            };
            let (at, charged) = entry.value();
            let stored = records.get(key.value())?.map_or(0, |bytes| bytes.value().len());
            if at != place.value() || charge(stored) != charged {
                return wrong(format!("entry {at} at {} is charged {charged}", place.value()));
            }
            bytes += u64::from(charged);
        }
        if bytes != kept.bytes {
            return wrong(format!("{bytes} bytes are charged, {} were kept", kept.bytes));
        }
        Ok(())
    }
}

/// The open tables of one write.
struct Tables<'t> {
    records: redb::Table<'t, Key, &'static [u8]>,
    index: redb::Table<'t, Key, (u64, u32)>,
    order: redb::Table<'t, u64, Key>,
    state: redb::Table<'t, &'static str, u64>,
    sums: Sums,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, StoreError> {
        let state = write.open_table(STATE)?;
        Ok(Self {
            sums: sums(&state)?,
            records: write.open_table(RECORDS)?,
            index: write.open_table(INDEX)?,
            order: write.open_table(ORDER)?,
            state,
        })
    }

    /// Gives a key the youngest place.
    fn line_up(&mut self, key: &Key, charge: u32) -> Result<(), StoreError> {
        let place = self.sums.next;
        self.index.insert(key, (place, charge))?;
        self.order.insert(place, key)?;
        self.sums.next += 1;
        self.sums.entries += 1;
        self.sums.bytes += u64::from(charge);
        Ok(())
    }

    /// Takes the oldest key out of line; its record stays.
    fn leave_line(&mut self) -> Result<Option<(Key, u32)>, StoreError> {
        let Some(key) = self.order.pop_first()?.map(|(_, key)| key.value()) else {
            return Ok(None);
        };
        let charge = self.index.remove(&key)?.map_or(0, |entry| entry.value().1);
        self.left(charge);
        Ok(Some((key, charge)))
    }

    fn take_out(&mut self, key: &Key) -> Result<bool, StoreError> {
        let Some((place, charge)) = self.index.remove(key)?.map(|entry| entry.value()) else {
            return Ok(false);
        };
        self.order.remove(place)?;
        self.records.remove(key)?;
        self.left(charge);
        Ok(true)
    }

    fn left(&mut self, charge: u32) {
        self.sums.entries = self.sums.entries.saturating_sub(1);
        self.sums.bytes = self.sums.bytes.saturating_sub(u64::from(charge));
    }

    fn keep_sums(&mut self) -> Result<(), StoreError> {
        let Sums { entries, bytes, next } = self.sums;
        for (name, value) in [("entries", entries), ("bytes", bytes), ("next", next)] {
            self.state.insert(name, value)?;
        }
        Ok(())
    }
}

fn sums(state: &impl ReadableTable<&'static str, u64>) -> Result<Sums, StoreError> {
    let read =
        |name| -> Result<u64, StoreError> { Ok(state.get(name)?.map_or(0, |value| value.value())) };
    Ok(Sums { entries: read("entries")?, bytes: read("bytes")?, next: read("next")? })
}

/// What an entry takes in the file. Small records share pages that are two thirds full; larger ones get whole pages,
/// a power of two of them.
fn charge(record_bytes: usize) -> u32 {
    let stored = record_bytes + size_of::<Key>() + 16;
    let pages = if stored <= PAGE / 3 {
        stored + stored / 2
    } else {
        stored.div_ceil(PAGE).next_power_of_two() * PAGE
    };
    u32::try_from(pages + TABLES_BYTES).unwrap_or(u32::MAX)
}
