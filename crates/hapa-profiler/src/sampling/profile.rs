//! What a sampler found: stacks, hot functions, hot lines, the flame graph.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use inferno::flamegraph::{self, Options};
use serde::{Deserialize, Serialize};

use super::{
    signal::Samples,
    symbols::{Place, Symbols},
};
use crate::report::{human_seconds, table};

/// A function by the processor time that was spent in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HotFunction {
    /// Its path, without the hash.
    pub function: String,
    /// Processor time in the function itself.
    pub self_seconds: f64,
    /// Processor time in it and in what it called.
    pub total_seconds: f64,
}

/// A source line by the processor time that was spent on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HotLine {
    /// The file, from its crate's folder on.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The function that it belongs to.
    pub function: String,
    /// Processor time on the line itself.
    pub self_seconds: f64,
    /// Processor time on it and in what it called.
    pub total_seconds: f64,
}

/// Where the processor time of the process went. Code that was inlined out of the standard library
/// counts for the function and line that it was inlined into.
///
/// Times are counts of samples times the interval:
/// of n samples they are right to within about `1 / sqrt(n)`.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuProfile {
    interval: Duration,
    wall: Duration,
    samples: usize,
    lost: usize,
    /// The outermost function first.
    stacks: BTreeMap<Vec<Place>, u64>,
}

/// The most self time first, then the most total time.
fn hottest_first<T>(all: &mut [T], times: impl Fn(&T) -> (f64, f64)) {
    all.sort_by(|a, b| {
        let ((own, total), (others_own, others_total)) = (times(a), times(b));
        others_own.total_cmp(&own).then(others_total.total_cmp(&total))
    });
}

impl CpuProfile {
    pub(super) fn new(samples: &Samples, interval: Duration, wall: Duration) -> Self {
        let mut symbols = Symbols::new();
        let mut by_address: HashMap<&[usize], u64> = HashMap::new();
        for stack in samples.stacks.iter().filter(|stack| !stack.is_empty()) {
            *by_address.entry(stack).or_default() += 1;
        }
        let mut stacks = BTreeMap::new();
        for (addresses, count) in by_address {
            let mut stack: Vec<Place> = Vec::new();
            for (depth, address) in addresses.iter().enumerate() {
                stack.extend_from_slice(symbols.at(*address, depth == 0));
            }
            stack.reverse();
            *stacks.entry(stack).or_default() += count;
        }
        let kept = stacks.values().sum::<u64>();
        let samples_kept = usize::try_from(kept).unwrap_or(usize::MAX);
        Self { interval, wall, samples: samples_kept, lost: samples.lost, stacks }
    }

    /// Samples that were kept.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Samples that found no room.
    pub fn lost_samples(&self) -> usize {
        self.lost
    }

