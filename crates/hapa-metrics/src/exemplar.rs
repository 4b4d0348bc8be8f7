//! Exemplars: one request id for each histogram bucket, so that a slow bucket leads to a trace.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// OpenMetrics allows 128 characters for all labels of an exemplar together.
const MAX_REQUEST_ID_CHARS: usize = 100;

thread_local! {
    static REQUEST_ID: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// A sample value with the request that it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) value: f64,
    pub(crate) request_id: Arc<str>,
    /// Seconds since 1970.
    pub(crate) unix_seconds: f64,
}

impl Exemplar {
    pub(crate) fn now(value: f64, request_id: Arc<str>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { value, request_id, unix_seconds: since.as_secs_f64() }
    }
}

/// Runs `record`; histograms that it records on this thread keep `request_id` as the exemplar of
/// the bucket they touch. Ids of more than 100 characters are not kept.
pub fn with_request_id<T>(request_id: &str, record: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<str>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            REQUEST_ID.with_borrow_mut(|current| *current = self.0.take());
        }
    }
    let id = (request_id.chars().count() <= MAX_REQUEST_ID_CHARS).then(|| Arc::from(request_id));
    let _restore = Restore(REQUEST_ID.with_borrow_mut(|current| std::mem::replace(current, id)));
    record()
}

pub(crate) fn current() -> Option<Arc<str>> {
    REQUEST_ID.with_borrow(Clone::clone)
}
