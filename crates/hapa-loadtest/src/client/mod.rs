//! One request and its answer over HTTP/1.1, timed.

mod exchange;
mod outcome;
mod pool;
mod sse;

pub(crate) use exchange::{Exchange, nanoseconds};
pub(crate) use outcome::Trouble;
pub use outcome::{CacheOutcome, Class};
pub(crate) use pool::{CONNECT, Pool};
