//! The call tree of one thread.
//!
//! Only the owning thread writes a tree, with plain loads and stores of atomics; reports read them
//! at any time. A node is a path of names from the root. Recursion folds: entering a name that is
//! on the stack already goes back to that name's node, so paths hold each name once, a node's
//! total counts its outermost activation only, and the tree's depth is bounded by the number of
//! names.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use super::names::OTHER;
use crate::{
    alloc::{self, AllocDelta, AllocMark},
    clock::Clock,
    histogram::Histogram,
    trace::Trace,
};

/// Nodes that one thread's tree holds; further paths are counted in the node `(other)`.
pub const MAX_NODES_PER_THREAD: usize = 4096;

pub(crate) const ROOT: u32 = 0;
const OVERFLOW: u32 = 1;
const NONE: u32 = u32::MAX;

/// What is known of one path. Written by the owner, except the `late_` fields.
#[derive(Debug)]
pub(crate) struct NodeData {
    pub(crate) name: u32,
    pub(crate) parent: u32,
    /// Calls that ended.
    pub(crate) calls: AtomicU64,
    /// Times a future of this name was polled, or a span entered.
    pub(crate) polls: AtomicU64,
    pub(crate) panicked: AtomicU64,
    /// Time inside, outermost activations only.
    pub(crate) busy_ns: AtomicU64,
    /// Time inside and in no scope below.
    pub(crate) self_ns: AtomicU64,
    /// From begin to end of each call, waiting included.
    pub(crate) wall_ns: AtomicU64,
    pub(crate) allocations: AtomicU64,
    pub(crate) allocated_bytes: AtomicU64,
    /// The largest of any call.
    pub(crate) peak_live_bytes: AtomicU64,
    pub(crate) resident_delta_bytes: AtomicI64,
    pub(crate) resident_calls: AtomicU64,
    /// Clock reading at the end of the last call.
    pub(crate) last_raw: AtomicU64,
    /// Calls that ended on a thread that need not be the owner: futures dropped before their end,
    /// closed spans. These fields take real read-modify-write operations.
    pub(crate) late_calls: AtomicU64,
    pub(crate) late_wall_ns: AtomicU64,
    pub(crate) late_last_raw: AtomicU64,
    pub(crate) cancelled: AtomicU64,
}

impl NodeData {
    fn new(name: u32, parent: u32) -> Self {
        Self {
            name,
            parent,
            calls: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            self_ns: AtomicU64::new(0),
            wall_ns: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            allocated_bytes: AtomicU64::new(0),
            peak_live_bytes: AtomicU64::new(0),
            resident_delta_bytes: AtomicI64::new(0),
            resident_calls: AtomicU64::new(0),
            last_raw: AtomicU64::new(0),
            late_calls: AtomicU64::new(0),
            late_wall_ns: AtomicU64::new(0),
            late_last_raw: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        }
    }
}

/// The part of a tree that reports see.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    /// By node number; locked to add a node and to report, never to record.
    pub(crate) nodes: Mutex<Vec<Arc<NodeData>>>,
    /// Wall times by name.
    pub(crate) histograms: Mutex<Vec<(u32, Arc<Histogram>)>>,
}

#[derive(Debug)]
struct Node {
    name: u32,
    parent: u32,
    first_child: u32,
    next_sibling: u32,
    /// Activations on this thread's stack.
    active: u32,
    data: Arc<NodeData>,
    histogram: Arc<Histogram>,
}

/// One activation, kept by whoever ends it.
///
/// Pairs of small numbers are one word each, here and in the tree: what is written as two halves
/// and soon read as a whole has to wait for the write to leave the processor's store buffer.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    /// The tree's place before.
    previous: Place,
    /// Node, and the tree's generation.
    node: u64,
    saved_child_ns: u64,
    start_raw: u64,
}

/// The current node, and how many activations are on the stack.
#[derive(Debug, Default, Clone, Copy)]
struct Place(u64);

impl Place {
    #[inline(always)]
    fn new(node: u32, depth: u32) -> Self {
        Self(u64::from(node) << 32 | u64::from(depth))
    }

    #[inline(always)]
    fn node(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    fn depth(self) -> u32 {
        self.0 as u32
    }
}

/// Where an activation's allocations begin; kept in the tree, since few programs count them.
#[derive(Debug, Default, Clone, Copy)]
struct Marked {
    /// The activation's, to tell it from one that took its place.
    start_raw: u64,
    mark: AllocMark,
}

impl Frame {
    /// As words, to be handed through functions that are not inlined.
    pub(crate) fn into_words(self) -> [u64; 4] {
        [self.previous.0, self.node, self.saved_child_ns, self.start_raw]
    }

