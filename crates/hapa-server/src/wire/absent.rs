//! What clients send for a field that they mean to leave out: null, and -1 for a count.

use serde::{Deserialize, Deserializer};

/// A value of which null is the default.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A count of which null and everything below zero is none, as llama.cpp's clients and LangChain's have it.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let count = Option::<i64>::deserialize(deserializer)?;
    Ok(count.and_then(|count| usize::try_from(count).ok()))
}
