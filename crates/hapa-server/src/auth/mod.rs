//! API keys: who may ask for what.
//!
//! - [`KeyFile`] holds salted hashes of keys, and is what `hapa keys` writes;
//! - `Keyring` is what a running server knows of that file, and follows it;
//! - `Access` says what each route demands; a route that it does not name demands an administrator;
//! - `gate` stands before all handlers and lets nobody by who may not pass.

mod access;
mod caller;
mod file;
mod gate;
mod key;
mod ring;

pub use file::{KeyFile, KeyFileError, KeyRecord, NewKey, Rate};
pub use key::{ApiKey, Scope};

pub(crate) use access::{Access, COMPLETION, GENERATION};
pub(crate) use caller::Caller;
pub(crate) use gate::gate;
pub(crate) use ring::Keyring;
