//! Merges the trees of all threads by path, then by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Report, ScopeStats, TreeNode, VERSION};
use crate::{
    Profiler,
    clock::Clock,
    histogram::{Distribution, Histogram},
    memory::MemoryTracker,
    recording::{NodeData, ROOT, Shard},
};

/// Sums over the nodes of one path or one name.
#[derive(Debug, Default, Clone)]
struct Sums {
    calls: u64,
    polls: u64,
    cancelled: u64,
    panicked: u64,
    busy_ns: u64,
    self_ns: u64,
    wall_ns: u64,
    allocations: u64,
    allocated_bytes: u64,
    peak_live_bytes: u64,
    resident_delta_bytes: i64,
    resident_calls: u64,
    last_raw: u64,
}

impl Sums {
    fn add_node(&mut self, node: &NodeData) {
        let late = node.late_calls.load(Relaxed);
        self.add(&Self {
            calls: node.calls.load(Relaxed) + late,
            polls: node.polls.load(Relaxed),
            cancelled: node.cancelled.load(Relaxed),
            panicked: node.panicked.load(Relaxed),
            busy_ns: node.busy_ns.load(Relaxed),
            self_ns: node.self_ns.load(Relaxed),
            wall_ns: node.wall_ns.load(Relaxed) + node.late_wall_ns.load(Relaxed),
            allocations: node.allocations.load(Relaxed),
            allocated_bytes: node.allocated_bytes.load(Relaxed),
            peak_live_bytes: node.peak_live_bytes.load(Relaxed),
            resident_delta_bytes: node.resident_delta_bytes.load(Relaxed),
            resident_calls: node.resident_calls.load(Relaxed),
            last_raw: node.last_raw.load(Relaxed).max(node.late_last_raw.load(Relaxed)),
        });
    }

    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.polls += other.polls;
        self.cancelled += other.cancelled;
        self.panicked += other.panicked;
        self.busy_ns += other.busy_ns;
        self.self_ns += other.self_ns;
        self.wall_ns += other.wall_ns;
        self.allocations += other.allocations;
        self.allocated_bytes += other.allocated_bytes;
        self.peak_live_bytes = self.peak_live_bytes.max(other.peak_live_bytes);
        self.resident_delta_bytes += other.resident_delta_bytes;
        self.resident_calls += other.resident_calls;
        self.last_raw = self.last_raw.max(other.last_raw);
    }

    fn is_used(&self) -> bool {
        self.calls + self.polls > 0
    }
}

/// The trees of all threads as one.
#[derive(Debug, Default)]
struct Merged {
    nodes: Vec<MergedNode>,
}

#[derive(Debug, Default)]
struct MergedNode {
    name: u32,
    sums: Sums,
    children: BTreeMap<u32, usize>,
}

impl Merged {
    fn of(shards: &[Arc<Shard>]) -> Self {
        let mut merged = Self { nodes: vec![MergedNode::default()] };
        for shard in shards {
            let nodes = shard.nodes.lock().clone();
            // A parent is always before its children.
            let mut places = vec![0; nodes.len()];
            for (at, node) in nodes.iter().enumerate().skip(1) {
                let parent = places[node.parent as usize];
                places[at] = merged.child(parent, node.name);
                merged.nodes[places[at]].sums.add_node(node);
            }
        }
        merged
    }

    fn child(&mut self, parent: usize, name: u32) -> usize {
        if let Some(child) = self.nodes[parent].children.get(&name) {
            return *child;
        }
        let child = self.nodes.len();
        self.nodes.push(MergedNode { name, ..MergedNode::default() });
        self.nodes[parent].children.insert(name, child);
        child
    }

    fn tree(&self, at: usize, names: &[Arc<str>]) -> Vec<TreeNode> {
        let mut level: Vec<_> = self.nodes[at]
            .children
            .values()
            .filter_map(|child| {
                let node = &self.nodes[*child];
                let children = self.tree(*child, names);
                if !node.sums.is_used() && children.is_empty() {
                    return None;
                }
                Some(TreeNode {
                    name: name_of(names, node.name),
                    calls: node.sums.calls,
                    total_seconds: seconds(node.sums.busy_ns),
                    self_seconds: seconds(node.sums.self_ns),
                    allocated_bytes: node.sums.allocated_bytes,
                    children,
                })
            })
            .collect();
        level.sort_by(|a, b| {
            b.total_seconds.total_cmp(&a.total_seconds).then_with(|| a.name.cmp(&b.name))
        });
        level
    }

    fn by_name(&self) -> BTreeMap<u32, Sums> {
        let mut by_name: BTreeMap<u32, Sums> = BTreeMap::new();
        for node in self.nodes.iter().skip(1) {
            by_name.entry(node.name).or_default().add(&node.sums);
        }
        by_name.retain(|_, sums| sums.is_used());
        by_name
    }
}

fn name_of(names: &[Arc<str>], number: u32) -> String {
    names.get(number as usize).map_or_else(String::new, |name| name.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds up to 2^53 are 104 days")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn stats(name: String, sums: &Sums, times: Distribution, clock: &Clock) -> ScopeStats {
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let mean = if sums.calls == 0 { 0.0 } else { seconds(sums.wall_ns) / sums.calls as f64 };
    let last = if sums.last_raw == 0 { 0.0 } else { clock.unix_time(sums.last_raw).as_secs_f64() };
    ScopeStats {
        name,
        calls: sums.calls,
        polls: sums.polls,
        cancelled: sums.cancelled,
        panicked: sums.panicked,
        total_seconds: seconds(sums.busy_ns),
        self_seconds: seconds(sums.self_ns),
        wall_seconds: seconds(sums.wall_ns),
        mean_seconds: mean,
        min_seconds: seconds(times.min.unwrap_or(0)),
        p50_seconds: seconds(times.quantile(0.5)),
        p90_seconds: seconds(times.quantile(0.9)),
        p99_seconds: seconds(times.quantile(0.99)),
        max_seconds: seconds(times.max),
        allocations: sums.allocations,
        allocated_bytes: sums.allocated_bytes,
        peak_live_bytes: sums.peak_live_bytes,
        resident_delta_bytes: sums.resident_delta_bytes,
        resident_calls: sums.resident_calls,
        last_call_unix_seconds: last,
        histogram: times.counts,
    }
}

impl Report {
    pub(crate) fn of(profiler: &Profiler) -> Self {
        let inner = &profiler.inner;
        let shards = inner.shards();
        let merged = Merged::of(&shards);
        let names = inner.names.all();
        let histograms: Vec<(u32, Arc<Histogram>)> =
            shards.iter().flat_map(|shard| shard.histograms.lock().clone()).collect();
        let mut scopes: Vec<_> = merged
            .by_name()
            .into_iter()
            .map(|(name, sums)| {
                let of_name = histograms.iter().filter(|(other, _)| *other == name);
                let times = Distribution::merged(of_name.map(|(_, histogram)| &**histogram));
                stats(name_of(&names, name), &sums, times, &inner.clock)
            })
            .collect();
        scopes.sort_by(|a, b| {
            b.self_seconds.total_cmp(&a.self_seconds).then_with(|| a.name.cmp(&b.name))
        });
        Self {
            version: VERSION,
            taken_unix_seconds: inner.clock.unix_time(inner.clock.raw()).as_secs_f64(),
            elapsed_seconds: seconds(inner.elapsed_ns()),
            memory: MemoryTracker::new().sample(),
            scopes,
            tree: merged.tree(ROOT as usize, &names),
        }
    }
}
