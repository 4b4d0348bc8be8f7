//! How an entry looks outside the process: a header, the value's bytes, and a checksum over both and the key.
//!
//! ```text
//! "HR" | format u8 | flags u8 | schema u32 | created u64 | ttl u64 | cost u64 | checksum 16 bytes | value
//! ```
//!
//! All numbers are little endian; times are milliseconds since 1970, `ttl` is in milliseconds (0: none), `cost` in
//! microseconds. The checksum is the first half of BLAKE3 over the key, the header before it and the value, so a value
//! that was torn, altered, or put under another key is never read.

use crate::CacheKey;
use crate::clock::millis;
use std::time::Duration;

const MAGIC: [u8; 2] = *b"HR";
/// Version of the layout above. A record of another version is passed over.
pub(crate) const RECORD_FORMAT: u8 = 1;
const CHECKSUM_AT: usize = 32;
const CHECKSUM_BYTES: usize = 16;
pub(crate) const HEADER_BYTES: usize = CHECKSUM_AT + CHECKSUM_BYTES;
/// A stamp this far ahead of the clock still counts as clock skew between machines.
const SKEW_MS: u64 = 5 * 60 * 1000;

/// A value that can leave the process and come back.
///
/// ```
/// use hapa_cache::Persist;
///
/// #[derive(Debug, PartialEq)]
/// struct Answer(String);
///
/// impl Persist for Answer {
///     const SCHEMA: u32 = 1;
///
///     fn write_to(&self, bytes: &mut Vec<u8>) {
///         bytes.extend_from_slice(self.0.as_bytes());
///     }
///
///     fn read_from(bytes: &[u8]) -> Option<Self> {
///         Some(Self(std::str::from_utf8(bytes).ok()?.to_owned()))
///     }
/// }
/// ```
pub trait Persist: Sized {
    /// Version of the byte form. Raise it with every change of the form or its meaning: values of another version are
    /// passed over, whether older or newer.
    const SCHEMA: u32;

    /// Appends the byte form.
    fn write_to(&self, bytes: &mut Vec<u8>);

    /// The value of a byte form; `None` when it is none, which counts as a miss.
    fn read_from(bytes: &[u8]) -> Option<Self>;
}

impl Persist for String {
    const SCHEMA: u32 = 1;

    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.as_bytes());
    }

    fn read_from(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }
}

impl Persist for std::sync::Arc<str> {
    const SCHEMA: u32 = 1;

    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.as_bytes());
    }

    fn read_from(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().map(Self::from)
    }
}

impl Persist for Vec<u8> {
    const SCHEMA: u32 = 1;

    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self);
    }

    fn read_from(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

/// An entry as a tier below memory holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Version of the value's byte form, [`Persist::SCHEMA`].
    pub schema: u32,
    /// When the value was made, since 1970.
    pub created: Duration,
    /// How long it may be served from then on; `None` is for ever.
    pub ttl: Option<Duration>,
    /// What computing it took.
    pub cost: Duration,
    /// The value's byte form.
    pub value: Vec<u8>,
}

/// Why bytes are no record that can be used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Torn, altered, or under another key.
    Corrupt,
    /// Whole, but of another version of this crate or of the value.
    Foreign,
}

impl Record {
    /// A record of a value that was made at `now` (since 1970).
    pub fn of<V: Persist>(value: &V, now: Duration, cost: Duration, ttl: Option<Duration>) -> Self {
        let mut bytes = Vec::new();
        value.write_to(&mut bytes);
        Self { schema: V::SCHEMA, created: now, ttl, cost, value: bytes }
    }

    /// The value, if its byte form has the version that `V` knows.
    #[must_use]
    pub fn decode<V: Persist>(&self) -> Option<V> {
        if self.schema == V::SCHEMA { V::read_from(&self.value) } else { None }
    }

    /// How long the value may still be served at `now` (since 1970): `None` when its time is over, `Some(None)` when
    /// it has no end.
    ///
    /// The wall clock may have been set since. Forward makes values end early. Backward lets them live longer by the
    /// jump, but a stamp more than five minutes ahead of the clock is not believed: then the time is over.
    #[must_use]
    pub fn remaining(&self, now: Duration) -> Option<Option<Duration>> {
        let Some(ttl) = self.ttl else { return Some(None) };
        if self.created > now + Duration::from_millis(SKEW_MS) {
            return None;
        }
        let left = ttl.checked_sub(now.saturating_sub(self.created))?;
        (left >= Duration::from_millis(1)).then_some(Some(left))
    }

