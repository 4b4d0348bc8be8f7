//! A profiler: names, the trees of all threads, the switch.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{
    guard::ScopeGuard,
    names::Names,
    tree::{Frame, Shard, Tree},
};
use crate::{
    alloc::AllocDelta, clock::Clock, recording::tree::Ended, report::Report, trace::Trace,
};

static GLOBAL: LazyLock<Profiler> =
    LazyLock::new(|| Profiler { inner: Arc::new(Inner::new(Clock::system(), true)) });

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Collects scopes. Most programs use [`Profiler::global`], which [`crate::scope!`] records to;
/// a profiler of its own keeps a test or a tool apart. Cheap to clone; clones are the same one.
#[derive(Debug, Clone)]
pub struct Profiler {
    pub(crate) inner: Arc<Inner>,
}

impl Default for Profiler {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) struct Inner {
    pub(crate) clock: Clock,
    pub(crate) names: Names,
    is_global: bool,
    id: u64,
    enabled: AtomicBool,
    /// Rises with each reset; a tree of an older generation is left behind.
    generation: AtomicU32,
    reset_raw: AtomicU64,
    /// Every tree that may hold figures of this generation.
    shards: Mutex<Vec<Arc<Shard>>>,
    /// Trees whose threads ended, for the threads that come.
    free: Mutex<Vec<Tree>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("global", &self.is_global)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn new(clock: Clock, is_global: bool) -> Self {
        let reset_raw = AtomicU64::new(clock.raw());
        Self {
            clock,
            names: Names::new(),
            is_global,
            id: if is_global { 0 } else { NEXT_ID.fetch_add(1, Relaxed) },
            enabled: AtomicBool::new(true),
            generation: AtomicU32::new(0),
            reset_raw,
            shards: Mutex::default(),
            free: Mutex::default(),
        }
    }

    #[cold]
    fn tree(&self, generation: u32) -> Tree {
        // Both locks, in this order, here and in `reset`.
        let mut shards = self.shards.lock();
        let mut free = self.free.lock();
        while let Some(mut tree) = free.pop() {
            if tree.generation == generation {
                tree.adopt();
                return tree;
            }
        }
        let tree = Tree::new(generation);
        if generation == self.generation.load(Relaxed) {
            shards.push(tree.shard.clone());
        }
        tree
    }

    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.lock().clone()
    }

    pub(crate) fn elapsed_ns(&self) -> u64 {
        self.clock.nanos_between(self.reset_raw.load(Relaxed), self.clock.raw())
    }
}

/// A thread's tree of one profiler; gives the tree back when the thread ends.
struct Local {
    inner: Arc<Inner>,
    tree: Option<Tree>,
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(tree) = self.tree.take() {
            self.inner.free.lock().push(tree);
        }
    }
}

