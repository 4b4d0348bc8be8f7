//! What a heap sampler found: call sites, the flame graph.

use std::{fmt::Write as _, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        stacks::{Stacks, Titles, clip, flame_graph, hottest_first},
        symbols::{Place, Symbols},
    },
    table::{Amounts, Found},
};
use crate::{
    memory::human_bytes,
    report::{human_seconds, table},
};

/// Which bytes a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeapMeasure {
    /// Those that lived when the heap was largest.
    #[default]
    Peak,
    /// Those that live now.
    Live,
    /// All that were allocated, released ones too.
    Allocated,
}

impl HeapMeasure {
    /// Every measure, by its name.
    pub const ALL: [(&str, Self); 3] =
        [("peak", Self::Peak), ("live", Self::Live), ("allocated", Self::Allocated)];

    fn of(self, amounts: &Amounts) -> f64 {
        match self {
            Self::Peak => amounts.peak_bytes,
            Self::Live => amounts.live_bytes,
            Self::Allocated => amounts.allocated_bytes,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Peak => "HAPA: the heap at its largest",
            Self::Live => "HAPA: the heap now",
            Self::Allocated => "HAPA: everything that was allocated",
        }
    }
}

impl FromStr for HeapMeasure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        let shown: String = text.chars().take(50).collect();
        found
            .map(|(_, measure)| measure)
            .ok_or_else(|| format!("is `{shown}`; peak, live and allocated are known"))
    }
}

/// A source line that allocates, alone or by what it calls in the standard library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallSite {
    /// The file, from its crate's folder on.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The function that it belongs to.
    pub function: String,
    /// Bytes of it that lived when the whole heap was largest.
    pub peak_bytes: u64,
    /// Bytes of it that live now.
    pub live_bytes: u64,
    /// Allocations of it that live now.
    pub live_allocations: u64,
    /// Bytes that it allocated.
    pub allocated_bytes: u64,
    /// Allocations that it made; a reallocation is one, of its new size.
    pub allocations: u64,
    /// As `peak_bytes`, with what it called.
    pub total_peak_bytes: u64,
    /// As `live_bytes`, with what it called.
    pub total_live_bytes: u64,
    /// As `allocated_bytes`, with what it called.
    pub total_allocated_bytes: u64,
}

/// Where the heap of the process comes from, since sampling began.
///
/// Figures are estimates out of samples: of n samples they are right to within about `1 / sqrt(n)`.
/// Memory that is not the heap's, such as files that are mapped, is not in it.
#[derive(Debug, Clone, PartialEq)]
pub struct HeapProfile {
    wall: Duration,
    every_bytes: u64,
    samples: u64,
    lost: u64,
    stacks: Stacks<Amounts>,
}

impl HeapProfile {
    pub(super) fn new(
        found: Found,
        (wall, every_bytes): (Duration, u64),
        symbols: &mut Symbols,
    ) -> Self {
        let named = |(addresses, amounts): (Box<[usize]>, Amounts)| {
            (without_allocator(symbols.stack(&addresses)), amounts)
        };
        let stacks = found.stacks.into_iter().map(named).collect();
        Self { wall, every_bytes, samples: found.samples, lost: found.lost, stacks }
    }

    /// Samples that were taken.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Samples that found no room.
    pub fn lost_samples(&self) -> u64 {
        self.lost
    }

    /// Bytes of a measure, of all call sites together.
    pub fn bytes(&self, measure: HeapMeasure) -> u64 {
        whole(measure.of(&self.stacks.sum()))
    }

