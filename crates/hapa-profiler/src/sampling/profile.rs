//! What a sampler found: stacks, hot functions, hot lines, the flame graph.

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    signal::Samples,
    stacks::{Stacks, Titles, clip, flame_graph, hottest_first},
    symbols::Symbols,
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
    stacks: Stacks<u64>,
}

impl CpuProfile {
    pub(super) fn new(samples: &Samples, interval: Duration, wall: Duration) -> Self {
        let mut symbols = Symbols::new();
        let mut by_address: HashMap<&[usize], u64> = HashMap::new();
        for stack in samples.stacks.iter().filter(|stack| !stack.is_empty()) {
            *by_address.entry(stack).or_default() += 1;
        }
        let named = |(addresses, count): (&[usize], u64)| (symbols.stack(addresses), count);
        let stacks: Stacks<u64> = by_address.into_iter().map(named).collect();
        let kept = usize::try_from(stacks.sum()).unwrap_or(usize::MAX);
        Self { interval, wall, samples: kept, lost: samples.lost, stacks }
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

    /// Functions, the most self time first.
    pub fn functions(&self) -> Vec<HotFunction> {
        let sums = self.stacks.sums(|place| Some(Arc::clone(&place.function)));
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
        let mut all: Vec<_> = self
            .stacks
            .lines()
            .into_iter()
            .map(|(place, own, total)| HotLine {
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
        self.stacks.folded(|count| *count)
    }

    /// The flame graph: one self-contained SVG that zooms and searches in a browser. Width is
    /// processor time.
    pub fn to_svg(&self) -> String {
        let titles = Titles {
            title: "HAPA: processor time",
            counted: "samples",
            summary: self.summary(),
            nothing: "No samples: the process used no processor time.",
        };
        flame_graph(&self.folded(), titles)
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
        const WIDTH: usize = 90;
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
                vec![
                    clip(&hot.function, WIDTH),
                    percent(hot.self_seconds),
                    percent(hot.total_seconds),
                ]
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

#[cfg(test)]
mod tests {
    use super::super::stacks::tests::place;
    use super::*;

    fn profile(stacks: &[(&[(&str, u32)], u64)]) -> CpuProfile {
        let named = |(stack, count): &(&[(&str, u32)], u64)| {
            (stack.iter().map(|(name, line)| place(name, *line)).collect(), *count)
        };
        let stacks: Stacks<u64> = stacks.iter().map(named).collect();
        let samples = usize::try_from(stacks.sum()).unwrap();
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
