//! Writing behind: a bounded queue before one tier, and the task that empties it.

use super::super::record::{Persist, Record};
use super::super::tier::{LeaseGuard, Tier, add};
use crate::{CacheKey, Weigh};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// What waits to be written. The value is encoded by the task, not by the request.
pub(super) struct Pending<V> {
    pub(super) key: CacheKey,
    pub(super) value: V,
    pub(super) created: Duration,
    pub(super) cost: Duration,
    pub(super) ttl: Option<Duration>,
    /// The lease under which the value was computed.
    pub(super) lease: Option<Box<dyn LeaseGuard>>,
}

/// Figures of the queue before a tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Values that wait now.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Values that were not written since the queue was full.
    pub dropped: u64,
    /// Values that the tier did not take.
    pub failed: u64,
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueBounds {
    pub(super) entries: usize,
    pub(super) bytes: u64,
    /// How long the task waits for more to write together.
    pub(super) linger: Duration,
}

/// Records that are written together.
const BATCH: usize = 128;

struct Waiting<V> {
    pending: VecDeque<Pending<V>>,
    bytes: u64,
    /// A task empties the queue.
    has_worker: bool,
    /// The task holds values that are not in the tier yet.
    is_writing: bool,
    /// Somebody waits for the end, or the cache is gone: no lingering.
    hurry: bool,
    /// The cache is gone: the task writes what is left and ends.
    is_closed: bool,
}

/// A tier with the queue before it.
pub(super) struct WriteBehind<V> {
    pub(super) tier: Arc<dyn Tier>,
    bounds: QueueBounds,
    waiting: Mutex<Waiting<V>>,
    /// There is something to do for the task.
    work: Notify,
    /// The queue became empty.
    idle: Notify,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl<V> WriteBehind<V>
where
    V: Persist + Weigh + Clone + Send + Sync + 'static,
{
    pub(super) fn new(tier: Arc<dyn Tier>, bounds: QueueBounds) -> Arc<Self> {
        let waiting = Waiting {
            pending: VecDeque::new(),
            bytes: 0,
            has_worker: false,
            is_writing: false,
            hurry: false,
            is_closed: false,
        };
        Arc::new(Self {
            tier,
            bounds,
            waiting: Mutex::new(waiting),
            work: Notify::new(),
            idle: Notify::new(),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Puts a value in line, or drops it where the line is full. Never waits.
    pub(super) fn push(self: &Arc<Self>, pending: Pending<V>) {
        let bytes = weight(&pending.value);
        let mut waiting = self.waiting.lock();
        if waiting.pending.len() >= self.bounds.entries
            || waiting.bytes.saturating_add(bytes) > self.bounds.bytes
        {
            drop(waiting);
            add(&self.dropped, 1);
            return;
        }
        waiting.bytes += bytes;
        waiting.pending.push_back(pending);
        self.ensure_worker(&mut waiting);
        drop(waiting);
        self.work.notify_one();
    }

    /// Starts the task where there is none and a runtime to run it; else the next call does.
    fn ensure_worker(self: &Arc<Self>, waiting: &mut Waiting<V>) {
        if waiting.has_worker {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            waiting.has_worker = true;
            runtime.spawn(work(Worker(Arc::clone(self))));
        }
    }

    /// Waits until everything in line is written, or was refused by the tier.
    pub(super) async fn flush(self: &Arc<Self>) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let mut waiting = self.waiting.lock();
                if waiting.pending.is_empty() && !waiting.is_writing {
                    return;
                }
                waiting.hurry = true;
                self.ensure_worker(&mut waiting);
            }
            self.work.notify_one();
            idle.await;
        }
    }

    /// Forgets what is in line.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting.lock();
        let gone = std::mem::take(&mut waiting.pending);
        waiting.bytes = 0;
        drop(waiting);
        drop(gone);
    }

    /// Tells the task to write what is left and end.
    pub(super) fn close(self: &Arc<Self>) {
        let mut waiting = self.waiting.lock();
        waiting.hurry = true;
        waiting.is_closed = true;
        drop(waiting);
        self.work.notify_one();
    }

    pub(super) fn stats(&self) -> QueueStats {
        let waiting = self.waiting.lock();
        QueueStats {
            waiting: waiting.pending.len() as u64,
            waiting_bytes: waiting.bytes,
            dropped: self.dropped.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// The next values to write together; none when there are none.
    fn take(&self) -> Vec<Pending<V>> {
        let mut waiting = self.waiting.lock();
        let count = waiting.pending.len().min(BATCH);
        let batch: Vec<_> = waiting.pending.drain(..count).collect();
        waiting.bytes -= batch.iter().map(|pending| weight(&pending.value)).sum::<u64>();
        waiting.is_writing = !batch.is_empty();
        if batch.is_empty() {
            waiting.hurry = false;
            drop(waiting);
            self.idle.notify_waiters();
        }
        batch
    }

    async fn write(&self, batch: Vec<Pending<V>>) {
        let mut records = Vec::with_capacity(batch.len());
        for pending in batch {
            let Pending { key, value, created, cost, ttl, lease } = pending;
            let record = Record::of(&value, created, cost, ttl);
            match lease {
                // Alone, since it may be refused alone.
                Some(lease) => {
                    if lease.put(&record).await.is_err() {
                        add(&self.failed, 1);
                    }
                }
                None => records.push((key, record)),
            }
        }
        if !records.is_empty() && self.tier.put(&records).await.is_err() {
            add(&self.failed, records.len() as u64);
        }
    }
}

fn weight<V: Weigh>(value: &V) -> u64 {
    (size_of::<V>() + value.heap_bytes()) as u64
}

/// The task's hold on the queue; when the task ends, by whatever way, another may begin.
struct Worker<V>(Arc<WriteBehind<V>>);

impl<V> Drop for Worker<V> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.has_worker = false;
        waiting.is_writing = false;
        drop(waiting);
        self.0.idle.notify_waiters();
    }
}

async fn work<V>(worker: Worker<V>)
where
    V: Persist + Weigh + Clone + Send + Sync + 'static,
{
    let queue = &worker.0;
    loop {
        let (is_empty, is_closed, hurry) = {
            let waiting = queue.waiting.lock();
            let hurry = waiting.hurry || waiting.pending.len() >= BATCH;
            (waiting.pending.is_empty(), waiting.is_closed, hurry)
        };
        if is_empty {
            if is_closed {
                return;
            }
            queue.take(); // tells those who wait for the end
            queue.work.notified().await;
            continue;
        }
        if !hurry {
            let lingered = tokio::time::timeout(queue.bounds.linger, queue.hurried()).await;
            drop(lingered);
        }
        let batch = queue.take();
        queue.write(batch).await;
        queue.waiting.lock().is_writing = false;
    }
}

impl<V> WriteBehind<V> {
    /// Resolves when there is no reason to wait for more.
    async fn hurried(&self) {
        loop {
            self.work.notified().await;
            let waiting = self.waiting.lock();
            if waiting.hurry || waiting.pending.len() >= BATCH {
                return;
            }
        }
    }
}