    #[inline(always)]
    pub(crate) fn from_words([previous, node, saved_child_ns, start_raw]: [u64; 4]) -> Self {
        Self { previous: Place(previous), node, saved_child_ns, start_raw }
    }

    #[inline(always)]
    fn generation(&self) -> u32 {
        (self.node >> 32) as u32
    }

    pub(crate) fn start_raw(&self) -> u64 {
        self.start_raw
    }
}

/// How an activation ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ended {
    /// A synchronous call; its time is the activation's.
    Call { panicked: bool, resident_delta: Option<i64> },
    /// The last poll of a future: a call that began at `wall_start_raw`.
    LastPoll { panicked: bool, wall_start_raw: u64 },
    /// A poll (or an entered span) after which the call goes on.
    Paused,
}

/// The tree, in its owner's hands.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) generation: u32,
    pub(crate) shard: Arc<Shard>,
    nodes: Vec<Node>,
    histograms: Vec<Option<Arc<Histogram>>>,
    place: Place,
    /// Time spent in scopes directly below the current activation.
    child_ns: u64,
    /// By depth; empty while allocations are not counted.
    marks: Vec<Marked>,
    pub(crate) trace: Option<Arc<Trace>>,
}

#[inline]
fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

#[inline]
fn raise(cell: &AtomicU64, to: u64) {
    if to > cell.load(Relaxed) {
        cell.store(to, Relaxed);
    }
}

impl Tree {
    pub(crate) fn new(generation: u32) -> Self {
        let mut tree = Self {
            generation,
            shard: Arc::default(),
            nodes: Vec::new(),
            histograms: Vec::new(),
            place: Place::new(ROOT, 0),
            child_ns: 0,
            marks: Vec::new(),
            trace: None,
        };
        // The root is never active, so its name is never shown.
        tree.add_node(OTHER, NONE);
        tree.add_node(OTHER, ROOT);
        tree
    }

    /// Makes a tree that another thread left behind ready for its new owner.
    pub(crate) fn adopt(&mut self) {
        self.place = Place::new(ROOT, 0);
        self.child_ns = 0;
        self.marks.clear();
        self.trace = None;
        for node in &mut self.nodes {
            node.active = 0;
        }
    }

    pub(crate) fn current(&self) -> u32 {
        self.place.node()
    }

    pub(crate) fn node_data(&self, node: u32) -> Arc<NodeData> {
        self.nodes[node as usize].data.clone()
    }

    pub(crate) fn histogram(&mut self, name: u32) -> Arc<Histogram> {
        let at = name as usize;
        if self.histograms.len() <= at {
            self.histograms.resize(at + 1, None);
        }
        if let Some(histogram) = &self.histograms[at] {
            return histogram.clone();
        }
        let histogram = Arc::new(Histogram::new());
        self.shard.histograms.lock().push((name, histogram.clone()));
        self.histograms[at] = Some(histogram.clone());
        histogram
    }

