//! Names for requests.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::http::HeaderValue;

use crate::auth::Caller;

/// Longest id that is taken over from a client.
const MAX_CHARS: usize = 128;

/// Makes ids: 32 hexadecimal digits, unlike between processes and within one.
#[derive(Debug)]
pub(crate) struct RequestIds {
    high: RandomState,
    low: RandomState,
    count: AtomicU64,
}

/// The id of the request at hand, who asks, and when it arrived, in the request's extensions. Nobody is known where no keys
/// are needed.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String, pub(crate) Option<Arc<Caller>>, pub(crate) Instant);

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self { high: RandomState::new(), low: RandomState::new(), count: AtomicU64::new(0) }
    }

    /// The client's own id if it is sane, else a new one.
    pub(crate) fn of(&self, given: Option<&HeaderValue>, arrived: Instant) -> RequestId {
        let sane = |id: &&str| {
            !id.is_empty()
                && id.len() <= MAX_CHARS
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
        };
        let id = match given.and_then(|value| value.to_str().ok()).filter(sane) {
            Some(id) => id.to_owned(),
            None => {
                let n = self.count.fetch_add(1, Ordering::Relaxed);
                format!("{:016x}{:016x}", self.high.hash_one(n), self.low.hash_one(n))
            }
        };
        RequestId(id, None, arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_kept_others_replaced() {
        let ids = RequestIds::new();
        let of = |text: &str| {
            let given = HeaderValue::from_bytes(text.as_bytes()).ok();
            ids.of(given.as_ref(), Instant::now()).0
        };
        assert_eq!(of("abc-1.2:3"), "abc-1.2:3");
        for bad in ["", "a b", "<script>", "é", &"x".repeat(129)] {
            let made = of(bad);
            assert!(
                made.len() == 32 && made.bytes().all(|b| b.is_ascii_hexdigit()),
                "{bad} gave {made}"
            );
        }
        let now = Instant::now();
        assert_ne!(ids.of(None, now).0, ids.of(None, now).0);
    }
}
