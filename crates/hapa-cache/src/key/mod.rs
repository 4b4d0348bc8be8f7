//! Keys: a canonical encoding of everything that changes the answer, under BLAKE3-256.
//!
//! Two requests get the same key exactly when every field that can change the answer is equal.
//! The encoding is a sequence of records `tag (u8) | type (u8) | length (u64, little endian) | bytes`
//! after a header that names the domain and the version, so no two different field lists have the
//! same bytes. Long texts (prompt and context) enter as their own BLAKE3 digests: they are hashed
//! once, and their digests can be shown beside the key.
//!
//! Golden vectors in `tests/key_golden.rs` hold the encoding still across versions and machines;
//! a change to it must raise [`KEY_VERSION`].

mod digest;
mod encoder;
mod request;

pub use digest::{CacheKey, Digest};
pub use encoder::KeyEncoder;
pub use request::{KEY_VERSION, KeyDigest, RequestKey, SamplingKey, StreamShape};
