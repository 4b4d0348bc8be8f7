//! Keeps the last traces by request id.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;

use super::Trace;
use crate::Profiler;

const DEFAULT_TRACES: usize = 128;

/// A ring of the last traces. Cheap to clone; clones share the ring.
#[derive(Debug, Clone)]
pub struct TraceCollector {
    profiler: Profiler,
    capacity: usize,
    ring: Arc<Mutex<VecDeque<Kept>>>,
    hasher: RandomState,
}

/// A trace, and the hash of its id: looking for an id that is not there, as each new request does, compares no texts.
#[derive(Debug)]
struct Kept {
    hash: u64,
    trace: Arc<Trace>,
}

impl TraceCollector {
    /// Keeps the last 128 traces, of scopes of the given profiler.
    pub fn new(profiler: &Profiler) -> Self {
        Self::with_capacity(profiler, DEFAULT_TRACES)
    }

    /// Keeps the last `capacity` traces (at least one).
    pub fn with_capacity(profiler: &Profiler, capacity: usize) -> Self {
        Self {
            profiler: profiler.clone(),
            capacity: capacity.max(1),
            ring: Arc::default(),
            hasher: RandomState::new(),
        }
    }

    /// Begins the trace of a request. The oldest trace goes when the ring is full; a trace of the
    /// same id is hidden by the new one.
    pub fn start(&self, request_id: &str) -> Arc<Trace> {
        let trace = Arc::new(Trace::new(request_id, &self.profiler));
        let mut ring = self.ring.lock();
        let oldest = if ring.len() >= self.capacity { ring.pop_front() } else { None };
        ring.push_back(Kept { hash: self.hasher.hash_one(request_id), trace: trace.clone() });
        drop(ring);
        // Its events are given back while nobody waits for the ring.
        drop(oldest);
        trace
    }

    /// The trace of that request if somebody still records to it, as the parts of a batch do, else
    /// a new one.
    pub fn join(&self, request_id: &str) -> Arc<Trace> {
        let open = |trace: &Arc<Trace>| Arc::strong_count(trace) > 1;
        self.find(request_id, open).unwrap_or_else(|| self.start(request_id))
    }

    /// The newest trace of that request, finished or not.
    pub fn get(&self, request_id: &str) -> Option<Arc<Trace>> {
        self.find(request_id, |_| true)
    }

    fn find(&self, request_id: &str, is_wanted: fn(&Arc<Trace>) -> bool) -> Option<Arc<Trace>> {
        let hash = self.hasher.hash_one(request_id);
        let ring = self.ring.lock();
        let is_it = |kept: &&Kept| {
            kept.hash == hash && kept.trace.request_id() == request_id && is_wanted(&kept.trace)
        };
        ring.iter().rev().find(is_it).map(|kept| kept.trace.clone())
    }

    /// Ids of the traces that are kept, the newest first.
    pub fn ids(&self) -> Vec<String> {
        self.ring.lock().iter().rev().map(|kept| kept.trace.request_id().to_owned()).collect()
    }
}
