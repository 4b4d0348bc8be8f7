//! The last requests that asked for work, for the list on the web page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hapa_metrics::labels::Endpoint;

/// As many as traces are kept.
const CAPACITY: usize = 128;

/// A request that is over.
#[derive(Debug, Clone)]
pub(crate) struct RecentRequest {
    pub(crate) id: String,
    pub(crate) endpoint: Endpoint,
    /// 499 for one whose client went away.
    pub(crate) status: u16,
    pub(crate) ended_unix_seconds: f64,
    pub(crate) took: Duration,
}

/// A ring of them; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentRequests(Arc<Mutex<VecDeque<RecentRequest>>>);

impl RecentRequests {
    pub(crate) fn push(&self, request: RecentRequest) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= CAPACITY {
            ring.pop_front();
        }
        ring.push_back(request);
    }

    /// The newest first.
    pub(crate) fn list(&self) -> Vec<RecentRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}