    /// Lines that allocate, the most of a measure first; what has no debug information is left out.
    pub fn call_sites(&self, measure: HeapMeasure) -> Vec<CallSite> {
        let mut all = self.stacks.lines();
        hottest_first(&mut all, |(_, own, total)| (measure.of(own), measure.of(total)));
        let site = |(place, own, total): (Place, Amounts, Amounts)| CallSite {
            file: place.file.to_string(),
            line: place.line,
            function: place.function.to_string(),
            peak_bytes: whole(own.peak_bytes),
            live_bytes: whole(own.live_bytes),
            live_allocations: whole(own.live_allocations),
            allocated_bytes: whole(own.allocated_bytes),
            allocations: whole(own.allocations),
            total_peak_bytes: whole(total.peak_bytes),
            total_live_bytes: whole(total.live_bytes),
            total_allocated_bytes: whole(total.allocated_bytes),
        };
        all.into_iter().map(site).collect()
    }

    /// Folded stacks, `outer;inner bytes` a line: what other flame graph tools read.
    pub fn to_folded(&self, measure: HeapMeasure) -> String {
        self.folded(measure).join("\n")
    }

    fn folded(&self, measure: HeapMeasure) -> Vec<String> {
        self.stacks.folded(|amounts| whole(measure.of(amounts)))
    }