    fn add_node(&mut self, name: u32, parent: u32) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_NODES_PER_THREAD")]
        let number = self.nodes.len() as u32;
        let data = Arc::new(NodeData::new(name, parent));
        self.shard.nodes.lock().push(data.clone());
        let histogram = self.histogram(name);
        let next_sibling = match self.nodes.get_mut(parent as usize) {
            Some(parent) => std::mem::replace(&mut parent.first_child, number),
            None => NONE,
        };
        self.nodes.push(Node {
            name,
            parent,
            first_child: NONE,
            next_sibling,
            active: 0,
            data,
            histogram,
        });
        number
    }

    /// The node of `name` below the current one.
    #[inline]
    fn child(&mut self, name: u32) -> u32 {
        let mut child = self.nodes[self.current() as usize].first_child;
        while child != NONE {
            let node = &self.nodes[child as usize];
            if node.name == name {
                return child;
            }
            child = node.next_sibling;
        }
        self.other_child(name)
    }

    /// Recursion, or a path seen for the first time.
    fn other_child(&mut self, name: u32) -> u32 {
        let mut ancestor = self.current();
        while ancestor != ROOT {
            let node = &self.nodes[ancestor as usize];
            if node.name == name {
                return ancestor;
            }
            ancestor = node.parent;
        }
        if name == OTHER || self.nodes.len() >= MAX_NODES_PER_THREAD {
            return OVERFLOW;
        }
        self.add_node(name, self.current())
    }

    #[inline(always)]
    pub(crate) fn enter(&mut self, name: u32, clock: &Clock) -> Frame {
        let node = self.child(name);
        self.nodes[node as usize].active += 1;
        let (previous, saved_child_ns) = (self.place, self.child_ns);
        let depth = previous.depth();
        self.place = Place::new(node, depth + 1);
        self.child_ns = 0;
        if alloc::is_installed() {
            self.mark(depth);
        }
        // Read last, so that the work of entering is not measured.
        let start_raw = clock.raw();
        if alloc::is_installed() {
            self.marks[depth as usize].start_raw = start_raw;
        }
        let node = u64::from(self.generation) << 32 | u64::from(node);
        Frame { previous, node, saved_child_ns, start_raw }
    }

    #[inline(never)]
    fn mark(&mut self, depth: u32) {
        let at = depth as usize;
        if self.marks.len() <= at {
            self.marks.resize((at + 1).next_power_of_two().max(32), Marked::default());
        }
        self.marks[at].mark = AllocMark::begin();
    }

    #[inline(never)]
    fn unmark(&mut self, frame: &Frame) -> Option<AllocDelta> {
        let marked = self.marks.get(frame.previous.depth() as usize)?;
        (marked.start_raw == frame.start_raw).then(|| marked.mark.end())
    }

    /// Ends an activation at `end_raw`; what it allocated is returned.
    ///
    /// Guards dropped out of order are harmless: ending an outer activation ends the inner ones'
    /// place on the stack, and these still record their own time.
    #[inline(always)]
    pub(crate) fn exit(
        &mut self,
        frame: &Frame,
        clock: &Clock,
        end_raw: u64,
        ended: Ended,
    ) -> AllocDelta {
        if frame.generation() != self.generation {
            return AllocDelta::default(); // The profiler was reset in between.
        }
        let alloc = if alloc::is_installed() { self.unmark(frame) } else { None };
        let elapsed = clock.nanos_between(frame.start_raw, end_raw);
        let on_stack = frame.previous.depth() < self.place.depth();
        let children = if on_stack { self.child_ns.min(elapsed) } else { 0 };
        if on_stack {
            self.place = frame.previous;
            self.child_ns = frame.saved_child_ns + elapsed;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let node = &mut self.nodes[frame.node as u32 as usize];
        node.active = node.active.saturating_sub(1);
        let data = &*node.data;
        if node.active == 0 {
            bump(&data.busy_ns, elapsed);
        }
        bump(&data.self_ns, elapsed - children);
        if let Some(alloc) = &alloc {
            bump(&data.allocations, alloc.allocations);
            bump(&data.allocated_bytes, alloc.allocated_bytes);
        }
        let wall = match ended {
            Ended::Paused => {
                bump(&data.polls, 1);
                None
            }
            Ended::Call { panicked, resident_delta } => {
                if panicked {
                    bump(&data.panicked, 1);
                }
                if let Some(delta) = resident_delta {
                    let sum = data.resident_delta_bytes.load(Relaxed);
                    data.resident_delta_bytes.store(sum.wrapping_add(delta), Relaxed);
                    bump(&data.resident_calls, 1);
                }
                if let Some(alloc) = &alloc {
                    raise(&data.peak_live_bytes, alloc.peak_bytes);
                }
                Some((frame.start_raw, elapsed))
            }
            Ended::LastPoll { panicked, wall_start_raw } => {
                bump(&data.polls, 1);
                if panicked {
                    bump(&data.panicked, 1);
                }
                Some((wall_start_raw, clock.nanos_between(wall_start_raw, end_raw)))
            }
        };
        if let Some((start_raw, wall)) = wall {
            bump(&data.calls, 1);
            bump(&data.wall_ns, wall);
            data.last_raw.store(end_raw, Relaxed);
            node.histogram.add(wall);
            if let Some(trace) = &self.trace {
                let future = matches!(ended, Ended::LastPoll { .. });
                trace.push_scope(node.name, start_raw, wall, future);
            }
        }
        alloc.unwrap_or_default()
    }

    /// A call that ended outside of its activations (a dropped future, a closed span), placed at
    /// the node of its last activation, on whatever thread this tree belongs to.
    pub(crate) fn end_late(
        &mut self,
        data: &NodeData,
        cancelled: bool,
        clock: &Clock,
        (start_raw, end_raw): (u64, u64),
    ) {
        let wall_ns = clock.nanos_between(start_raw, end_raw);
        data.late_calls.fetch_add(1, Relaxed);
        data.late_wall_ns.fetch_add(wall_ns, Relaxed);
        data.late_last_raw.fetch_max(end_raw, Relaxed);
        if cancelled {
            data.cancelled.fetch_add(1, Relaxed);
        }
        self.histogram(data.name).add(wall_ns);
        if let Some(trace) = &self.trace {
            trace.push_scope(data.name, start_raw, wall_ns, true);
        }
    }
}