thread_local! {
    static GLOBAL_LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
    static LOCALS: RefCell<Vec<(u64, Local)>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` on the current thread's tree. `None` while the thread ends, or from inside `work`.
pub(crate) fn with_local<T>(inner: &Arc<Inner>, work: impl FnOnce(&mut Tree) -> T) -> Option<T> {
    if inner.is_global { with_global_local(inner, work) } else { with_other_local(inner, work) }
}

#[inline(always)]
fn with_global_local<T>(inner: &Arc<Inner>, work: impl FnOnce(&mut Tree) -> T) -> Option<T> {
    GLOBAL_LOCAL
        .try_with(|local| {
            let mut local = local.try_borrow_mut().ok()?;
            let generation = inner.generation.load(Relaxed);
            let is_current = matches!(
                &*local, Some(Local { tree: Some(tree), .. }) if tree.generation == generation
            );
            if !is_current {
                let fresh = renewed(inner, local.take(), generation);
                *local = Some(fresh);
            }
            local.as_mut()?.tree.as_mut().map(work)
        })
        .ok()
        .flatten()
}

fn with_other_local<T>(inner: &Arc<Inner>, work: impl FnOnce(&mut Tree) -> T) -> Option<T> {
    LOCALS
        .try_with(|locals| {
            let mut locals = locals.try_borrow_mut().ok()?;
            let generation = inner.generation.load(Relaxed);
            let at = match locals.iter().position(|(id, _)| *id == inner.id) {
                Some(at) => at,
                None => {
                    // Profilers that nobody else holds any more leave this thread here.
                    locals.retain(|(_, local)| Arc::strong_count(&local.inner) > 1);
                    locals.push((inner.id, renewed(inner, None, generation)));
                    locals.len() - 1
                }
            };
            let local = &mut locals[at].1;
            if local.tree.as_ref().is_none_or(|tree| tree.generation != generation) {
                local.tree = Some(inner.tree(generation));
            }
            local.tree.as_mut().map(work)
        })
        .ok()
        .flatten()
}

#[cold]
fn renewed(inner: &Arc<Inner>, old: Option<Local>, generation: u32) -> Local {
    let trace = old.and_then(|mut old| {
        // The old generation's tree goes; its trace stays.
        old.tree.take().and_then(|tree| tree.trace)
    });
    let mut tree = inner.tree(generation);
    tree.trace = trace;
    Local { inner: inner.clone(), tree: Some(tree) }
}

impl Profiler {
    /// A profiler apart from the global one, by the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    /// A profiler apart from the global one, by the given clock.
    pub fn with_clock(clock: Clock) -> Self {
        Self { inner: Arc::new(Inner::new(clock, false)) }
    }

    /// The profiler of the process.
    #[inline]
    pub fn global() -> &'static Self {
        &GLOBAL
    }

    /// Switches recording on or off, for all threads. Scopes that are open when it is switched
    /// still record.
    pub fn set_enabled(&self, enabled: bool) {
        self.inner.enabled.store(enabled, Relaxed);
    }

    /// Whether scopes record; false when the feature `profiling` is left out.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        cfg!(feature = "profiling") && self.inner.enabled.load(Relaxed)
    }

    /// Forgets every figure. Scopes that are open now are left out of what comes.
    pub fn reset(&self) {
        let mut shards = self.inner.shards.lock();
        let mut free = self.inner.free.lock();
        self.inner.generation.fetch_add(1, Relaxed);
        self.inner.reset_raw.store(self.inner.clock.raw(), Relaxed);
        shards.clear();
        free.clear();
    }

    /// Opens a scope until the guard is dropped. [`crate::scope!`] is cheaper: it looks its name
    /// up once.
    pub fn scope(&self, name: &str) -> ScopeGuard<'_> {
        if !self.is_enabled() {
            return ScopeGuard::inert();
        }
        ScopeGuard::enter(&self.inner, self.inner.names.number(name))
    }

    /// Runs `work` in a scope.
    pub fn time<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let _scope = self.scope(name);
        work()
    }

    /// What was recorded so far. Recording goes on meanwhile.
    pub fn report(&self) -> Report {
        Report::of(self)
    }

    /// Sets the trace that scopes of this thread are added to; the former one is returned.
    pub(crate) fn set_trace(&self, trace: Option<Arc<Trace>>) -> Option<Arc<Trace>> {
        if !cfg!(feature = "profiling") {
            return None;
        }
        with_local(&self.inner, |tree| std::mem::replace(&mut tree.trace, trace)).flatten()
    }
}

/// Enters a scope on this thread.
#[inline(always)]
pub(crate) fn enter(inner: &Arc<Inner>, name: u32) -> Option<Frame> {
    if inner.is_global {
        with_global_local(inner, |tree| tree.enter(name, &inner.clock))
    } else {
        // As words: a frame that another function writes to memory would keep the fast path's there too.
        enter_other(inner, name).map(Frame::from_words)
    }
}

#[inline(never)]
fn enter_other(inner: &Arc<Inner>, name: u32) -> Option<[u64; 4]> {
    with_other_local(inner, |tree| tree.enter(name, &inner.clock).into_words())
}

/// Ends a scope on this thread.
#[inline(always)]
pub(crate) fn exit(inner: &Arc<Inner>, frame: &Frame, end_raw: u64, ended: Ended) -> AllocDelta {
    let work = |tree: &mut Tree| tree.exit(frame, &inner.clock, end_raw, ended);
    with_local(inner, work).unwrap_or_default()
}

/// Ends a synchronous call.
#[inline(always)]
pub(crate) fn exit_call(inner: &Arc<Inner>, frame: Frame, end_raw: u64, ended: Ended) {
    if inner.is_global {
        with_global_local(inner, |tree| tree.exit(&frame, &inner.clock, end_raw, ended));
    } else {
        exit_other(inner, frame.into_words(), end_raw, ended);
    }
}

#[inline(never)]
fn exit_other(inner: &Arc<Inner>, frame: [u64; 4], end_raw: u64, ended: Ended) {
    let frame = Frame::from_words(frame);
    with_other_local(inner, |tree| tree.exit(&frame, &inner.clock, end_raw, ended));
}

#[cfg(all(test, feature = "profiling"))]
mod tests {
    use super::*;

    #[test]
    fn figures_outlive_their_threads_and_trees_are_used_again() {
        let profiler = Profiler::new();
        for _ in 0..200 {
            let profiler = profiler.clone();
            std::thread::spawn(move || profiler.time("short", || ())).join().unwrap();
        }
        assert_eq!(profiler.report().scope("short").unwrap().calls, 200);
        assert_eq!(profiler.inner.shards().len(), 1, "one thread at a time needs one tree");
    }

    #[test]
    fn a_profiler_that_is_gone_leaves_its_threads() {
        for _ in 0..10 {
            Profiler::new().time("once", || ());
        }
        let last = Profiler::new();
        last.time("once", || ());
        assert_eq!(LOCALS.with_borrow(Vec::len), 1);
    }
}
