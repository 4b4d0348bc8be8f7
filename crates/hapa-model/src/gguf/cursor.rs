//! A reader over bytes that never reads past their end and says what it was looking for.

/// What is wrong with a file, before the path is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Defect {
    /// The header field, metadata key or tensor.
    pub(crate) field: String,
    /// What was found, and what was expected.
    pub(crate) problem: String,
}

impl Defect {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// Puts `outer` before the field: "tensor 3" and "name" give "tensor 3, name".
    pub(crate) fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}, {}", self.field);
        self
    }
}

/// A position in a byte slice.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize, field: &str) -> Result<&'a [u8], Defect> {
        let rest = &self.bytes[self.position..];
        if len > rest.len() {
            return Err(Defect::new(
                field,
                format!(
                    "needs {len} bytes at offset {}, the file ends after {}; it is truncated or the length is wrong",
                    self.position,
                    rest.len()
                ),
            ));
        }
        self.position += len;
        Ok(&rest[..len])
    }

    /// The next `N` bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Defect> {
        let bytes = self.take(N, field)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    pub(crate) fn u32(&mut self, field: &str) -> Result<u32, Defect> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &str) -> Result<u64, Defect> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A count or length: a u64 that must fit what is left of the file when each item takes at least
    /// `min_item_bytes`.
    pub(crate) fn count(&mut self, min_item_bytes: usize, field: &str) -> Result<usize, Defect> {
        let count = self.u64(field)?;
        let limit = (self.remaining() / min_item_bytes.max(1)) as u64;
        if count > limit {
            return Err(Defect::new(
                field,
                format!(
                    "is {count}, but the rest of the file has room for at most {limit}; it is truncated or corrupted"
                ),
            ));
        }
        // Fits: `limit` came from a usize.
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// A length-prefixed string, checked to be UTF-8.
    pub(crate) fn string(&mut self, field: &str) -> Result<&'a str, Defect> {
        let len = self.count(1, field)?;
        let bytes = self.take(len, field)?;
        std::str::from_utf8(bytes)
            .map_err(|error| Defect::new(field, format!("is not UTF-8 ({error})")))
    }
}
