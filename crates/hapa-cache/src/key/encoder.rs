//! The canonical encoding: tagged, typed, length-prefixed records.

use super::digest::Digest;
use crate::CacheError;

/// What a record's bytes are; part of the encoding, so that `"1"` and `1` differ.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Absent = 0,
    Text = 1,
    Unsigned = 2,
    Float = 3,
    Digest = 4,
    Pairs = 5,
    Texts = 6,
    Flag = 7,
}

/// Writes fields in a canonical form and hashes them.
///
/// Every record carries its tag, its type and its length, so neighbouring fields can't run into
/// each other and an absent field differs from an empty one.
///
/// ```
/// use hapa_cache::KeyEncoder;
/// let key = |user: &str, limit: u64| {
///     let mut encoder = KeyEncoder::new("my-app.lookup", 1);
///     encoder.text(1, user).unsigned(2, limit);
///     encoder.finish()
/// };
/// assert_eq!(key("ann", 10), key("ann", 10));
/// assert_ne!(key("ann", 10), key("ann", 11));
/// ```
#[derive(Debug)]
pub struct KeyEncoder {
    bytes: Vec<u8>,
}

impl KeyEncoder {
    /// Starts a key. `domain` keeps keys of different uses apart; `version` must rise whenever
    /// the list of fields or their meaning changes.
    #[must_use]
    pub fn new(domain: &str, version: u32) -> Self {
        let mut encoder = Self { bytes: Vec::with_capacity(512) };
        encoder.length(domain.len());
        encoder.bytes.extend_from_slice(domain.as_bytes());
        encoder.bytes.extend_from_slice(&version.to_le_bytes());
        encoder
    }

    fn length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u64).to_le_bytes());
    }

    fn record(&mut self, tag: u8, kind: Kind, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&[tag, kind as u8]);
        self.length(bytes.len());
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A text, byte for byte: no trimming, no case folding, no Unicode normalisation.
    pub fn text(&mut self, tag: u8, text: &str) -> &mut Self {
        self.record(tag, Kind::Text, text.as_bytes())
    }

    /// A text that may be absent, which is not the same as empty.
    pub fn optional_text(&mut self, tag: u8, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(tag, text),
            None => self.absent(tag),
        }
    }

    /// A field that has no value.
    pub fn absent(&mut self, tag: u8) -> &mut Self {
        self.record(tag, Kind::Absent, &[])
    }

    /// A whole number.
    pub fn unsigned(&mut self, tag: u8, value: u64) -> &mut Self {
        self.record(tag, Kind::Unsigned, &value.to_le_bytes())
    }

    /// A whole number that may be absent.
    pub fn optional_unsigned(&mut self, tag: u8, value: Option<u64>) -> &mut Self {
        match value {
            Some(value) => self.unsigned(tag, value),
            None => self.absent(tag),
        }
    }

    /// Yes or no.
    pub fn flag(&mut self, tag: u8, value: bool) -> &mut Self {
        self.record(tag, Kind::Flag, &[u8::from(value)])
    }

    /// A finite number by its bits, with -0 written as 0.
    ///
    /// # Errors
    /// [`CacheError::NotFinite`] for NaN and the infinities; `field` names it in the message.
    pub fn float(
        &mut self,
        tag: u8,
        field: &'static str,
        value: f32,
    ) -> Result<&mut Self, CacheError> {
        if !value.is_finite() {
            return Err(CacheError::NotFinite { field, value });
        }
        let canonical = if value == 0.0 { 0.0f32 } else { value };
        Ok(self.record(tag, Kind::Float, &canonical.to_bits().to_le_bytes()))
    }

    /// A text that was hashed on its own.
    pub fn digest(&mut self, tag: u8, digest: &Digest) -> &mut Self {
        self.record(tag, Kind::Digest, digest.as_bytes())
    }

    /// A text that was hashed on its own, or none.
    pub fn optional_digest(&mut self, tag: u8, digest: Option<&Digest>) -> &mut Self {
        match digest {
            Some(digest) => self.digest(tag, digest),
            None => self.absent(tag),
        }
    }

    /// Texts in their order.
    pub fn texts<S: AsRef<str>>(&mut self, tag: u8, texts: &[S]) -> &mut Self {
        self.bytes.extend_from_slice(&[tag, Kind::Texts as u8]);
        self.length(texts.len());
        for text in texts {
            self.length(text.as_ref().len());
            self.bytes.extend_from_slice(text.as_ref().as_bytes());
        }
        self
    }

    /// Named texts in their order; a name may come more than once (messages of a chat do).
    pub fn pairs(&mut self, tag: u8, pairs: &[(&str, &str)]) -> &mut Self {
        self.bytes.extend_from_slice(&[tag, Kind::Pairs as u8]);
        self.length(pairs.len());
        for (name, text) in pairs {
            self.length(name.len());
            self.bytes.extend_from_slice(name.as_bytes());
            self.length(text.len());
            self.bytes.extend_from_slice(text.as_bytes());
        }
        self
    }

    /// The encoded bytes so far, for golden vectors.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}
