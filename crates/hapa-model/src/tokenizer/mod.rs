//! From text to token ids and back.
#![cfg(any(test, feature = "testing"))]

mod bytes;

pub(crate) use bytes::byte_to_char;
