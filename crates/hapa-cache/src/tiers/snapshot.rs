//! Snapshots: records in a file of their own, to be carried to another machine or kept.
//!
//! ```text
//! "HAPACACHE" | version u8 | { length u32 | key 32 bytes | record } ... | 0 u32 | number of records u64
//! ```
//!
//! Each record carries its own checksum; the end mark and the number tell a cut file from a whole one.

use super::record::Record;
use crate::CacheKey;
use std::io::{self, Read, Write};

const MAGIC: &[u8; 9] = b"HAPACACHE";
const VERSION: u8 = 1;
/// No record is larger; a length beyond is damage.
const LARGEST: u32 = 256 << 20;

/// Writes a snapshot. It is whole only after [`finish`](Self::finish).
#[derive(Debug)]
pub struct SnapshotWriter<W> {
    to: W,
    records: u64,
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins a snapshot; give it something buffered.
    ///
    /// # Errors
    /// What writing gives.
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(MAGIC)?;
        to.write_all(&[VERSION])?;
        Ok(Self { to, records: 0 })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// What writing gives; a record beyond 256 MiB is refused.
    pub fn write(&mut self, key: &CacheKey, record: &Record) -> io::Result<()> {
        let bytes = record.encode(key);
        let length = u32::try_from(bytes.len() + 32).ok().filter(|length| *length <= LARGEST);
        let length = length
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a record is too large"))?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(key.as_bytes())?;
        self.to.write_all(&bytes)?;
        self.records += 1;
        Ok(())
    }

    /// Writes the end mark and gives the number of records.
    ///
    /// # Errors
    /// What writing gives.
    pub fn finish(mut self) -> io::Result<u64> {
        self.to.write_all(&0u32.to_le_bytes())?;
        self.to.write_all(&self.records.to_le_bytes())?;
        self.to.flush()?;
        Ok(self.records)
    }
}

/// Reads a snapshot, record by record; give it something buffered. Damaged records, and those of another version, are
/// passed over and counted. A file that is no snapshot, or ends too early, gives an error.
#[derive(Debug)]
pub struct SnapshotReader<R> {
    from: R,
    seen: u64,
    passed_over: u64,
    ended: bool,
}

impl<R: Read> SnapshotReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for what is no snapshot, or one of another version.
    pub fn new(mut from: R) -> io::Result<Self> {
        let mut head = [0; 10];
        from.read_exact(&mut head).map_err(|_| invalid("it is not a snapshot of a HAPA cache"))?;
        if head[..9] != MAGIC[..] {
            return Err(invalid("it is not a snapshot of a HAPA cache"));
        }
        if head[9] != VERSION {
            return Err(invalid(&format!(
                "it has version {}, this program reads version {VERSION}",
                head[9]
            )));
        }
        Ok(Self { from, seen: 0, passed_over: 0, ended: false })
    }

    /// Records that could not be used so far.
    #[must_use]
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    fn read(&mut self) -> io::Result<Option<(CacheKey, Record)>> {
        loop {
            let mut length = [0; 4];
            self.from.read_exact(&mut length).map_err(cut)?;
            let length = u32::from_le_bytes(length);
            if length == 0 {
                let mut records = [0; 8];
                self.from.read_exact(&mut records).map_err(cut)?;
                if u64::from_le_bytes(records) != self.seen {
                    return Err(invalid("its number of records is wrong"));
                }
                return Ok(None);
            }
            if !(32..=LARGEST).contains(&length) {
                return Err(invalid("the length of a record is wrong"));
            }
            let mut key = [0; 32];
            self.from.read_exact(&mut key).map_err(cut)?;
            // Grown as it is read, so that a wrong length costs no memory.
            let mut bytes = Vec::new();
            let wanted = u64::from(length - 32);
            if self.from.by_ref().take(wanted).read_to_end(&mut bytes)? as u64 != wanted {
                return Err(cut(io::ErrorKind::UnexpectedEof.into()));
            }
            self.seen += 1;
            let key = CacheKey::from_bytes(key);
            match Record::parse(&key, &bytes) {
                Ok(record) => return Ok(Some((key, record))),
                Err(_) => self.passed_over += 1,
            }
        }
    }
}

impl<R: Read> Iterator for SnapshotReader<R> {
    type Item = io::Result<(CacheKey, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn cut(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        invalid("it ends too early: the export was not finished, or the file was cut")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn snapshot(count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = SnapshotWriter::new(&mut bytes).unwrap();
        for n in 0..count {
            let record = Record::of(&format!("value {n}"), Duration::ZERO, Duration::ZERO, None);
            writer.write(&CacheKey::of(&n.to_le_bytes()), &record).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), count);
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = snapshot(20);
        let read: Vec<_> = SnapshotReader::new(&bytes[..]).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), 20);
        assert_eq!(read[7].1.decode::<String>().unwrap(), "value 7");
    }

    #[test]
    fn a_cut_file_says_so_wherever_it_is_cut() {
        let bytes = snapshot(3);
        for at in 0..bytes.len() {
            let outcome = SnapshotReader::new(&bytes[..at])
                .and_then(|reader| reader.collect::<io::Result<Vec<_>>>());
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData, "cut at {at}");
        }
    }

    #[test]
    fn a_damaged_record_is_passed_over_and_the_others_are_read() {
        let mut bytes = snapshot(3);
        let at = bytes.len() / 2;
        bytes[at] ^= 1; // in the value or header of the second
        let mut reader = SnapshotReader::new(&bytes[..]).unwrap();
        assert_eq!(reader.by_ref().map(Result::unwrap).count(), 2);
        assert_eq!(reader.passed_over(), 1);
    }
}
