//! The crate's one error type.

use std::path::PathBuf;

/// What went wrong, on what, and what would help.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A request field has no canonical form, so it can't be part of a key.
    #[error(
        "the field `{field}` is {value}, which has no place in a cache key: send a finite number"
    )]
    NotFinite {
        /// The field's name.
        field: &'static str,
        /// The refused value.
        value: f32,
    },
    /// Text that should be a key or a digest is not 64 hexadecimal digits.
    #[error("`{text}` is not a cache key: expected 64 hexadecimal digits")]
    BadKey {
        /// The refused text, cut to 80 characters.
        text: String,
    },
    /// Cache options that contradict each other or bound nothing.
    #[error("cache option `{option}`: {reason}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// Why it was refused, and what to set instead.
        reason: String,
    },
    /// A tier that other programs serve could not be used.
    #[error("cache tier {tier}: {action} failed: {reason}")]
    Tier {
        /// The tier's name.
        tier: &'static str,
        /// What was being done.
        action: &'static str,
        /// The cause, and what would help.
        reason: String,
    },
    /// A file of the disk tier, or a snapshot, could not be used.
    #[error("cache file {}: {action} failed: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The cause, and what would help.
        reason: String,
    },
}

impl CacheError {
    pub(crate) fn bad_option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::BadOption { option, reason: reason.into() }
    }
}
