//! Key-value metadata of a GGUF file with typed access.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cursor::{Cursor, Defect};
use super::map::FileBytes;
use super::value::{Array, StringArray, Value};
use crate::error::{ModelError, Result};

/// The format's own limit on the length of a key.
const MAX_KEY_BYTES: usize = 65_535;

/// Metadata by key. Typed access fails with the key and both types.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    keys: Vec<String>,
    values: HashMap<String, Value>,
}

impl Metadata {
    pub(crate) fn read(
        cursor: &mut Cursor<'_>,
        file: &Arc<FileBytes>,
        count: usize,
        path: &Path,
    ) -> Result<Self, Defect> {
        let mut keys = Vec::with_capacity(count);
        let mut values = HashMap::with_capacity(count);
        for index in 0..count {
            let place = format!("metadata key {index}");
            let key = cursor.string(&place)?;
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(Defect::new(
                    place,
                    format!("has {} bytes, expected 1 to {MAX_KEY_BYTES}", key.len()),
                ));
            }
            let value = Value::read(cursor, file, key)?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(Defect::new(key, "appears twice, expected once"));
            }
            keys.push(key.to_owned());
        }
        Ok(Self { path: path.to_owned(), keys, values })
    }

    /// The keys in the file's order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// A value of any type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Text.
    ///
    /// # Errors
    /// When the key is absent or of another type; so do all getters without `opt_`.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.required(key, self.opt_str(key)?, "a string")
    }

    /// Text, when present.
    ///
    /// # Errors
    /// When the key is of another type; so do all getters with `opt_`.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An integer that is not negative.
    ///
    /// # Errors
    /// See [`Self::str`].
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.required(key, self.opt_u64(key)?, "an unsigned integer")
    }

    /// An integer that is not negative, when present.
    ///
    /// # Errors
    /// See [`Self::opt_str`].
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an unsigned integer", Value::as_u64)
    }

    /// A floating-point number.
    ///
    /// # Errors
    /// See [`Self::str`].
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.required(key, self.opt_f32(key)?, "a floating-point number")
    }

    /// A floating-point number, when present.
    ///
    /// # Errors
    /// See [`Self::opt_str`].
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a floating-point number", Value::as_f32)
    }

    /// A truth value.
    ///
    /// # Errors
    /// See [`Self::str`].
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.required(key, self.opt_bool(key)?, "a bool")
    }

    /// A truth value, when present.
    ///
    /// # Errors
    /// See [`Self::opt_str`].
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", Value::as_bool)
    }

    /// An array of strings.
    ///
    /// # Errors
    /// See [`Self::str`].
    pub fn strings(&self, key: &str) -> Result<StringArray<'_>> {
        self.required(key, self.opt_strings(key)?, "an array of strings")
    }

    /// An array of strings, when present.
    ///
    /// # Errors
    /// See [`Self::opt_str`].
    pub fn opt_strings(&self, key: &str) -> Result<Option<StringArray<'_>>> {
        self.typed(key, "an array of strings", |v| v.as_array().and_then(Array::strings))
    }

    /// An array of integers, when present.
    ///
    /// # Errors
    /// See [`Self::opt_str`].
    pub fn opt_i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.typed(key, "an array of integers below 2^31", |v| v.as_array().and_then(Array::i32s))
    }

    /// An array of floating-point numbers, when present.
    ///
    /// # Errors
    /// See [`Self::opt_str`].
    pub fn opt_f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "an array of floating-point numbers", |v| {
            v.as_array().and_then(Array::f32s)
        })
    }

    /// An error about `key`.
    pub(crate) fn invalid(&self, key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::InvalidGguf {
            path: self.path.clone(),
            field: key.to_owned(),
            problem: problem.into(),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        convert(value).map(Some).ok_or_else(|| {
            let found = match value {
                Value::Array(array) => {
                    format!("an array of {} {}s", array.len(), array.element_type())
                }
                Value::String(_) => "a string".to_owned(),
                scalar => format!("{scalar:?}"),
            };
            self.invalid(key, format!("is {found}, expected {expected}"))
        })
    }

    fn required<T>(&self, key: &str, value: Option<T>, expected: &str) -> Result<T> {
        value.ok_or_else(|| self.invalid(key, format!("is missing, expected {expected}")))
    }
}
