//! Keeps the last traces by request id.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use super::Trace;
use crate::Profiler;

const DEFAULT_TRACES: usize = 128;

/// A ring of the last traces. Cheap to clone; clones share the ring.
#[derive(Debug, Clone)]
pub struct TraceCollector {
    profiler: Profiler,
    capacity: usize,
    ring: Arc<Mutex<VecDeque<Arc<Trace>>>>,
}

impl TraceCollector {
    /// Keeps the last 128 traces, of scopes of the given profiler.
    pub fn new(profiler: &Profiler) -> Self {
        Self::with_capacity(profiler, DEFAULT_TRACES)
    }

    /// Keeps the last `capacity` traces (at least one).
    pub fn with_capacity(profiler: &Profiler, capacity: usize) -> Self {
        Self { profiler: profiler.clone(), capacity: capacity.max(1), ring: Arc::default() }
    }

    /// Begins the trace of a request. The oldest trace goes when the ring is full; a trace of the
    /// same id is hidden by the new one.
    pub fn start(&self, request_id: &str) -> Arc<Trace> {
        let trace = Arc::new(Trace::new(request_id, &self.profiler));
        let mut ring = self.ring.lock();
        if ring.len() >= self.capacity {
            ring.pop_front();
        }
        ring.push_back(trace.clone());
        trace
    }

    /// The trace of that request if somebody still records to it, as the parts of a batch do, else
    /// a new one.
    pub fn join(&self, request_id: &str) -> Arc<Trace> {
        {
            let ring = self.ring.lock();
            let open = |trace: &&Arc<Trace>| {
                trace.request_id() == request_id && Arc::strong_count(trace) > 1
            };
            if let Some(trace) = ring.iter().rev().find(open) {
                return trace.clone();
            }
        }
        self.start(request_id)
    }

    /// The newest trace of that request, finished or not.
    pub fn get(&self, request_id: &str) -> Option<Arc<Trace>> {
        self.ring.lock().iter().rev().find(|trace| trace.request_id() == request_id).cloned()
    }

    /// Ids of the traces that are kept, the newest first.
    pub fn ids(&self) -> Vec<String> {
        self.ring.lock().iter().rev().map(|trace| trace.request_id().to_owned()).collect()
    }
}