    /// Bytes of [`encode`](Self::encode).
    pub(crate) fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.value.len()
    }

    pub(crate) fn encode(&self, key: &CacheKey) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[RECORD_FORMAT, 0]);
        bytes.extend_from_slice(&self.schema.to_le_bytes());
        bytes.extend_from_slice(&millis(self.created).to_le_bytes());
        bytes.extend_from_slice(&self.ttl.map_or(0, millis).to_le_bytes());
        let cost = u64::try_from(self.cost.as_micros()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&cost.to_le_bytes());
        let sum = checksum(key, &bytes, &self.value);
        bytes.extend_from_slice(&sum);
        bytes.extend_from_slice(&self.value);
        bytes
    }

    pub(crate) fn parse(key: &CacheKey, bytes: &[u8]) -> Result<Self, Unreadable> {
        let Some((head, value)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(Unreadable::Corrupt);
        };
        if head[..2] != MAGIC {
            return Err(Unreadable::Corrupt);
        }
        // Another format may put its checksum anywhere.
        if head[2] != RECORD_FORMAT {
            return Err(Unreadable::Foreign);
        }
        let (facts, sum) = head.split_at(CHECKSUM_AT);
        if checksum(key, facts, value) != sum {
            return Err(Unreadable::Corrupt);
        }
        if facts[3] != 0 {
            return Err(Unreadable::Foreign);
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&facts[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Ok(Self {
            schema: u32::from_le_bytes([facts[4], facts[5], facts[6], facts[7]]),
            created: Duration::from_millis(word(8)),
            ttl: match word(16) {
                0 => None,
                ttl => Some(Duration::from_millis(ttl)),
            },
            cost: Duration::from_micros(word(24)),
            value: value.to_vec(),
        })
    }
}

fn checksum(key: &CacheKey, facts: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(facts).update(value);
    let mut half = [0; CHECKSUM_BYTES];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(value: &str) -> Record {
        Record::of(
            &value.to_owned(),
            Duration::from_secs(1_000),
            Duration::from_millis(900),
            Some(Duration::from_secs(60)),
        )
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let key = CacheKey::of(b"k");
        for ttl in [None, Some(Duration::from_millis(1))] {
            let record = Record { ttl, ..record("def f(): ...") };
            let parsed = Record::parse(&key, &record.encode(&key)).unwrap();
            assert_eq!(parsed, record);
            assert_eq!(parsed.decode::<String>().unwrap(), "def f(): ...");
        }
    }

    #[test]
    fn other_versions_are_passed_over_not_refused() {
        let key = CacheKey::of(b"k");
        let mut bytes = record("x").encode(&key);
        bytes[2] = RECORD_FORMAT + 1;
        assert_eq!(Record::parse(&key, &bytes), Err(Unreadable::Foreign));
        let newer = Record { schema: 7, ..record("x") };
        assert!(Record::parse(&key, &newer.encode(&key)).unwrap().decode::<String>().is_none());
    }

    #[test]
    fn a_clock_that_jumps_never_lets_a_value_outlive_its_time_by_much() {
        let record = record("x"); // made at 1,000 s, 60 s to live
        let left = |secs| record.remaining(Duration::from_secs(secs));
        assert_eq!(left(1_010), Some(Some(Duration::from_secs(50))));
        assert_eq!(left(1_060), None);
        assert_eq!(left(9_000_000), None, "forward: it ends early");
        assert_eq!(left(990), Some(Some(Duration::from_secs(60))), "a little back: skew");
        assert_eq!(left(10), None, "far back: the stamp is not believed");
        let eternal = Record { ttl: None, ..record };
        assert_eq!(eternal.remaining(Duration::from_secs(10)), Some(None));
    }

    proptest! {
        /// Any one altered byte, any cut, any other key: never a value.
        #[test]
        fn damage_is_seen(value in ".{0,200}", at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = CacheKey::of(b"k");
            let bytes = record(&value).encode(&key);
            let mut damaged = bytes.clone();
            let at = at.index(bytes.len());
            damaged[at] ^= 1 << bit;
            prop_assert!(Record::parse(&key, &damaged).is_err());
            prop_assert!(Record::parse(&key, &bytes[..at]).is_err());
            prop_assert_eq!(Record::parse(&CacheKey::of(b"j"), &bytes), Err(Unreadable::Corrupt));
        }
    }
}