    /// Processor time of the process that the samples stand for.
    pub fn cpu_seconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
        let samples = self.samples as f64;
        samples * self.interval.as_secs_f64()
    }

    fn seconds(&self, samples: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
        let samples = samples as f64;
        samples * self.interval.as_secs_f64()
    }

    /// Self and total samples by what `key` makes of a place; a key that is on a stack twice counts once.
    fn sums<K: Ord>(&self, key: impl Fn(&Place) -> Option<K>) -> BTreeMap<K, (u64, u64)> {
        let mut sums: BTreeMap<K, (u64, u64)> = BTreeMap::new();
        for (stack, count) in &self.stacks {
            if let Some(innermost) = stack.last().and_then(&key) {
                sums.entry(innermost).or_default().0 += count;
            }
            for key in stack.iter().filter_map(&key).collect::<BTreeSet<K>>() {
                sums.entry(key).or_default().1 += count;
            }
        }
        sums
    }

    /// Functions, the most self time first.
    pub fn functions(&self) -> Vec<HotFunction> {
        let sums = self.sums(|place| Some(Arc::clone(&place.function)));
        let mut all: Vec<_> = sums
            .into_iter()
            .map(|(function, (own, total))| HotFunction {
                function: function.to_string(),
                self_seconds: self.seconds(own),
                total_seconds: self.seconds(total),
            })
            .collect();
        hottest_first(&mut all, |hot| (hot.self_seconds, hot.total_seconds));
        all
    }

    /// Source lines, the most self time first; places without debug information are left out.
    pub fn lines(&self) -> Vec<HotLine> {
        let sums = self.sums(|place| (place.line > 0).then(|| place.clone()));
        let mut all: Vec<_> = sums
            .into_iter()
            .map(|(place, (own, total))| HotLine {
                file: place.file.to_string(),
                line: place.line,
                function: place.function.to_string(),
                self_seconds: self.seconds(own),
                total_seconds: self.seconds(total),
            })
            .collect();
        hottest_first(&mut all, |hot| (hot.self_seconds, hot.total_seconds));
        all
    }

    /// Folded stacks, `outer;inner count` a line: what other flame graph tools read.
    pub fn to_folded(&self) -> String {
        self.folded().join("\n")
    }

    fn folded(&self) -> Vec<String> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, count) in &self.stacks {
            let names: Vec<String> =
                stack.iter().map(|place| place.function.replace(';', ":")).collect();
            *sums.entry(names.join(";")).or_default() += count;
        }
        sums.into_iter().map(|(stack, count)| format!("{stack} {count}")).collect()
    }

    /// The flame graph: one self-contained SVG that zooms and searches in a browser. Width is
    /// processor time.
    pub fn to_svg(&self) -> String {
        let folded = self.folded();
        let mut options = Options::default();
        options.title = "HAPA: processor time".to_owned();
        options.count_name = "samples".to_owned();
        options.subtitle = Some(self.summary());
        let mut svg = Vec::new();
        // Only an empty profile has nothing to draw.
        if flamegraph::from_lines(&mut options, folded.iter().map(String::as_str), &mut svg)
            .is_err()
        {
            return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"40\"><text x=\"10\" \
                    y=\"25\">No samples: the process used no processor time.</text></svg>\n"
                .to_owned();
        }
        String::from_utf8_lossy(&svg).into_owned()
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{} samples, {} of processor time in {}",
            self.samples,
            human_seconds(self.cpu_seconds()),
            human_seconds(self.wall.as_secs_f64()),
        );
        if self.lost > 0 {
            let _ = write!(text, "; {} more found no room", self.lost);
        }
        text
    }

    /// The hottest functions and lines, for a terminal.
    pub fn to_table(&self) -> String {
        const ROWS: usize = 20;
        let percent = |seconds: f64| {
            let whole = self.cpu_seconds();
            format!("{:.1}%", if whole > 0.0 { 100.0 * seconds / whole } else { 0.0 })
        };
        let mut out = format!("{}\n\n", self.summary());
        let rows: Vec<Vec<String>> = self
            .functions()
            .iter()
            .take(ROWS)
            .map(|hot| {
                vec![clip(&hot.function), percent(hot.self_seconds), percent(hot.total_seconds)]
            })
            .collect();
        table(&mut out, &["function", "self", "total"], &rows);
        out.push('\n');
        let rows: Vec<Vec<String>> = self
            .lines()
            .iter()
            .take(ROWS)
            .map(|hot| {
                let place = format!("{}:{}", hot.file, hot.line);
                vec![place, percent(hot.self_seconds), percent(hot.total_seconds)]
            })
            .collect();
        table(&mut out, &["line", "self", "total"], &rows);
        out
    }

    /// Everything in the tables as JSON: `{samples, lost_samples, cpu_seconds, wall_seconds, functions, lines}`.
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "samples": self.samples,
            "lost_samples": self.lost,
            "cpu_seconds": self.cpu_seconds(),
            "wall_seconds": self.wall.as_secs_f64(),
            "functions": self.functions(),
            "lines": self.lines(),
        })
        .to_string()
    }
}

/// A name that fits beside two columns: its end says more than its beginning.
fn clip(name: &str) -> String {
    const WIDTH: usize = 90;
    let count = name.chars().count();
    if count <= WIDTH {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(count - (WIDTH - 3)).collect();
    format!("...{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(function: &str, line: u32) -> Place {
        Place { function: Arc::from(function), file: Arc::from("a/src/lib.rs"), line }
    }

    fn profile(stacks: &[(&[(&str, u32)], u64)]) -> CpuProfile {
        let stacks: BTreeMap<Vec<Place>, u64> = stacks
            .iter()
            .map(|(stack, count)| {
                (stack.iter().map(|(name, line)| place(name, *line)).collect(), *count)
            })
            .collect();
        let samples = usize::try_from(stacks.values().sum::<u64>()).unwrap();
        let second = Duration::from_secs(1);
        CpuProfile { interval: second, wall: second, samples, lost: 0, stacks }
    }

    #[test]
    fn recursion_counts_once_and_lines_are_apart() {
        let profile = profile(&[
            (&[("main", 1), ("walk", 7), ("walk", 7), ("leaf", 9)], 3),
            (&[("main", 1), ("walk", 7), ("walk", 8)], 4),
            (&[("main", 2)], 1),
        ]);
        let function = |name: &str| {
            let hot = profile.functions().into_iter().find(|hot| hot.function == name).unwrap();
            (hot.self_seconds, hot.total_seconds)
        };
        assert_eq!(function("main"), (1.0, 8.0));
        assert_eq!(function("walk"), (4.0, 7.0));
        assert_eq!(function("leaf"), (3.0, 3.0));
        let lines: Vec<_> = profile
            .lines()
            .into_iter()
            .map(|hot| (hot.line, hot.self_seconds, hot.total_seconds))
            .collect();
        assert_eq!(
            lines,
            [(8, 4.0, 4.0), (9, 3.0, 3.0), (2, 1.0, 1.0), (1, 0.0, 7.0), (7, 0.0, 7.0)]
        );
        assert_eq!(profile.to_folded(), "main 1\nmain;walk;walk 4\nmain;walk;walk;leaf 3");
        assert!(profile.to_table().contains("50.0%"), "{}", profile.to_table());
    }

    #[test]
    fn an_empty_profile_is_still_a_picture() {
        let empty = profile(&[]);
        assert!(empty.to_svg().starts_with("<svg"));
        assert!(empty.to_table().contains("0 samples"));
    }
}