    /// The flame graph: one self-contained SVG that zooms and searches in a browser. Width is bytes.
    pub fn to_svg(&self, measure: HeapMeasure) -> String {
        let titles = Titles {
            title: measure.title(),
            counted: "bytes",
            summary: self.summary(),
            nothing: "No samples: nothing of this kind was allocated.",
        };
        flame_graph(&self.folded(measure), titles)
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn summary(&self) -> String {
        let sum = self.stacks.sum();
        let mut text = format!(
            "{} at most, {} now, {} allocated in {}; {} samples, one for each {}",
            human_bytes(sum.peak_bytes),
            human_bytes(sum.live_bytes.max(0.0)),
            human_bytes(sum.allocated_bytes),
            human_seconds(self.wall.as_secs_f64()),
            self.samples,
            human_bytes(self.every_bytes as f64),
        );
        if self.lost > 0 {
            let _ = write!(text, "; {} found no room", self.lost);
        }
        text
    }

    /// The call sites that held and that allocated most, for a terminal.
    pub fn to_table(&self) -> String {
        const ROWS: usize = 15;
        const WIDTH: usize = 60;
        let heads = ["at the peak", "now", "blocks", "allocated", "allocations"];
        let mut out = format!("{}\n", self.summary());
        for (first, measure) in
            [("held most", HeapMeasure::Peak), ("allocated most", HeapMeasure::Allocated)]
        {
            let sites = self.call_sites(measure);
            let own = |site: &&CallSite| match measure {
                HeapMeasure::Peak => site.peak_bytes > 0,
                _ => site.allocated_bytes > 0,
            };
            let rows: Vec<Vec<String>> =
                sites.iter().filter(own).take(ROWS).map(row(WIDTH)).collect();
            out.push('\n');
            let heads: Vec<&str> = std::iter::once(first).chain(heads).collect();
            table(&mut out, &heads, &rows);
        }
        out
    }

    /// Everything in the tables as JSON: `{samples, lost_samples, every_bytes, wall_seconds, peak_bytes, live_bytes,
    /// allocated_bytes, allocations, call_sites}`; call sites by what they held at the peak.
    pub fn to_json(&self) -> String {
        let sum = self.stacks.sum();
        serde_json::json!({
            "samples": self.samples,
            "lost_samples": self.lost,
            "every_bytes": self.every_bytes,
            "wall_seconds": self.wall.as_secs_f64(),
            "peak_bytes": whole(sum.peak_bytes),
            "live_bytes": whole(sum.live_bytes),
            "allocated_bytes": whole(sum.allocated_bytes),
            "allocations": whole(sum.allocations),
            "call_sites": self.call_sites(HeapMeasure::Peak),
        })
        .to_string()
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn row(width: usize) -> impl Fn(&CallSite) -> Vec<String> {
    move |site| {
        vec![
            clip(&format!("{}:{}", site.file, site.line), width),
            human_bytes(site.peak_bytes as f64),
            human_bytes(site.live_bytes as f64),
            site.live_allocations.to_string(),
            human_bytes(site.allocated_bytes as f64),
            site.allocations.to_string(),
        ]
    }
}

/// A stack that ends at the line which wanted memory: without the allocator, and without the containers of the standard
/// library, which say nothing of who fills them.
fn without_allocator(mut stack: Vec<Place>) -> Vec<Place> {
    let is_plumbing = |place: &Place| {
        let own = [
            "hapa-profiler/src/alloc/",
            "hapa-profiler/src/sampling/",
            "backtrace-",
            "hashbrown-",
            "allocator-api2-",
        ];
        // What the compiler put in belongs to no line.
        place.line == 0
            || place.is_standard()
            || own.iter().any(|start| place.file.starts_with(start))
            // The functions that the compiler makes around the global allocator.
            || ["__rust_", "__rustc", "__rdl_"].iter().any(|part| place.function.contains(part))
    };
    while stack.len() > 1 && stack.last().is_some_and(is_plumbing) {
        stack.pop();
    }
    stack
}

/// An estimate without its fraction; what rounding left below 0 is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates"
)]
fn whole(estimate: f64) -> u64 {
    estimate.round() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn place(file: &str, function: &str, line: u32) -> Place {
        Place { function: Arc::from(function), file: Arc::from(file), line }
    }

    #[test]
    fn a_stack_ends_at_the_line_that_wanted_memory() {
        let stack = vec![
            place("hapa-cli/src/main.rs", "hapa::main", 4),
            place("a/src/lib.rs", "a::fill", 9),
            place("alloc/src/raw_vec/mod.rs", "finish_grow", 500),
            place("hapa-cli/src/main.rs", "__rustc::__rust_alloc", 20),
            place("hapa-profiler/src/alloc/global.rs", "alloc", 40),
            place("hapa-profiler/src/sampling/heap/hook.rs", "count", 90),
            place("backtrace-0.3.76/src/backtrace/mod.rs", "trace", 60),
        ];
        let cut = without_allocator(stack.clone());
        assert_eq!(cut, stack[..2]);
        assert_eq!(without_allocator(stack[3..].to_vec()).len(), 1, "something always stays");
    }

    #[test]
    fn sites_are_ordered_by_the_measure_and_an_empty_profile_is_still_a_picture() {
        let amounts = |peak, live, allocated| Amounts {
            peak_bytes: peak,
            live_bytes: live,
            allocated_bytes: allocated,
            allocations: 2.0,
            live_allocations: 1.0,
        };
        let stack =
            |leaf, line| vec![place("a/src/lib.rs", "main", 1), place("a/src/lib.rs", leaf, line)];
        let stacks: Stacks<Amounts> = [
            (stack("big", 5), amounts(2e6, 0.0, 2e6)),
            (stack("leak", 7), amounts(10.0, 500.0, 5e6)),
        ]
        .into_iter()
        .collect();
        let wall = Duration::from_secs(1);
        let profile = HeapProfile { wall, every_bytes: 1, samples: 2, lost: 0, stacks };
        let first = |measure| profile.call_sites(measure).swap_remove(0);
        assert_eq!(first(HeapMeasure::Peak).line, 5);
        assert_eq!(first(HeapMeasure::Live).line, 7);
        assert_eq!(first(HeapMeasure::Allocated).line, 7);
        let main = profile.call_sites(HeapMeasure::Peak).into_iter().find(|site| site.line == 1);
        assert_eq!(main.map(|main| (main.live_bytes, main.total_live_bytes)), Some((0, 500)));
        assert_eq!(profile.to_folded(HeapMeasure::Live), "main;leak 500");
        assert!(profile.to_svg(HeapMeasure::Peak).contains("big"));
        let table = profile.to_table();
        assert!(table.contains("a/src/lib.rs:5") && table.contains("1.9 MB"), "{table}");
        let empty = HeapProfile { stacks: Stacks::default(), ..profile };
        assert!(empty.to_svg(HeapMeasure::Live).starts_with("<svg"));
        assert!(empty.to_table().contains("0 B at most"), "{}", empty.to_table());
    }
}
